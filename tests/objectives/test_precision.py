"""Rounding: casts on the way, data in float64, functions at large arguments, losses that are small or cancel."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from plain_autograd import derivatives
from programs import Between, Net, built, classes, images, net, objective_of, perceptron, vectors
from random_networks import Apply
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy, mse_loss

import hessian_directions as hd
from hessian_directions.errors import DifferentiationError, ModelError

# --- networks that compute in float32 on their way --------------------------------------------------


def normalised(x: Tensor, how: str) -> Tensor:
    """The root-mean-square norm of language models, in float32 whatever it is given."""
    if how == "softmax":
        return (x.softmax(1, dtype=torch.float32) * x.shape[1]).to(x.dtype)
    wide = {
        "float": x.float,
        "to": lambda: x.to(torch.float32),
        "type": lambda: x.type(torch.float32),
    }[how]()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def casting(how: str, share: float = 0.0) -> Any:
    """Where a share of its graph is cut, its gradient is a little wrong."""

    def forward(net: Any, x: Tensor) -> Tensor:
        h = (net.weight * normalised(net.first(x), how)).tanh()
        return net.last(h + share * h.detach().sin())

    return net(
        forward,
        first=lambda: nn.Linear(5, 6),
        weight=lambda: nn.Parameter(torch.ones(6)),
        last=lambda: nn.Linear(6, 3),
    )


HOW = ["float", "to", "type", "softmax"]


@pytest.mark.parametrize("share", [0.03, 0.003])
@pytest.mark.parametrize("how", HOW)
def test_small_cuts_are_refused(how: str, share: float) -> None:
    objective = objective_of(casting(how, share).float(), *vectors(60, dtype=torch.float32))
    with pytest.raises(DifferentiationError, match="not the slope"):
        objective.gradient()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", HOW)
def test_casts_are_followed(how: str, dtype: torch.dtype) -> None:
    model, (x, y) = casting(how).to(dtype), vectors(60, dtype=dtype)
    objective = objective_of(model, x, y, batch_size=25)
    V = torch.randn(objective.n_parameters, 1, dtype=dtype)
    value, slope, product = derivatives(model, lambda m: cross_entropy(m(x), y), V)
    assert float(objective.value()) == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(objective.gradient(), slope, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(objective.hessian() @ V, product, rtol=1e-3, atol=1e-4)
    assert objective.self_test().precision == "float32"


def test_products_of_matrices_in_float32_do_not_depend_on_batches() -> None:
    class Single(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x.float(), self.weight.float()).to(x.dtype)

    model = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), Single(64, 3)).double()
    x, y = (part.repeat(10, *[1] * (part.ndim - 1)) for part in vectors(60))
    expected = float(cross_entropy(model(x), y).detach())
    assert float(objective_of(model, x, y).value()) == pytest.approx(expected, rel=1e-6)


def test_constants_in_float32_where_they_cannot_be_reached() -> None:
    scale = torch.linspace(0.5, 1.5, 50).diag()

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.second(net.first(x.flatten(1) @ scale).tanh())

    model = net(forward, first=lambda: nn.Linear(50, 4), second=lambda: nn.Linear(4, 3)).float()
    x, y = images().float(), classes()
    objective = objective_of(model, x, y)
    V = torch.randn(objective.n_parameters, 1)
    _, slope, product = derivatives(model, lambda m: cross_entropy(m(x), y), V)
    torch.testing.assert_close(objective.gradient(), slope, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(objective.hessian() @ V, product, rtol=1e-3, atol=1e-4)
    assert "float32" in objective.self_test().describe()


def test_autocast_within_a_network() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net.body(x).float()

    with pytest.raises(ModelError, match="bfloat16"):
        objective_of(net(forward, body=Between).float(), images().float(), classes()).value()


def test_a_network_without_float64_is_reported_in_its_own_precision() -> None:
    x, y = torch.randint(256, (30, 5), dtype=torch.uint8), vectors(30)[1]
    model = net(lambda net, x: net.body(x.float() / 255), body=perceptron).float()
    report = hd.analyze(model, cross_entropy, x, y, parts="eigenpairs", progress=False)
    pairs = report.results().eigenpairs
    assert pairs is not None
    np.testing.assert_allclose(
        pairs["exact_curvature"], report.eigenpairs.values.numpy(), rtol=1e-3, atol=1e-6
    )


# --- data in float64 for a network in float32 -------------------------------------------------------

START = 1.7e9  # seconds since 1970


def of_time(from_buffer: bool) -> Any:
    """Takes an offset off its inputs before it casts them."""

    def forward(net: Any, t: Tensor) -> Tensor:
        return net.inner(((t - (net.start if from_buffer else START)) / 100).float())

    inner = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    model = Net(forward, inner=inner)
    model.register_buffer("start", torch.tensor(START, dtype=torch.float64))
    return model


def of_ids() -> Any:
    """Takes numbers of things, of which only the last digits matter, as real numbers."""
    return Net(lambda net, x: net.inner(x[:, 0].long() % 5), inner=nn.Embedding(5, 1))


def of_float() -> Any:
    layer = built(lambda: nn.Linear(1, 1), seed=0)
    return Net(lambda net, x: net.inner(x.float()), inner=layer).float()


def _seconds(n: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 100 * torch.rand(n, 1, generator=generator, dtype=torch.float64)


WIDE: dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor, bool]] = {  # …, are digits lost?
    "times": (lambda: of_time(False), START + _seconds(), _seconds() / 100, True),
    "times and a buffer": (lambda: of_time(True), START + _seconds(), _seconds() / 100, True),
    "integers and a buffer": (
        lambda: of_time(True),
        (START + _seconds()).long(),
        _seconds(),
        False,
    ),
    "ids": (of_ids, 2.0**26 + _seconds().floor(), _seconds() / 100, True),
    "small ids": (of_ids, _seconds().floor(), _seconds() / 100, False),
    "targets": (lambda: nn.Linear(1, 1), _seconds().float(), START + _seconds(), False),
    "plain": (lambda: nn.Linear(1, 1), _seconds(), _seconds(), False),
    "a network that casts": (of_float, _seconds(), _seconds(), False),
    "trained": (of_float, _seconds(), of_float()(_seconds()).detach().double() + 1e-6, False),
}


@pytest.mark.parametrize("name", WIDE)
def test_data_in_float64_for_a_network_in_float32(name: str) -> None:
    """They are cast, as PyTorch does not do, where no digits are lost that the network uses."""
    make, inputs, targets, lost = WIDE[name]
    model = make()
    objective = hd.Objective(model, mse_loss, inputs, targets)
    if lost:
        with pytest.raises(ModelError, match="subtract an offset"):
            objective.value()
        return
    casts = isinstance(model, Net)
    exact, x = (model, inputs) if casts else (copy.deepcopy(model).double(), inputs.double())
    value, slope, _ = derivatives(exact, lambda m: mse_loss(m(x).double(), targets.double()))
    assert float(objective.value()) == pytest.approx(value, rel=1e-4, abs=1e-10)
    assert (objective.gradient() - slope).norm() <= 1e-4 * slope.norm() + 1e-5


# --- functions by hand, where their exponentials are large ------------------------------------------


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


def _activated(function: Callable[[Tensor], Tensor]) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), Apply(function), nn.Linear(6, 1))


def _curvatures(model: nn.Module, x: Tensor, y: Tensor, V: Tensor) -> Tensor:
    def total(model: nn.Module) -> Tensor:
        return mse_loss(model(x.double()), y.double())

    V = V.double()
    return (V * derivatives(copy.deepcopy(model).double(), total, V)[2]).sum(0)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n_large", [1, 60])
def test_second_derivatives_at_large_arguments(name: str, n_large: int) -> None:
    """Of all samples, or of one that the self-test does not see."""
    function, largest = FUNCTIONS[name]
    model, x, y = _activated(function), torch.randn(60, 4), torch.randn(60, 1)
    with torch.no_grad():
        x[8 : 8 + n_large] *= largest / model[0](x[8 : 8 + n_large]).abs().max()
    V = torch.randn(37, 16)
    expected = _curvatures(model, x, y, V)
    objective = hd.Objective(model, mse_loss, x, y)
    found = objective.second_directional_derivative(V)
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    assert bool(objective._evaluation.ways.inexact) <= (name != "moderate")


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "moderate"])
def test_one_point_does_not_answer_for_another(name: str) -> None:
    function, largest = FUNCTIONS[name]
    model, x, y = _activated(function), torch.randn(60, 4), torch.randn(60, 1)
    objective, V = hd.Objective(model, mse_loss, x, y), torch.randn(37, 16)
    objective.second_directional_derivative(V)
    assert not objective._evaluation.ways.inexact
    with torch.no_grad():
        scale = largest / model[0](x).abs().max()
        model[0].weight *= scale
        model[0].bias *= scale
    there = nn.utils.parameters_to_vector(model.parameters()).detach()
    expected = _curvatures(model, x, y, V)
    found = objective.second_directional_derivative(V, there)
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_a_subset_does_not_answer_for_all_samples() -> None:
    model, x, y = _activated(_tanh), torch.randn(60, 4), torch.randn(60, 1)
    with torch.no_grad():
        x[30:] *= 38 / model[0](x[30:]).abs().max()
    V = torch.randn(37, 16)
    objective = hd.Objective(model, mse_loss, x, y)
    for n, part in ((20, objective.subset(range(20))), (60, objective)):
        expected = _curvatures(model, x[:n], y[:n], V)
        found = part.second_directional_derivative(V)
        assert (found - expected).norm() <= 1e-4 * expected.norm()


# --- losses that are small, or that cancel: not for that do they depend on batches ------------------


def _network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))


def _reading(inner: nn.Module) -> nn.Module:
    """Turns a number into one of Python's, as networks do that may branch on it."""

    def forward(net: Any, x: Tensor) -> Tensor:
        assert x.abs().max().item() < 100
        return net.inner(x)

    return Net(forward, inner=inner)


