"""The fast second backward pass against PyTorch's own, and the folding of normalisations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hessian_directions.autodiff.double_backward import DoubleBackward, FoldingError
from hessian_directions.autodiff.folding import Folding, foldings
from hessian_directions.autodiff.program import Program


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def derivatives(function: Callable[..., Tensor], inputs: list[Tensor], fast: bool) -> list[Tensor]:
    """The value, its gradient, and the gradient of a random combination of the gradient."""
    if fast:
        with DoubleBackward():
            value = function(*inputs)
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
        ({"stride": 2, "kernel": 1}, 1),
        ({"stride": (2, 3), "kernel": 1}, 2),
        ({"padding": "same"}, 1),
        ({"padding": "valid"}, 1),
    ],
)
@pytest.mark.parametrize("biased", [False, True])
def test_convolution(options: dict[str, Any], groups: int, biased: bool) -> None:
    options = dict(options)
    size = options.pop("kernel", 3)
    x, kernel, bias = draw(2, 4, 6, 7), draw(8, 4 // groups, size, size), draw(8)

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


class Watch(TorchDispatchMode):
    """The convolutions and normalisations that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "conv" in str(func) or "batch_norm" in str(func):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class Normalised(nn.Module):
    """A convolution with its normalisation, and what a program does with it between and after."""

    def __init__(
        self, between: Callable[[Tensor], Any] = lambda y: y, after: Callable[..., Tensor] = max
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.between, self.after = between, after
        for name in ("weight", "bias", "running_mean", "running_var"):
            nn.init.uniform_(getattr(self.norm, name), 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        changed = self.between(y)
        z = self.norm(y if changed is None else changed)
        return z if self.after is max else self.after(y, z)


def program_of(model: nn.Module) -> tuple[Program, dict[str, Tensor]]:
    program = Program(model.double().eval(), [name for name, _ in model.named_parameters()])
    leaves = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    return program, leaves


def run(program: Program, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    program.put(parameters)
    return program.module(x)


def proven(model: nn.Module) -> dict[int, Folding]:
    program, leaves = program_of(model)
    return foldings(program, lambda: run(program, leaves, draw(2, 3, 4, 4).detach()))


def test_a_normalisation_costs_no_pass_of_its_own() -> None:
    model = nn.Sequential(Normalised(), nn.ReLU())
    program, leaves = program_of(model)
    with DoubleBackward(proven(model), program.tensor), Watch() as watch:
        run(program, leaves, draw(2, 3, 4, 4))
    assert watch.seen == ["aten.convolution.default"]


@pytest.mark.parametrize("strides", [(1, 2), (2, 1)])
def test_a_folded_network_has_the_same_two_derivatives(strides: tuple[int, int]) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, strides[0], bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 2, 1, strides[1]), nn.BatchNorm2d(2, affine=False), nn.Tanh()),
        *(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.Flatten()),
    )
    program, leaves = program_of(model)
    found = foldings(program, lambda: run(program, leaves, draw(2, 3, 7, 7).detach()))
    assert sorted(found) == [0, 1]

    def second(folds: dict[int, Folding] | None) -> list[Tensor]:
        x = draw(2, 3, 7, 7).detach()
        if folds is None:
            value = run(program, leaves, x)
        else:
            with DoubleBackward(folds, program.tensor):
                value = run(program, leaves, x)
        inputs = list(leaves.values())
        slopes = torch.autograd.grad(value.square().sum(), inputs, create_graph=True)
        combination = sum((slope * draw(*slope.shape).detach()).sum() for slope in slopes)
        return [value, *slopes, *torch.autograd.grad(combination, inputs)]

    for actual, plain in zip(second(found), second(None), strict=True):
        torch.testing.assert_close(actual, plain, rtol=1e-11, atol=1e-12)


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Blind(torch.autograd.Function):
    """Nothing of it is left in the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.sum()
        ctx.mark_non_differentiable(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


kept: list[Tensor] = []
READERS: dict[str, dict[str, Callable[..., Any]]] = {
    "in place": {"between": lambda y: (y.sigmoid_(), None)[1]},
    "in place, in part": {"between": lambda y: (y[:, :1].zero_(), None)[1]},
    "activation in place": {"between": lambda y: (functional.relu(y, inplace=True), None)[1]},
    "in place through .data": {"between": lambda y: (y.data.mul_(2), None)[1]},
    "in place through a view": {"between": lambda y: (y.view(-1).add_(1), None)[1]},
    "in place afterwards": {"after": lambda y, z: z * y.add_(1)},
    "read again": {"after": lambda y, z: z + y},
    "joined": {"after": lambda y, z: torch.cat([y, z], 1)},
    "a custom function": {"between": Custom.apply},
    "a custom function beside": {"after": lambda y, z: z * Custom.apply(y).mean()},
    "a custom function without a graph": {"after": lambda y, z: z * Blind.apply(y)},
    "a mask": {"after": lambda y, z: z * (y > 0)},
    "detached": {"after": lambda y, z: z * y.detach().mean()},
    "kept": {"between": lambda y: (kept.append(y), None)[1]},
}


@pytest.mark.parametrize("name", READERS)
def test_nothing_is_folded_that_anything_else_reads(name: str) -> None:
    assert proven(Normalised(**READERS[name])) == {}
    kept.clear()


def test_a_hook_sees_the_output_of_a_convolution() -> None:
    model = Normalised()
    seen = []
    model.convolution.register_forward_hook(lambda module, inputs, y: seen.append(y + 0))
    program, leaves = program_of(model)
    x = draw(1, 3, 4, 4).detach()
    with DoubleBackward(proven(model), program.tensor):
        run(program, leaves, x)
    parameters = (leaves["convolution.weight"], leaves["convolution.bias"])
    torch.testing.assert_close(seen[-1], functional.conv2d(x, *parameters, padding=1))


@pytest.mark.parametrize("name", ["in place", "read again", "joined", "a mask", "detached"])
def test_a_path_that_was_not_proven_is_no_silent_one(name: str) -> None:
    model = Normalised(**READERS[name])
    program, leaves = program_of(model)
    folds = proven(Normalised())
    with (
        pytest.raises(FoldingError),
        DoubleBackward(folds, program.tensor),
        torch.enable_grad(),
    ):
        run(program, leaves, draw(2, 3, 4, 4).detach())


def test_a_normalisation_that_is_left_out_later_is_no_silent_path() -> None:
    model = Normalised()
    program, _ = program_of(model)
    folds = proven(model)
    with pytest.raises(FoldingError), DoubleBackward(folds, program.tensor):
        functional.conv2d(draw(2, 3, 4, 4), program.module.convolution.weight)


def test_shapes_do_not_count_as_reading() -> None:
    model = Normalised(between=lambda y: (y.shape, y.dim(), y.dtype, len(y), None)[-1])
    program, leaves = program_of(model)
    with DoubleBackward(proven(model), program.tensor), Watch() as watch:
        run(program, leaves, draw(2, 3, 4, 4).detach())
    assert watch.seen == ["aten.convolution.default"]


def test_the_memory_layout_is_kept() -> None:
    def laid_out(x: Tensor) -> Tensor:
        return x.detach().to(memory_format=torch.channels_last).requires_grad_()

    x, kernel = laid_out(draw(2, 3, 6, 6)), laid_out(draw(4, 3, 3, 3))
    with DoubleBackward():
        value = functional.relu(functional.conv2d(x, kernel))
    slopes = torch.autograd.grad(value.square().sum(), [x, kernel], create_graph=True)
    products = torch.autograd.grad(sum(s.square().sum() for s in slopes), [x, kernel])
    for tensor in (value, *slopes, *products):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
