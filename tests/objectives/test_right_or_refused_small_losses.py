"""Losses that are small, or that cancel: rounding is no sign of a loss that depends on batches."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hessian_directions.errors import ModelError
from hessian_directions.objectives.objective import Objective


def _network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))


class _Reading(nn.Module):
    """Turns a number into one of Python's, as networks do that may branch on it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        assert x.abs().max().item() < 100
        return self.inner(x)


def _own(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def _likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
    """One that crosses zero: its entries are as large as 10."""
    return ((outputs + 10) * targets).mean()


def _check(model: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Tensor) -> None:
    exact = copy.deepcopy(model).double()
    value = loss(exact(x.double()), y.double())
    parameters = list(exact.parameters())
    parts = torch.autograd.grad(value, parameters)
    slope = torch.cat([part.reshape(-1) for part in parts])
    objective = Objective(model, loss, x, y)
    size = 1e-6 if x.dtype == torch.float32 else 1e-13
    assert abs(objective.value() - value) <= 10 * size
    assert (objective.gradient() - slope).norm() <= 100 * size
    report = objective.self_test()
    assert report.n_samples == 12


@pytest.mark.parametrize("error", [1e-2, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("loss", [functional.mse_loss, _own])
@pytest.mark.parametrize("reads", [False, True])
def test_losses_of_networks_that_are_trained_to_the_end(
    error: float, loss: Callable[..., Tensor], reads: bool
) -> None:
    model = _Reading(_network()) if reads else _network()
    x = torch.randn(200, 5)
    _check(model, loss, x, model(x).detach() + error * torch.randn(200, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shift", [0.0, 1e-4, 1e-9])
@pytest.mark.parametrize("reads", [False, True])
def test_losses_that_cancel(dtype: torch.dtype, shift: float, reads: bool) -> None:
    model = _network().to(dtype)
    x, signs = torch.randn(200, 5, dtype=dtype), torch.tensor([1.0, -1.0], dtype=dtype)
    # To zero, or to something beside it.
    x = torch.cat([x[:100], x[:100]])
    targets = signs.repeat_interleave(100)[:, None] + shift / 10
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    _check(_Reading(model) if reads else model, _likelihood, x[order], targets[order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_known_likelihood_that_crosses_zero(dtype: torch.dtype) -> None:
    model = _network().to(dtype)
    x, y = torch.randn(200, 5, dtype=dtype), torch.full((200, 1), 4.0, dtype=dtype)
    with torch.no_grad():
        for _ in range(20):  # Newton steps in the last bias
            value = functional.poisson_nll_loss(model(x), y)
            model[-1].bias -= value / (model(x).exp().mean() - 4)
    _check(model, functional.poisson_nll_loss, x, y)


class _Mixing(nn.Module):
    """Subtracts a share of the first sample's output, in large batches alone."""

    def __init__(self, inner: nn.Module, share: float) -> None:
        super().__init__()
        self.inner, self.share = inner, share

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return z - self.share * z[0] if len(x) > 12 else z


@pytest.mark.parametrize("error", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("loss", [functional.mse_loss, _own])
def test_small_losses_that_depend_on_the_batch_are_refused(
    error: float, loss: Callable[..., Tensor]
) -> None:
    model, x = _Mixing(_network(), 0.1), torch.randn(200, 5)
    targets = model(x).detach() + error * torch.randn(200, 1)
    with pytest.raises(ModelError, match="split into batches"):
        Objective(model, loss, x, targets).value()


def test_losses_that_cancel_and_depend_on_the_batch_are_refused() -> None:
    model, x = _Mixing(_network(), 0.1), torch.randn(200, 5)
    targets = torch.tensor([1.0, -1.0]).repeat(100)[:, None] + 0.1
    with pytest.raises(ModelError, match="split into batches"):
        Objective(model, _likelihood, x, targets).value()
