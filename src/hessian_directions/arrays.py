"""Arrays as people have them: tensors, NumPy arrays and lists, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def as_tensor(
    value: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """The values as a tensor without a graph, moved where a precision or a device is named.

    A list of vectors or a matrix as a list is read as NumPy reads it; numbers without a precision
    of their own get NumPy's, float64.
    """
    if not isinstance(value, Tensor):
        if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
            value = torch.stack([torch.as_tensor(part) for part in value])
        else:
            value = torch.from_numpy(np.array(value))
    return value.detach().to(device, dtype)


def as_floats(value: ArrayLike | Tensor) -> Floats:
    """The values as a NumPy array of float64, from any device."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, dtype=np.float64)
