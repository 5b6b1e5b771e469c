"""What networks keep from pass to pass, of their samples, weights and numbers of passes; and chance."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs import (
    Between,
    built,
    images,
    net,
    objective_of,
    perceptron,
    require_refused,
    require_right,
    vectors,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from hessian_directions.errors import HessianDirectionsError, ModelError

# --- no function of inputs and parameters -----------------------------------------------------------


def _counting(net: Any, x: Tensor) -> Tensor:
    net.calls += 1
    return net.body(x) * net.calls


NO_FUNCTION: dict[str, tuple[str, Callable[[Any, Tensor], Tensor]]] = {
    "dropout left on": (
        "random in evaluation mode",
        lambda net, x: functional.dropout(net.body(x)),
    ),
    "asks whether a graph is recorded": (
        "no graph is recorded",
        lambda net, x: net.body(x) if torch.is_grad_enabled() else 2 * net.body(x),
    ),
    "counts its passes": ("state from pass to pass", _counting),
}


@pytest.mark.parametrize("name", NO_FUNCTION)
def test_networks_that_are_no_function_are_refused(name: str) -> None:
    match, forward = NO_FUNCTION[name]
    require_refused(match, net(forward, body=Between, calls=int))


@pytest.mark.parametrize("period", [4, 7, 40])
def test_what_a_network_does_in_some_later_pass_is_no_part_of_its_loss(period: int) -> None:
    """As plain PyTorch has it in the first."""

    def forward(net: Any, x: Tensor) -> Tensor:
        net.calls += 1
        return net.layer(x if net.calls % period else x.sin())

    model, (x, y) = net(forward, layer=lambda: nn.Linear(5, 3), calls=int), vectors(8)
    objective = objective_of(model, x, y, batch_size=3)
    loss, slope = objective.value(), objective.gradient()
    torch.testing.assert_close(loss, cross_entropy(model.layer(x), y).detach())
    for _ in range(period):
        assert torch.equal(objective.value(), loss)
        assert torch.equal(objective.gradient(), slope)


def test_two_copies_of_a_network_do_not_share_what_they_keep() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        net.calls += 1
        return net.body(x) * (1 + (net.calls > 40))

    model = net(forward, body=Between, calls=int)
    objective_of(model).value()
    assert model.calls == 0


def test_a_network_that_branches_on_what_a_batch_has_in_common() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.body(x)
        return y.tanh() if float(y.detach().mean()) > 3 else y

    model = net(forward, body=Between)
    objective = objective_of(model, batch_size=5)
    assert objective.value() > 0  # far from the branch
    theta = objective.theta
    theta[-3:] += 3.0 - float(copy.deepcopy(model).eval()(images()).mean())  # at it
    for ask in (objective.value, objective.gradient, lambda at: objective.hessian(at) @ at):
        with pytest.raises(ModelError, match="split into batches"):
            ask(theta)


# --- of other samples -------------------------------------------------------------------------------


class Observer(nn.Module):
    """Scales its inputs by the largest that it has seen."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(5, 3)
        self.register_buffer("largest", torch.zeros(()))
        self.seen = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        held = self.largest if self.kind == "buffer" else self.seen
        with torch.no_grad():
            if self.kind == "data":
                held.data = torch.maximum(held.data, x.abs().max())
            else:
                held.copy_(torch.maximum(held, x.abs().max()))
        return self.layer(x / held if self.kind != "unused" else x)


@pytest.mark.parametrize("kind", ["buffer", "attribute", "data"])
def test_networks_that_remember_other_samples_are_refused(kind: str) -> None:
    x, y = vectors(100)
    x[30] *= 5
    with pytest.raises(ModelError, match=r"split into batches|saw before"):
        objective_of(built(lambda: Observer(kind)), x, y).value()


def test_what_is_kept_and_not_used_does_no_harm() -> None:
    model, (x, y) = built(lambda: Observer("unused")), vectors(100)
    objective = objective_of(model, x, y, batch_size=25)
    expected = float(cross_entropy(model(x), y).detach())
    assert [float(objective.value()) for _ in range(2)] == pytest.approx([expected] * 2, rel=1e-12)


def test_networks_that_keep_their_activations() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        net.kept = {"list": [net.body.convolution(x)]}
        return net.body(x)

    model = net(forward, body=Between)
    model(images())  # with its graph
    objective = objective_of(model)
    for ask in (lambda o: o.value(), lambda o: o.gradient(), lambda o: o.hessian() @ o.theta):
        ask(objective)
        assert ask(objective.to(dtype=torch.float32)).isfinite().all()
        assert ask(objective.subset([0, 1, 5])).isfinite().all()


