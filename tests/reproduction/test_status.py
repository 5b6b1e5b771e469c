"""How far a run is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hessian_directions.errors import ArtifactError
from hessian_directions.reproduction import artifacts, configuration, job_logs, locks, status

ROOT = Path(__file__).parents[2]
SETTINGS = configuration.complete(
    yaml.safe_load((ROOT / "tests/config/smallest.yaml").read_text()), "smallest", ROOT
)
# Holds a file, says so, and waits to be told to end.
HOLDER = (
    "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); "
    "print('held', flush=True); sys.stdin.read()"
)


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.touch()
    process = holder(path)
    assert locks.is_held(path)
    assert locks.hold(path) is None
    process.kill()
    process.wait()
    assert not locks.is_held(path)
    descriptor = locks.hold(path, wait=True)
    assert descriptor is not None
    assert locks.is_held(path)
    os.close(descriptor)


def test_second_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = locks.hold_results("results/computed/mine")
    with pytest.raises(ArtifactError, match=r"results/computed/mine is being written by another"):
        locks.hold_results("results/computed/mine")
    os.close(first)
    os.close(locks.hold_results("results/computed/mine"))
    assert not list((tmp_path / "results/computed/mine").iterdir())
    (tmp_path / "results/computed/file").touch()
    with pytest.raises(ArtifactError, match=r"computed/file cannot be written to: "):
        locks.hold_results("results/computed/file")


def test_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One job is done, one runs, one was killed, eleven have not begun."""
    monkeypatch.chdir(tmp_path)
    results, logs = tmp_path / "results", tmp_path / "logs"
    artifacts.write_json(
        results / "networks/one/checkpoint.run.json",
        {"rule": "train_network", "wildcards": {"network": "one"}},
    )
    stamp = "2026-01-01 00:00:00,000"
    for network, rest in (
        ("one", f"{stamp} scores: done"),
        ("other", f"{stamp} scores: half of it"),
    ):
        log = logs / f"scores/networks/{network}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{stamp} scores: started (network={network})\n{rest}\n")
    process = holder(logs / "scores/networks/other.log")
    archive = tmp_path / "archive"
    now = status.status(SETTINGS, results, logs, archive)
    # What the archive took is what its jobs are expected to take.
    took = {"rule": "eigenpairs", "cpu_seconds": 60.0, "peak_memory_bytes": 1}
    artifacts.write_json(archive / "e.run.json", took | {"wildcards": {"network": "one"}})
    told = status.status(SETTINGS, results, logs, archive)
    assert (told.unknown, told.seconds_left - now.seconds_left) == (10, pytest.approx(60.0))
    # At the pace of what is done: thrice as long as predicted, and a minute as predicted beside it.
    trained = artifacts.read_json(results / "networks/one/checkpoint.run.json")
    artifacts.write_json(archive / "t.run.json", took | trained)
    artifacts.write_json(
        results / "networks/one/checkpoint.run.json", trained | {"wall_seconds": 180.0}
    )
    slow = status.status(SETTINGS, results, logs, archive)
    assert slow.seconds_left == pytest.approx(told.seconds_left * (60 + 180) / (60 + 60))
    process.kill()
    process.wait()
    assert (now.done, now.total) == (1, 14)
    assert now.unknown == 11  # gathering needs no passes
    assert now.describe(2).splitlines() == [
        "1 of 14 jobs done, 1 running, about 2 s left on 2 cores beside 11 jobs of unknown length",
        "  scores (network=other): half of it",
    ]
    # Nothing is known of what is left: no time, rather than none left.
    assert (
        status.Status(1, 3, 0.0, 2, ()).describe(2).endswith("0 running, 2 jobs of unknown length")
    )
    # What draws is no job that computes: no time is left of these.
    assert status.Status(3, 3, 0.0, 0, ()).describe(2) == "all 3 jobs that compute are done"
    drawing = status.Status(3, 3, 0.0, 0, now.running).describe(2).splitlines()
    assert drawing == [
        "all 3 jobs that compute are done; figures, tables and pages are made now",
        "  scores (network=other): half of it",
    ]
    assert status.status(SETTINGS, results, logs, archive).running == ()
    ended = {job.name: job.ended for job in map(job_logs.job_of, job_logs.logs_in(logs))}
    assert ended == {"scores (network=one)": True, "scores (network=other)": False}
