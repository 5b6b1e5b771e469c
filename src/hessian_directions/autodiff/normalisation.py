"""What `torch.nn.functional.batch_norm` is given, and a normalisation as a scale and a shift."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class BatchNorm(NamedTuple):
    """The arguments of a call, whether by place or by name."""

    x: Any
    running_mean: Any
    running_var: Any
    weight: Any = None
    bias: Any = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5

    @property
    def is_fixed(self) -> bool:
        """Whether it normalises by running statistics, so that it is linear in x."""
        return not (self.training or self.running_mean is None or self.running_var is None)

    def scale_and_shift(self) -> tuple[Any, Any]:
        """What it multiplies each channel by, and what it then adds: (C,) each.

        γ/√(variance + ε) and β − mean·γ/√(variance + ε), linear in γ and β.
        """
        scale = torch.rsqrt(self.running_var + self.eps)
        scale = scale if self.weight is None else self.weight * scale
        shift = -self.running_mean * scale
        return scale, shift if self.bias is None else self.bias + shift


def over_channels(channel: Any, x: Any, dim: int = 1) -> Any:
    """(C,) → (C, 1, …), to be broadcast over x, whose channels are dimension `dim`."""
    return channel.reshape(-1, *[1] * (x.ndim - 1 - dim))
