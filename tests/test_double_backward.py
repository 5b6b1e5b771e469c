"""The fast second backward pass against PyTorch's own, and the folding of normalisations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hessian_directions.double_backward import DoubleBackward, carried_out


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def derivatives(function: Callable[..., Tensor], inputs: list[Tensor], fast: bool) -> list[Tensor]:
    """The value, its gradient, and the gradient of a random combination of the gradient."""
    if fast:
        with DoubleBackward():
            value = carried_out(function(*inputs))
    else:
        value = function(*inputs)
    scalar = (value * draw(*value.shape).detach()).sum().square()
    slopes = torch.autograd.grad(scalar, inputs, create_graph=True)
    combination = sum((slope * draw(*slope.shape).detach()).sum() for slope in slopes)
    return [value, *slopes, *torch.autograd.grad(combination, inputs)]


def assert_same(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    fast = derivatives(function, list(inputs), fast=True)
    slow = derivatives(function, list(inputs), fast=False)
    for actual, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({}, 1),
        ({"stride": 2, "padding": 1}, 1),
        ({"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)}, 1),
        ({"padding": 1}, 2),
        ({"padding": 1, "stride": 3}, 4),
        ({"padding": "same"}, 1),
        ({"padding": "valid"}, 1),
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_convolution(options: dict[str, Any], groups: int, biased: bool) -> None:
    x, kernel, bias = draw(2, 4, 6, 7), draw(8, 4 // groups, 3, 3), draw(8)

    def convolve(x: Tensor, kernel: Tensor, *bias: Tensor) -> Tensor:
        return functional.conv2d(x, kernel, *bias, groups=groups, **options)

    assert_same(convolve, x, kernel, *([bias] if biased else []))


def test_convolution_of_one_unbatched_image() -> None:
    assert_same(functional.conv2d, draw(4, 6, 7), draw(3, 4, 3, 3))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_normalised_convolution(affine: bool, biased: bool) -> None:
    mean, variance = draw(5).detach(), draw(5).detach().square() + 0.1

    def layer(x: Tensor, kernel: Tensor, g: Tensor, b: Tensor) -> Tensor:
        y = functional.conv2d(x, kernel, b.sin() if biased else None, padding=1)
        g_and_b = (g, b) if affine else (None, None)
        return functional.batch_norm(y, mean, variance, *g_and_b, eps=1e-3) * g.sum() * b.sum()

    assert_same(layer, draw(2, 3, 4, 4), draw(5, 3, 3, 3), draw(5), draw(5))


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 4), (2, 3, 4, 4)])
def test_normalisation_of_anything_else(shape: tuple[int, ...]) -> None:
    mean, variance = draw(3).detach(), draw(3).detach().square() + 0.1

    def layer(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
        return functional.batch_norm(x.tanh(), mean, variance, g, b)

    assert_same(layer, draw(*shape), draw(3), draw(3))


def test_normalisation_with_batch_statistics() -> None:
    def layer(x: Tensor, kernel: Tensor) -> Tensor:
        return functional.batch_norm(functional.conv2d(x, kernel), None, None, training=True)

    assert_same(layer, draw(2, 3, 4, 4), draw(5, 3, 2, 2))


@pytest.mark.parametrize(
    "function",
    [
        functional.relu,
        torch.relu,
        Tensor.relu,
        lambda x: functional.relu(x.clone(), inplace=True),
        nn.ReLU(inplace=True),
        functional.hardsigmoid,
    ],
)
def test_activations(function: Callable[[Tensor], Tensor]) -> None:
    def layer(x: Tensor) -> Tensor:
        return function(x * x.sum()) ** 2

    x = draw(3, 4)
    with DoubleBackward():
        value = layer(x)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
    relu6 = function is functional.hardsigmoid
    y = x * x.sum()
    expected = (functional.relu6(y + 3) / 6 if relu6 else torch.relu(y)) ** 2
    (expected_slope,) = torch.autograd.grad(expected.sum(), x, create_graph=True)
    (expected_curvature,) = torch.autograd.grad(expected_slope.sum(), x)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(slope, expected_slope)
    torch.testing.assert_close(curvature, expected_curvature)


def _convolutions(function: Callable[[], Any]) -> list[str]:
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if "conv" in str(func) or "batch_norm" in str(func):
                seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch(), DoubleBackward():
        function()
    return seen


def test_a_normalisation_costs_no_pass_of_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()).eval()
    assert _convolutions(lambda: model(torch.ones(1, 3, 4, 4))) == ["aten.convolution.default"]


def test_a_convolution_that_two_layers_read() -> None:
    mean, variance = torch.zeros(5).double(), torch.ones(5).double()

    def layer(x: Tensor, kernel: Tensor, g: Tensor) -> Tensor:
        y = functional.conv2d(x, kernel)
        return (
            functional.batch_norm(y, mean, variance, g, g) + y + torch.cat([y[:, 1:], y[:, :1]], 1)
        )

    assert_same(layer, draw(2, 3, 4, 4), draw(5, 3, 2, 2), draw(5))


def test_a_hook_sees_the_output_of_a_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).eval().double()
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output + 0))
    with DoubleBackward():
        model(draw(1, 3, 4, 4))
    torch.testing.assert_close(seen[0], functional.conv2d(draw(1, 3, 4, 4), *model[0].parameters()))


def test_shapes_are_known_before_a_convolution_is_carried_out() -> None:
    def ask() -> None:
        y = functional.conv2d(torch.ones(2, 3, 7, 8), torch.ones(4, 3, 3, 2), stride=2, padding=1)
        assert y.shape == (2, 4, 4, 5)
        assert (y.dim(), y.size(1), len(y), y.dtype) == (4, 4, 2, torch.float32)

    assert _convolutions(ask) == []


def test_the_memory_layout_is_kept() -> None:
    def laid_out(x: Tensor) -> Tensor:
        return x.detach().to(memory_format=torch.channels_last).requires_grad_()

    x, kernel = laid_out(draw(2, 3, 6, 6)), laid_out(draw(4, 3, 3, 3))
    with DoubleBackward():
        value = carried_out(functional.relu(functional.conv2d(x, kernel)))
    slopes = torch.autograd.grad(value.square().sum(), [x, kernel], create_graph=True)
    products = torch.autograd.grad(sum(s.square().sum() for s in slopes), [x, kernel])
    for tensor in (value, *slopes, *products):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
