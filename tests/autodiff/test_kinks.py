"""Kinks along a line: places and jumps against second differences of losses that are linear in the
units, where first order is all there is, and against jumps found by bisection."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hessian_directions.autodiff import kinks
from hessian_directions.errors import KinkError

STEP = 0.6
Function = Callable[[Tensor], Tensor]


def found(
    function: Callable[[dict[str, Tensor]], Tensor],
    theta: Tensor,
    v: Tensor,
    reach: float = STEP,
) -> tuple[Tensor, Tensor]:
    """Places and jumps, in the order of the places; the slope is checked on the way."""
    gradient, deltas = kinks.sensitivities(function, {"w": theta})
    slope, (places, jumps) = kinks.crossings(function, {"w": theta}, {"w": v}, deltas, reach)
    assert float(slope) == pytest.approx(float((gradient["w"] * v).sum()), rel=1e-12)
    order = places.argsort()
    return places[order], jumps[order]


def excess(places: Tensor, jumps: Tensor) -> float:
    return sum(
        float(jump) * max(STEP - abs(float(place)), 0) / STEP**2
        for place, jump in zip(places, jumps)
    )


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_unit_in_closed_form() -> None:
    """L = 3 relu(2 − w) at w = 1.9 along v = 2: slope −6 up to x = 0.05, then 0."""
    theta, v = torch.tensor([1.9]).double(), torch.tensor([2.0]).double()
    places, jumps = found(lambda p: 3 * torch.relu(2 - p["w"]).sum(), theta, v)
    assert places.tolist() == pytest.approx([0.05])
    assert jumps.tolist() == pytest.approx([6.0])


def test_a_unit_exactly_at_its_kink() -> None:
    places, jumps = found(
        lambda p: -torch.relu(p["w"]).sum(), torch.zeros(1).double(), torch.ones(1).double()
    )
    assert (places.tolist(), jumps.tolist()) == ([0.0], [-1.0])


IMAGE = (2, 3, 7, 8)
SLOPES = torch.tensor([0.1, -0.3, 1.5], dtype=torch.float64)
OTHER = draw(*IMAGE, seed=5)

PIECEWISE_LINEAR: dict[str, Function] = {
    "relu": functional.relu,
    "relu method": Tensor.relu,
    "relu in place": lambda z: functional.relu(z * 1, inplace=True),
    "relu_ of a part": lambda z: _change_a_part(z * 1),
    "aten": lambda z: torch.ops.aten.relu(z),
    "relu6": functional.relu6,
    "leaky_relu": lambda z: functional.leaky_relu(z, 0.2),
    "leaky_relu in place": lambda z: functional.leaky_relu(z * 1, 0.2, True),
    "rrelu": functional.rrelu,
    "prelu": lambda z: functional.prelu(z, SLOPES),
    "prelu, one slope": lambda z: functional.prelu(z, SLOPES[:1]),
    "hardtanh": nn.Hardtanh(-0.5, 0.25),
    "hardsigmoid": lambda z: functional.hardsigmoid(6 * z),
    "softshrink": nn.Softshrink(0.3),
    "abs": abs,
    "clamp": lambda z: z.clamp(-0.2, 0.4),
    "clamp from below": lambda z: torch.clamp(z, min=0.1),
    "clamp in place": lambda z: (z * 1).clamp_(max=0.1),
    "clamp to tensors": lambda z: z.clamp(min=-OTHER.abs(), max=OTHER.abs()),
    "clamp_min": lambda z: z.clamp_min(0.1),
    "maximum": lambda z: torch.maximum(z, OTHER),
    "minimum of two halves": lambda z: torch.minimum(z[:1], z[1:]),
    "max of two": lambda z: torch.max(z, -z),
    "max of all": torch.max,
    "min of all": torch.min,
    "amax": lambda z: z.amax(1),
    "amax of two": lambda z: torch.amax(z, (2, -1), keepdim=True),
    "amin": lambda z: z.amin((0, 3)),
    "max_pool1d": lambda z: functional.max_pool1d(z[0], 3, 2, 1),
    "max_pool2d": lambda z: functional.max_pool2d(z, 2),
    "max_pool2d with overlap": lambda z: functional.max_pool2d(z, (3, 2), (2, 1), (1, 0)),
    "max_pool2d with ceil_mode": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max_pool2d with dilation": nn.MaxPool2d(2, 2, 1, dilation=3),
    "max_pool2d that leaves a rest": nn.MaxPool2d(3),
    "max_pool3d": lambda z: functional.max_pool3d(z, 2),
    "max_pool2d of ReLUs": lambda z: functional.max_pool2d((z - 0.5).relu(), 2),
    "amax of ReLUs": lambda z: functional.relu(z - 1).amax((1, 2)),
    "ReLUs, pooled and not": lambda z: _pooled_and_not((z - 0.5).relu()),
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d((1, 4)),
    "adaptive_max_pool1d": lambda z: functional.adaptive_max_pool1d(z[0], 2),
}


def _pooled_and_not(y: Tensor) -> Tensor:
    return torch.cat([nn.MaxPool2d(3, 2, 1)(y).flatten(), y.flatten()])


def _change_a_part(z: Tensor) -> Tensor:
    z[:, 1].relu_()
    return z


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_piecewise_linear_units(name: str, memory_format: torch.memory_format) -> None:
    """Where L is linear in g(θ) its second difference is all kinks, and first order is exact."""
    g = PIECEWISE_LINEAR[name]
    theta, v = draw(*IMAGE), draw(*IMAGE, seed=1).contiguous(memory_format=memory_format)
    weights = draw(*g(theta.clone()).shape, seed=2)
    centre, *sides = (float((weights * g(theta + x * v)).sum()) for x in (0, STEP, -STEP))
    difference = (sum(sides) - 2 * centre) / STEP**2
    places, jumps = found(lambda p: (weights * g(p["w"])).sum(), theta, v)
    assert len(places) > 0
    assert bool((places.abs() < STEP).all())
    assert excess(places, jumps) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize(
    ("g", "places", "jumps"),
    [
        (functional.hardswish, [-3.0, 3.0], [-0.5, -0.5]),
        (nn.ELU(0.4), [0.0], [0.6]),
        (nn.SELU(), [0.0], [1.0507009873554805 * (1 - 1.6732632423543772)]),
    ],
)
def test_units_with_curved_pieces(g: Function, places: list[float], jumps: list[float]) -> None:
    """The jump of autograd's own slope, around each kink."""
    for place, jump in zip(places, jumps):
        for s in (0.5, -2.0):
            theta = torch.tensor([place + 0.01], dtype=torch.float64)
            v = torch.tensor([s], dtype=torch.float64)
            at, size = found(lambda p: 3 * g(p["w"]).sum(), theta, v, 0.1)
            assert at.tolist() == pytest.approx([-0.01 / s])
            assert size.tolist() == pytest.approx([3 * jump * abs(s)])
            sides = torch.tensor([place - 1e-9, place + 1e-9], dtype=torch.float64)
            left, right = torch.autograd.grad(g(sides.requires_grad_()).sum(), sides)[0]
            assert float(right - left) == pytest.approx(jump, abs=1e-8)


