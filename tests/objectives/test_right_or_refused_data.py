"""What people hand over beside arrays of numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hessian_directions.errors import DataError, HessianDirectionsError, ModelError
from hessian_directions.objectives.losses import ModelLoss
from hessian_directions.objectives.objective import Objective
from hessian_directions.objectives.samples import _spread


def _samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 4, generator=generator), torch.randint(3, (40,), generator=generator)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ([f"{i}.png" for i in range(40)], DataError),
        (None, DataError),
        ("train", DataError),
        (0.5, ModelError),
        (True, ModelError),
    ],
    ids=str,
)
def test_parts_of_a_batch_that_are_no_arrays_are_named(
    part: Any, kind: type[HessianDirectionsError]
) -> None:
    inputs, targets = _samples()
    loss = ModelLoss(lambda model, batch: functional.cross_entropy(model(batch["x"]), batch["y"]))
    batch = {"x": inputs, "y": targets, "beside": part}
    with pytest.raises(kind, match="'beside'"):
        Objective(nn.Linear(4, 3), loss, [batch])


def test_a_number_of_a_batch_that_is_one_sample() -> None:
    inputs, _ = _samples()
    loss = ModelLoss(lambda model, s: (model(s["x"]).sum() - s["y"]).square(), batch_is_sample=True)
    model, graphs = nn.Linear(4, 3), [{"x": inputs[:3], "y": 0.5}, {"x": inputs[3:9], "y": 2.0}]
    wanted = sum(float((model(g["x"]).sum() - g["y"]).square().detach()) for g in graphs) / 2
    assert float(Objective(model, loss, graphs).value()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_truth_values_as_targets_of_squared_errors(reduction: str) -> None:
    inputs, targets = _samples()
    model, truths = nn.Linear(4, 3), functional.one_hot(targets, 3) == 1
    loss = nn.MSELoss(reduction=reduction)
    wanted = loss(model(inputs), truths)
    parts = torch.autograd.grad(wanted, list(model.parameters()))
    slope = torch.cat([part.reshape(-1) for part in parts])
    objective = Objective(model, loss, inputs, truths)
    assert float(objective.value()) == pytest.approx(wanted.item(), rel=1e-5)
    assert (objective.gradient() - slope).norm() <= 1e-5 * slope.norm()


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda z, y: float(functional.cross_entropy(z, y)), "float of Python's"),
        (lambda z, y: functional.cross_entropy(z, y).item(), "float of Python's"),
        (lambda z, y: (z.argmax(1) == y).sum(), "int64"),
        (lambda z, y: functional.cross_entropy(z, y, reduction="none"), r"\(12,\)"),
    ],
)
def test_what_a_loss_returns_beside_a_real_tensor_is_said(loss: Any, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        Objective(nn.Linear(4, 3), loss, *_samples()).value()


class _Pair(nn.Module):
    """Takes its inputs as one pair; the other argument is a switch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, xs: Any, return_features: bool = False) -> Any:
        a, b = xs
        z = self.linear(a * b)
        return (z, a) if return_features else z


class _Two(_Pair):
    """Takes them as two arguments, of which one may be left out."""

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        assert b is not None
        return self.linear(a * b)


@pytest.mark.parametrize("kind", [_Pair, _Two])
def test_a_pair_of_inputs_and_an_argument_with_a_default(kind: type[_Pair]) -> None:
    inputs, targets = _samples()
    model = kind()
    wanted = functional.cross_entropy(model.linear(inputs * inputs), targets).item()
    for data in ([([inputs, inputs], targets)],), ((inputs, inputs), targets):
        found = Objective(model, functional.cross_entropy, *data).value()
        assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("n", [1, 2, 11, 12, 13, 1000, 2**25 + 3, 2**40 + 1])
def test_samples_that_represent_all_are_there(n: int) -> None:
    """Floats of 32 bits name no sample beyond the 2²⁵th."""
    chosen = _spread(n, 12)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1], len(chosen)) == (0, n - 1, min(n, 12))
