"""Jobs side by side on a machine with two GPUs that are names only."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hessian_directions.errors import DeviceError
from hessian_directions.reproduction import devices

# A job writes down which GPUs it has and works on each: a folder that two have at once is an error.
JOB = """
import os, sys, time
from pathlib import Path
from hessian_directions.reproduction import devices

devices.PAUSE = 0.01
work, n, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
devices.claim_gpus(n)
mine = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
assert len(mine) == n
for name in mine:
    (work / name).mkdir()
print(*mine, flush=True)
time.sleep(seconds)
for name in mine:
    (work / name).rmdir()
"""


def start(tmp_path: Path, n: int, seconds: float) -> subprocess.Popen:
    (tmp_path / "work").mkdir(exist_ok=True)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b", "TMPDIR": str(tmp_path)}
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(tmp_path / "work"), str(n), str(seconds)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("wanted", [(1, 1, 1, 1, 1), (2, 1, 2, 1)])
def test_jobs_have_gpus_of_their_own(tmp_path: Path, wanted: tuple[int, ...]) -> None:
    jobs = [start(tmp_path, n, 0.2) for n in wanted]
    had = [job.communicate(timeout=300)[0].split() for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(wanted)
    assert [len(names) for names in had] == list(wanted)
    assert {name for names in had for name in names} <= {"GPU-a", "GPU-b"}


def test_a_killed_job_frees_its_gpu(tmp_path: Path) -> None:
    killed = start(tmp_path, 2, 1000)
    assert killed.stdout is not None
    assert killed.stdout.readline().split() == ["GPU-a", "GPU-b"]
    waiting = start(tmp_path, 1, 0)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=1)
    for name in ("GPU-a", "GPU-b"):
        (tmp_path / "work" / name).rmdir()
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=300)
    assert waiting.communicate(timeout=300)[0].split() == ["GPU-a"]


def test_more_gpus_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(DeviceError, match="2 GPUs are asked for, but this job may use 1"):
        devices.claim_gpus(2)


def test_without_a_gpu_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    assert devices.visible_gpus() == []
    devices.claim_gpus()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
