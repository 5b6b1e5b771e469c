"""Convolution, batch normalisation and ReLU whose second backward pass is as fast as the first.

A Hessian-vector product by reverse over reverse mode differentiates the backward pass. PyTorch's
formula for that of a convolution's kernel gradient is a convolution with a kernel as large as the
image, several times slower than the three kernels that a convolution and its gradients are made of;
these three are closed under differentiation, and here they are used throughout. A batch
normalisation in evaluation mode that alone reads what a convolution returns (`folding`) is folded
into its kernel, w → γ w / √(variance + ε), so that it costs no pass over the activations.

A network sees nothing but ordinary tensors here: what it does with them beside these three
functions, PyTorch does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hessian_directions.autodiff import unit_stride
from hessian_directions.autodiff.folding import Folding
from hessian_directions.autodiff.normalisation import BatchNorm, over_channels
from hessian_directions.autodiff.program import Place
from hessian_directions.autodiff.substitutes import SUBSTITUTES

# stride, padding, dilation, groups
Geometry = tuple[list[int], list[int], list[int], int]


def _convolution_gradients(
    gradient: Tensor, x: Tensor, kernel: Tensor, geometry: Geometry, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        gradient, x, kernel, [len(kernel)], stride, padding, dilation, False, [0, 0], groups, wanted
    )


def _factors(ctx: Any) -> Sequence[Tensor]:
    """What a function saved; constants where its backward pass is to be linear and nothing else."""
    saved: Sequence[Tensor] = ctx.saved_tensors
    return [tensor.detach() for tensor in saved] if ctx.linear else saved


class _Convolution(Function):
    """x, w, b → w * x + b."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernel: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        linear: bool = False,
    ) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.geometry, ctx.linear = geometry, linear
        ctx.set_materialize_grads(False)
        stride, padding, dilation, groups = geometry
        return torch.ops.aten.convolution(
            x, kernel, bias, stride, padding, dilation, False, [0, 0], groups
        )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return None, None, None, None, None
        x, kernel = _factors(ctx)
        of_x = of_kernel = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _InputGradient.apply(gradient, kernel, x, ctx.geometry)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            of_kernel, of_bias = _KernelGradient.apply(gradient, x, kernel, ctx.geometry)
        return of_x, of_kernel, of_bias if ctx.needs_input_grad[2] else None, None, None


