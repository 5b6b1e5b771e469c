"""Second derivatives along directions in Taylor mode: v'∇²L v without a backward pass.

A jet is the beginning of a Taylor series, x(t) = x₀ + t x₁ + t² x₂ + O(t³). Starting from
θ(t) = θ + t v, every operation of a network maps the jets of its arguments to the jet of its
result; the loss then has x₂ = ½ v'∇²L v. That is exact and costs the products w₀x₀, w₀x₁, w₁x₀,
w₀x₂, w₁x₁ per linear layer, five forward passes for one direction; the first is shared by all
directions that are handled together, and nothing is kept for a backward pass.

Rules follow Griewank and Walther, Evaluating Derivatives (2008), chapter 13. At a kink (ReLU,
maximum) the derivative is the one that PyTorch takes too: kinks have no second derivative here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from hessian_directions.autodiff import substitutes
from hessian_directions.autodiff.normalisation import BatchNorm, over_channels

Parameters = dict[str, Tensor]
Coefficient = Tensor | None


class MissingRuleError(NotImplementedError):
    """An operation of the network cannot be carried out on jets."""


class Jet(Tensor):
    """x₀ + t x₁ + t² x₂ for each of K directions, which share x₀.

    Attributes:
        primal: x₀.
        first: x₁, one tensor per direction with the shape of x₀.
        second: x₂ likewise, or None where it is zero.
    """

    primal: Tensor
    first: list[Tensor]
    second: list[Tensor] | None

    @staticmethod
    def __new__(
        cls, primal: Tensor, first: Iterable[Tensor], second: Iterable[Tensor] | None = None
    ) -> Jet:
        self = torch.Tensor._make_wrapper_subclass(
            cls, primal.shape, dtype=primal.dtype, device=primal.device
        )
        self.primal, self.first = primal, list(first)
        self.second = None if second is None else list(second)
        return self

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name, method_in_place = _operation(func)
        in_place = bool(kwargs.pop("inplace", False)) or method_in_place
        if name in _SHAPE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if name == "__setitem__":
            raise MissingRuleError("Taylor mode cannot assign to a part of a tensor.")
        if name in _CONSTANT:
            return func(*_primals(args), **_primals(kwargs))
        if not in_place:
            return _apply(name, func, args, kwargs)
        target = args[0]
        function = getattr(torch, name, None) if method_in_place else func
        result = None if function is None else _apply(name, function, args, kwargs)
        if not (isinstance(target, Jet) and isinstance(result, Jet)):
            raise MissingRuleError(f"Taylor mode cannot carry out {name} in place.")
        if target.primal._is_view():
            raise MissingRuleError(f"Taylor mode cannot carry out {name} in place on a view.")
        target.primal, target.first, target.second = result.primal, result.first, result.second
        target.__class__ = Jet  # a convolution that is no longer one
        return target

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise MissingRuleError(f"Taylor mode cannot carry out {func}.")


def second_derivatives(
    function: Callable[[Parameters], Tensor],
    parameters: Parameters,
    directions: Sequence[Parameters],
) -> Tensor:
    """d²/dt² of function(parameters + t direction) at t = 0, for K directions: shape (K,).

    Args:
        directions: K directions, each with the names and shapes of the parameters.

    Raises:
        MissingRuleError: The function uses an operation that has no rule and no forward mode.
    """
    jets: Parameters = {
        name: Jet(value, [direction[name] for direction in directions])
        for name, value in parameters.items()
    }
    with torch.no_grad():
        result = function(jets)
    if not isinstance(result, Jet):
        return result.new_zeros(len(directions))
    if result.second is None:
        return result.primal.new_zeros(len(directions))
    return 2 * torch.stack(result.second)


def _operation(func: Callable[..., Any]) -> tuple[str, bool]:
    """The plain name of a function, method or property, and whether it works in place."""
    name: str = func.__name__
    if name == "__get__":
        return func.__self__.__name__, False  # type: ignore[attr-defined]
    in_place = name.endswith("_") and not name.startswith("__")
    return (name[:-1] if in_place else name), in_place


def _apply(name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if name in _RULES:
        try:
            return _RULES[name](*args, **kwargs)
        except TypeError as error:
            raise MissingRuleError(f"{name} with these arguments: {error}") from error
    alone = isinstance(args[0], Jet) and not _has_jet((args[1:], kwargs)) if args else False
    if name in _LINEAR and alone:
        return _map(func, args, kwargs)
    if name in _ELEMENTWISE and alone:
        return _elementwise_by_autograd(func, args, kwargs)
    return _by_nested_forward_mode(name, func, args, kwargs)


def _primals(value: Any) -> Any:
    return tree_map(lambda part: part.primal if isinstance(part, Jet) else part, value)


def _has_jet(value: Any) -> bool:
    return any(isinstance(part, Jet) for part in tree_flatten(value)[0])


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What the wrapper knows by itself.
_SHAPE = _words("shape dim ndim size numel __len__ dtype device is_cuda is_cpu is_floating_point")

# What these return is constant, or piecewise constant.
_CONSTANT = _words(
    """
    layout is_complex is_contiguous stride element_size is_sparse is_quantized is_nested
    requires_grad names is_mkldnn is_meta is_mps is_xpu is_leaf grad_fn
    gt lt ge le eq ne isnan isinf isfinite sign argmax argmin argsort zeros_like ones_like
    empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full new_tensor
    detach data round floor ceil item tolist int long bool __bool__ __float__ __int__ __index__
    __format__ __repr__
    """
)

# Linear in the first argument: these act on every coefficient.
_LINEAR = _words(
    """
    flatten unflatten ravel permute transpose swapaxes movedim t T mT adjoint squeeze unsqueeze
    expand repeat repeat_interleave tile roll flip narrow select index_select gather __getitem__
    chunk split unbind tensor_split diagonal tril triu contiguous clone to float double neg
    negative sum mean cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d interpolate pixel_shuffle pixel_unshuffle
    channel_shuffle unfold fold nll_loss
    """
)

# Functions of one number, applied to every entry of the first argument.
_ELEMENTWISE = _words(
    """
    exp exp2 expm1 log log2 log10 log1p reciprocal sqrt rsqrt square pow __pow__ sin cos tan tanh
    atan sinh cosh sigmoid erf softplus gelu silu mish softsign tanhshrink elu selu celu logsigmoid
    leaky_relu hardtanh relu6 threshold clamp clip clamp_min clamp_max
    """
)

_RULES: dict[str, Callable[..., Any]] = {}


def _rule(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


# --- rules for whole classes of operations ------------------------------------------------------


def _map(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """func on every coefficient of its first argument."""
    x, *rest = args
    primal = func(x.primal, *rest, **kwargs)
    first = [func(c, *rest, **kwargs) for c in x.first]
    second = x.second and [func(c, *rest, **kwargs) for c in x.second]
    if isinstance(primal, Tensor):
        return Jet(primal, first, second)
    return type(primal)(
        [
            Jet(part, [c[i] for c in first], second and [c[i] for c in second])
            for i, part in enumerate(primal)
        ]
    )


def _beside(primal: Tensor, x: Jet, linear: Callable[[Tensor], Tensor]) -> Jet:
    """The jet of a function of x from its value and the linear map that acts on x₁ and x₂."""
    return Jet(primal, map(linear, x.first), x.second and map(linear, x.second))


def _elementwise(x: Jet, value: Tensor, slope: Tensor, curvature: Tensor) -> Jet:
    """The jet of φ(x) from φ, φ' and φ'' at x₀."""
    half = curvature / 2
    directions = []
    for k in range(len(x.first)):
        _, x1, x2 = _coefficients(x, k)
        second = half * x1.square()
        directions.append((slope * x1, second if x2 is None else torch.addcmul(second, slope, x2)))
    return _from_directions(value, directions)


