"""Visibility of a saddle: how probable it is that a random slice shows curvature of both signs.

A slice along Gaussian directions shows a saddle when its projected Hessian M has κ₋ < 0 < κ₊. The
probability follows from the Gaussian limit (`formula`, with the conditions under which it holds),
from the spectrum (`sample_from_spectrum`, which needs no directions and keeps the outliers that the
limit loses), and from slices themselves (`sample_projections`). More than two dimensions:
`first_negative_dimension` samples, `principal_curvatures.critical_dimension` predicts.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from hessian_directions.arrays import Floats, as_floats
from hessian_directions.errors import ArgumentError, require_count, require_number
from hessian_directions.geometry.directions import gaussian, lengths
from hessian_directions.geometry.principal_curvatures import (
    principal_curvatures,
    shows_saddle,
    visibility,
    without_rounding,
)
from hessian_directions.operators import (
    HasHessian,
    Operator,
    as_operator,
    require_symmetric_projections,
)
from hessian_directions.progress import Clock, Progress
from hessian_directions.seeds import as_generator
from hessian_directions.spectral.density import NOISE_ROUNDINGS
from hessian_directions.statistics.proportions import wilson


@dataclass(frozen=True)
class Formula:
    """Visibility in the Gaussian limit and what must be small for it to hold.

    Attributes:
        probability: exp(−r²/4)/√2 with r = tr H/‖H‖_F.
        corrected: The next order: probability·exp(−r³·Σλ³/(6‖H‖_F³)), at most 1.
        condition: |r|³·|Σλ³|/‖H‖_F³ ≪ 1: the limit holds in the tail, where rare slices decide.
            The next order carries further, to about 10.
        third_moment: Σ|λ|³/‖H‖_F³ ≪ 1: no eigenvalue dominates. Not enough where |r| is large.
        tail: |r|·max|λ|/‖H‖_F ≪ 1: nor does one in the tail. Not enough either.
    """

    probability: float
    corrected: float
    condition: float
    third_moment: float
    tail: float


def formula(
    eigenvalues: ArrayLike, rest_trace: float = 0.0, rest_frobenius: float = 0.0
) -> Formula:
    """Visibility in the Gaussian limit from the spectrum, with its next order and its conditions.

    See `principal_curvatures.visibility` for both orders.

    Args:
        eigenvalues: (k,) eigenvalues known one by one: all of them, or the outliers.
        rest_trace, rest_frobenius: Of the deflated rest.

    Returns:
        Formula; with a rest, whose eigenvalues are not known, Σλ³ and the third moment are those of
        the known ones.

    Raises:
        ArgumentError: The spectrum is zero, so that r is not defined, or not finite, or a norm is
            negative.
    """
    values = _spectrum(eigenvalues, rest_trace, rest_frobenius)
    trace = float(values.sum()) + rest_trace
    frobenius = math.hypot(float(np.linalg.norm(values)), rest_frobenius)
    if frobenius == 0:
        raise ArgumentError("a Hessian that is zero has no visibility.")
    r, scaled = trace / frobenius, np.abs(values) / frobenius
    cubes = float(((values / frobenius) ** 3).sum())
    return Formula(
        probability=float(visibility(r)),
        corrected=float(visibility(r, cubes)),
        condition=abs(r) ** 3 * abs(cubes),
        third_moment=float((scaled**3).sum()),
        tail=abs(r) * float(scaled.max(initial=0.0)),
    )


def _spectrum(eigenvalues: ArrayLike, rest_trace: float, rest_frobenius: float) -> Floats:
    """Eigenvalues (k,) that go with the trace and the norm of a rest."""
    values = as_floats(eigenvalues).ravel()
    require_number("rest_trace", rest_trace, least=-math.inf)
    require_number("rest_frobenius", rest_frobenius)
    if not np.isfinite([*values, rest_trace, rest_frobenius]).all():
        raise ArgumentError("the spectrum is not finite, so that no visibility is known.")
    return values


@dataclass(frozen=True)
class Share:
    """A share of random slices with its Wilson interval."""

    probability: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        """The share under a name, the ends of its interval under those with _low and _high."""
        return {name: self.probability, f"{name}_low": self.low, f"{name}_high": self.high}


def share_of_saddles(M: ArrayLike, confidence: float = 0.95) -> Share:
    """Share of projected Hessians with κ₋ < 0 < κ₊, both beyond the rounding of float64.

    Args:
        M: (S, 2, 2) projected Hessians.
    """
    _finite_curvatures(M)
    return _share(shows_saddle(M), confidence)


def share_below(M: ArrayLike, bound: float, confidence: float = 0.95) -> Share:
    """Share of projected Hessians, (S, 2, 2), with κ₋ below a bound."""
    require_number("bound", bound, least=-math.inf)
    return _share(_finite_curvatures(M)[0] < bound, confidence)


def _finite_curvatures(M: ArrayLike) -> tuple[Floats, Floats]:
    smallest, largest = principal_curvatures(M)
    if not (np.isfinite(smallest).all() and np.isfinite(largest).all()):
        raise ArgumentError("A projected Hessian is not finite, so that no share of them is known.")
    return smallest, largest


def sample_from_spectrum(
    eigenvalues: ArrayLike,
    rest_trace: float,
    rest_frobenius: float,
    n_samples: int,
    seed: int | torch.Generator = 0,
) -> NDArray[np.float64]:
    """Projected Hessians along Gaussian directions, drawn from the spectrum of H alone.

    M = Σ λ_i w_i w_i' + t_b·I + f_b·G with w_i ~ N(0, I₂) and G of the Gaussian orthogonal ensemble
    (variance 2 on the diagonal, 1 beside it). Equal eigenvalues are drawn together, as one Wishart
    matrix by its Bartlett decomposition: a million slices of a synthetic saddle take a second.

    Args:
        eigenvalues: (k,) the outliers, each with multiplicity one: converged eigenvalues, or Ritz
            values with small residuals. (Not the nodes of a single Lanczos probe, whose weights at
            isolated eigenvalues are χ², not 1.)
        rest_trace: t_b, trace of the rest after deflation of these.
        rest_frobenius: f_b, Frobenius norm of the rest; without dominant members it acts by these
            two numbers alone.
        n_samples: Number of slices S.

    Returns:
        (S, 2, 2), float64.

    Raises:
        ArgumentError: The spectrum is not finite, or a norm is negative.
    """
    require_count("n_samples", n_samples)
    values = _spectrum(eigenvalues, rest_trace, rest_frobenius)
    generator = as_generator(seed, "spectrum")
    # NumPy draws χ² variables, which PyTorch has no public function for.
    random = np.random.default_rng(
        int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))
    )
    M = np.zeros((n_samples, 2, 2))
    for value, count in zip(*np.unique(values, return_counts=True)):
        M += value * _wishart(int(count), n_samples, random)
    diagonal = random.normal(scale=math.sqrt(2) * rest_frobenius, size=(n_samples, 2))
    off_diagonal = random.normal(scale=rest_frobenius, size=n_samples)
    M[:, [0, 1], [0, 1]] += rest_trace + diagonal
    M[:, [0, 1], [1, 0]] += off_diagonal[:, None]
    return M


def sample_projections(
    H: Operator | HasHessian,
    n_samples: int,
    seed: int | torch.Generator = 0,
    progress: Progress | None = None,
    chunk: int = 8,
) -> NDArray[np.float64]:
    """Projected Hessians M = [η δ]'H[η δ] along pairs of Gaussian directions.

    Args:
        n_samples: Number of slices S.
        chunk: Slices held at once.

    Returns:
        (S, 2, 2), float64. A curvature that has another sign than the other one, but only by the
        rounding of H's products, is 0. Cost: 2S products with H. Memory: 4·chunk·N·itemsize bytes
        and what H needs for 2·chunk products.
    """
    require_count("n_samples", n_samples)
    require_count("chunk", chunk)
    H, generator = as_operator(H), as_generator(seed, "projections")
    n, clock = H.shape[0], Clock(n_samples, "planes", progress)
    M, size = np.empty((n_samples, 2, 2)), np.empty(n_samples)
    for start in range(0, n_samples, chunk):
        s = min(chunk, n_samples - start)
        V = gaussian(n, 2 * s, generator, H.dtype, H.device)
        HV = H @ V
        for i in range(s):
            pair = slice(2 * i, 2 * i + 2)
            M[start + i] = (V[:, pair].double().T @ HV[:, pair].double()).cpu().numpy()
        size[start : start + s] = lengths(HV).reshape(s, 2).amax(1).cpu().numpy()
        clock(start + s)
    size = np.maximum(size, np.abs(M).max((1, 2)))
    differing = np.abs(M[:, 0, 1] - M[:, 1, 0])
    # The directions are about √N long.
    require_symmetric_projections(differing.max(), math.sqrt(n) * size.max(), H.dtype)
    rounding = _rounding(H, differing, size)
    return without_rounding((M + M.transpose(0, 2, 1)) / 2, rounding)


def first_negative_dimension(
    H: Operator | HasHessian,
    max_dimension: int,
    n_samples: int,
    seed: int | torch.Generator = 0,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """Dimension at which a growing random subspace first sees a negative direction of H.

    With Gaussian g_1, g_2, … the subspace of dimension d is spanned by the first d of them. The
    smallest eigenvalue of Q'HQ, Q an orthonormal basis, is negative exactly when G'HG is not
    positive semidefinite (Sylvester), and the first d where that happens is where the Cholesky
    decomposition of the largest G'HG breaks down: one sample serves all dimensions.

    Args:
        max_dimension: Largest dimension tried, at most N.
        n_samples: Number of nested families of subspaces S.

    Returns:
        (S,) dimensions; max_dimension + 1 where no negative direction was seen. Curvature below the
        rounding of G'HG counts as zero. Cost: max_dimension products a sample. Memory:
        2·max_dimension·N·itemsize bytes, and S·max_dimension² numbers.

    Raises:
        ArgumentError: max_dimension is not between 1 and N.
    """
    H, generator = as_operator(H), as_generator(seed, "subspaces")
    n, clock = H.shape[0], Clock(n_samples, "samples", progress)
    require_count("n_samples", n_samples)
    require_count("max_dimension", max_dimension, least=0)
    if not 1 <= max_dimension <= n:
        raise ArgumentError(
            f"the largest dimension must lie between 1 and {n}, not {max_dimension}."
        )
    M = torch.empty(n_samples, max_dimension, max_dimension, dtype=torch.float64, device="cpu")
    for i in range(n_samples):
        G = gaussian(n, max_dimension, generator, H.dtype, H.device)
        M[i] = G.double().T @ (H @ G).double()
        clock(i + 1)
    size = M.diagonal(dim1=1, dim2=2).abs().amax(1)
    differing = (M - M.mT).abs().amax((1, 2))
    largest = math.sqrt(n) * float(M.abs().max())  # the directions are about √N long
    require_symmetric_projections(float(differing.max()), largest, H.dtype)
    rounding = _rounding(H, differing.numpy(), size.numpy(), max_dimension)
    # The smallest number keeps a Hessian of zeros semidefinite.
    shift = torch.from_numpy(rounding) + torch.finfo(M.dtype).tiny
    M = (M + M.mT) / 2 + shift[:, None, None] * torch.eye(max_dimension, dtype=M.dtype)
    info = torch.linalg.cholesky_ex(M).info.numpy().astype(np.int64)
    return np.where(info > 0, info, max_dimension + 1)


def _rounding(
    H: Operator, differing: NDArray[np.float64], size: NDArray[np.float64], dimension: int = 1
) -> NDArray[np.float64]:
    """Rounding of projected Hessians of these sizes, (S,), between which two sides of the diagonal
    differ by so much.

    Of a symmetric H they differ by rounding alone, which is larger where losses are tiny.
    """
    measured = (differing / np.where(size > 0, size, 1)).max()
    least = max(NOISE_ROUNDINGS, dimension) * torch.finfo(H.dtype).eps
    return np.asarray(max(least, 4 * measured) * size)


def share_seeing_negative(first: ArrayLike, dimension: int, confidence: float = 0.95) -> Share:
    """Share of random subspaces of a dimension that see a negative direction.

    Args:
        first: (S,) results of `first_negative_dimension` with at least this largest dimension.
        dimension: d.
    """
    require_count("dimension", dimension, least=0)
    return _share(as_floats(first) <= dimension, confidence)


def _share(shown: NDArray[np.bool_], confidence: float) -> Share:
    if not shown.size:
        raise ArgumentError("of no samples at all no share is known.")
    low, high = wilson(int(shown.sum()), shown.size, confidence)
    return Share(float(shown.mean()), low, high)


def _wishart(degrees: int, n_samples: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Σ w_i w_i' over `degrees` vectors w_i ~ N(0, I₂), as LL' with L triangular: (S, 2, 2)."""
    diagonal = np.sqrt(random.chisquare(degrees, n_samples))
    beside = random.normal(size=n_samples)
    last = random.chisquare(degrees - 1, n_samples) if degrees > 1 else np.zeros(n_samples)
    W = np.empty((n_samples, 2, 2))
    W[:, 0, 0] = diagonal**2
    W[:, 0, 1] = W[:, 1, 0] = diagonal * beside
    W[:, 1, 1] = beside**2 + last
    return W
