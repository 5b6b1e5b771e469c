"""What programs change in place: their activations, what the user handed over, their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_autograd import derivatives
from programs import (
    Between,
    Net,
    built,
    net,
    objective_of,
    require_followed,
    require_refused,
    vectors,
)
from random_networks import Apply
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

import hessian_directions as hd
from hessian_directions.errors import ModelError

# --- the output of a convolution, before its normalisation ----------------------------------------

IN_PLACE: dict[str, Callable[[Tensor], Tensor | None]] = {
    "y.sigmoid_()": lambda y: (y.sigmoid_(), None)[1],
    "relu(y, inplace=True)": lambda y: (functional.relu(y, inplace=True), None)[1],
    "y[:, :1] = 0": lambda y: y.__setitem__((slice(None), slice(1)), 0),
    "y += 1": lambda y: y.__iadd__(1),
    "a view in place": lambda y: (y.view(-1).tanh_(), None)[1],
    "a part in place": lambda y: (y.narrow(1, 0, 2).exp_(), None)[1],
    "clamp_": lambda y: (y.clamp_(-0.5, 0.5), None)[1],
    "columns in another order": lambda y: torch.cat([y[:, 1:], y[:, :1]], 1),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_convolution_changed_in_place(name: str) -> None:
    model = built(lambda: Between(IN_PLACE[name]))
    require_followed(model)


@pytest.mark.parametrize(
    "hook", [lambda m, x, y: (y.sigmoid_(), None)[1], lambda m, x, y: y.tanh()]
)
def test_a_convolution_changed_or_replaced_by_a_hook(hook: Callable[..., Any]) -> None:
    model = built(Between)
    model.convolution.register_forward_hook(hook)
    require_followed(model)


def test_activations_in_place_whose_input_is_read_again() -> None:
    """With inplace=True the shortcut is rectified too: another network than without it."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.convolution(x)
        return (net.relu(y) + y).mean((2, 3))

    layers = {"convolution": lambda: nn.Conv2d(2, 3, 3), "relu": lambda: nn.ReLU(inplace=True)}
    require_followed(net(forward, **layers))


def _one_of_several_views(x: Tensor) -> Tensor:
    left, right = (x * 1.0).split(3, 1)
    return torch.cat([left.sin_(), right], 1)


def test_a_network_that_runs_but_cannot_be_recorded_is_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 6), Apply(_one_of_several_views), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model(vectors()[0])
    with pytest.raises(ModelError, match="does not run"):
        objective_of(model, *vectors()).value()


# --- what the user handed over ----------------------------------------------------------------------


def _doubled_through_data(x: Tensor) -> Tensor:
    x.data.mul_(2)
    return x


CLAMPED = Apply(lambda x: x.clamp_(-0.5, 0.5))
DOUBLED = Apply(lambda x: x.mul_(2))


@pytest.mark.parametrize(
    "first",
    [nn.ELU(inplace=True), nn.ReLU(inplace=True), CLAMPED, DOUBLED, Apply(_doubled_through_data)],
)
@pytest.mark.parametrize("vectors_at_once", [1, 16])
def test_inputs_changed_in_place_are_the_networks_own(
    first: nn.Module, vectors_at_once: int
) -> None:
    model, (inputs, targets) = nn.Sequential(first, nn.Linear(5, 3)).double(), vectors(8)
    before = inputs.clone()
    V = torch.randn(18, 3, dtype=torch.float64)
    truth = derivatives(model, lambda m: cross_entropy(m(inputs.clone()), targets), V)
    loss, slope, products = truth
    objective = objective_of(model, inputs, targets, batch_size=3, vectors_at_once=vectors_at_once)
    for _ in range(2):
        assert float(objective.value()) == pytest.approx(loss, rel=1e-10)
        torch.testing.assert_close(objective.gradient(), slope)
        values = objective.values(objective.theta[:, None].repeat(1, 3))
        assert values.tolist() == pytest.approx([loss] * 3, rel=1e-10)
        torch.testing.assert_close(objective.hessian_vector_product(V), products)
        second = objective.second_directional_derivative(V)
        torch.testing.assert_close(second, (V * products).sum(0))
    assert torch.equal(inputs, before)


def test_a_rare_sample_is_not_changed_in_place_either() -> None:
    inputs, targets = vectors(200)
    inputs.clamp_(-0.4, 0.4)
    inputs[137] = 5.0  # no sample of the self-test
    before = inputs.clone()
    objective_of(nn.Sequential(CLAMPED, nn.Linear(5, 3)).double(), inputs, targets).gradient()
    assert torch.equal(inputs, before)


def test_a_loss_that_changes_its_targets_in_place() -> None:
    model, (inputs, _) = nn.Linear(5, 3).double(), vectors(8)
    targets = torch.randn(8, 3, dtype=torch.float64)
    before = targets.clone()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs, targets.mul_(0.5))

    expected = functional.mse_loss(model(inputs), targets / 2).detach()
    objective = hd.Objective(model, loss, inputs, targets, batch_size=3)
    for _ in range(2):
        torch.testing.assert_close(objective.value(), expected)
        objective.gradient()
    assert torch.equal(targets, before)


# --- weights ----------------------------------------------------------------------------------------


def renormalised(largest: float) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            net.body.head.weight.renorm_(2, 0, largest)
        return net.body(x)

    return built(lambda: Net(forward, body=Between()))


def test_weights_that_are_renormalised_in_place() -> None:
    require_refused("changes its own parameters", renormalised(0.1))


def test_weights_that_are_renormalised_elsewhere_alone() -> None:
    """At the network's own parameters nothing is seen of it."""
    objective = objective_of(renormalised(50))
    theta = objective.theta * 1000
    before = theta.clone()
    with pytest.raises(ModelError, match="changes its own parameters"):
        objective.value(theta)
    assert torch.equal(theta, before)


def positive(floor: float) -> nn.Module:
    """Weights that are kept positive in the forward pass, and are so where the network stands."""

    def forward(net: Any, x: Tensor) -> Tensor:
        net.weight.data.clamp_(min=floor)
        return x @ net.weight.T

    return net(forward, weight=lambda: nn.Parameter(torch.rand(3, 5) + 0.2))


def test_weights_that_are_clamped_in_the_forward_pass_are_refused() -> None:
    require_refused("changes its own parameters", positive(0.1), cross_entropy, *vectors())


@pytest.mark.parametrize("n_points", [1, 2])
def test_weights_that_are_clamped_far_away_are_refused_there(n_points: int) -> None:
    objective = objective_of(positive(-9.0), *vectors())
    objective.self_test()
    there = objective.theta - 20
    V = torch.randn(15, 2, dtype=torch.float64)
    for ask in (
        lambda: objective.values(torch.stack([there, objective.theta], 1)[:, :n_points]),
        lambda: objective.gradient(there),
        lambda: objective.hessian_vector_product(V, there),
        lambda: objective.second_directional_derivative(V, there),
    ):
        with pytest.raises(ModelError, match="changes its own parameters"):
            ask()
    assert bool(objective.gradient().isfinite().all())


def test_an_embedding_with_a_largest_norm() -> None:
    model = built(lambda: nn.Sequential(nn.Embedding(5, 3, max_norm=1.0), nn.Flatten()))
    require_refused("max_norm", model, inputs=torch.arange(12)[:, None] % 5)