# --- of their weights -------------------------------------------------------------------------------


class Cached(nn.Module):
    """Keeps what it computes from its weights, as LeViT keeps its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.bias = nn.Conv2d(2, 3, 3), nn.Parameter(torch.randn(3))
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Cached:
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias.sin()
        return self.layer(x).mean((2, 3)) + self.cache["bias"]


def test_networks_that_keep_what_they_computed_from_their_weights() -> None:
    model = built(Cached).eval()
    with torch.no_grad():
        model(images())  # a cache without a graph
    objective = objective_of(model, batch_size=5)
    expected = objective_of(built(Cached))
    for theta in (objective.theta, 2 * objective.theta):
        torch.testing.assert_close(objective.value(theta), expected.value(theta))
        torch.testing.assert_close(objective.gradient(theta), expected.gradient(theta))
    slope = objective.gradient()
    assert slope[-3:].norm() > 0
    assert slope[:3].norm() > 0


def test_what_was_computed_of_a_parameter_is_no_attribute_of_it() -> None:
    """The network keeps on its weight what it computed of it."""

    def forward(net: Any, x: Tensor) -> Tensor:
        weight = net.body[2].weight
        if not hasattr(weight, "norm_"):
            weight.norm_ = weight.square().sum()
        return net.body(x) / weight.norm_

    model, (x, y) = net(forward, body=perceptron), vectors()
    model(x)

    def afresh(model: Any) -> Tensor:
        vars(model.body[2].weight).clear()
        return cross_entropy(model(x), y)

    require_right(objective_of(model, x, y), model, afresh)


def keeping() -> Any:
    def forward(net: Any, x: Tensor) -> Tensor:
        return functional.linear(x.flatten(1), net.kept[0], net.layer.bias)

    model = net(forward, layer=lambda: nn.Linear(50, 3))
    model.kept = [model.layer.weight]
    return model


def test_weights_that_are_kept_elsewhere_too() -> None:
    require_refused("keeps weights elsewhere", keeping())


def test_weights_kept_elsewhere_where_parameters_must_be_positive() -> None:
    """At a point of other signs the loss is no number, and tells nothing."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.body(x) * (1 + net.spread.log().sum())

    model = net(forward, body=keeping, spread=lambda: nn.Parameter(torch.ones(4)))
    require_refused("keeps weights elsewhere", model)


class Merging(nn.Linear):
    """Low-rank adaptation whose `train` merges the matrices into the weight and takes them out."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__(n, m)
        self.A, self.B = nn.Parameter(torch.randn(2, n)), nn.Parameter(torch.randn(m, 2))
        self.weight.requires_grad = self.bias.requires_grad = self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.B @ self.A
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        beside = 0 if self.merged else x @ self.A.T @ self.B.T
        return functional.linear(x, self.weight, self.bias) + beside


class Preparing(nn.Linear):
    """Computes something of its weight when it is put into evaluation mode."""

    def train(self, mode: bool = True) -> Preparing:
        super().train(mode)
        self.cache = self.weight.detach().tanh()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight + self.cache, self.bias)


@pytest.mark.parametrize("layer", [Merging, Preparing])
@pytest.mark.parametrize("head", [True, False])
def test_what_evaluation_mode_makes_of_the_weights_is_refused(
    layer: type[nn.Linear], head: bool
) -> None:
    parts = [layer(5, 4), nn.Tanh(), nn.Linear(4, 3)] if head else [layer(5, 3)]
    with pytest.raises(ModelError, match="keeps weights elsewhere"):
        objective_of(nn.Sequential(*parts).double(), *vectors()).value()


def test_a_network_whose_own_loss_is_no_number() -> None:
    """Nothing can be compared there: neither is anything returned elsewhere."""
    model, samples = perceptron(), vectors(17)
    theta = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    nn.init.constant_(model[0].weight, torch.nan)
    for match, ask in (
        ("not finite at the network's own", lambda o: o.value(theta)),
        ("is nan at point 1", lambda o: o.value()),
        ("not finite", lambda o: o.gradient(theta)),
    ):
        with pytest.raises(HessianDirectionsError, match=match):
            ask(objective_of(model, *samples))
