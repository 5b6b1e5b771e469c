"""A run survives what happens to it: killed, refused or short of room, it ends in the same artifacts."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from project import ROOT, Project

sys.path.append(str(ROOT / "benchmarks"))

import kills

pytestmark = pytest.mark.workflow

SMALLEST = "tests/config/smallest.yaml"
RESULTS = "results/computed/smallest"
LOGS = "logs/smallest"
# What is the same to the bit; tables and drawings beside them hold measured seconds.
EXACT = kills.EXACT

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")


@pytest.fixture(scope="module")
def finished(bare: Project) -> Project:
    """A clone in which the smallest profile was computed without a disturbance."""
    make(bare)
    return bare


@pytest.fixture
def copy(finished: Project, tmp_path: Path) -> Project:
    target = tmp_path / "project"
    shutil.copytree(finished.path, target, symlinks=True)
    return Project(target)


def make(project: Project, *targets: str, check: bool = True, config: str = SMALLEST) -> str:
    done = project.snakemake(
        *(targets or ("figures",)), configfile=config, config="source=compute", check=check
    )
    return done.stdout + done.stderr


def start(project: Project, *targets: str, config: str = SMALLEST) -> subprocess.Popen[bytes]:
    """A run in a process group of its own."""
    command = f"snakemake --configfile {config} --config source=compute --cores 2 --"
    return subprocess.Popen(
        [*command.split(), *targets],
        cwd=project.path,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def until(condition: Callable[[], Any], seconds: float = 300) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return found


def left_over(project: Project, results: str) -> list[str]:
    """What no finished run leaves: hidden files, and states of computations."""
    paths = (project.path / results).rglob("*")
    return [str(path) for path in paths if path.name[0] == "." or path.suffix == ".state"]


def require_same(project: Project, reference: Project, results: str) -> None:
    found = project.checksums(results, suffixes=EXACT)
    assert found == reference.checksums(results, suffixes=EXACT)
    assert not left_over(project, results)
    for name in ("claims.csv", "tables/networks.csv"):
        if (reference.path / results / name).exists():
            assert (project.path / results / name).read_bytes() == (
                reference.path / results / name
            ).read_bytes()
    names = [
        sorted(str(p.relative_to(of.path)) for p in (of.path / results).rglob("*") if p.is_file())
        for of in (project, reference)
    ]
    assert names[0] == names[1]


def test_survival_of_kills(finished: Project, copy: Project) -> None:
    """Three times at random moments, while one network is computed anew and everything is drawn."""
    shutil.rmtree(copy.path / RESULTS / "networks/one")
    draw = random.Random(15)
    for _ in range(3):
        kills.kill_at_random(copy.path, SMALLEST, copy.environment(), 20, draw)
    make(copy)
    require_same(copy, finished, RESULTS)


@pytest.mark.long
def test_survival_of_thirty_kills(tmp_path: Path) -> None:
    """In every stage from training to the paper; the program compares with a run that is left alone."""
    project = Project.clone(tmp_path / "project")
    project.run("python", "benchmarks/kills.py", "--folder", str(tmp_path))
    trials = pd.read_csv(tmp_path / "kills.csv")
    assert len(trials) == 30
    assert len(set(trials["stages"].dropna().str.split(" ").sum())) > 10


def test_survival_of_two_runs(finished: Project, copy: Project) -> None:
    """The second is refused; what a killed run leaves behind stops no other, and is waited for."""
    shutil.rmtree(copy.path / RESULTS / "networks/one")
    target = f"{RESULTS}/networks/one/scores.nc"
    log = copy.path / LOGS / "train_network/one.log"
    log.unlink()
    first = start(copy, target)
    until(log.exists)
    # It cannot be done before the other asks.
    os.kill(first.pid, signal.SIGSTOP)
    said = make(copy, target, check=False)
    assert (
        f"hessian-directions: {RESULTS} is being written by another run: wait for its end" in said
    )
    assert "Traceback" not in said
    os.kill(first.pid, signal.SIGKILL)  # not its jobs
    first.wait()
    make(copy, target)
    until(lambda: not kills.processes_in(copy.path))
    ours = copy.checksums(f"{RESULTS}/networks/one", suffixes=EXACT)
    reference = finished.checksums(f"{RESULTS}/networks/one", suffixes=EXACT)
    assert ours == {name: reference[name] for name in ours}
    assert "scores.nc" in ours
    assert not left_over(copy, RESULTS)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of its own on a folder; what is given changes its options."""
    folder.mkdir(parents=True, exist_ok=True)

    def mount(*options: str) -> None:
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine mounts nothing: {done.stderr.strip()}")

    mount("-o", f"size={size}")
    try:
        yield lambda options: mount("-o", f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@needs_root
def test_survival_of_a_full_disk(finished: Project, copy: Project) -> None:
    target = f"{RESULTS}/networks/one/eigenpairs.nc"
    shutil.rmtree(copy.path / RESULTS)
    with small_disk(copy.path / RESULTS, "16k") as change:
        said = make(copy, target, check=False)
        assert "(network=one): " in said
        assert "No space left on device" in said
        assert "Traceback" not in said
        assert not left_over(copy, RESULTS)
        change("size=10m")
        make(copy, target)
        ours = copy.checksums(f"{RESULTS}/networks/one", suffixes=EXACT)
    reference = finished.checksums(f"{RESULTS}/networks/one", suffixes=EXACT)
    assert ours == {name: reference[name] for name in ours}
    assert "eigenpairs.nc" in ours


@needs_root
def test_survival_of_a_read_only_folder(copy: Project) -> None:
    shutil.rmtree(copy.path / RESULTS)
    with small_disk(copy.path / RESULTS, "10m") as change:
        change("ro")
        said = make(copy, check=False)
    assert f"hessian-directions: {RESULTS} cannot be written to: Read-only file system" in said
    assert "Traceback" not in said


def test_survival_of_a_clock_that_jumps(copy: Project) -> None:
    """Half of the artifacts are a year old, the others of next year: no content has changed."""
    year = 365 * 86400
    for k, path in enumerate(sorted((copy.path / RESULTS).rglob("*.*"))):
        moved = time.time() + (year if k % 2 else -year)
        os.utime(path, (moved, moved))
    config = "source=compute"
    assert copy.planned_rules("figures", configfile=SMALLEST, config=config) == set()


def test_survival_of_a_network_that_becomes_nan(finished: Project, copy: Project) -> None:
    """It is left out, and the page and a table say why; the other is what it was."""
    settings = yaml.safe_load((ROOT / SMALLEST).read_text())
    other = settings["networks"]["other"]
    other["training"] = other["training"] | {
        "learning_rate": 1e30
    }  # that of `one` is the same object
    (copy.path / "nan.yaml").write_text(yaml.safe_dump(settings))
    said = make(copy, check=False, config="nan.yaml")
    sentence = "train_network (network=other): the training loss became"
    assert f"hessian-directions: {sentence}" in said
    assert "Traceback" not in said
    failures = pd.read_csv(copy.path / RESULTS / "tables/failures.csv")
    assert set(failures["network"]) == {"other"}
    assert {"train_network", "eigenpairs", "slices_shard", "trace"} <= set(failures["rule"])
    assert failures["reason"].str.startswith(sentence).all()
    page = (copy.path / RESULTS / "report.html").read_text()
    assert f"Numbers are missing: {sentence}" in page
    networks = pd.read_csv(copy.path / RESULTS / "tables/networks.csv")
    assert list(networks["network"]) == ["one"]
    one = f"{RESULTS}/networks/one"
    assert copy.checksums(one, suffixes=EXACT) == finished.checksums(one, suffixes=EXACT)
    # A smaller rate is another network: it is trained, and nothing is left out any more.
    make(copy)
    require_same(copy, finished, RESULTS)


def test_survival_of_a_job_that_is_killed(copy: Project) -> None:
    """As by a system that is out of memory: one sentence says which key to lower."""
    settings = yaml.safe_load((ROOT / SMALLEST).read_text())
    settings["networks"]["one"]["training"] |= {"epochs": 10**7}
    (copy.path / "long.yaml").write_text(yaml.safe_dump(settings))
    log = copy.path / LOGS / "train_network/one.log"
    log.unlink()
    command = "snakemake --configfile long.yaml --config source=compute --cores 2 --"
    run = subprocess.Popen(
        [*command.split(), f"{RESULTS}/networks/one/checkpoint.safetensors"],
        cwd=copy.path,
        env=copy.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def holder() -> int | None:
        if not log.exists() or "epochs" not in log.read_text():
            return None
        return next((pid for pid in kills.processes_in(copy.path) if log in files_of(pid)), None)

    os.kill(until(holder), signal.SIGKILL)
    said = run.communicate()[0]
    assert run.returncode != 0
    assert "hessian-directions: train_network (network=one) was killed" in said
    assert "lower the network's key 'batch_size'" in said
    assert not (copy.path / RESULTS / "networks/one/checkpoint.safetensors").exists()


def files_of(pid: int) -> list[Path]:
    """The files that a process has open."""
    with contextlib.suppress(OSError):
        return [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
    return []
