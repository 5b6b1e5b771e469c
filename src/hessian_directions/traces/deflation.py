"""Trace and norm of a Hessian with known directions taken out: deflation by vectors and a sketch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hessian_directions.geometry.directions import gaussian, orthonormalise, rademacher
from hessian_directions.operators import Operator
from hessian_directions.progress import Clock, Progress
from hessian_directions.spectral.density import Moments

# Products that turn random vectors into the sketch. On the spectrum of the test, ten outliers beside
# a bulk with a fifth of their norm, the worst of ten Ritz values is about 40 % short after one and
# 0.2 % after two (medians of 30 sketches); spectra without a gap do worse.
SKETCH_ROUNDS = 2


@dataclass(frozen=True)
class Sketch:
    """Ritz pairs of PHP, P the projection off vectors V already known, in the space of a sketch.

    Attributes:
        values: (s,) Ritz values θ, ascending.
        residuals: (s,) norms ‖PHy − θy‖ of their vectors y, from products made for this purpose.
        basis: (N, s) orthonormal basis W of the space, orthogonal to V.
    """

    values: np.ndarray
    residuals: np.ndarray
    basis: Tensor


def off(Q: Tensor, V: Tensor) -> Tensor:
    """(I − QQ')V, what orthonormal columns Q (N, k) leave of V (N, K)."""
    return V - Q @ (Q.T @ V)


def sketch_beside(
    H: Operator,
    V: Tensor,
    n_sketch: int,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> Sketch:
    """Ritz pairs of what V leaves of H, by randomised subspace iteration.

    Finds the largest of both signs without promising any: the residuals say how good they are
    (Halko, Martinsson and Tropp 2011, "Finding structure with randomness"). Whatever the sketch,
    with P and P' the projections off V and off both, tr(PHP) = Σθ + tr(P'HP') and
    ‖PHP‖_F² = Σθ² + 2Σ‖PHy − θy‖² + ‖P'HP'‖_F².

    Args:
        H: Symmetric operator.
        V: (N, k) orthonormal columns.
        n_sketch: Pairs, at most N − k; each costs SKETCH_ROUNDS + 1 products.
        generator: CPU generator.
        progress: Called with the products so far.
    """
    n, k = V.shape
    n_sketch = min(n_sketch, n - k)
    if n_sketch == 0:
        return Sketch(np.empty(0), np.empty(0), V[:, :0])
    W = gaussian(n, n_sketch, generator, H.dtype, H.device)
    clock = Clock((SKETCH_ROUNDS + 1) * n_sketch, "products", progress)
    for i in range(SKETCH_ROUNDS):
        # Householder QR: the basis is orthonormal even where the sketch has not full rank.
        W = torch.linalg.qr(torch.cat([V, H @ W], dim=1).double())[0][:, k:].to(H.dtype)
        clock((i + 1) * n_sketch)
    HW = H @ W
    clock((SKETCH_ROUNDS + 1) * n_sketch)
    HW = off(V, HW).double()
    values, Y = torch.linalg.eigh(W.double().T @ HW)
    residuals = (HW @ Y - (W.double() @ Y) * values).norm(dim=0)
    return Sketch(values.cpu().numpy(), residuals.cpu().numpy(), W)


def deflated_rest(
    H: Operator,
    vectors: Tensor,
    n_samples: int,
    generator: torch.Generator,
    progress: Progress | None = None,
    chunk: int = 16,
) -> Moments:
    """Trace and Frobenius norm of PHP, P the projection off the vectors, with standard errors.

    One product serves both: for Rademacher v, v'PHPv has the mean tr(PHP), ‖PHPv‖² ‖PHP‖_F².

    Args:
        H: Symmetric operator.
        vectors: (N, k) linearly independent columns.
        n_samples: Products.
        generator: CPU generator.
        progress: Called with the samples so far.
        chunk: Directions held at once.
    """
    Q = orthonormalise(vectors.double()).to(H.dtype)
    traces, squares, clock = [], [], Clock(n_samples, "samples", progress)
    for start in range(0, n_samples, chunk):
        k = min(chunk, n_samples - start)
        V = rademacher(H.shape[0], k, generator, H.dtype, H.device)
        V = off(Q, V)
        HV = off(Q, H @ V)
        traces.append((V.double() * HV.double()).sum(0))
        squares.append(HV.double().square().sum(0))
        clock(start + k)
    trace_samples, square_samples = torch.cat(traces), torch.cat(squares)
    norm = float(square_samples.mean().sqrt())
    error = float(square_samples.std() / n_samples**0.5)
    return Moments(
        trace=float(trace_samples.mean()),
        trace_standard_error=float(trace_samples.std() / n_samples**0.5),
        frobenius_norm=norm,
        # d√x = dx/(2√x)
        frobenius_standard_error=error / (2 * norm) if norm else 0.0,
    )
