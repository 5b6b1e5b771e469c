"""What surrounds every job: a state outlives a failure, and goes once the results are there."""

import importlib.util
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hessian_directions.errors import ArtifactError, NonFiniteError
from hessian_directions.reproduction import artifacts, job_logs

PATH = Path(__file__).parents[2] / "workflow/scripts/stage.py"


@pytest.fixture
def stage_module() -> Iterator[ModuleType]:
    specification = importlib.util.spec_from_file_location("stage", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    handlers = list(logging.root.handlers)
    yield module
    logging.root.handlers[:] = handlers


class Outputs(dict):
    """Named files, as Snakemake hands them to a script: a list that has names."""

    __getattr__ = dict.__getitem__

    def __iter__(self) -> Iterator[Any]:
        for files in self.values():
            yield from [files] if isinstance(files, str) else files


def job(folder: Path) -> Any:
    return SimpleNamespace(
        rule="eigenpairs",
        input=Outputs(code=[]),
        output=Outputs(pairs=str(folder / "pairs.nc"), run=str(folder / "pairs.run.json")),
        params=Outputs(seed=1, device="cpu", precision="float64"),
        wildcards=Outputs(network="classifier"),
        threads=1,
        config={},
        log=[],
    )


def run(module: ModuleType, folder: Path, error: Exception | None) -> Path:
    """A job that keeps a state and then fails with the error, or succeeds; where the state was."""
    with module.stage(job(folder)) as running:
        state = Path(running.state_path(running.output.pairs))
        assert state == folder / "pairs.nc.state"
        state.touch()
        if error is not None:
            raise error
    return state


def test_state_outlives_a_failure(stage_module: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(stage_module, tmp_path, ArtifactError("no such file"))
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.nc.state"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_survival_of_full_memory(
    stage_module: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(stage_module, tmp_path, error)
    assert ended.value.code == 1
    assert (
        "eigenpairs (network=classifier): the memory is full: lower the network's key"
        in caplog.text
    )
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.nc.state"]


def told_to_end(module: ModuleType, folder: Path, number: signal.Signals) -> None:
    with module.stage(job(folder)) as running:
        Path(running.state_path(running.output.pairs)).touch()
        signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_survival_of_an_interruption(
    stage_module: ModuleType,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
) -> None:
    """It is no lack of memory: the log says what it was, and the state stays for the next run."""
    before = signal.getsignal(signal.SIGTERM)
    # In the background of a shell it is ignored.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended, caplog.at_level(logging.INFO):
            told_to_end(stage_module, tmp_path, number)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)
    assert ended.value.code == 1
    assert caplog.messages[-1] == f"{job_logs.FAILED}: {job_logs.INTERRUPTED}"
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.nc.state"]


def test_survival_of_numbers_that_are_not_finite(stage_module: ModuleType, tmp_path: Path) -> None:
    """The job ends well, with files that say why they hold nothing; so does one that reads them."""
    sentence = "eigenpairs (network=classifier): the product is NaN"
    state = run(stage_module, tmp_path, NonFiniteError("the product is NaN"))
    assert artifacts.failure(tmp_path / "pairs.nc") == sentence
    assert artifacts.failure(tmp_path / "pairs.run.json") == sentence
    assert not state.exists()
    after = job(tmp_path)
    after.input = Outputs(pairs=str(tmp_path / "pairs.nc"), code=[])
    after.output = Outputs(artifact=str(tmp_path / "b.nc"), run=str(tmp_path / "b.run.json"))
    with pytest.raises(SystemExit) as ended, stage_module.stage(after):
        pytest.fail("it computes with them")
    assert ended.value.code == 0
    assert artifacts.failure(tmp_path / "b.nc") == sentence


@pytest.mark.parametrize("name", ["weights.safetensors", "data.nc"])
def test_files_of_the_users_own_are_left_to_the_job(
    stage_module: ModuleType, tmp_path: Path, name: str
) -> None:
    """They carry no provenance, and may be anything."""
    (tmp_path / name).write_bytes(b"neither netCDF nor safetensors")
    reading = job(tmp_path)
    reading.input = Outputs(own=[str(tmp_path / name)], code=[])
    with stage_module.stage(reading):
        (tmp_path / "reached").touch()
    assert (tmp_path / "reached").exists()
    # The same among what jobs made is an artifact that is corrupt.
    reading.input = Outputs(pairs=str(tmp_path / name), code=[])
    with pytest.raises(SystemExit) as ended, stage_module.stage(reading):
        pytest.fail("it computes with it")
    assert ended.value.code == 1


def test_state_goes_with_success(stage_module: ModuleType, tmp_path: Path) -> None:
    assert not run(stage_module, tmp_path, None).exists()
    assert (tmp_path / "pairs.run.json").exists()
