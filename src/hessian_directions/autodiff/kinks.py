"""Where the slope of a loss jumps along a line through its parameters, to first order.

Let y = g(z) be an operation of a network whose value is continuous and whose slope jumps (ReLU, the
largest of several). Along θ + xv it is given z + xs + O(x²). Where z + xs meets a kink of g, at
x = x_k, the slope of ℓ(x) = L(θ + xv) jumps by

    J_k = δ · (jump of the slope of g) · |s|,    δ = ∂L/∂y at θ.

δ comes from one backward pass, whatever the directions (`sensitivities`), z and s from one pass in
forward mode for each direction (`crossings`). Both watch every call of a function of PyTorch: of
`torch`, of `torch.nn.functional`, of a tensor or of a module, in place or not.

Known: ReLU, leaky ReLU, PReLU, RReLU, ReLU6, ELU, SELU, hardtanh, hardsigmoid, hardswish,
softshrink, abs, clamp to constants, max pooling (also of ReLUs), amax and amin, the larger or
smaller of two tensors. Refused (`KinkError`): what compares numbers that depend on the parameters (>, sort, topk,
argmax), rounds them or reads them into Python, maxima that return indices or are taken among numbers that
an operation before holds at one value, threshold and hardshrink, whose values jump, and any other
operation that autograd names in `referee.KINKS`. What no gradient goes through (`detach`, `no_grad`,
inside a `torch.autograd.Function`) is not seen here: the referee looks for it (`FirstPass.jumps`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from hessian_directions.autodiff.normalisation import over_channels
from hessian_directions.autodiff.referee import JUMPS, kinks, nodes, plain_name, requires_grad
from hessian_directions.autodiff.substitutes import Substitutes
from hessian_directions.errors import KinkError

Parameters = dict[str, Tensor]
Function = Callable[[Parameters], Tensor]

# Places x_k and jumps J_k of kinks, two tensors of the same length.
Kinks = tuple[Tensor, Tensor]


def sensitivities(
    function: Function, parameters: Parameters
) -> tuple[Parameters, list[Tensor | None]]:
    """The gradient of a scalar function, and δ of every call of an operation with kinks.

    Returns:
        ∇f by name, and ∂f/∂y for the outputs y of these calls in their order; None where f does not
        depend on the parameters through y.

    Raises:
        KinkError: The function has kinks of a kind that is not known.
    """
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad(), Substitutes(), _Offsets() as watched:
        value = function(leaves)
        unknown = kinks(node for node in nodes(value) if node not in watched.nodes)
        if unknown:
            raise KinkError(refusal(unknown[0]))
        offsets = list(watched.offsets)
        wanted = [*leaves.values(), *(offset for offset in offsets if offset is not None)]
        # Inside the mode: what is computed again in a backward pass is watched as it was.
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if value.requires_grad:
            found = torch.autograd.grad(value, wanted, allow_unused=True)
    gradient = {
        name: torch.zeros_like(leaf) if slope is None else slope
        for (name, leaf), slope in zip(leaves.items(), found)
    }
    rest = iter(found[len(leaves) :])
    return gradient, [None if offset is None else next(rest) for offset in offsets]


def crossings(
    function: Function,
    parameters: Parameters,
    direction: Parameters,
    deltas: Sequence[Tensor | None],
    reach: float,
) -> tuple[Tensor, Kinks]:
    """The slope of f along a direction, and the kinks on the line within |x| < reach.

    Args:
        function: The function that `sensitivities` was given.
        deltas: δ of every call, from `sensitivities`.
        reach: In units of the direction.

    Returns:
        f'(θ)v, and places and jumps of all kinks with J ≠ 0. Kinks of one maximum are those of the
        largest of the lines z_i + x s_i: all of them on both sides, not the first alone.

    Raises:
        KinkError: The function makes other calls than before.
    """
    with torch.no_grad(), forward_ad.dual_level(), Substitutes(), _Crossings(deltas, reach) as met:
        value = function(
            {name: forward_ad.make_dual(p, direction[name]) for name, p in parameters.items()}
        )
        slope = _tangent(value)
    if met.calls != len(deltas):
        raise KinkError("Two passes of the network call different operations with kinks.")
    places, jumps = zip(*met.found) if met.found else ((), ())
    empty = value.new_zeros(0)
    return (
        torch.zeros_like(value) if slope is None else slope,
        (torch.cat([empty, *places]), torch.cat([empty, *jumps])),
    )


# --- watching a pass ------------------------------------------------------------------------------


class _Calls(TorchFunctionMode):
    """Gives every call of an operation with kinks to `kinked`.

    The largest of several ReLUs is one operation, max(0, z_1, …, z_M): where all are zero, the one
    through which autograd sends δ is a matter of their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self._relus = WeakIdKeyDictionary()

    def remember(self, name: str, args: Any, result: Any, what: Any) -> None:
        """What stands for the result of a ReLU, while anything holds it as it is."""
        if name == "relu" and result is not args[0]:
            self._relus[result] = result._version, what

    def recall(self, name: str, args: Any) -> Any:
        """What stands for the argument of a maximum, if it is the result of a ReLU."""
        version, what = self._relus.get(args[0], (0, None)) if name in _OF_RELUS else (0, None)
        return what if version == args[0]._version else None

    def kinked(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        raise NotImplementedError

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = plain_name(func)
        if name in _ELEMENTWISE or name in _LARGEST:
            if "input" in kwargs:
                args = (kwargs.pop("input"), *args)
            return self.kinked(name, func, args, kwargs)
        if name in _BRANCHES and requires_grad((args, kwargs)):
            raise KinkError(refusal(name))
        return func(*args, **kwargs)


class _Offsets(_Calls):
    """Adds a zero to the output of every operation with kinks: the slope in the zero is δ.

    Attributes:
        offsets: The zeros, one a call; None where the output does not depend on the parameters.
        nodes: The steps of the graph that these operations consist of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.offsets: list[Tensor | None] = []
        self.nodes: set[Any] = set()

    def kinked(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if not requires_grad((args, kwargs)):
            self.offsets.append(None)
            return func(*args, **kwargs)
        # Copies tell what works in place, and where in the graph the operation begins.
        own_args, own_kwargs = tree_map(
            lambda part: part.clone() if isinstance(part, Tensor) else part, (args, kwargs)
        )
        relu = self.recall(name, args)
        if relu is not None:  # without the zero that was added to it
            own_args = (relu.clone(), *own_args[1:])
        given = [leaf for leaf in tree_leaves((own_args, own_kwargs)) if isinstance(leaf, Tensor)]
        before = {leaf.grad_fn for leaf in given}
        y = func(*own_args, **own_kwargs)
        if not isinstance(y, Tensor):
            raise KinkError(refusal(f"{name} with indices"))
        self.nodes.update(nodes(y, before))
        offset = torch.zeros_like(y, requires_grad=True)
        self.offsets.append(offset)
        if y is own_args[0]:
            return args[0].copy_(y + offset)
        result = y + offset
        self.remember(name, args, result, y)
        return result


class _Crossings(_Calls):
    """Collects the kinks that dual numbers cross within |x| < reach.

    Attributes:
        calls: Of operations with kinks so far.
        found: Places and jumps of the kinks, call by call.
    """

    def __init__(self, deltas: Sequence[Tensor | None], reach: float) -> None:
        super().__init__()
        self._deltas, self._reach = deltas, reach
        self.calls = 0
        self.found: list[Kinks] = []

    def kinked(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        delta = self._deltas[self.calls] if self.calls < len(self._deltas) else None
        self.calls += 1
        if delta is not None:
            try:
                self.found.append(self._find(name, args, kwargs, delta))
            except TypeError as error:  # options that the rules do not know
                raise KinkError(refusal(name)) from error
        line = _primal(args[0]), _slope(args[0])
        result = func(*args, **kwargs)
        self.remember(name, args, result, line)
        return result

    def _find(self, name: str, args: Any, kwargs: Any, delta: Tensor) -> Kinks:
        if name in _ELEMENTWISE:
            return _of_one_number(name, args, kwargs, delta, self._reach)
        return _of_largest(name, args, kwargs, delta, self._reach, self.recall(name, args))


def refusal(name: str) -> str:
    """What is said of an operation whose kinks are not known."""
    return f"Where the slope of {name} jumps is not known: what kinks add cannot be corrected."


def _primal(value: Any) -> Any:
    return forward_ad.unpack_dual(value).primal if isinstance(value, Tensor) else value


def _tangent(value: Any) -> Tensor | None:
    return forward_ad.unpack_dual(value).tangent if isinstance(value, Tensor) else None


# --- functions of one number ----------------------------------------------------------------------

# Klambauer et al. 2017, "Self-Normalizing Neural Networks".
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

# The numbers at which the slope jumps and by how much it jumps there (right minus left), by the
# arguments of the function.
_ELEMENTWISE: dict[str, Callable[..., list[tuple[Any, Any]]]] = {
    "relu": lambda x, inplace=False: [(0, 1)],
    "relu6": lambda x, inplace=False: [(0, 1), (6, -1)],
    "leaky_relu": lambda x, negative_slope=0.01, inplace=False: [(0, 1 - negative_slope)],
    "prelu": lambda x, weight: [(0, 1 - _per_channel(weight, x))],
    "rrelu": lambda x, lower=1 / 8, upper=1 / 3, training=False, inplace=False: [
        (0, 1 - (lower + upper) / 2)
    ],
    "elu": lambda x, alpha=1.0, inplace=False: [(0, 1 - alpha)],
    "selu": lambda x, inplace=False: [(0, _SELU_SCALE * (1 - _SELU_ALPHA))],
    "hardtanh": lambda x, min_val=-1, max_val=1, inplace=False: [(min_val, 1), (max_val, -1)],
    "hardsigmoid": lambda x, inplace=False: [(-3, 1 / 6), (3, -1 / 6)],
    # x·relu6(x + 3)/6: its slope is 0 and −1/2 around −3, 3/2 and 1 around 3.
    "hardswish": lambda x, inplace=False: [(-3, -1 / 2), (3, -1 / 2)],
    "softshrink": lambda x, lambd=0.5: [(-lambd, -1), (lambd, 1)],
    "abs": lambda x: [(0, 2)],
    "absolute": lambda x: [(0, 2)],
    "clamp": lambda x, min=None, max=None: [(min, 1), (max, -1)],
    "clip": lambda x, min=None, max=None: [(min, 1), (max, -1)],
    "clamp_min": lambda x, min: [(min, 1)],
    "clamp_max": lambda x, max: [(max, -1)],
}


def _per_channel(weight: Tensor, x: Tensor) -> Tensor:
    weight = _primal(weight)
    return weight if weight.numel() == 1 else over_channels(weight, x)


def _of_one_number(name: str, args: Any, kwargs: Any, delta: Tensor, reach: float) -> Kinks:
    """Kinks where z + xs passes a number at which the slope of the function jumps."""
    z, s = _primal(args[0]), _slope(args[0])
    rules = _ELEMENTWISE[name](*args, **kwargs)
    if any(_tangent(place) is not None for place, _ in rules):
        raise KinkError(refusal(f"{name} to limits that depend on the parameters"))
    places, jumps = [], []
    for place, jump in rules:
        if place is None:
            continue
        distance = place - z
        met = (distance.abs() < reach * s.abs()) & (delta != 0)
        size = jump.expand_as(z)[met] if isinstance(jump, Tensor) else jump
        places.append(distance[met] / s[met])
        jumps.append(delta[met] * s[met].abs() * size)
    return torch.cat(places), torch.cat(jumps)


# --- the largest of several numbers ---------------------------------------------------------------


def _of_tensors(fill: float, shape: torch.Size, x: Tensor, other: Any = None) -> Tensor:
    if other is None:
        return x.reshape(1, -1)
    if not isinstance(other, Tensor):
        raise TypeError("A maximum over a dimension returns indices, too.")
    return torch.stack(torch.broadcast_tensors(x, other), -1)


def _over_dimensions(
    fill: float, shape: torch.Size, x: Tensor, dim: Any = (), keepdim: bool = False
) -> Tensor:
    dims = [d % x.ndim for d in ([dim] if isinstance(dim, int) else dim or range(x.ndim))]
    kept = [d for d in range(x.ndim) if d not in dims]
    return x.permute(*kept, *dims).flatten(len(kept))


def _in_windows(
    n: int,
    fill: float,
    shape: torch.Size,
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    kernels, paddings, dilations = (_tuple(n, v) for v in (kernel_size, padding, dilation))
    strides, sizes = _tuple(n, stride or kernel_size), shape[-n:]
    lengths = [(k - 1) * d + 1 for k, d in zip(kernels, dilations)]
    margins: list[int] = []
    for length, step, before, size, given in zip(lengths, strides, paddings, sizes, x.shape[-n:]):
        # As far on the right as the last window reaches (`ceil_mode`).
        margins = [before, max(0, (size - 1) * step + length - before - given), *margins]
    x = functional.pad(x, margins, value=fill)
    for length, step, dilated, size in zip(lengths, strides, dilations, sizes):
        # The first of the dimensions that are still to be cut; windows are added at the end.
        x = x.unfold(-n, length, step)[..., ::dilated]
        x = x.narrow(-n - 1, 0, size)
    return x.flatten(-n)


def _in_equal_windows(
    n: int,
    fill: float,
    shape: torch.Size,
    x: Tensor,
    output_size: Any,
    return_indices: bool = False,
) -> Tensor:
    given = x.shape[-n:]
    if any(total % size for total, size in zip(given, shape[-n:])):
        raise TypeError("Windows of an adaptive pooling overlap.")
    return _in_windows(n, fill, shape, x, [a // b for a, b in zip(given, shape[-n:])])


def _tuple(n: int, value: Any) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * n if len(values) == 1 else values


# Each arranges what an operation is given as rows of the numbers that compete for one output of
# a shape, (…, M); `fill` stands where a window has none.
_LARGEST: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("max", "min", "maximum", "minimum", "fmax", "fmin"), _of_tensors),
    **dict.fromkeys(("amax", "amin"), _over_dimensions),
    **{f"max_pool{n}d": partial(_in_windows, n) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": partial(_in_equal_windows, n) for n in (1, 2, 3)},
}


# Those of which the argument may be a ReLU's result.
_OF_RELUS = {name for name in _LARGEST if "pool" in name or name == "amax"}


def _of_largest(
    name: str,
    args: Any,
    kwargs: Any,
    delta: Tensor,
    reach: float,
    relu: tuple[Tensor, Tensor] | None,
) -> Kinks:
    """Kinks of the largest of the lines z_i + x s_i, of every output.

    Args:
        relu: z and s of the ReLU whose result it is the largest of.
    """
    sign = -1 if "min" in name else 1  # the smallest is −1 times the largest of −1 times all
    given, slopes = tree_map(_primal, (args, kwargs)), tree_map(_slope, (args, kwargs))
    if relu is not None:
        (given, slopes) = (
            ((part, *positional[1:]), named)
            for part, (positional, named) in zip(relu, (given, slopes))
        )
    rows, directions = (
        sign * _LARGEST[name](fill, delta.shape, *positional, **named)
        for fill, (positional, named) in ((-sign * math.inf, given), (0.0, slopes))
    )
    m, delta = rows.shape[-1], delta.reshape(-1)
    rows, directions = rows.reshape(-1, m), directions.reshape(-1, m)
    if relu is not None:
        rows, directions = functional.pad(rows, (0, 1)), functional.pad(directions, (0, 1))
    largest = rows.argmax(-1, keepdim=True)
    behind, steeper = rows.gather(-1, largest) - rows, directions - directions.gather(-1, largest)
    if relu is None:
        resting = ((behind == 0) & (directions == 0)).sum(-1) > 1
        if bool((resting & (delta != 0)).any()):
            raise KinkError(refusal(f"{name} among equal numbers that are at rest"))
    met = (behind < reach * steeper.abs()).any(-1) & (delta != 0)
    found = [
        (side * at, sign * delta[met][row] * jump)
        for side in (1, -1)
        for row, at, jump in _envelope(rows[met], side * directions[met], reach)
    ]
    places, jumps = zip(*found)
    return torch.cat(places), torch.cat(jumps)


def _envelope(z: Tensor, s: Tensor, reach: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The kinks of max_i (z_i + x s_i), 0 ≤ x < reach, for each row of (rows, M).

    Yields:
        Rows, places and jumps of each row's first kinks, of its second ones, and so on.
    """
    row = torch.arange(len(z), device=z.device)
    top = z.argmax(-1, keepdim=True)
    while True:
        ahead, steeper = z.gather(1, top) - z, s - s.gather(1, top)
        # Lines that are less steep than the largest one never overtake it.
        at = torch.where(steeper > 0, ahead / steeper, math.inf)
        next_at = at.amin(-1, keepdim=True)
        jump, top = torch.where(at == next_at, steeper, -math.inf).max(-1, keepdim=True)
        met = next_at[:, 0] < reach
        yield row[met], next_at[met, 0], jump[met, 0]
        if not bool(met.any()):
            return
        row, z, s, top = row[met], z[met], s[met], top[met]


def _slope(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    tangent = _tangent(value)
    return torch.zeros_like(_primal(value)) if tangent is None else tangent


# --- what branches --------------------------------------------------------------------------------

# Functions of numbers whose results jump, or may decide what is computed.
_READING = "item tolist numpy __bool__ __float__ __int__ __index__"
_BRANCHES = JUMPS.union(_READING.split())
