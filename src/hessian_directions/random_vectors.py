"""Random vectors of many entries, the same on every device, and the lengths of vectors.

Vectors are columns: one of shape (N,), K of shape (N, K). Start vectors of iterations and the
directions of slices are drawn by the same functions.
"""

from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hessian_directions.arrays import as_tensor
from hessian_directions.errors import ArgumentError, require_count
from hessian_directions.seeds import as_generator

Distribution = Literal["gaussian", "rademacher"]


def gaussian(
    n: int,
    k: int,
    seed: int | torch.Generator = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw K directions with independent entries N(0, 1); their length is about √N.

    Every column is drawn on its own, on the CPU and in float64, and only then cast and moved: the
    same generator gives the same directions on every device and in every precision, and drawing
    3 and then 5 gives the columns of drawing 8 (so chunks and shards agree with one large draw).
    A generator is one of the CPU, and advances.

    Returns:
        (N, K) tensor whose columns are contiguous. Memory: N·(K·itemsize + 8) bytes.
    """
    return draw("gaussian", n, k, seed, dtype, device)


def rademacher(
    n: int,
    k: int,
    seed: int | torch.Generator = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw K directions with independent entries −1 or +1; their length is √N.

    Arguments, result and reproducibility as for `gaussian`.
    """
    return draw("rademacher", n, k, seed, dtype, device)


def draw(
    distribution: Distribution,
    n: int,
    k: int,
    seed: int | torch.Generator = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw K directions of N entries with mean 0 and variance 1 from a named distribution.

    Raises:
        ArgumentError: The distribution is neither "gaussian" nor "rademacher", N or K is no number
            of entries, or the precision is none.
    """
    if distribution not in ("gaussian", "rademacher"):
        raise ArgumentError(
            f'the distribution is {distribution!r}, not "gaussian" or "rademacher".'
        )
    require_count("n", n, least=0)
    require_count("k", k, least=0)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ArgumentError(f"dtype is {dtype!r}, but must be one of floating point.")
    generator = as_generator(seed, "directions")
    rows = torch.empty(k, n, dtype=dtype, device=device)
    for row in rows:
        if distribution == "gaussian":
            row.copy_(torch.randn(n, generator=generator, dtype=torch.float64, device="cpu"))
        else:
            signs = torch.randint(2, (n,), generator=generator, dtype=torch.int8, device="cpu")
            row.copy_(signs * 2 - 1)
    return rows.T


def unit(v: ArrayLike | Tensor) -> Tensor:
    """Divide each direction by its Euclidean length.

    Args:
        v: (N,) or (N, K); integers and halves become float32.

    Raises:
        ArgumentError: A direction is complex, has length zero or is not finite.
    """
    v = as_real(v)
    return v / positive_lengths(v).to(v.dtype)


def lengths(v: ArrayLike | Tensor) -> Tensor:
    """Euclidean length of each direction, accumulated in float64: (N,) -> (), (N, K) -> (K,)."""
    norms: Tensor = torch.linalg.vector_norm(as_real(v), dim=0, dtype=torch.float64)
    return norms


def positive_lengths(v: Tensor) -> Tensor:
    """As `lengths`, of directions none of which is zero or not finite; else an ArgumentError."""
    length = lengths(v)
    if not bool(((length > 0) & length.isfinite()).all()):
        raise ArgumentError("a direction has length zero or is not finite.")
    return length


def as_real(v: ArrayLike | Tensor) -> Tensor:
    """Directions without a graph, in a precision that one computes in: integers and halves become
    float32.

    Raises:
        ArgumentError: They are complex.
    """
    v = as_tensor(v)
    if v.is_complex():
        raise ArgumentError("the directions are complex, but must be real.")
    return v.to(torch.promote_types(v.dtype, torch.float32))
