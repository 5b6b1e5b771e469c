"""Convolution, batch normalisation and ReLU whose second backward pass is as fast as the first.

A Hessian-vector product by reverse over reverse mode differentiates the backward pass. PyTorch's
formula for that of a convolution's kernel gradient is a convolution with a kernel as large as the
image, several times slower than the three kernels that a convolution and its gradients are made of;
these three are closed under differentiation, and here they are used throughout. A batch
normalisation in evaluation mode that follows a convolution is folded into its kernel,
w → γ w / √(variance + ε), so that it costs no pass over the activations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# stride, padding, dilation, groups
Geometry = tuple[list[int], list[int], list[int], int]


def _convolution_gradients(
    gradient: Tensor, x: Tensor, kernel: Tensor, geometry: Geometry, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        gradient, x, kernel, [len(kernel)], stride, padding, dilation, False, [0, 0], groups, wanted
    )


class _Convolution(Function):
    """x, w, b → w * x + b."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        stride, padding, dilation, groups = geometry
        return torch.ops.aten.convolution(
            x, kernel, bias, stride, padding, dilation, False, [0, 0], groups
        )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return None, None, None, None
        x, kernel = ctx.saved_tensors
        of_x = of_kernel = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _InputGradient.apply(gradient, kernel, x, ctx.geometry)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            of_kernel, of_bias = _KernelGradient.apply(gradient, x, kernel, ctx.geometry)
        return of_x, of_kernel, of_bias if ctx.needs_input_grad[2] else None, None


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
                of_gradient = _over_channels(bias, gradient).expand_as(gradient)
            return of_gradient, None, None, None
        if ctx.needs_input_grad[0]:
            of_gradient = _Convolution.apply(x, kernel, bias, ctx.geometry)
        if ctx.needs_input_grad[1]:
            of_x = _InputGradient.apply(gradient, kernel, x, ctx.geometry)
        return of_gradient, of_x, None, None


class _ChannelScale(Function):
    """x, s → s_c x_c for every channel c (dimension 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return x * _over_channels(scale, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        return (
            _ChannelScale.apply(gradient, scale) if ctx.needs_input_grad[0] else None,
            _ChannelDot.apply(gradient, x) if ctx.needs_input_grad[1] else None,
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


def _over_channels(channel: Tensor, x: Tensor) -> Tensor:
    """(C,) → (1, C, 1, …) with as many dimensions as x."""
    return channel.view(1, -1, *[1] * (x.ndim - 2))


class _Pending(Tensor):
    """A convolution not yet carried out, so that a batch normalisation can still be folded in."""

    x: Tensor
    kernel: Tensor
    bias: Tensor | None
    geometry: Geometry

    @staticmethod
    def __new__(
        cls, x: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> _Pending:
        sizes = [
            (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
            for n, k, stride, padding, dilation in zip(x.shape[2:], kernel.shape[2:], *geometry[:3])
        ]
        shape = (len(x), len(kernel), *sizes)
        self = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=x.dtype, device=x.device)
        self.x, self.kernel, self.bias, self.geometry = x, kernel, bias, geometry
        return self

    def value(self) -> Tensor:
        return _Convolution.apply(self.x, self.kernel, self.bias, self.geometry)

    def normalised(self, scale: Tensor, shift: Tensor) -> Tensor:
        """scale · value + shift, channel by channel, in one convolution."""
        kernel = self.kernel * scale.view(-1, 1, 1, 1)
        bias = shift if self.bias is None else shift + scale * self.bias
        return _Convolution.apply(self.x, kernel, bias, self.geometry)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} meets a convolution that was not carried out.")


# What may be asked of a pending convolution without carrying it out.
_SHAPE = [Tensor.dim, Tensor.size, Tensor.is_floating_point, Tensor.__len__] + [
    getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "is_cuda")
]


class DoubleBackward(TorchFunctionMode):
    """Inside this mode convolutions, batch normalisations and ReLUs are the fast ones.

    Call a network as `carried_out(network(inputs))` inside: its last convolution may be pending.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.conv2d:
            return _convolve(*carried_out(args), **carried_out(kwargs))
        if func is functional.batch_norm:
            return _normalise(*args, **kwargs)
        if func is functional.hardsigmoid:
            return (carried_out(args[0]) + 3).clamp(0, 6) / 6
        if func not in _SHAPE:
            # `types` does not tell: it leaves out what stands in lists, as for torch.cat.
            args, kwargs = carried_out(args), carried_out(kwargs)
        if func in (functional.relu, torch.relu, Tensor.relu) and not (
            kwargs.get("inplace") or len(args) > 1
        ):
            return _ReLU.apply(args[0])
        return func(*args, **kwargs)


def carried_out(value: Any) -> Any:
    """The same value with every pending convolution carried out."""
    if isinstance(value, _Pending):
        return value.value()
    if isinstance(value, tuple | list):
        return type(value)([carried_out(part) for part in value])
    if isinstance(value, dict):
        return {key: carried_out(part) for key, part in value.items()}
    return value


def _convolve(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str) or x.ndim != 4:
        return functional.conv2d(x, kernel, bias, stride, padding, dilation, groups)
    geometry = (_pair(stride), _pair(padding), _pair(dilation), groups)
    return _Pending(x, kernel, bias, geometry)


def _pair(value: int | tuple[int, ...]) -> list[int]:
    pair = [value] if isinstance(value, int) else list(value)
    return pair * 2 if len(pair) == 1 else pair


def _normalise(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        x = carried_out(x)
        return functional.batch_norm(
            x, running_mean, running_var, weight, bias, training, momentum, eps
        )
    scale = torch.rsqrt(running_var + eps)
    if weight is not None:
        scale = weight * scale
    shift = -running_mean * scale
    if bias is not None:
        shift = bias + shift
    if isinstance(x, _Pending):
        return x.normalised(scale, shift)
    return _ChannelScale.apply(x, scale) + _over_channels(shift, x)