def _elementwise_by_autograd(func: Callable[..., Any], args: Any, kwargs: Any) -> Jet:
    """φ' = ∇ Σ φ and φ'' = ∇ Σ φ', by reverse mode, once for all directions."""
    x, *rest = args

    def slope(x0: Tensor) -> Tensor:
        return grad(lambda x0: func(x0, *rest, **kwargs).sum())(x0)

    curvature = grad(lambda x0: slope(x0).sum())(x.primal)
    return _elementwise(x, func(x.primal, *rest, **kwargs), slope(x.primal), curvature)


def _by_nested_forward_mode(name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """y₁ and 2 y₂, the derivatives of f(x₀ + t x₁ + t² x₂) at t = 0, by forward mode over forward
    mode.

    PyTorch 2.13 does this wrongly for layer, instance and batch normalisation; these have rules.
    """
    leaves, structure = tree_flatten((args, kwargs))

    def evaluate(value: Callable[[Jet], Tensor]) -> tuple[list[Any], Any]:
        filled = [value(leaf) if isinstance(leaf, Jet) else leaf for leaf in leaves]
        call_args, call_kwargs = tree_unflatten(filled, structure)
        return tree_flatten(func(*call_args, **call_kwargs))

    def derivatives(k: int) -> Any:
        def at(t: Tensor) -> tuple[Tensor, ...]:
            def value(x: Jet) -> Tensor:
                first = x.primal + t * x.first[k]
                return first if x.second is None else first + t * t * x.second[k]

            found = evaluate(value)[0]
            return tuple(found[i] for i in variable)

        def slope(t: Tensor) -> tuple[Tensor, ...]:
            return jvp(at, (t,), (torch.ones_like(t),))[1]

        zero = results[variable[0]].new_zeros(())
        return jvp(slope, (zero,), (torch.ones_like(zero),))

    try:
        results, results_structure = evaluate(lambda x: x.primal)
        real = [isinstance(result, Tensor) and result.is_floating_point() for result in results]
        variable = [i for i, is_real in enumerate(real) if is_real]
        along = [derivatives(k) for k in range(_n_directions(*leaves)) if variable]
    except (RuntimeError, NotImplementedError) as error:
        raise MissingRuleError(f"Taylor mode cannot carry out {name}.") from error
    if not variable:
        raise MissingRuleError(f"Taylor mode cannot carry out {name}.")
    for j, i in enumerate(variable):
        results[i] = Jet(results[i], [y[j] for y, _ in along], [y[j] / 2 for _, y in along])
    return tree_unflatten(results, results_structure)


# --- sums and products --------------------------------------------------------------------------


def _n_directions(*values: Any) -> int:
    return next(len(value.first) for value in values if isinstance(value, Jet))


def _coefficients(x: Any, k: int) -> tuple[Any, Any, Any]:
    """(x₀, x₁, x₂) along direction k; x₁ = x₂ = None for a constant."""
    if isinstance(x, Jet):
        return x.primal, x.first[k], x.second and x.second[k]
    return x, None, None


def _from_directions(primal: Tensor, directions: Sequence[tuple[Any, Any]]) -> Jet:
    first, second = zip(*directions)
    return Jet(primal, first, None if second[0] is None else second)


def _sum(*terms: Coefficient) -> Coefficient:
    """The sum of the terms that are not None; overwrites the first of them."""
    total = None
    for term in terms:
        if term is not None:
            total = term if total is None else total.add_(term)
    return total


def _bilinear(product: Callable[[Any, Any], Tensor], x: Any, y: Any) -> Jet:
    """The jet of a product that is linear in each of its factors."""

    def times(a: Coefficient, b: Coefficient) -> Coefficient:
        return None if a is None or b is None else product(a, b)

    directions = []
    for k in range(_n_directions(x, y)):
        (x0, x1, x2), (y0, y1, y2) = _coefficients(x, k), _coefficients(y, k)
        second = _sum(times(x2, y0), times(x1, y1), times(x0, y2))
        directions.append((_sum(times(x1, y0), times(x0, y1)), second))
    return _from_directions(product(*_primals((x, y))), directions)


@_rule("add", "__radd__")
def _add(x: Any, y: Any, *, alpha: float = 1) -> Jet:
    primal = torch.add(*_primals((x, y)), alpha=alpha)

    def add(a: Coefficient, b: Coefficient) -> Coefficient:
        if a is None:
            return b if b is None else (b if alpha == 1 else alpha * b).expand(primal.shape)
        return a.expand(primal.shape) if b is None else torch.add(a, b, alpha=alpha)

    directions = []
    for k in range(_n_directions(x, y)):
        (_, x1, x2), (_, y1, y2) = _coefficients(x, k), _coefficients(y, k)
        directions.append((add(x1, y1), add(x2, y2)))
    return _from_directions(primal, directions)


@_rule("mul", "multiply", "__rmul__")
def _multiply(x: Any, y: Any) -> Jet:
    return _bilinear(torch.mul, x, y)


@_rule("div", "divide", "true_divide")
def _divide(x: Any, y: Any) -> Jet:
    if isinstance(y, Jet):
        return _multiply(x, torch.reciprocal(y))
    return _map(torch.div, (x, y), {})


# Others in disguise.
_rule("sub", "subtract")(lambda x, y, *, alpha=1: _add(x, y, alpha=-alpha))
_rule("__rsub__", "rsub")(lambda x, y: _add(y, x, alpha=-1))
_rule("__rdiv__", "__rtruediv__")(lambda x, y: _multiply(y, torch.reciprocal(x)))
_rule("matmul", "bmm", "mm", "mv", "dot")(lambda x, y: _bilinear(torch.matmul, x, y))
_rule("__rmatmul__")(lambda x, y: _bilinear(torch.matmul, y, x))
_rule("addmm", "baddbmm")(lambda x, a, b, *, beta=1, alpha=1: alpha * (a @ b) + beta * x)


def _layer(product: Callable[[Any, Any], Tensor], x: Any, weight: Any, bias: Any) -> Any:
    """product(x, weight) + bias, the bias shaped to be broadcast."""
    y = _bilinear(product, x, weight) if _has_jet((x, weight)) else product(x, weight)
    return y if bias is None else y + bias


_rule("linear")(lambda x, weight, bias=None: _layer(functional.linear, x, weight, bias))


class _Convolution(Jet):
    """w ∗ x, not yet carried out, so that a batch normalisation can be folded into it."""

    convolve: Callable[..., Tensor]
    x: Any
    weight: Any

    @staticmethod
    def __new__(cls, convolve: Callable[..., Tensor], x: Any, weight: Any) -> _Convolution:
        with torch.device("meta"):
            shape = convolve(torch.empty(x.shape), torch.empty(weight.shape)).shape
        self = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=x.dtype, device=x.device)
        self.convolve, self.x, self.weight = convolve, x, weight
        return self

    def __getattr__(self, name: str) -> Any:
        if name not in ("primal", "first", "second"):
            raise AttributeError(name)
        y = _bilinear(self.convolve, self.x, self.weight)
        self.primal, self.first, self.second = y.primal, y.first, y.second
        return getattr(y, name)

    def normalised(self, scale: Jet, shift: Jet) -> Jet:
        """scale · (w ∗ x) + shift with four passes over the activations for each direction."""
        x0, w0, s0, b0 = _primals((self.x, self.weight, scale, shift))
        plain, folded = self.convolve(x0, w0), over_channels(s0, w0, 0) * w0
        directions = []
        for k, (w1, s1, b1) in enumerate(zip(self.weight.first, scale.first, shift.first)):
            _, x1, x2 = _coefficients(self.x, k)
            along_w = self.convolve(x0, w1)
            if x1 is None:
                first = along_w * over_channels(s0, x0) + over_channels(b1, x0)
                second = along_w * over_channels(s1, x0)
            else:
                both = over_channels(s0, w0, 0) * w1 + over_channels(s1, w0, 0) * w0
                first = self.convolve(x1, folded, b1).addcmul_(along_w, over_channels(s0, x0))
                second = self.convolve(x1, both).addcmul_(along_w, over_channels(s1, x0))
            first.addcmul_(plain, over_channels(s1, x0))
            if x2 is not None:
                second.add_(self.convolve(x2, folded))
            directions.append((first, second))
        primal = torch.addcmul(over_channels(b0, x0), plain, over_channels(s0, x0))
        return _from_directions(primal, directions)


