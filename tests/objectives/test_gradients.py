"""Gradients and second derivatives that are not those of the loss: graphs cut, custom backward passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_autograd import derivatives
from programs import (
    Between,
    Loss,
    Net,
    built,
    classes,
    images,
    net,
    objective_of,
    require_followed,
    require_refused,
    vectors,
)
from random_networks import FORGETFUL, OnceDifferentiable, function
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu
from torch.utils.checkpoint import checkpoint

import hessian_directions as hd
from hessian_directions.errors import DifferentiationError

# --- first derivatives ------------------------------------------------------------------------------


def cut(where: str) -> nn.Module:
    """The body, the head or what lies between them leaves no graph."""

    def forward(net: Any, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and where not in ("no_grad", "body")):
            y = gelu(net.norm(net.convolution(x))).mean((2, 3))
            if where == "no_grad":
                return net.head(y)
        y = net.head(torch.from_numpy(y.detach().numpy()) if where == "numpy" else y)
        return y.detach() if where == "detach" else y

    return built(lambda: Net(forward, **dict(Between().named_children())))


def cut_of_size(scale: float) -> nn.Module:
    """Before weights that are smaller or larger than others."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last((net.first(x.flatten(1) / scale).tanh()).detach())

    model = net(forward, first=lambda: nn.Linear(50, 4), last=lambda: nn.Linear(4, 3))
    with torch.no_grad():
        model.first.weight.mul_(scale)
    return model


def cut_beside_a_far_larger_gradient() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        small = net.small(x.flatten(1)).tanh()
        return net.large(1e3 * x.flatten(1)) + 1e-4 * small.detach()

    return net(forward, small=lambda: nn.Linear(50, 3), large=lambda: nn.Linear(50, 3))


def cut_in_part(share: float) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.first(x).tanh()
        return net.last(y + share * y.detach().sin())

    return net(forward, first=lambda: nn.Linear(5, 6), last=lambda: nn.Linear(6, 3))


def hooked() -> nn.Module:
    model = built(Between)
    model.norm.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 2,))
    return model


NO_SLOPE: dict[str, Callable[[], nn.Module]] = {
    **{where: lambda where=where: cut(where) for where in ("no_grad", "detach", "body", "numpy")},
    "before small weights": lambda: cut_of_size(1e-9),
    "before large weights": lambda: cut_of_size(1e9),
    "beside a far larger gradient": cut_beside_a_far_larger_gradient,
    "straight through": lambda: built(lambda: Between(function(lambda x: x**3, torch.ones_like))),
    "a backward hook that doubles": hooked,
}


def _require_no_gradient(
    model: nn.Module, loss: Loss = cross_entropy, x: Any = None, y: Any = None
) -> None:
    """Neither zero, where the graph is cut; and the value is there."""
    x, y = (images(), classes()) if x is None else (x, y)
    match = "not the slope of its loss"
    require_refused(match, model, loss, x, y, values_too=False, kind=DifferentiationError)
    expected = loss(copy.deepcopy(model).eval()(x), y).detach()
    torch.testing.assert_close(hd.Objective(model, loss, x, y).value(), expected)


@pytest.mark.parametrize("name", NO_SLOPE)
def test_a_gradient_that_is_no_slope_is_no_gradient(name: str) -> None:
    _require_no_gradient(NO_SLOPE[name]())


@pytest.mark.parametrize("share", [1e-2, 1e-3, 1e-4, 1e-5])
def test_a_small_part_of_the_graph_that_is_cut(share: float) -> None:
    _require_no_gradient(cut_in_part(share), cross_entropy, *vectors(8))


def test_a_graph_that_the_loss_cuts() -> None:
    _require_no_gradient(built(Between), lambda z, y: cross_entropy(z.data, y))


def test_backward_hooks_that_look() -> None:
    model, seen = built(Between), []
    model.norm.register_full_backward_hook(lambda module, inputs, outputs: seen.append(1))
    require_followed(model)


# --- second derivatives -------------------------------------------------------------------------------


def test_a_custom_function_behind_a_convolution() -> None:
    model = built(lambda: Between(function(lambda x: x**3, lambda x: 3 * x**2)))
    require_followed(model)
    model.head.requires_grad_(False)
    require_followed(model)


# Its own derivative is too small by 1e-4.
WRONG_BY_LITTLE = function(lambda x: x.square(), lambda x: 2 * (x * (1 - 1e-4) + 1e-4 * x.detach()))


@pytest.mark.parametrize(
    ("between", "match"),
    [
        (OnceDifferentiable.apply, "No mode of Hessian-vector products"),
        (FORGETFUL, "differences of gradients"),
        (WRONG_BY_LITTLE, "No mode"),
    ],
)
def test_a_custom_function_without_a_second_derivative(
    between: Callable[[Tensor], Tensor], match: str
) -> None:
    objective = objective_of(built(lambda: Between(between)))
    assert objective.gradient().norm() > 0
    for ask in (lambda: objective.hessian() @ objective.theta, objective.self_test):
        with pytest.raises(DifferentiationError, match=match):
            ask()


def test_a_network_that_differentiates_by_itself() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        y = net.body(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y + slope.flatten(1)[:, :3]

    require_followed(built(lambda: Net(forward, body=Between())))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(checkpoint(net.body, x.requires_grad_(), use_reentrant=reentrant))

    def body() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten())

    model = net(forward, body=body, head=lambda: nn.Linear(36, 3))
    if reentrant:
        require_refused("use_reentrant", model, values_too=False)
    else:
        require_followed(model)


@pytest.mark.parametrize("scale", [1.0, 200.0, 300.0, 500.0])
def test_a_saturated_network_has_products_of_rounding(scale: float) -> None:
    """Probabilities of 1 and 10⁻⁴⁰: what is left of the curvature is not symmetric."""
    torch.manual_seed(2)
    model, (inputs, targets) = nn.Linear(4, 3).double(), vectors(8, width=4)
    with torch.no_grad():
        model.weight.mul_(scale)
    objective = objective_of(model, inputs, targets)
    V = torch.randn(objective.n_parameters, 2, dtype=torch.float64)
    HV = objective.hessian_vector_product(V)

    def slope(theta: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(theta, model.parameters())
        return derivatives(model, lambda m: cross_entropy(m(inputs), targets))[1]

    h, theta = 1e-6, objective.theta
    sides = [(slope(theta + h * v), slope(theta - h * v)) for v in V.T]
    differences = torch.stack([(above - below) / (2 * h) for above, below in sides], 1)
    absolute = 1e-7 * float(objective.gradient().norm())
    torch.testing.assert_close(HV, differences, rtol=1e-4, atol=absolute)
    second = objective.second_directional_derivative(V)
    torch.testing.assert_close(second, (V * HV).sum(0), atol=1e-10, rtol=1e-8)