class _InputGradient(Function):
    """g, w → ∂⟨g, w * x⟩/∂x; x gives the shape alone."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, kernel: Tensor, x: Tensor, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(gradient, kernel)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return _convolution_gradients(gradient, x, kernel, geometry, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, x: Tensor | None) -> tuple[Tensor | None, ...]:
        if x is None:
            return None, None, None, None
        gradient, kernel = ctx.saved_tensors
        of_gradient = of_kernel = None
        if ctx.needs_input_grad[0]:
            of_gradient = _Convolution.apply(x, kernel, None, ctx.geometry)
        if ctx.needs_input_grad[1]:
            of_kernel, _ = _KernelGradient.apply(gradient, x, kernel, ctx.geometry)
        return of_gradient, of_kernel, None, None


class _KernelGradient(Function):
    """g, x → ∂⟨g, w * x + b⟩/∂(w, b); w gives the shape alone."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, kernel: Tensor, geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(gradient, x)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return _convolution_gradients(gradient, x, kernel, geometry, [False, True, True])[1:]

    @staticmethod
    def backward(ctx: Any, kernel: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient, x = ctx.saved_tensors
        of_gradient = of_x = None
        if kernel is None:
            if bias is not None and ctx.needs_input_grad[0]:
                of_gradient = over_channels(bias, gradient).expand_as(gradient)
            return of_gradient, None, None, None
        if ctx.needs_input_grad[0]:
            of_gradient = _Convolution.apply(x, kernel, bias, ctx.geometry)
        if ctx.needs_input_grad[1]:
            of_x = _InputGradient.apply(gradient, kernel, x, ctx.geometry)
        return of_gradient, of_x, None, None


class _ChannelScale(Function):
    """x, s → s_c x_c for every channel c (dimension 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, linear: bool = False) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.linear = linear
        return x * over_channels(scale, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = _factors(ctx)
        return (
            _ChannelScale.apply(gradient, scale) if ctx.needs_input_grad[0] else None,
            _ChannelDot.apply(gradient, x) if ctx.needs_input_grad[1] else None,
            None,
        )


class _ChannelDot(Function):
    """x, y → ⟨x_c, y_c⟩ for every channel c (dimension 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return (x * y).sum([d for d in range(x.ndim) if d != 1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        return (
            _ChannelScale.apply(y, gradient) if ctx.needs_input_grad[0] else None,
            _ChannelScale.apply(x, gradient) if ctx.needs_input_grad[1] else None,
        )


class _ReLU(Function):
    """x → max(x, 0). PyTorch's own second backward pass adds a tensor of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp_min(0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return _WherePositive.apply(gradient, y)


class _WherePositive(Function):
    """x, y → x where y > 0, else 0; y is a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return torch.ops.aten.threshold_backward(x, y, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        return _WherePositive.apply(gradient, y), None


class FoldingError(RuntimeError):
    """A network reads a convolution whose normalisation was folded in: another path than proven."""


# What may be asked of a tensor without reading what is in it.
_SHAPE = {Tensor.dim, Tensor.size, Tensor.is_floating_point, Tensor.__len__} | {
    getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "is_cuda")
}


class DoubleBackward(TorchFunctionMode):
    """Inside this mode convolutions, batch normalisations and ReLUs are the fast ones.

    Args:
        foldings: Normalisations to fold, by the number of the convolution before them.
        tensor: What stands at a place of the network now.
        linear: The second backward pass is with respect to what comes into the first alone, as
            Jacobian-vector products need it; all other parts of it are left out.

    Raises:
        FoldingError: At a convolution that anything but its normalisation reads.
    """

    def __init__(
        self,
        foldings: Mapping[int, Folding] | None = None,
        tensor: Callable[[Place], Tensor] | None = None,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self._foldings, self._tensor, self._linear = foldings or {}, tensor, linear
        self._calls = 0
        # What stands for a convolution whose normalisation is folded in, while anything holds it.
        self._standing: dict[int, weakref.ref[Tensor]] = {}
        # The normalised ones that were not asked for yet, with the arguments to be asked with.
        self._waiting: dict[int, tuple[Tensor, list[Tensor | None]]] = {}

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if self._waiting and kind is None:
            raise FoldingError("A folded normalisation was not asked for.")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._standing and func not in _SHAPE:
            if func is functional.batch_norm:
                done = self._take(BatchNorm(*args, **kwargs))
                if done is not None:
                    return done
            if self._reads_standing(args) or self._reads_standing(tuple(kwargs.values())):
                raise FoldingError(f"{func} reads a convolution with its normalisation folded in.")
        if func is functional.conv2d:
            return self._convolve(*args, **kwargs)
        if func is functional.batch_norm:
            return _normalise(BatchNorm(*args, **kwargs), self._linear)
        if func in (functional.relu, torch.relu, Tensor.relu) and not (
            kwargs.get("inplace") or len(args) > 1
        ):
            return _ReLU.apply(args[0])
        return SUBSTITUTES.get(func, func)(*args, **kwargs)

    def _convolve(
        self,
        x: Tensor,
        kernel: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
    ) -> Tensor:
        folding = self._foldings.get(self._calls)
        self._calls += 1
        if isinstance(padding, str) or x.ndim != 4:
            convolve: Callable[..., Tensor] = unit_stride.conv2d
            geometry: Any = (stride, padding, dilation, groups)
        else:
            pair = unit_stride.pair
            x, stride = unit_stride.sliced(x, kernel, stride, padding)
            convolve = _Convolution.apply
            geometry = (pair(stride), pair(padding), pair(dilation), groups), self._linear
        if folding is None or self._tensor is None:
            return convolve(x, kernel, bias, *geometry)
        used: list[Any] = [place and self._tensor(place) for place in folding.places]
        mean, variance, weight, gain = used
        norm = BatchNorm(None, mean, variance, weight, gain, eps=folding.eps)
        scale, shift = norm.scale_and_shift()
        shift = shift if bias is None else shift + scale * bias
        normalised = convolve(x, kernel * scale.view(-1, 1, 1, 1), shift, *geometry)
        standing = normalised.detach().requires_grad_(normalised.requires_grad)
        key = id(standing)
        self._waiting[key] = normalised, used
        self._standing[key] = weakref.ref(standing, lambda _: self._standing.pop(key, None))
        return standing

    def _take(self, norm: BatchNorm) -> Tensor | None:
        """The normalised convolution, if x stands for it and this is its normalisation."""
        x = norm.x
        if not self._stands(x) or id(x) not in self._waiting or norm.training or x._version:
            return None
        y, used = self._waiting[id(x)]
        if any(a is not b for a, b in zip(norm[1:5], used)):
            return None
        del self._waiting[id(x)]
        return y

    def _stands(self, value: Any) -> bool:
        alive = self._standing.get(id(value))
        return alive is not None and alive() is value

    def _reads_standing(self, values: Any) -> bool:
        return any(
            self._stands(value) or (isinstance(value, tuple | list) and self._reads_standing(value))
            for value in values
        )


def _normalise(norm: BatchNorm, linear: bool) -> Tensor:
    if not norm.is_fixed:
        return functional.batch_norm(*norm)
    scale, shift = norm.scale_and_shift()
    return _ChannelScale.apply(norm.x, scale, linear) + over_channels(shift, norm.x)
