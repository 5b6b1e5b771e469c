"""Options, threads, and a fresh clone in which the real workflow has run once."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import ROOT, TINY, Project

from hessian_directions.reproduction import locks

# Of a project, at a path that is free.
Make = Callable[[Path], None]

# Bits and speed depend on the number of threads; jobs and tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu", action="store_true", help="fail, not skip, where there is no GPU"
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many random networks were tried, what became of them, and why."""
    runs = [
        found
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        and "networks" in (found := dict(getattr(report, "user_properties", ())))
    ]
    if not runs:
        return
    verdicts, reasons = Counter(), Counter()
    for run in runs:
        verdicts.update(run["networks"])
        reasons.update(run["refusals"])
    kinds = set().union(*(run["kinds of layers"] for run in runs))
    seconds = sum(run["CPU seconds"] for run in runs)
    write = terminalreporter.write_line
    terminalreporter.section("random networks")
    write(
        f"{verdicts.total()} tried with {len(kinds)} kinds of layers in {seconds:.0f} CPU seconds: "
        + ", ".join(f"{count} {what}" for what, count in verdicts.most_common())
    )
    for reason, count in reasons.most_common():
        write(f"{count:5} {reason}")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Make], Project]:
    """Make a project once for all processes that run tests; who comes second waits."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def get(name: str, make: Make) -> Project:
        folder = base / f"shared-{name}"
        folder.mkdir(exist_ok=True)
        descriptor = locks.hold(folder, wait=True)
        try:
            project = Project(folder / "project")
            if not (folder / "made").exists():
                # What an interrupted attempt left.
                shutil.rmtree(project.path, ignore_errors=True)
                make(project.path)
                (folder / "made").touch()
            return project
        finally:
            os.close(descriptor)

    return get


@pytest.fixture(scope="session")
def computed(shared: Callable[[str, Make], Project]) -> Project:
    """A clone in which the tests' configuration was computed from scratch and promoted to the archive.

    Tests read it and run nothing there: another process may be copying it.
    """

    def make(path: Path) -> None:
        project = Project.clone(path)
        project.snakemake("figures", configfile=TINY, config="source=compute")
        project.commit("everything computed")
        project.run("python", "-m", "hessian_directions.reproduction.promotion", "tiny")
        project.commit("archive")

    return shared("computed", make)


@pytest.fixture(scope="session")
def settled(computed: Project, shared: Callable[[str, Make], Project]) -> Project:
    """The same after one more run, whose report has the numbers beside those of the archive."""

    def make(path: Path) -> None:
        computed.copy(path).snakemake("figures", config="source=compute")

    return shared("settled", make)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone in which nothing was computed."""
    return Project.clone(tmp_path_factory.mktemp("bare") / "project")


@pytest.fixture
def project(settled: Project, tmp_path: Path) -> Project:
    """A copy of the computed clone, with nothing left to do, that a test may spoil."""
    return settled.copy(tmp_path / "project")


@pytest.fixture
def fresh_clone(computed: Project, tmp_path: Path) -> Project:
    """What a newcomer gets: the committed files alone, with new time stamps."""
    target = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(computed.path), str(target)], check=True)
    return Project(target)


__all__ = ["ROOT"]
