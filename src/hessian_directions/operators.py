"""Symmetric matrices as operators: whatever has shape, dtype, device and `@` stands in for H."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


class Operator(Protocol):
    """A symmetric (N, N) matrix: the Hessian of an objective, a dense tensor, a diagonal.

    `@` takes (N,) and (N, K); vectors are columns.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def __matmul__(self, v: Tensor, /) -> Tensor: ...


@runtime_checkable
class HasHessian(Protocol):
    """An objective, or whatever else has a Hessian as an operator."""

    def hessian(self) -> Operator: ...


def as_operator(source: Operator | HasHessian) -> Operator:
    """The Hessian of an objective, or the operator itself."""
    return source.hessian() if isinstance(source, HasHessian) else source


@dataclass(frozen=True)
class DiagonalOperator:
    """Diagonal matrix as an operator: exact curvature at the price of one product of numbers.

    Attributes:
        diagonal: (N,) entries, which are the eigenvalues.
    """

    diagonal: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return (self.diagonal.numel(), self.diagonal.numel())

    @property
    def dtype(self) -> torch.dtype:
        return self.diagonal.dtype

    @property
    def device(self) -> torch.device:
        return self.diagonal.device

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.diagonal * v if v.ndim == 1 else self.diagonal[:, None] * v


@dataclass(frozen=True)
class DifferenceOperator:
    """A − B as an operator: a product with each, subtracted.

    Attributes:
        A: Symmetric operator.
        B: Another one, of the same shape, precision and device.
    """

    A: Operator
    B: Operator

    @property
    def shape(self) -> tuple[int, ...]:
        return self.A.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.A.dtype

    @property
    def device(self) -> torch.device:
        return self.A.device

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.A @ v - self.B @ v
