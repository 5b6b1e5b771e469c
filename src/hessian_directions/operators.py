"""Symmetric matrices as operators: whatever has shape, dtype, device and `@` stands in for H."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessian_directions.arrays import as_tensor
from hessian_directions.autodiff.precision import FULL_PRECISION
from hessian_directions.cost import Cost
from hessian_directions.errors import (
    ArgumentError,
    DifferentiationError,
    HessianDirectionsError,
    NonFiniteError,
    first_line,
)

# Rows of a dense matrix that are held against its columns together.
ROWS_AT_ONCE = 1024


P = ParamSpec("P")
T = TypeVar("T")


def in_own_precision(function: Callable[P, T]) -> Callable[P, T]:
    """An analysis whose own products of matrices stay in the precision of its operator, and whose
    results take part in graphs, whatever the caller has switched on around it.
    """

    @wraps(function)
    def analysis(*arguments: P.args, **options: P.kwargs) -> T:
        with (
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            FULL_PRECISION,
        ):
            return function(*arguments, **options)

    return analysis


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


class WithVectors(Protocol):
    """Eigenpairs, ascending, or whatever else has `vectors` (N, k)."""

    @property
    def vectors(self) -> Tensor: ...


def as_operator(source: Operator | HasHessian | NDArray[Any]) -> Operator:
    """The Hessian of an objective, or the operator itself; a NumPy array as a tensor.

    A matrix is looked at here, of an operator every product (`CheckedOperator`).

    Raises:
        ArgumentError: It is neither, or no square matrix in float32 or float64.
        DifferentiationError: It is a matrix that is not symmetric.
        NonFiniteError: It is a matrix with entries that are not finite.
    """
    H = source.hessian() if isinstance(source, HasHessian) else source
    if isinstance(H, np.ndarray):
        H = as_tensor(H)
    if not all(hasattr(H, name) for name in ("shape", "dtype", "device", "__matmul__")):
        raise ArgumentError(
            f"A {type(source).__name__} has no Hessian: give an Objective, or a matrix or operator "
            "with shape, dtype, device and @."
        )
    shape = tuple(H.shape)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ArgumentError(f"H has the shape {shape}, but must be a square matrix.")
    if H.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(f"H is {H.dtype!r}, but must be torch.float32 or torch.float64.")
    if isinstance(H, Tensor):
        H = H.detach()
        _require_symmetric(H)
        if H.layout == torch.strided:
            return H
    return H if isinstance(H, CheckedOperator) else CheckedOperator(H)


def require_objective(source: Any) -> None:
    """Refuse what cannot be asked for losses: a model, or an operator.

    Raises:
        ArgumentError: It is no objective.
    """
    if not (hasattr(source, "values") and hasattr(source, "n_parameters")):
        raise ArgumentError(
            f"A {type(source).__name__} knows no loss at other weights: give an Objective."
        )


def _require_symmetric(H: Tensor) -> None:
    """Refuse a matrix, dense or sparse, that is not symmetric or has entries that are not finite."""
    if H.layout == torch.strided:
        rows = range(0, len(H), ROWS_AT_ONCE)
        largest = _largest(H)
        differing = max(
            _largest(H[i : i + ROWS_AT_ONCE] - H[:, i : i + ROWS_AT_ONCE].T) for i in rows
        )
    else:
        sparse = H.to_sparse_coo()
        largest, differing = (_largest(S.coalesce().values()) for S in (sparse, sparse - sparse.T))
    if not math.isfinite(largest):
        raise NonFiniteError("H has entries that are NaN or infinite.")
    if differing > math.sqrt(torch.finfo(H.dtype).eps) * largest:
        raise DifferentiationError(
            f"H is not symmetric: entries across its diagonal differ by {differing:.1e}, where the "
            f"largest is {largest:.1e}."
        )


def _largest(entries: Tensor) -> float:
    return float(entries.abs().max()) if entries.numel() else 0.0


def require_symmetric_projections(differing: float, size: float, dtype: torch.dtype) -> None:
    """Refuse an H where u'Hv and v'Hu differ by more than rounding, beside ‖u‖‖Hv‖ of this size."""
    if differing > math.sqrt(torch.finfo(dtype).eps) * size:
        raise DifferentiationError(
            f"H is not symmetric: u'Hv and v'Hu differ by {differing:.1e}, where ‖u‖‖Hv‖ is "
            f"{size:.1e}."
        )


class DiagonalOperator:
    """Diagonal matrix as an operator: exact curvature at the price of one product of numbers.

    Args:
        diagonal: (N,) entries, which are the eigenvalues.
    """

    def __init__(self, diagonal: Tensor) -> None:
        self.diagonal = diagonal
        self.shape = diagonal.numel(), diagonal.numel()
        self.dtype, self.device = diagonal.dtype, diagonal.device

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.diagonal * v if v.ndim == 1 else self.diagonal[:, None] * v


@dataclass(frozen=True)
class DerivedOperator:
    """An operator that has shape, precision and device of the one that it is made of, H."""

    H: Operator

    @property
    def shape(self) -> tuple[int, ...]:
        return self.H.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.H.dtype

    @property
    def device(self) -> torch.device:
        return self.H.device


@dataclass(frozen=True)
class CheckedOperator(DerivedOperator):
    """H, whoever wrote it, with every product looked at: right in form and finite, or refused."""

    @property
    def cost(self) -> Cost:
        """H's own account of what it took; an AttributeError where it keeps none."""
        return self.H.cost  # type: ignore[attr-defined, no-any-return]

    def __matmul__(self, v: Tensor) -> Tensor:
        version, what = v._version, f"The product of H and vectors of shape {(*v.shape,)}"
        try:
            product = self.H @ v
        except (HessianDirectionsError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            raise ArgumentError(f"{what} failed: {first_line(error)}.") from error
        if not isinstance(product, Tensor):
            raise ArgumentError(f"{what} is a {type(product).__name__}, but must be a tensor.")
        if (product.shape, product.dtype, product.device) != (v.shape, v.dtype, v.device):
            raise ArgumentError(
                f"{what} has the shape {(*product.shape,)} and is {product.dtype} on "
                f"{product.device}, but must have theirs and be {v.dtype} on {v.device} as they are."
            )
        if v._version != version:
            raise ArgumentError(
                "A product with H changes the vectors that it is given: let it copy them."
            )
        if not bool(product.isfinite().all()):
            raise NonFiniteError("A product with H is not finite.")
        return product.detach()


@dataclass(frozen=True)
class DifferenceOperator(DerivedOperator):
    """H − G as an operator, G another one like H: a product with each, subtracted."""

    G: Operator

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.H @ v - self.G @ v
