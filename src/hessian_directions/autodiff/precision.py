"""Tensors and modules in another precision: what is complex stays complex."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def of_kind(x: Tensor, dtype: torch.dtype | None) -> torch.dtype | None:
    """The type that a tensor has in the precision of a real type; None where it stays as it is."""
    if dtype is None or not (x.is_floating_point() or x.is_complex()):
        return None
    return dtype.to_complex() if x.is_complex() else dtype


def moved(
    module: nn.Module, dtype: torch.dtype | None, device: torch.device | str | None
) -> nn.Module:
    """A copy of a module in another precision or on another device; what is complex stays complex."""
    twin = copy.deepcopy(module)
    twin._apply(lambda x: x.to(device=device, dtype=of_kind(x, dtype)))
    return twin
