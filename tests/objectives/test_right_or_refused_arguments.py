"""Functions that users write by hand, at arguments where their exponentials are large."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hessian_directions.objectives.objective import Objective


def _tanh(z: Tensor) -> Tensor:
    a, b = torch.exp(z), torch.exp(-z)
    return (a - b) / (a + b)


def _one_sided_tanh(z: Tensor) -> Tensor:
    return 2 / (1 + torch.exp(-2 * z)) - 1


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "tanh": (_tanh, 38.0),
    "tanh by one exponential": (_one_sided_tanh, 30.0),
    "sigmoid": (lambda z: 1 / (1 + torch.exp(-z)), 60.0),
    "swish": (lambda z: z / (1 + torch.exp(-z)), 60.0),
    "softplus": (lambda z: torch.log(1 + torch.exp(z)), 60.0),
    "moderate": (_tanh, 3.0),
}


class _Activated(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(4, 6), function, nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def _curvatures(model: nn.Module, x: Tensor, y: Tensor, vectors: Tensor) -> Tensor:
    exact = copy.deepcopy(model).double()
    parameters = list(exact.parameters())
    loss = functional.mse_loss(exact(x.double()), y.double())
    parts = torch.autograd.grad(loss, parameters, create_graph=True)
    slope = torch.cat([part.reshape(-1) for part in parts])
    rows = [torch.autograd.grad(s, parameters, retain_graph=True) for s in slope]
    hessian = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    return ((hessian @ vectors.double()) * vectors.double()).sum(0)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n_large", [1, 60])
def test_second_derivatives_at_large_arguments(name: str, n_large: int) -> None:
    """Of all samples, or of one that the self-test does not see."""
    function, largest = FUNCTIONS[name]
    torch.manual_seed(0)
    model, x, y = _Activated(function), torch.randn(60, 4), torch.randn(60, 1)
    with torch.no_grad():
        x[8 : 8 + n_large] *= largest / model.first(x[8 : 8 + n_large]).abs().max()
    vectors = torch.randn(37, 16)
    expected = _curvatures(model, x, y, vectors)
    objective = Objective(model, functional.mse_loss, x, y)
    found = objective.second_directional_derivative(vectors)
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    assert bool(objective._evaluation.ways.inexact) <= (name != "moderate")


def test_a_subset_does_not_answer_for_all_samples() -> None:
    torch.manual_seed(0)
    model, x, y = _Activated(_tanh), torch.randn(60, 4), torch.randn(60, 1)
    with torch.no_grad():
        x[30:] *= 38 / model.first(x[30:]).abs().max()
    vectors = torch.randn(37, 16)
    objective = Objective(model, functional.mse_loss, x, y)
    for n in (20, 60):
        part = objective.subset(range(n)) if n < 60 else objective
        expected = _curvatures(model, x[:n], y[:n], vectors)
        found = part.second_directional_derivative(vectors)
        assert (found - expected).norm() <= 1e-4 * expected.norm()