def _own(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def _likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
    """One that crosses zero: its entries are as large as 10."""
    return ((outputs + 10) * targets).mean()


def _check(model: nn.Module, loss: Callable[..., Tensor], x: Tensor, y: Tensor) -> None:
    exact = copy.deepcopy(model).double()
    value, slope, _ = derivatives(exact, lambda m: loss(m(x.double()), y.double()))
    objective = hd.Objective(model, loss, x, y)
    size = 1e-6 if x.dtype == torch.float32 else 1e-13
    assert abs(float(objective.value()) - value) <= 10 * size
    assert (objective.gradient() - slope).norm() <= 100 * size
    assert objective.self_test().n_samples == 12


@pytest.mark.parametrize("error", [1e-2, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("loss", [functional.mse_loss, _own])
@pytest.mark.parametrize("reads", [False, True])
def test_losses_of_networks_that_are_trained_to_the_end(
    error: float, loss: Callable[..., Tensor], reads: bool
) -> None:
    model = _reading(_network()) if reads else _network()
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
    _check(_reading(model) if reads else model, _likelihood, x[order], targets[order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_known_likelihood_that_crosses_zero(dtype: torch.dtype) -> None:
    model = _network().to(dtype)
    x, y = torch.randn(200, 5, dtype=dtype), torch.full((200, 1), 4.0, dtype=dtype)
    with torch.no_grad():
        for _ in range(20):  # Newton steps in the last bias
            value = functional.poisson_nll_loss(model(x), y)
            model[-1].bias -= value / (model(x).exp().mean() - 4)
    _check(model, functional.poisson_nll_loss, x, y)


def test_a_classifier_that_is_trained_to_the_end() -> None:
    """Its loss of 1e-12 is rounded as its outputs of 30 are, and it is not refused."""
    x, y = vectors(12, width=3)
    layer = nn.Linear(3, 3).double()
    nn.init.eye_(layer.weight)
    objective = objective_of(layer, 30 * functional.one_hot(y, 3).double() + 0.1 * x, y)
    assert 0 < float(objective.value()) < 1e-10
    assert objective.gradient().norm() > 0
    assert (objective.hessian() @ objective.theta).norm() > 0


def _mixing() -> nn.Module:
    """Subtracts a share of the first sample's output, in large batches alone."""

    def forward(net: Any, x: Tensor) -> Tensor:
        z = net.inner(x)
        return z - 0.1 * z[0] if len(x) > 12 else z

    return Net(forward, inner=_network())


@pytest.mark.parametrize("error", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("loss", [functional.mse_loss, _own])
def test_small_losses_that_depend_on_the_batch_are_refused(
    error: float, loss: Callable[..., Tensor]
) -> None:
    model, x = _mixing(), torch.randn(200, 5)
    targets = model(x).detach() + error * torch.randn(200, 1)
    with pytest.raises(ModelError, match="split into batches"):
        hd.Objective(model, loss, x, targets).value()


def test_losses_that_cancel_and_depend_on_the_batch_are_refused() -> None:
    model, x = _mixing(), torch.randn(200, 5)
    targets = torch.tensor([1.0, -1.0]).repeat(100)[:, None] + 0.1
    with pytest.raises(ModelError, match="split into batches"):
        hd.Objective(model, _likelihood, x, targets).value()
