"""Networks that look at how their tensors lie in memory, in float32 on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_autograd import derivatives
from programs import net, objective_of, require_followed, vectors
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

import hessian_directions as hd


def _flattened(net: Any, x: Tensor) -> Tensor:
    """By `view`, as PyTorch's tutorials write it."""
    x = torch.tanh(net.convolution(x))
    return net.last(x.view(x.size(0), -1))


def _flattened_where_many(net: Any, x: Tensor) -> Tensor:
    x = torch.tanh(net.convolution(x))
    return net.last(x.view(len(x), 108) if len(x) > 12 else x.flatten(1))


def _of_one_length(net: Any, x: Tensor) -> Tensor:
    rows = net.weight.view(3, -1)
    weight = (rows / rows.norm(dim=1, keepdim=True)).view_as(net.weight)
    return net.last(torch.tanh(functional.conv2d(x, weight)).flatten(1))


def convolving(forward: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    layers = {"convolution": lambda: nn.Conv2d(2, 3, 3), "last": lambda: nn.Linear(108, 3)}
    return net(forward, **layers).float()


def reading(read: Callable[[Tensor], Tensor]) -> nn.Module:
    """Reads its inputs by a function of theirs, 128 numbers a sample."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(torch.tanh(read(x)).reshape(len(x), -1))

    return net(forward, last=lambda: nn.Linear(128, 3)).float()


def standardised() -> nn.Module:
    weight = nn.Parameter(torch.randn(3, 2, 3, 3))
    return net(_of_one_length, weight=lambda: weight, last=lambda: nn.Linear(108, 3)).float()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "view after a convolution": lambda: convolving(_flattened),
    "view of inputs": lambda: reading(lambda x: x.view(len(x), -1)),
    "strides": lambda: reading(lambda x: x.as_strided((len(x), 8, 16), (128, 16, 1))),
    "storage": lambda: reading(lambda x: torch.as_strided(x, (len(x), 128), (128, 1))),
    "view of parameters": standardised,
    "large batches": lambda: convolving(_flattened_where_many),
}


@pytest.mark.parametrize("n", [1, 8, 40])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("of_model", [False, True])
def test_the_layout_of_memory_is_the_users_own(name: str, n: int, of_model: bool) -> None:
    model, inputs, targets = NETWORKS[name](), torch.randn(n, 2, 8, 8), torch.randint(3, (n,))
    if of_model:
        loss = hd.ModelLoss(lambda model, batch: cross_entropy(model(batch[0]), batch[1]))
        objective = hd.Objective(model, loss, [(inputs, targets)])
    else:
        objective = objective_of(model, inputs, targets)
    v = torch.randn(objective.n_parameters)

    def total(model: nn.Module) -> Tensor:
        return cross_entropy(model(inputs.double()), targets)

    value, slope, products = derivatives(copy.deepcopy(model).double(), total, v[:, None])
    product = products[:, 0]
    allowed = 1e-5 * product.norm()
    assert float(objective.value()) == pytest.approx(value, rel=1e-5)
    assert (objective.gradient() - slope).norm() <= 1e-5 * slope.norm()
    assert (objective.hessian_vector_product(v) - product).norm() <= allowed
    curvature = objective.second_directional_derivative(v)
    assert abs(curvature - v.double() @ product) <= allowed * v.norm()


def test_complex_numbers_are_seen_in_a_view() -> None:
    model = reading(lambda x: torch.view_as_real(torch.view_as_complex(x) ** 2))
    inputs, targets = torch.randn(20, 8, 8, 2), torch.randint(3, (20,))
    objective = objective_of(model, inputs, targets)
    wanted = cross_entropy(model(inputs), targets).item()
    assert float(objective.value()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("width", [2, 3])
def test_complex_weights_are_seen_in_a_view_of_real_ones(width: int) -> None:
    """Wherever they come among the others, of which there are an even or an odd number."""

    def forward(net: Any, x: Tensor) -> Tensor:
        z = torch.complex(net.first(x), x[:, :width]) @ torch.view_as_complex(net.weight)
        return net.last((z * torch.exp(1j * z.real)).abs())

    model = net(
        forward,
        first=lambda: nn.Linear(5, width),
        weight=lambda: nn.Parameter(torch.randn(width, 2, 2)),
        last=lambda: nn.Linear(2, 3),
    )
    require_followed(model, cross_entropy, *vectors())


def test_a_copy_in_float32_takes_the_layout_that_is_right() -> None:
    model, inputs, targets = (
        convolving(_flattened).double(),
        torch.randn(20, 2, 8, 8),
        torch.randint(3, (20,)),
    )
    objective = objective_of(model, inputs.double(), targets)
    wanted = float(objective.value())
    assert float(objective.to(torch.float32).value()) == pytest.approx(wanted, rel=1e-5)


def test_ordinary_convolutions_keep_their_speed() -> None:
    """Also at the end of training, where the gradient is rounding."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 1))
    inputs = torch.randn(20, 2, 8, 8)
    objective = hd.Objective(model, functional.mse_loss, inputs, model(inputs).detach() + 1e-4)
    objective.value()
    assert objective._evaluation.ways.channels_last
