"""Spectral density of the Hessian by stochastic Lanczos quadrature.

Broadening a quadrature into a curve needs no torch and lies in `density`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hessian_directions.arrays import Floats
from hessian_directions.errors import require_count
from hessian_directions.operators import (
    HasHessian,
    Operator,
    as_operator,
    in_own_precision,
    require_symmetric_projections,
)
from hessian_directions.progress import Clock, Progress
from hessian_directions.random_vectors import Distribution, draw, unit
from hessian_directions.seeds import as_generator, recorded
from hessian_directions.spectral import density
from hessian_directions.spectral.lanczos import Lanczos

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class SpectralDensity:
    """The distribution of the N eigenvalues, as one quadrature for each of P probes.

    Attributes:
        nodes: (P, m), ascending; none is negative (or positive) by rounding alone.
        weights: (P, m), ≥ 0; those of a probe sum to 1.
        seed: Of the probes, where it was an integer.
    """

    nodes: Floats
    weights: Floats
    n_parameters: int
    seed: int | None = None

    def moments(self) -> density.Moments:
        """Trace and Frobenius norm with standard errors, see `density.moments`."""
        return density.moments(self.nodes, self.weights, self.n_parameters)

    def dataset(self) -> xr.Dataset:
        """The quadratures and their moments, as reports and artifacts hold them."""
        import xarray as xr

        return xr.Dataset(
            {
                "nodes": (("probe", "node"), self.nodes),
                "weights": (("probe", "node"), self.weights),
                "n_parameters": self.n_parameters,
            }
            | asdict(self.moments())
        )


@in_own_precision
def spectral_density(
    H: Operator | HasHessian,
    n_probes: int = 8,
    n_steps: int = 60,
    seed: int | torch.Generator = 0,
    distribution: Distribution = "gaussian",
    probes_at_once: int = 4,
    progress: Progress | None = None,
) -> SpectralDensity:
    """Quadrature nodes and weights that stand for the distribution of H's eigenvalues.

    A random unit vector v = Σ c_i u_i has the spectral measure Σ c_i² δ(λ − λ_i), whose mean over v
    is the eigenvalue distribution. m Lanczos steps from v give the Gauss rule of that measure: it
    has v'H^k v for k ≤ 2m − 1 exactly (Golub and Welsch 1969; Lin, Saad and Yang 2016). Because the
    basis is fully reorthogonalised an isolated eigenvalue has one node, not several ghosts of it.
    One probe's weight at an isolated eigenvalue varies like a squared normal variable around 1/N:
    take the spread over the probes with the mean.

    Args:
        H: Symmetric (N, N) operator in float32 or float64, or an objective.
        n_probes: Number of random start vectors P. The default shows a spread.
        n_steps: Lanczos steps m of each, at most N; one product each. The default resolves some
            twenty outliers of both signs beside the bulk.
        distribution: Of the start vectors' entries, before scaling to unit length.
        probes_at_once: Probes advanced together: their products share forward and backward passes.
        progress: Called with the products so far after every step.

    Returns:
        SpectralDensity, float64. A probe whose Krylov space is exhausted before m steps has an
        exact rule already; it is filled up with its last node at weight 0.
        Memory: probes_at_once·(m + 16)·N·itemsize bytes, beside what the products need.

    Raises:
        ArgumentError: A number is less than 1.
        DifferentiationError: H is not symmetric.
        NonFiniteError: A product is not finite.
    """
    for name, number in (("n_probes", n_probes), ("n_steps", n_steps)):
        require_count(name, number)
    require_count("probes_at_once", probes_at_once)
    H, generator = as_operator(H), as_generator(seed, "spectrum probes")
    n = H.shape[0]
    n_steps = min(n_steps, n)
    clock = Clock(n_probes * n_steps, "products", progress)
    nodes, weights = np.empty((n_probes, n_steps)), np.zeros((n_probes, n_steps))
    for first in range(0, n_probes, probes_at_once):
        k = min(probes_at_once, n_probes - first)
        starts = unit(draw(distribution, n, k, generator, H.dtype, H.device))
        processes = [Lanczos(start) for start in starts.T]
        for step in range(n_steps):
            active = [process for process in processes if not process.invariant]
            if active:
                products = H @ torch.stack([process.current for process in active], dim=1)
                for process, product in zip(active, products.T):
                    process.advance(product)
            clock(first * n_steps + (step + 1) * k)
        for probe, process in enumerate(processes, start=first):
            theta, w = process.quadrature()
            norm = float(np.abs(theta).max())
            require_symmetric_projections(process.asymmetry, norm, H.dtype)
            nodes[probe] = theta[-1]
            nodes[probe, : len(theta)], weights[probe, : len(w)] = theta, w
    # A spectrum of one sign, but for rounding, is of one sign.
    floor = density.NOISE_ROUNDINGS * torch.finfo(H.dtype).eps * np.abs(nodes).max()
    if nodes.min() >= -floor:
        nodes = np.maximum(nodes, 0.0)
    elif nodes.max() <= floor:
        nodes = np.minimum(nodes, 0.0)
    return SpectralDensity(nodes, weights, n, recorded(seed))
