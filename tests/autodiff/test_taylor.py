"""Taylor mode: the jet of every operation against PyTorch's own second backward pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from hessian_directions.autodiff.taylor import Jet, MissingRuleError, second_derivatives

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
ONES = torch.ones(4, dtype=torch.float64)
LABELS = torch.tensor([0, 3, 1])
HOT = functional.one_hot(LABELS, 4).double()


def _relu_in_place(y: Tensor) -> Tensor:
    z = y.clone()
    return functional.relu(z, inplace=True) + z.sum()


def _added_in_place(y: Tensor) -> Tensor:
    z = y * 1.0
    alias = z
    z += y.tanh()
    return alias * alias


def _normalised_convolution(y: Tensor, g: Tensor, b: Tensor) -> Tensor:
    kernel = y[:, :, :3, :3].mean(0, keepdim=True).expand(4, -1, -1, -1)
    return functional.batch_norm(functional.conv2d(y, kernel), ONES, 0.5 * ONES, g, b)


def _assigned(y: Tensor, g: Tensor) -> Tensor:
    y[0, 0, 0, :4] = g
    return y


# Operations on y (3, 4, 6, 6), a scale g and a shift b (4,), all three variable.
OPERATIONS: dict[str, Operation] = {
    # functions of one number
    "tanh": lambda y, g, b: y.tanh(),
    "sigmoid": lambda y, g, b: torch.sigmoid(y),
    "exp": lambda y, g, b: torch.exp(-y * y),
    "log": lambda y, g, b: (1 + y * y).log(),
    "sqrt": lambda y, g, b: (1 + y * y).sqrt(),
    "rsqrt": lambda y, g, b: torch.rsqrt(1 + y * y),
    "square": lambda y, g, b: y.square(),
    "cube": lambda y, g, b: y**3,
    "power": lambda y, g, b: (1 + y * y) ** 0.7,
    "sine": lambda y, g, b: y.sin() + y.cos(),
    "erf": lambda y, g, b: y.erf(),
    "gelu": lambda y, g, b: functional.gelu(y),
    "gelu by tanh": lambda y, g, b: functional.gelu(y, approximate="tanh"),
    "silu": lambda y, g, b: functional.silu(y),
    "mish": lambda y, g, b: functional.mish(y),
    "softplus": lambda y, g, b: functional.softplus(y, beta=2),
    "softsign": lambda y, g, b: functional.softsign(y),
    "elu": lambda y, g, b: functional.elu(y),
    "selu": lambda y, g, b: functional.selu(y),
    "celu": lambda y, g, b: functional.celu(y, 1.3),
    "logsigmoid": lambda y, g, b: functional.logsigmoid(y),
    # linear piece by piece
    "relu": lambda y, g, b: functional.relu(y) * y,
    "relu in place": lambda y, g, b: _relu_in_place(y) * y,
    "leaky relu": lambda y, g, b: functional.leaky_relu(y, 0.1) * y,
    "relu6": lambda y, g, b: functional.relu6(y) * y,
    "hardtanh": lambda y, g, b: functional.hardtanh(y, -0.2, 0.4) * y,
    "hardswish": lambda y, g, b: functional.hardswish(y),
    "prelu": lambda y, g, b: functional.prelu(y, g),
    "clamp": lambda y, g, b: y.clamp(-0.3, 0.5) * y,
    "absolute value": lambda y, g, b: y.abs() * y,
    "maximum pooling": lambda y, g, b: functional.max_pool2d(y, 3, 2, 1).square(),
    "adaptive maximum pooling": lambda y, g, b: functional.adaptive_max_pool2d(y, 2).square(),
    "maximum": lambda y, g, b: y.max(1).values.square(),
    "where": lambda y, g, b: torch.where(y > 0, y, y * y),
    "masked fill": lambda y, g, b: y.masked_fill(y > 0, 1.0).square(),
    # sums and products
    "sum with a constant": lambda y, g, b: (1 - y) * (y - 2) * (3 + y),
    "quotient": lambda y, g, b: y / (1 + y.square()) + 2 / (2 + y.square()) + y / 3,
    "scale and shift": lambda y, g, b: y * g.view(-1, 1, 1) + b.view(1, -1, 1, 1),
    "matrix product": lambda y, g, b: y @ y.transpose(-1, -2),
    "einsum": lambda y, g, b: torch.einsum("bchw,bdhw->bcd", y, y),
    "addmm": lambda y, g, b: torch.addmm(y[0, 0], y[0, 1], y[0, 2], alpha=2),
    "linear": lambda y, g, b: functional.linear(y.mean((2, 3)), g.outer(b), b),
    "convolution": lambda y, g, b: functional.conv2d(y, g.outer(b)[..., None, None], b),
    "transposed convolution": lambda y, g, b: functional.conv_transpose2d(
        y, g.outer(b)[..., None, None], b, 2
    ),
    "gate": lambda y, g, b: y * y.mean((2, 3), keepdim=True).sigmoid(),
    "gated linear unit": lambda y, g, b: functional.glu(y, 1),
    # shapes
    "reshaping": lambda y, g, b: y.permute(0, 2, 3, 1).reshape(3, -1, 4).flatten(1).square(),
    "view of another layout": lambda y, g, b: y.contiguous().view(3, -1).square(),
    "unflatten": lambda y, g, b: y.unflatten(1, (2, 2)).squeeze(0).unsqueeze(1).square(),
    "transposed": lambda y, g, b: y.flatten(2).mT @ y.flatten(2),
    "parts": lambda y, g, b: y.chunk(2, 1)[0] * y.split([2, 2], 1)[1] * y[:, 1:2],
    "unbind": lambda y, g, b: sum(y.unbind(1)) ** 2,
    "expansion": lambda y, g, b: y * b.view(1, 4, 1, 1).expand_as(y),
    "roll": lambda y, g, b: torch.roll(y, 1, 2) * y,
    "concatenation": lambda y, g, b: torch.cat([y, y * y, torch.ones_like(y)], 1).square(),
    "stack": lambda y, g, b: torch.stack([y, y * y]).square(),
    "padding": lambda y, g, b: functional.pad(y, (1, 1, 1, 1), value=2.0).square(),
    "reflection": lambda y, g, b: functional.pad(y, (1, 1, 1, 1), mode="reflect").square(),
    "embedding": lambda y, g, b: functional.embedding(LABELS, g.view(4, 1)) * y.mean(),
    # pooling and resizing
    "average pooling": lambda y, g, b: functional.avg_pool2d(y, 2).square(),
    "adaptive average pooling": lambda y, g, b: functional.adaptive_avg_pool2d(y, 2).square(),
    "interpolation": lambda y, g, b: functional.interpolate(y, scale_factor=2).square(),
    # normalisation
    "layer norm": lambda y, g, b: functional.layer_norm(y, (6, 6)),
    "layer norm over channels": lambda y, g, b: functional.layer_norm(
        y.permute(0, 2, 3, 1), (4,), g, b
    ),
    "group norm": lambda y, g, b: functional.group_norm(y, 2, g, b),
    "instance norm": lambda y, g, b: functional.instance_norm(y, None, None, g, b),
    "batch norm": lambda y, g, b: functional.batch_norm(y, ONES, 0.5 * ONES, g, b).square(),
    "batch norm with batch statistics": lambda y, g, b: functional.batch_norm(
        y, None, None, g, b, training=True
    ),
    "batch norm of a convolution": lambda y, g, b: _normalised_convolution(y, g, b).relu(),
    "root mean square norm": lambda y, g, b: functional.rms_norm(y, (6,)),
    "normalised vectors": lambda y, g, b: functional.normalize(y, dim=1),
    "standard deviation": lambda y, g, b: y.std((2, 3)) * y.var((2, 3), correction=0),
    "local response norm": lambda y, g, b: functional.local_response_norm(y, 2),
    # softmax and attention
    "softmax": lambda y, g, b: y.softmax(1),
    "log softmax": lambda y, g, b: functional.log_softmax(y * y, dim=1),
    "logsumexp": lambda y, g, b: torch.logsumexp(y, 1),
    "attention": lambda y, g, b: functional.scaled_dot_product_attention(
        y, y * b.view(-1, 1, 1), y
    ),
    "causal attention": lambda y, g, b: functional.scaled_dot_product_attention(
        y, y, y, is_causal=True
    ),
    "masked attention": lambda y, g, b: functional.scaled_dot_product_attention(
        y, y, y, attn_mask=torch.eye(6).bool(), scale=0.3
    ),
    # losses
    "cross entropy": lambda y, g, b: functional.cross_entropy(y.mean((2, 3)), LABELS),
    "smoothed cross entropy": lambda y, g, b: functional.cross_entropy(
        y.mean((2, 3)), LABELS, label_smoothing=0.1
    ),
    "weighted cross entropy": lambda y, g, b: functional.cross_entropy(
        y.mean((2, 3)), LABELS, ONES.cumsum(0)
    ),
    "cross entropy of probabilities": lambda y, g, b: functional.cross_entropy(
        y.mean((2, 3)), 0.7 * HOT + 0.075
    ),
    "mean squared error": lambda y, g, b: functional.mse_loss(y.mean((2, 3)), HOT),
    "binary cross entropy": lambda y, g, b: functional.binary_cross_entropy_with_logits(
        y.mean((2, 3)), HOT
    ),
    "smooth L1 loss": lambda y, g, b: functional.smooth_l1_loss(y.mean((2, 3)), HOT),
    # in place, without effect, without dependence
    "in place": lambda y, g, b: _added_in_place(y),
    "scaled in place": lambda y, g, b: y.clone().mul_(2) * y,
    "dropout": lambda y, g, b: functional.dropout(y, 0.5, training=False).square(),
    "detached": lambda y, g, b: y * y.detach(),
    "independent of y": lambda y, g, b: g * b,
    "independent of everything": lambda y, g, b: torch.ones_like(y),
}


def _problem(operation: Operation) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weights = draw(3, 4, 6, 6), draw(50_000)
    point = {"kernel": draw(4, 4, 3, 3), "g": 1 + 0.3 * draw(4), "b": draw(4)}

    def function(at: dict[str, Tensor]) -> Tensor:
        y = functional.conv2d(x, at["kernel"], padding=1) / 6
        result = operation(y, at["g"], at["b"])
        return (result * weights[: result.numel()].view(result.shape)).sum()

    return function, point


def _directions(point: dict[str, Tensor], k: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in point.items()}
        for _ in range(k)
    ]


def _by_two_backward_passes(
    function: Callable[..., Tensor], point: dict[str, Tensor], v: dict[str, Tensor]
) -> Tensor:
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = function({name: p + t * v[name] for name, p in point.items()})
    if not value.requires_grad:
        return torch.zeros_like(value)
    (slope,) = torch.autograd.grad(value, t, create_graph=True)
    if not slope.requires_grad:
        return torch.zeros_like(value)
    (curvature,) = torch.autograd.grad(slope, t, allow_unused=True)
    return torch.zeros_like(value) if curvature is None else curvature


@pytest.mark.parametrize("name", OPERATIONS)
def test_second_derivative_of_every_operation(name: str) -> None:
    function, point = _problem(OPERATIONS[name])
    directions = _directions(point, 2)
    with sdpa_kernel(SDPBackend.MATH):
        expected = [_by_two_backward_passes(function, point, v) for v in directions]
    actual = second_derivatives(function, point, directions)
    torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["tanh", "relu", "gelu", "layer norm", "softmax", "attention", "cross entropy", "mish"]
)
def test_directions_can_be_vectorised(name: str) -> None:
    function, point = _problem(OPERATIONS[name])
    directions = _directions(point, 3)
    stacked = {name: torch.stack([v[name] for v in directions]) for name in point}
    singly = second_derivatives(function, point, directions)
    together = vmap(lambda v: second_derivatives(function, point, [v])[0])(stacked)
    torch.testing.assert_close(together, singly, rtol=1e-12, atol=1e-14)


def test_the_relu_has_no_curvature_beside_its_kink() -> None:
    value = second_derivatives(
        lambda at: functional.relu(at["w"]).sum(),
        {"w": torch.tensor([-1.0, 0.0, 1.0])},
        [{"w": torch.ones(3)}],
    )
    assert value.tolist() == [0.0]


def test_nothing_is_kept_for_a_backward_pass() -> None:
    seen = []

    def function(at: dict[str, Tensor]) -> Tensor:
        y = at["w"].tanh().square().sum()
        seen.append(y)
        return y

    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    second_derivatives(function, {"w": w}, [{"w": torch.ones(3, dtype=torch.float64)}])
    (jet,) = seen
    assert isinstance(jet, Jet)
    assert all(not c.requires_grad for c in (jet.primal, *jet.first, *jet.second))


@pytest.mark.parametrize("n_directions", [1, 5])
def test_all_directions_share_the_first_coefficient(n_directions: int) -> None:
    function, point = _problem(_normalised_convolution)
    convolutions = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten.convolution.default and args[0].device.type != "meta":
                convolutions.append(func)
            return func(*args, **(kwargs or {}))

    with Count():
        second_derivatives(function, point, _directions(point, n_directions))
    # w₀ x₀ of both layers once; w₁ x₀ of the first layer and w₁ x₀, w₀ x₁, w₁ x₁ of the second
    assert len(convolutions) == 2 + 4 * n_directions


@pytest.mark.parametrize(
    ("operation", "match"),
    [
        (lambda y, g, b: functional.dropout(y, 0.5, training=True), "dropout"),
        (lambda y, g, b: functional.huber_loss(y, torch.zeros_like(y)), "huber_loss"),
        (lambda y, g, b: torch.stack((y, y), axis=0), "stack with these arguments"),
        (lambda y, g, b: _assigned(y, g), "assign"),
        (lambda y, g, b: torch.ones_like(y).mul_(y), "mul in place"),
    ],
)
def test_what_cannot_be_carried_out_is_named(operation: Operation, match: str) -> None:
    function, point = _problem(operation)
    with pytest.raises(MissingRuleError, match=match):
        second_derivatives(function, point, _directions(point, 1))
