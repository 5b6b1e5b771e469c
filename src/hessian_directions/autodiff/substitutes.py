"""Operations of PyTorch that kill the process, or have a wrong or no second derivative.

Each is replaced by equal ones: strided 1×1 convolutions (`unit_stride`); the fused weight
normalisation, whose second backward pass is wrong in PyTorch 2.13 (a Hessian that is not
symmetric); hardsigmoid and bags of embeddings, which have none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hessian_directions.autodiff.unit_stride import conv2d, conv_transpose2d


class Substitutes(TorchFunctionMode):
    """Inside this mode the substitutes are called in place of PyTorch's functions."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return SUBSTITUTES.get(func, func)(*args, **(kwargs or {}))


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v/‖v‖, the norm over all dimensions but one (`torch._weight_norm`); over all for −1."""
    others = [d for d in range(v.ndim) if d != dim]
    return v * (g * torch.rsqrt(torch.square(v).sum(others, keepdim=dim != -1)))


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.hardsigmoid`; x itself is changed where it is to be."""
    y = (x + 3).clamp(0, 6) / 6
    return x.copy_(y) if inplace else y


def embedding_bag(
    tokens: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`torch.nn.functional.embedding_bag`; rows of bags (B, n) of which a sum or mean is taken."""
    special = max_norm is not None or scale_grad_by_freq or sparse or mode == "max"
    if special or offsets is not None or tokens.ndim != 2 or tokens.is_floating_point():
        return functional.embedding_bag(
            *(tokens, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse),
            *(per_sample_weights, include_last_offset, padding_idx),
        )
    counted = torch.ones_like(tokens) if padding_idx is None else (tokens != padding_idx).long()
    factors = counted if per_sample_weights is None else counted * per_sample_weights
    total = (functional.embedding(tokens, weight) * factors[..., None]).sum(1)
    return total / counted.sum(1, keepdim=True).clamp(min=1) if mode == "mean" else total


SUBSTITUTES: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.conv2d: conv2d,
    functional.conv_transpose2d: conv_transpose2d,
    functional.embedding_bag: embedding_bag,
    functional.hardsigmoid: hardsigmoid,
    torch._weight_norm: weight_norm,
}