def test_all_lines_of_a_maximum_count() -> None:
    """max(0, x − 1, 3x − 4, −x − 2): kinks at −2, 1 and 1.5, where the first crossing is not all."""
    theta = torch.tensor([0.0, -1, -4, -2, -9], dtype=torch.float64)
    v = torch.tensor([0.0, 1, 3, -1, 1], dtype=torch.float64)
    places, jumps = found(lambda p: 2 * p["w"].amax(), theta, v, 5.0)
    assert places.tolist() == pytest.approx([-2, 1, 1.5])
    assert jumps.tolist() == pytest.approx([2, 2, 4])


def test_ties_of_a_maximum() -> None:
    """max(x, −x, x/2, 0) at 0, where every line is the largest one."""
    theta, v = torch.zeros(4).double(), torch.tensor([1.0, -1, 0.5, 0]).double()
    places, jumps = found(lambda p: p["w"].max(), theta, v)
    assert set(places.tolist()) == {0.0}
    assert float(jumps.sum()) == 2.0


X = draw(300, 4, seed=7)
TARGETS = torch.arange(300) % 3
SHAPES = [(8, 5), (8, 9), (3, 9)]
N = sum(a * b for a, b in SHAPES)


def perceptron(theta: Tensor, activation: Function) -> tuple[Tensor, list[Tensor]]:
    """The loss of a network with two hidden layers, and their inputs, of a flat θ."""
    h, inputs = X, []
    for index, part in enumerate(theta.split([a * b for a, b in SHAPES])):
        z = torch.cat([h, torch.ones(len(h), 1).double()], 1) @ part.view(SHAPES[index]).T
        inputs.append(z)
        h = activation(z)
    return functional.cross_entropy(inputs[-1], TARGETS), inputs[:-1]


