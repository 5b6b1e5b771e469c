"""Spectral densities from quadrature nodes and weights, and what else follows from these.

A probe's quadrature (see `spectrum.spectral_density`) is a set of nodes θ_i with weights w_i ≥ 0,
Σ w_i = 1, that stands for the distribution of the N eigenvalues.

NumPy and SciPy only: figures import this module without importing torch.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from hessian_directions.errors import ArgumentError, require_positive

Floats = NDArray[np.float64]

# Eigenvalues below this many units of rounding of the largest cannot be told from zero, nor can
# their residuals.
NOISE_ROUNDINGS = 50.0


def broaden(nodes: ArrayLike, weights: ArrayLike, grid: ArrayLike, width: float) -> Floats:
    """Density Σ_i w_i g((x − θ_i)/σ)/σ, g the standard normal density, averaged over grid cells.

    A grid point's cell reaches halfway to its neighbours. Because cells are averaged, no mass is
    lost between grid points, however narrow the Gaussians: Σ density · cell width is the weight
    that lies on the grid, 1 where the grid reaches a few σ beyond all nodes.

    Args:
        nodes: (…, m) nodes θ_i; leading axes are probes.
        weights: (…, m) weights, of the same shape.
        grid: (G,) increasing points x, G ≥ 2, in the unit of the nodes.
        width: Standard deviation σ > 0, in the unit of the nodes.

    Returns:
        (…, G) density per unit of x, probe by probe: their mean is the estimate, their spread its
        uncertainty. Memory: (m·G) float64 numbers at a time.

    Raises:
        ArgumentError: The width is not positive, or the grid does not increase.
    """
    nodes, weights = np.broadcast_arrays(np.asarray(nodes, float), np.asarray(weights, float))
    edges = cell_edges(grid)
    require_positive("width", width)
    flat_nodes, flat_weights = (part.reshape(-1, nodes.shape[-1]) for part in (nodes, weights))
    density = np.empty((len(flat_nodes), len(edges) - 1))
    for i, (theta, w) in enumerate(zip(flat_nodes, flat_weights)):
        below = ndtr((edges - theta[:, None]) / width)  # (m, G + 1)
        density[i] = w @ np.diff(below) / np.diff(edges)
    return density.reshape(*nodes.shape[:-1], len(edges) - 1)


def cell_edges(grid: ArrayLike) -> Floats:
    """Edges (G + 1,) of the cells around increasing points (G,): midpoints, and as far outside."""
    points = np.asarray(grid, dtype=np.float64)
    if points.ndim != 1 or len(points) < 2 or not (np.diff(points) > 0).all():
        raise ArgumentError("the grid must consist of two or more increasing points.")
    middle = (points[1:] + points[:-1]) / 2
    return np.concatenate([[2 * points[0] - middle[0]], middle, [2 * points[-1] - middle[-1]]])


@dataclass(frozen=True)
class Moments:
    """Trace and Frobenius norm with their standard errors over the probes."""

    trace: float
    trace_standard_error: float
    frobenius_norm: float
    frobenius_standard_error: float


def moments(nodes: ArrayLike, weights: ArrayLike, n_parameters: int) -> Moments:
    """t = tr H and f = ‖H‖_F from the first two moments of each probe's quadrature.

    N·Σ wθ = N·v'Hv and N·Σ wθ² = N·‖Hv‖² are unbiased for t and f² (v a random unit vector), and
    a quadrature with two or more nodes has both moments exactly: they cost no further product.

    Args:
        nodes, weights: (P, m) from P ≥ 2 probes and m ≥ 2 steps (or m = N = 1).
        n_parameters: N.

    Raises:
        ArgumentError: Fewer than two probes, which have no standard error, or than two steps,
            which do not have the second moment.
    """
    nodes, weights = np.asarray(nodes, float), np.asarray(weights, float)
    n_probes = len(nodes)
    if nodes.shape[-1] < 2 and n_parameters > 1:
        raise ArgumentError("the Frobenius norm needs at least two Lanczos steps, n_steps ≥ 2.")
    if n_probes < 2:
        raise ArgumentError("a standard error needs at least two probes.")
    traces = n_parameters * (weights * nodes).sum(axis=1)
    norms = norm_samples(n_parameters * (weights * nodes**2).sum(axis=1))
    return Moments(
        trace=float(traces.mean()),
        trace_standard_error=float(traces.std(ddof=1) / math.sqrt(n_probes)),
        frobenius_norm=float(norms.mean()),
        frobenius_standard_error=float(norms.std(ddof=1) / math.sqrt(n_probes)),
    )


def norm_samples(squares: ArrayLike) -> Floats:
    """Samples s of f² turned into samples of f = √(mean s), linearised: f + (s − mean s)/(2f).

    Their mean is f, and their standard error that of f to first order (delta method). The root of
    an unbiased mean is too small by about its squared standard error over 2f: a part of the
    standard error that vanishes as samples grow.

    Args:
        squares: (S,) samples ≥ 0.
    """
    squares = np.asarray(squares, dtype=np.float64)
    mean = squares.mean()
    norm = math.sqrt(mean)
    return norm + (squares - mean) / (2 * norm) if norm > 0 else np.zeros_like(squares)
