"""Tensors and modules in another precision, where what is complex stays complex; and the precision of
the kernels themselves.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from hessian_directions.autodiff.copies import copied


def of_kind(x: Tensor, dtype: torch.dtype | None) -> torch.dtype | None:
    """The type that a tensor has in the precision of a real type; None where it stays as it is."""
    if dtype is None or not (x.is_floating_point() or x.is_complex()):
        return None
    return dtype.to_complex() if x.is_complex() else dtype


def moved(
    module: nn.Module,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    what: str = "The network",
) -> nn.Module:
    """A copy of a module in another precision or on another device; what is complex stays complex.

    `what` it is called where it cannot be copied.
    """

    def change(x: Tensor) -> Tensor:
        y = x.to(device=device, dtype=of_kind(x, dtype))
        vars(y).update(vars(x))  # what users set on a buffer; a parameter keeps its own
        return y

    twin = copied(module, what)
    twin._apply(change)
    return twin


class Widened(TorchFunctionMode):
    """What is cast to float32 is cast to float64.

    Of networks that normalise or attend in float32 whatever they are given, rounding would hide
    what a proof in float64 looks for.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = Tensor.double if func is Tensor.float else func
        args, kwargs = tree_map(
            lambda part: torch.float64 if part is torch.float32 else part, (args, kwargs or {})
        )
        return func(*args, **kwargs)


def use_full_precision() -> None:
    """From now on float32 is float32: TensorFloat-32 and bfloat16, which kernels may compute in, keep
    three digits.
    """
    for part in _multipliers():
        part.fp32_precision = "ieee"


class FullPrecision:
    """Inside, float32 is float32, whatever the caller has set (`set_float32_matmul_precision`).

    That is set for the whole process: the first of several threads does so, the last one restores
    it.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._found = threading.Lock(), 0, list[str]()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._found = [part.fp32_precision for part in _multipliers()]
                use_full_precision()
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for part, precision in zip(_multipliers(), self._found, strict=True):
                    part.fp32_precision = precision


FULL_PRECISION = FullPrecision()


def _multipliers() -> list[Any]:
    cpu: Any = torch.backends.mkldnn
    gpu: Any = torch.backends.cudnn
    parts = [cpu.matmul, cpu.conv, cpu.rnn]
    return parts + [torch.backends.cuda.matmul, gpu.conv, gpu.rnn] * torch.backends.cuda.is_built()
