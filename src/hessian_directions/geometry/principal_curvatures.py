"""Principal curvatures of two-dimensional slices, and their theory in the Gaussian limit.

A slice along two directions η, δ has the projected Hessian M = [[η'Hη, η'Hδ], [η'Hδ, δ'Hδ]]; its
eigenvalues κ₋ ≤ κ₊ are the principal curvatures of the surface that one sees. With Gaussian
directions and a spectrum of H without dominant members, M is close to t·I + f·G, t = tr H,
f = ‖H‖_F, G a 2×2 matrix of the Gaussian orthogonal ensemble (variance 2 on the diagonal, 1 beside
it). Then κ± = t + f·(Z ± R), Z standard normal and R Rayleigh distributed, independent of each
other: everything below follows from this.

NumPy and SciPy only: figures import this module without importing torch.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from hessian_directions.errors import ArgumentError
from hessian_directions.spectral.density import NOISE_ROUNDINGS, Floats

# Beside the largest entry of a matrix: those across the diagonal that differ by less are equal.
SYMMETRIC = 1e-6


def principal_curvatures(M: ArrayLike) -> tuple[Floats, Floats]:
    """Eigenvalues κ₋ ≤ κ₊ of symmetric 2×2 matrices: ½(A + C) ∓ √(¼(A − C)² + B²).

    Args:
        M: (…, 2, 2) with M = [[A, B], [B, C]].

    Returns:
        κ₋ and κ₊, each of shape (…), float64.

    Raises:
        ArgumentError: The last two axes are not 2×2, or a matrix is not symmetric.
    """
    matrices = np.asarray(M, dtype=np.float64)
    if matrices.shape[-2:] != (2, 2):
        raise ArgumentError(f"the matrices have the shape {matrices.shape}, not (…, 2, 2).")
    A, B, C = matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 1, 1]
    with np.errstate(invalid="ignore"):  # of infinite entries
        differing = np.abs(B - matrices[..., 1, 0])
    if (differing > SYMMETRIC * np.abs(matrices).max((-2, -1))).any():
        raise ArgumentError("A matrix is not symmetric: give (M + M')/2 if its form is meant.")
    centre, radius = (A + C) / 2, np.hypot((A - C) / 2, B)
    return centre - radius, centre + radius


def shows_saddle(M: ArrayLike, size: ArrayLike = 0.0) -> NDArray[np.bool_]:
    """Whether κ₋ < 0 < κ₊ for matrices (…, 2, 2), (…): both beyond the rounding, in float64, of the
    larger one and of what the matrix was computed from, of this size (…).
    """
    smallest, largest = principal_curvatures(M)
    floor = _rounding(np.maximum(np.maximum(np.abs(smallest), np.abs(largest)), size))
    return np.asarray((smallest < -floor) & (largest > floor))


def without_rounding(M: Floats, floor: Floats) -> Floats:
    """Matrices (…, 2, 2) in which a curvature of another sign than the other one is 0 where it is
    no larger than the rounding, floor (…): it is taken off, times I.
    """
    smallest, largest = principal_curvatures(M)
    saddle, low, high = (smallest < 0) & (largest > 0), smallest >= -floor, largest <= floor
    shift = np.where(saddle & low, smallest, np.where(saddle & high, largest, 0.0))
    return np.asarray(M - shift[..., None, None] * np.eye(2))


def _rounding(size: ArrayLike) -> Floats:
    return np.asarray(NOISE_ROUNDINGS * np.finfo(np.float64).eps * np.asarray(size))


def expected_principal_curvatures(trace: float, frobenius_norm: float) -> tuple[float, float]:
    """E κ₋ and E κ₊ in the Gaussian limit: t ∓ f·√(π/2)."""
    shift = frobenius_norm * math.sqrt(math.pi / 2)
    return trace - shift, trace + shift


def density_largest(x: ArrayLike, trace: float, frobenius_norm: float) -> Floats:
    """Probability density of κ₊ in the Gaussian limit, at the curvatures x.

    With y = (x − t)/f:  p(x) = exp(−y²/4)/(f·√(2π)) · (½·exp(−y²/4) + (√π/4)·y·erfc(−y/2)),
    the convolution of the normal density with that of the Rayleigh distribution.

    Args:
        x: Curvatures, any shape.
        trace: t.
        frobenius_norm: f > 0.

    Returns:
        Density, same shape, unit 1/curvature.
    """
    y = (np.asarray(x, dtype=np.float64) - trace) / frobenius_norm
    bell = np.exp(-(y**2) / 4)
    tail = math.sqrt(math.pi) / 4 * y * scipy.special.erfc(-y / 2)
    # Both terms cancel far on the left; rounding must not make the density negative there.
    density = np.maximum(bell * (bell / 2 + tail), 0.0)
    return np.asarray(density / (frobenius_norm * math.sqrt(2 * math.pi)))


def density_smallest(x: ArrayLike, trace: float, frobenius_norm: float) -> Floats:
    """Probability density of κ₋ in the Gaussian limit: that of κ₊ mirrored at t.

    Arguments and result as for `density_largest`.
    """
    return density_largest(2 * trace - np.asarray(x, dtype=np.float64), trace, frobenius_norm)


def distribution_smallest(x: ArrayLike, trace: float, frobenius_norm: float) -> Floats:
    """Probability that κ₋ lies below x in the Gaussian limit, the integral of its density.

    With y = (x − t)/f:  P(Z − R < y) = Φ(y) + exp(−y²/4)/√2 · Φ(−y/√2), since R exceeds Z − y with
    probability exp(−(Z − y)²/2) where Z > y, and always where not.

    Arguments as for `density_largest`; the result has the same shape, without unit, and is NaN where
    the Hessian is zero.
    """
    y = (np.asarray(x, dtype=np.float64) - trace) / (frobenius_norm or math.nan)
    above = np.exp(-(y**2) / 4) / math.sqrt(2) * scipy.special.ndtr(-y / math.sqrt(2))
    return np.asarray(scipy.special.ndtr(y) + above)


def visibility(r: ArrayLike, cubes: ArrayLike = 0.0) -> Floats:
    """Probability that one random slice shows a saddle, κ₋ < 0 < κ₊, in the Gaussian limit.

    P(|t + f·Z| < f·R) = exp(−r²/4)/√2 with r = t/f. At most 0.71: even with trace zero three
    slices in ten look like a minimum or a maximum.

    It holds where |r|³·|Σλ³|/f³ ≪ 1; the next order multiplies it by exp(−r³·Σλ³/(6f³)). The rare
    slice of a saddle with r > 0 has a direction η with η'Hη < 0, and the probability of that is
    exp(min_s K(s)) but for its prefactor, where K(s) = −½ Σ log(1 − 2sλ) = st + s²f² + (4/3)s³Σλ³
    + … generates the cumulants of η'Hη: the minimum, at s = −t/(2f²), is −r²/4 − r³Σλ³/(6f³).
    (For r < 0 change the sign of H: both factors of r³·Σλ³ change theirs.)

    Args:
        r: Trace divided by Frobenius norm, any shape.
        cubes: Σλ³/f³ of the same shape, for the next order; 0 leaves it out.

    Returns:
        Probability, never above 1.
    """
    r = np.asarray(r, dtype=np.float64)
    exponent = -(r**2) / 4 - r**3 * np.asarray(cubes, dtype=np.float64) / 6
    return np.asarray(np.minimum(np.exp(exponent) / math.sqrt(2), 1.0))


def critical_dimension(eigenvalues: ArrayLike, multiplicities: ArrayLike | None = None) -> float:
    """Dimension d* above which a random subspace sees a negative direction.

    d* = max over 0 < x < 1/|λ_min| of Σ m_i λ_i x/(1 + λ_i x): where the smallest eigenvalue of
    G'HG, G an (N, d) Gaussian matrix, changes its sign in the limit of large N and d. It tends to
    r²/4 only when max|λ|·t/(2f²) ≪ 1. The sum is concave in x, so its maximum is where the
    derivative vanishes.

    Args:
        eigenvalues: (K,) eigenvalues of H, or the nodes of a quadrature of its spectrum.
        multiplicities: (K,) how often each occurs (N times the weight for a quadrature);
            1 when left out.

    Returns:
        d*; 0 when the trace is not positive (one direction suffices), infinity when no eigenvalue
        is negative beyond the rounding of the largest (none is ever seen).
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    counts = np.ones_like(values) if multiplicities is None else np.asarray(multiplicities, float)
    present = (values != 0) & (counts > 0)
    values, counts = values[present], counts[present]
    if not (values < -_rounding(np.abs(values).max(initial=0.0))).any():
        return math.inf
    if float(counts @ values) <= 0:
        return 0.0
    # In units of 1/|λ_min| the maximum lies in (0, 1).
    scaled = values / -values.min()
    x = _place_of_maximum(scaled, counts)
    return float(counts @ (scaled * x / (1 + scaled * x)))


