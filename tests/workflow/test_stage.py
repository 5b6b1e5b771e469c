"""What surrounds every job: a state outlives a failure, and goes once the results are there."""

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hessian_directions.errors import NonFiniteError

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
    """Named files, as Snakemake hands them to a script."""

    __getattr__ = dict.__getitem__


def job(folder: Path) -> Any:
    return SimpleNamespace(
        rule="eigenpairs",
        input=Outputs(),
        output=Outputs(pairs=str(folder / "pairs.nc"), run=str(folder / "pairs.run.json")),
        params=Outputs(),
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
        run(stage_module, tmp_path, NonFiniteError("the loss is NaN"))
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.nc.state"]


def test_state_goes_with_success(stage_module: ModuleType, tmp_path: Path) -> None:
    assert not run(stage_module, tmp_path, None).exists()
    assert (tmp_path / "pairs.run.json").exists()
