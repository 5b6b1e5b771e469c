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

# Directions held at once: they share passes.
CHUNK = 16


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
        V: (N, k) orthonormal columns.
        n_sketch: Pairs, at most N − k; each costs SKETCH_ROUNDS + 1 products.
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
    H: Operator, vectors: Tensor, n_samples: int, generator: torch.Generator
) -> Moments:
    """Trace and Frobenius norm of PHP, P the projection off the vectors, with standard errors.

    Arguments as for `deflated_samples`.
    """
    return moments_of_samples(*deflated_samples(H, vectors, n_samples, generator)[1:])


def deflated_samples(
    H: Operator,
    vectors: Tensor,
    n_samples: int,
    generator: torch.Generator,
    progress: Progress | None = None,
    chunk: int = CHUNK,
    shard: int = 0,
    n_shards: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of tr(PHP) and of ‖PHP‖_F², P the projection off the vectors; or a share of them.

    One product serves both: for Rademacher v, v'PHPv has the mean tr(PHP), ‖PHPv‖² ‖PHP‖_F².

    Args:
        vectors: (N, k) linearly independent columns.
        n_samples: Products.
        shard: Of the chunks those numbered shard, shard + n_shards, …; samples have the same bits
            whatever share they are in.

    Returns:
        Numbers of the samples, v'PHPv and ‖PHPv‖²: (S,) each, the latter two in float64.
    """
    Q = orthonormalise(vectors.double()).to(H.dtype)
    numbers, traces, squares = [], [], []
    clock = Clock(n_samples, "samples", progress)
    for i, start in enumerate(range(0, n_samples, chunk)):
        k = min(chunk, n_samples - start)
        V = rademacher(H.shape[0], k, generator, H.dtype, H.device)
        if i % n_shards != shard:
            continue  # drawn, so that the next have the same bits
        V = off(Q, V)
        HV = off(Q, H @ V)
        numbers.append(torch.arange(start, start + k, device="cpu"))
        traces.append((V.double() * HV.double()).sum(0))
        squares.append(HV.double().square().sum(0))
        clock(start + k)
    return torch.cat(numbers), torch.cat(traces), torch.cat(squares)


def moments_of_samples(traces: Tensor, squares: Tensor) -> Moments:
    """Trace and norm with standard errors, of all samples of `deflated_samples` in their order."""
    n_samples = len(traces)
    norm = float(squares.mean().sqrt())
    error = float(squares.std() / n_samples**0.5)
    return Moments(
        trace=float(traces.mean()),
        trace_standard_error=float(traces.std() / n_samples**0.5),
        frobenius_norm=norm,
        # d√x = dx/(2√x)
        frobenius_standard_error=error / (2 * norm) if norm else 0.0,
    )


@dataclass(frozen=True)
class PairedMoments:
    """Samples of the traces and squared norms of A, B and A − B along the same directions.

    Attributes:
        traces: (3, S) float64, each an unbiased estimate of tr A, tr B, tr(A − B).
        squares: (3, S) float64, likewise of ‖A‖_F², ‖B‖_F², ‖A − B‖_F².
    """

    traces: np.ndarray
    squares: np.ndarray


def paired_moments(
    A: Operator,
    B: Operator,
    vectors: Tensor,
    n_samples: int,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> PairedMoments:
    """Traces and squared norms of A, B and A − B, so that differences are precise.

    With Q an orthonormal basis of the span of some vectors and P = I − QQ', tr A = tr Q'AQ + tr PAP
    and ‖A‖_F² = ‖AQ‖_F² + ‖AP‖_F², exactly, whatever the vectors; the second terms are sampled
    along Pv, v Rademacher.

    Args:
        A: Symmetric operator.
        B: Another one.
        vectors: (N, k) columns; with dominant eigenvectors of both the samples scatter little. What
            depends on others to 1e-6 is left out: those of A may be those of B.
        n_samples: Directions; each costs a product with A and one with B, as each vector does.
    """
    U, sizes, _ = torch.linalg.svd(vectors.double(), full_matrices=False)
    Q = U[:, sizes > 1e-6 * sizes[:1]].to(A.dtype)
    exact_traces, exact_squares = (part.sum(1, keepdim=True) for part in _moments(A, B, Q))
    traces, squares, clock = [], [], Clock(n_samples, "samples", progress)
    for start in range(0, n_samples, CHUNK):
        k = min(CHUNK, n_samples - start)
        V = off(Q, rademacher(A.shape[0], k, generator, A.dtype, A.device))
        of_trace, of_square = _moments(A, B, V)
        traces.append(exact_traces + of_trace)
        squares.append(exact_squares + of_square)
        clock(start + k)
    return PairedMoments(torch.cat(traces, 1).cpu().numpy(), torch.cat(squares, 1).cpu().numpy())


def _moments(A: Operator, B: Operator, V: Tensor) -> tuple[Tensor, Tensor]:
    """v'Mv and ‖Mv‖² of A, B and A − B for every column, (3, K) each."""
    AV, BV, V = (A @ V).double(), (B @ V).double(), V.double()
    products = torch.stack([AV, BV, AV - BV])
    return (products * V).sum(1), products.square().sum(1)