def _convolution(convolve: Callable[..., Tensor]) -> Callable[..., Any]:
    def rule(x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        def product(x: Any, weight: Any, bias: Any = None) -> Tensor:
            return convolve(x, weight, bias, *args, **kwargs)

        if bias is None and _has_jet((x, weight)):
            return _Convolution(product, x, weight)
        bias = None if bias is None else over_channels(bias, weight)
        return _layer(product, x, weight, bias)

    return rule


for _convolve in (functional.conv1d, functional.conv2d, functional.conv3d):
    _RULES[_convolve.__name__] = _convolution(_convolve)


# --- functions that are linear piece by piece ---------------------------------------------------


@_rule("relu")
def _relu(x: Jet) -> Jet:
    y = x.primal.relu()
    return _beside(y, x, lambda c: torch.ops.aten.threshold_backward(c, y, 0))


_rule("abs", "absolute")(lambda x: x * x.primal.sign())
_rule("hardsigmoid")(lambda x: substitutes.hardsigmoid(x))
_rule("hardswish")(lambda x: x * substitutes.hardsigmoid(x))
_rule("_weight_norm")(substitutes.weight_norm)


@_rule("glu")
def _glu(x: Jet, dim: int = -1) -> Any:
    value, gate = x.chunk(2, dim)
    return value * gate.sigmoid()


@_rule("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(x: Jet, *args: Any, **kwargs: Any) -> Jet:
    pool = getattr(functional, f"max_pool{x.ndim - 2}d_with_indices")
    kwargs.pop("return_indices", None)
    y, indices = pool(x.primal, *args, **kwargs)
    flat = indices.flatten(2)
    channels_last = y.ndim == 4 and y.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def largest(c: Tensor) -> Tensor:
        return c.flatten(2).gather(2, flat).view(y.shape).to(memory_format=layout)

    return _beside(y, x, largest)


# --- shapes, parts, joins -----------------------------------------------------------------------


@_rule("view", "reshape")
def _reshape(x: Jet, *shape: Any, **kwargs: Any) -> Jet:
    # Coefficients can have another memory layout than the primal, where a view would fail.
    return _map(Tensor.reshape, (x, *shape), kwargs)


_rule("view_as", "reshape_as")(lambda x, other: x.reshape(other.shape))
_rule("expand_as")(lambda x, other: x.expand(other.shape))
_rule("type_as")(lambda x, other: x.to(other.dtype))
_rule("cat", "concat", "concatenate")(lambda tensors, dim=0: _join(torch.cat, tensors, dim))
_rule("stack")(lambda tensors, dim=0: _join(torch.stack, tensors, dim))


def _join(join: Callable[..., Tensor], tensors: Sequence[Any], dim: int) -> Jet:
    primals = _primals(list(tensors))

    def coefficients(parts: Sequence[Coefficient]) -> Coefficient:
        if all(part is None for part in parts):
            return None
        filled = [torch.zeros_like(p) if c is None else c for p, c in zip(primals, parts)]
        return join(filled, dim)

    directions = []
    for k in range(_n_directions(*tensors)):
        _, first, second = zip(*(_coefficients(tensor, k) for tensor in tensors))
        directions.append((coefficients(first), coefficients(second)))
    return _from_directions(join(primals, dim), directions)


@_rule("pad")
def _pad(x: Jet, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Jet:
    primal = functional.pad(x.primal, pad, mode, value)
    return _beside(primal, x, lambda c: functional.pad(c, pad, mode))


@_rule("masked_fill")
def _masked_fill(x: Jet, mask: Tensor, value: Any) -> Jet:
    primal = x.primal.masked_fill(mask, value)
    return _beside(primal, x, lambda c: c.masked_fill(mask, 0))


@_rule("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
def _dropout(x: Jet, p: float = 0.5, training: bool = True) -> Jet:
    if training and p:
        raise MissingRuleError("Taylor mode cannot carry out dropout in training mode.")
    return x


# --- normalisation ------------------------------------------------------------------------------


@_rule("batch_norm")
def _batch_norm(*args: Any, **kwargs: Any) -> Jet:
    norm = BatchNorm(*args, **kwargs)
    x = norm.x
    if not norm.is_fixed:
        # Networks with standardised kernels use it on these, in evaluation mode too.
        others = tuple(dim for dim in range(x.ndim) if dim != 1)
        return _affine_over_channels(_standardise(x, others, norm.eps), norm.weight, norm.bias)
    scale, shift = norm.scale_and_shift()
    trainable = isinstance(scale, Jet) and isinstance(shift, Jet)
    if trainable and isinstance(x, _Convolution) and isinstance(x.weight, Jet):
        return x.normalised(scale, shift)
    return _scale_and_shift(x, over_channels(scale, x), over_channels(shift, x))


def _scale_and_shift(x: Any, scale: Any, shift: Any) -> Jet:
    """scale · x + shift, where scale and shift depend linearly on the parameters."""
    zero = scale.new_zeros(())
    directions = []
    for k in range(_n_directions(x, scale, shift)):
        (x0, x1, x2), (s0, s1, _) = _coefficients(x, k), _coefficients(scale, k)
        _, first, _ = _coefficients(shift, k)
        first = zero if first is None else first
        second = None if x2 is None else x2 * s0
        if s1 is not None:
            first = torch.addcmul(first, x0, s1)
        if x1 is not None:
            first = torch.addcmul(first, x1, s0)
        if x1 is not None and s1 is not None:
            second = torch.addcmul(zero if second is None else second, x1, s1)
        directions.append((first.expand(x.shape), second))
    x0, s0, b0 = _primals((x, scale, shift))
    return _from_directions(torch.addcmul(b0, x0, s0), directions)


def _standardise(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt(torch.square(centred).mean(dims, keepdim=True) + eps)


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _affine_over_channels(x: Any, weight: Any, bias: Any) -> Any:
    weight, bias = (p if p is None else over_channels(p, x) for p in (weight, bias))
    return _affine(x, weight, bias)


@_rule("layer_norm")
def _layer_norm(
    x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    return _affine(_standardise(x, tuple(range(-len(shape), 0)), eps), weight, bias)


@_rule("group_norm")
def _group_norm(
    x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    grouped = x.reshape(x.shape[0], groups, -1)
    return _affine_over_channels(_standardise(grouped, (-1,), eps).reshape(x.shape), weight, bias)


@_rule("instance_norm")
def _instance_norm(
    x: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats:
        return _batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    return _affine_over_channels(_standardise(x, tuple(range(2, x.ndim)), eps), weight, bias)


# --- softmax, attention, losses -----------------------------------------------------------------


@_rule("log_softmax")
def _log_softmax(x: Jet, dim: int = -1, _stacklevel: int = 3, dtype: Any = None) -> Jet:
    value = x.primal.log_softmax(dim)
    p = value.exp()
    directions = []
    for k in range(len(x.first)):
        _, x1, x2 = _coefficients(x, k)
        # The gradient of log Σ exp x is p, and x₁'∇²x₁ is the variance of x₁ under p.
        first = x1 - (p * x1).sum(dim, keepdim=True)
        second = (-0.5 * (p * first.square()).sum(dim, keepdim=True)).expand(x.shape)
        if x2 is not None:
            second = second + x2 - (p * x2).sum(dim, keepdim=True)
        directions.append((first, second))
    return _from_directions(value, directions)


_rule("softmax")(lambda x, dim=-1, _stacklevel=3, dtype=None: _log_softmax(x, dim).exp())


@_rule("scaled_dot_product_attention")
def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if dropout_p or enable_gqa:
        raise MissingRuleError("Taylor mode cannot carry out attention with dropout or groups.")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        past = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores + torch.zeros_like(past, dtype=scores.dtype).masked_fill(~past, -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = scores.new_zeros(attn_mask.shape).masked_fill(~attn_mask, -math.inf)
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


@_rule("mse_loss")
def _mse_loss(
    x: Any,
    target: Any,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    weight: None = None,
) -> Any:
    if weight is not None:
        raise MissingRuleError("Taylor mode cannot carry out a weighted mse_loss.")
    squares = torch.square(x - target)
    return squares if reduction == "none" else getattr(squares, reduction)()


@_rule("cross_entropy")
def _cross_entropy(x: Any, target: Tensor, *args: Any, **kwargs: Any) -> Any:
    smoothing = kwargs.pop("label_smoothing", 0.0)
    if target.is_floating_point() or smoothing or args:
        given = {**kwargs, "label_smoothing": smoothing}
        return _by_nested_forward_mode(
            "cross_entropy", functional.cross_entropy, (x, target, *args), given
        )
    return functional.nll_loss(_log_softmax(x, 1 if x.ndim > 1 else 0), target, **kwargs)