def test_kinks_of_a_network_found_by_bisection() -> None:
    """Signs of pre-activations tell where, and gradients on either side how much."""
    theta, v = draw(N), draw(N, seed=3)
    reach = 1e-3

    def signs(x: float) -> Tensor:
        return torch.cat([z.flatten() for z in perceptron(theta + x * v, torch.relu)[1]]) > 0

    def slope(x: float) -> float:
        at = (theta + x * v).requires_grad_()
        return float(torch.autograd.grad(perceptron(at, torch.relu)[0], at)[0] @ v)

    def bisect(low: float, high: float) -> list[float]:
        if torch.equal(signs(low), signs(high)):
            return []
        middle = (low + high) / 2
        if high - low < 1e-13:
            return [middle]
        return bisect(low, middle) + bisect(middle, high)

    places = [place for i in range(-100, 100) for place in bisect(i * 1e-5, (i + 1) * 1e-5)]
    jumps = [slope(place + 1e-12) - slope(place - 1e-12) for place in places]
    at, size = found(lambda p: perceptron(p["w"], torch.relu)[0], theta, v, reach)
    counted = size.abs() > 1e-12
    assert len(places) > 3
    assert at[counted].tolist() == pytest.approx(places, abs=10 * reach**2)
    assert size[counted].tolist() == pytest.approx(jumps, rel=0.03)


def test_what_is_frozen_or_unused_has_no_kinks() -> None:
    theta, v = draw(4), draw(4, seed=1)

    def function(p: dict[str, Tensor]) -> Tensor:
        torch.relu(p["w"] + 0.01)  # goes nowhere
        torch.relu(X)
        with torch.no_grad():
            torch.sort(X)
        return p["w"].square().sum() + torch.relu(p["w"].detach()).sum()

    assert len(found(function, theta, v, 100.0)[0]) == 0


@pytest.mark.skipif(
    torch.__version__ < "2.12",
    reason="its checkpoints have no derivative in forward mode and are refused",
)
def test_what_is_computed_again_in_a_backward_pass() -> None:
    theta, v = draw(N), draw(N, seed=3)
    plain = found(lambda p: perceptron(p["w"], torch.relu)[0], theta, v, 0.02)
    again = found(
        lambda p: checkpoint(lambda w: perceptron(w, torch.relu)[0], p["w"], use_reentrant=False),
        theta,
        v,
        0.02,
    )
    assert len(plain[0]) > 10
    for one, other in zip(plain, again):
        assert torch.equal(one, other)


RNN = nn.RNN(4, 4, nonlinearity="relu").double()


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda w: torch.where(w > 0, w, 0.0), "gt"),
        (lambda w: w * (w.sort()[0] > 0), "sort"),
        (lambda w: w.max(0)[0], "max with indices"),
        (lambda w: w.topk(2)[0], "topk"),
        (lambda w: w.median(), "median"),
        (lambda w: functional.threshold(w, 0.1, 0.0), "Threshold"),
        (lambda w: functional.hardshrink(w), "Hardshrink"),
        (lambda w: w.round(), "round"),
        (lambda w: w if float(w.sum()) > 0 else -w, "__float__|gt|item"),
        (lambda w: w.clamp(max=w.mean()), "limits that depend on the parameters"),
        (lambda w: functional.max_pool1d(functional.relu6(w - 9)[None, None], 2), "at rest"),
        (lambda w: functional.max_pool1d((w - 9).relu_()[None], 2), "at rest"),
        (lambda w: torch.cat([(w - 9).relu(), w + 9]).amin(), "at rest"),
        (lambda w: functional.multi_margin_loss(w[None], torch.tensor([1])), "MultiMarginLoss"),
        (lambda w: functional.adaptive_max_pool1d(w[None, None], 3), "adaptive_max_pool1d"),
        (lambda w: functional.l1_loss(w, torch.ones_like(w)), "Abs"),
        (lambda w: w.norm(1), "LinalgVectorNorm"),
        (lambda w: functional.normalize(w, dim=0), "ClampMin"),
        (lambda w: RNN(w[None])[0], "Relu"),
        (lambda w: torch.ops.aten.relu.default(w), "Relu"),
    ],
)
def test_what_is_not_known_is_refused(function: Function, named: str) -> None:
    with pytest.raises(KinkError, match=f"Where the slope of .*({named})"):
        found(lambda p: function(p["w"]).sum(), draw(4), draw(4, seed=1))


def test_passes_that_differ_are_refused() -> None:
    def function(p: dict[str, Tensor]) -> Tensor:
        return p["w"].relu().sum() if torch.is_grad_enabled() else p["w"].sum()

    _, deltas = kinks.sensitivities(function, {"w": draw(4)})
    with pytest.raises(KinkError, match="Two passes"):
        kinks.crossings(function, {"w": draw(4)}, {"w": draw(4)}, deltas, math.inf)
