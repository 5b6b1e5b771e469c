"""A loss over several processes is that of one: every number, and every error, in all of them."""

import signal
from pathlib import Path

import networks
import pytest
import ranks
import torch

from hessian_directions.errors import NonFiniteError
from hessian_directions.objectives.objective import Objective

# Relative deviations allowed; of differences rounding divided by the square of their step.
ALLOWED = dict.fromkeys(("samples", "accuracy", "accuracies"), 0.0)
ALLOWED |= dict.fromkeys(("float32", "eigenvectors"), 1e-6)
ALLOWED |= dict.fromkeys(("trace by differences", "corrected"), 1e-10)


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("residual", [7, 3]),
        ("tanh perceptron", [1, 5, 4]),
        pytest.param("attention", [3, 6, 1], marks=pytest.mark.long),
        pytest.param("dense", [2, 8], marks=pytest.mark.long),
    ],
)
@pytest.mark.filterwarnings("ignore:The loss has kinks")
def test_distributed_numbers_are_those_of_one_process(
    name: str, shares: list[int], tmp_path: Path
) -> None:
    expected = ranks.numbers(ranks.objective(name))
    first, *others = ranks.run(ranks.numbers_of, len(shares), tmp_path / "group", name, shares)
    for what, wanted in expected.items():
        deviation = float((first[what] - wanted).double().norm()) / (
            float(wanted.double().norm()) or 1.0
        )
        assert deviation <= ALLOWED.get(what, 1e-12), (what, deviation)
    for other in others:
        for what, numbers in first.items():
            assert torch.equal(other[what], numbers), what


def test_distributed_errors_are_those_of_all_processes(tmp_path: Path) -> None:
    first, second = ranks.run(ranks.refusals, 2, tmp_path / "group")
    assert first == second
    case = networks.problem("tanh perceptron")
    case.inputs[3] = torch.nan
    loss = Objective(case.model, case.loss, case.inputs, case.targets)
    with pytest.raises(NonFiniteError) as alone:
        loss.value()
    assert first["a NaN"] == f"NonFiniteError: {alone.value}"
    assert first["a full memory"] == "OutOfMemoryError: out of memory"
    assert first["no samples"] == "DataError: A batch holds no samples."
    few = "1 train images cannot be shared out over 2 processes; lower key 'processes'"
    assert first["too few images"] == f"DataError: {few}"
    expected = round(float(ranks.objective("tanh perceptron").value()), 6)
    assert first["after that"] == f"no error, but {expected}"
    for what in ("another call", "another point", "other signs", "another network"):
        assert first[what].startswith("ProcessesError: The processes of the group do not compute")


def test_distributed_processes_end_with_the_one_that_is_killed(tmp_path: Path) -> None:
    *others, killed = ranks.run(ranks.survivor, 3, tmp_path / "group")
    assert killed == -signal.SIGKILL
    for told in others:
        assert told.startswith("Another process of the group has ended or does not answer: ")
