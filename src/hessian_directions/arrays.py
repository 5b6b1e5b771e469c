"""Arrays as people have them: tensors, NumPy arrays and lists, on any device."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hessian_directions.errors import DataError

Floats = NDArray[np.float64]

# What the kernels of a GPU read at once [bytes].
ALIGNMENT = 16


def aligned(x: Tensor) -> Tensor:
    """The tensor, or a copy where it is on a GPU and begins between two addresses that are read at once.

    Views into a flat vector do, and cuDNN's batch normalisation then stops with "misaligned address".
    """
    return x.clone() if x.is_cuda and x.data_ptr() % ALIGNMENT else x


def memory() -> int:
    """Bytes that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def as_tensor(
    value: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """The values as a tensor without a graph, moved where a precision or a device is named.

    A list of vectors or a matrix as a list is read as NumPy reads it; numbers without a precision
    of their own get NumPy's, float64.

    Raises:
        DataError: They are no array of numbers, a sparse, nested or masked one, or complex where real
            ones are named.
    """
    if np.ma.is_masked(value):
        raise DataError("Numbers of an array are masked: fill them in or leave their samples out.")
    if not isinstance(value, Tensor):
        try:
            if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
                value = torch.stack([torch.as_tensor(part) for part in value])
            else:
                # A copy, which its owner cannot change, in this machine's order of bytes.
                numbers = np.array(value, order="C")
                native = numbers.dtype.newbyteorder("=")
                value = torch.from_numpy(numbers.astype(native, copy=False))
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(value).__name__
            raise DataError(f"This {kind} is no array of numbers.") from error
    if value.layout != torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else value.layout
        raise DataError(f"A tensor is {kind}: make it dense.")
    if value.is_complex() and dtype is not None and not dtype.is_complex:
        raise DataError("The numbers are complex, but must be real.")
    tensor: Tensor = value.clone() if value.is_inference() else value.detach()
    return tensor.to(device, dtype)


def as_floats(value: ArrayLike | Tensor) -> Floats:
    """The values as a NumPy array of float64, from any device; errors as of `as_tensor`."""
    return np.asarray(as_tensor(value, torch.float64, "cpu").numpy())