@dataclass(frozen=True)
class CriticalDimension:
    """d* with its standard error over the probes of a quadrature."""

    dimension: float
    standard_error: float


def critical_dimension_of_density(
    nodes: ArrayLike, weights: ArrayLike, n_parameters: int
) -> CriticalDimension:
    """d* of `critical_dimension` from a spectral density, with its standard error.

    Σ λx/(1 + λx) is a spectral sum: N·Σ wθx/(1 + θx) estimates it from each probe's quadrature.
    d* is the maximum of their mean over 0 < x < 1/|θ_min|, θ_min being the smallest node; since it
    is a maximum, its standard error is, to first order, that of the mean at the x where it lies.

    One probe gives an isolated eigenvalue N times a weight that is χ² distributed, not 1. Where a
    single negative eigenvalue far below the others decides d*, a few probes scatter by as much as
    d* itself, and d*, a limit of many eigenvalues, is not the median dimension either.

    Args:
        nodes, weights: (P, m) from P ≥ 2 probes; the weights of a probe add up to 1.

    Returns:
        CriticalDimension; where `critical_dimension` is 0 or infinite it has no standard error
        (NaN).

    Raises:
        ArgumentError: Fewer than two probes, which have no standard error.
    """
    values, counts = np.asarray(nodes, np.float64), n_parameters * np.asarray(weights, np.float64)
    n_probes = len(values)
    if n_probes < 2:
        raise ArgumentError("a standard error needs at least two probes.")
    pooled = critical_dimension(values.ravel(), counts.ravel() / n_probes)
    if pooled in (0.0, math.inf):
        return CriticalDimension(pooled, math.nan)
    scaled = values / -values[counts > 0].min()
    x = _place_of_maximum(scaled.ravel(), counts.ravel())
    sums = (counts * scaled * x / (1 + scaled * x)).sum(axis=1)
    return CriticalDimension(pooled, float(sums.std(ddof=1) / math.sqrt(n_probes)))


def _place_of_maximum(scaled: Floats, counts: Floats) -> float:
    """The x in (0, 1) that makes Σ m λx/(1 + λx) largest, for λ in units of |λ_min|."""

    def slope(x: float) -> float:
        return float(counts @ (scaled / (1 + scaled * x) ** 2))

    last = 1 - 1e-12
    # What is negative may have so little weight that the sum grows up to the pole.
    return last if slope(last) > 0 else float(scipy.optimize.brentq(slope, 0.0, last, xtol=1e-15))
