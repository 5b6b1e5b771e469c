"""Trace and Frobenius norm of a network's Hessian, independent of the samples they are compared with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from hessian_directions import seeds
from hessian_directions.analyses.announcing import Announce, counted
from hessian_directions.geometry.directions import gaussian, orthonormalise, rademacher
from hessian_directions.objectives.objective import Objective
from hessian_directions.operators import Operator
from hessian_directions.progress import Clock, Progress
from hessian_directions.traces import estimators

# Products that turn random vectors into the sketch. On the spectrum of the test, ten outliers beside a bulk with a
# fifth of their norm, the worst of ten Ritz values is about 40 % short after one and 0.2 % after two (medians of 30
# sketches); spectra without a gap do worse.
SKETCH_ROUNDS = 2


def estimate(
    objective: Objective,
    eigenpairs: xr.Dataset,
    vectors: Tensor,
    settings: Mapping[str, Any],
    seed: int,
    announce: Announce,
) -> xr.Dataset:
    """Trace t and Frobenius norm f with standard errors, and what completes the eigenpairs to a spectrum in short.

    That is the Ritz values of a sketch of what they leave, and t_b and f_b of what both leave. The trace is exact (N
    second directional derivatives), or the sum of all these.
    """
    H = objective.hessian()
    V = orthonormalise(vectors.double()).to(H.dtype)
    sketch = sketch_beside(
        H,
        V,
        settings["n_sketch"],
        seeds.generator(seed, "sketch"),
        counted(announce, "products of the sketch"),
    )
    rest = deflated_rest(
        H,
        torch.cat([V, sketch.basis], dim=1),
        settings["n_reference"],
        seeds.generator(seed, "reference"),
        counted(announce, "reference samples"),
    )
    known = np.concatenate([eigenpairs["value"].values, sketch.values])
    if settings["exact_trace"]:
        total, error = estimators.exact(objective).mean, 0.0
    else:
        total, error = known.sum() + rest["trace"], rest["trace_standard_error"]
    # Residuals are what joins the sketch to the rest, above the diagonal and below.
    rest_frobenius = np.hypot(
        math.sqrt(2) * np.linalg.norm(sketch.residuals), rest["frobenius_norm"]
    )
    frobenius = np.hypot(np.linalg.norm(known), rest_frobenius)
    scalars = {
        "trace": float(total),
        "trace_standard_error": float(error),
        "frobenius_norm": float(frobenius),
        # d√(a² + b²) = b·db/√(a² + b²): only the rest is sampled
        "frobenius_standard_error": rest["frobenius_standard_error"]
        * (rest["frobenius_norm"] / float(frobenius) if frobenius else 0.0),
        "rest_trace": float(total - known.sum()),
        "rest_frobenius_norm": float(rest_frobenius),
    }
    return xr.Dataset(
        {name: ((), value) for name, value in scalars.items()}
        | {"ritz_value": ("ritz", sketch.values), "ritz_residual": ("ritz", sketch.residuals)},
        attrs={"reference_kind": "exact" if settings["exact_trace"] else "deflated Rademacher"},
    )


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


def sketch_beside(
    H: Operator,
    V: Tensor,
    n_sketch: int,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> Sketch:
    """Ritz pairs of what the orthonormal columns V (N, k) leave of H, by randomised subspace iteration.

    Finds the largest of both signs without promising any: the residuals say how good they are. (Halko, Martinsson and
    Tropp 2011, "Finding structure with randomness".) At most N − k of them; (SKETCH_ROUNDS + 1)·n_sketch products.

    Whatever the sketch, with P and P' the projections off V and off both, tr(PHP) = Σθ + tr(P'HP') and
    ‖PHP‖_F² = Σθ² + 2Σ‖PHy − θy‖² + ‖P'HP'‖_F².
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
    HW = (HW - V @ (V.T @ HW)).double()
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
) -> dict[str, float]:
    """Trace and Frobenius norm of PHP, P the projection off the vectors, with standard errors.

    One product serves both: v'PHPv has the mean tr(PHP), ‖PHPv‖² the mean ‖PHP‖_F², for Rademacher v.
    """
    Q = orthonormalise(vectors.double()).to(H.dtype)
    traces, squares, clock = [], [], Clock(n_samples, "samples", progress)
    for start in range(0, n_samples, chunk):
        k = min(chunk, n_samples - start)
        V = rademacher(H.shape[0], k, generator, H.dtype, H.device)
        V = V - Q @ (Q.T @ V)
        HV = H @ V
        HV = HV - Q @ (Q.T @ HV)
        traces.append((V.double() * HV.double()).sum(0))
        squares.append(HV.double().square().sum(0))
        clock(start + k)
    trace_samples, square_samples = torch.cat(traces), torch.cat(squares)
    norm = float(square_samples.mean().sqrt())
    error = float(square_samples.std() / n_samples**0.5)
    return {
        "trace": float(trace_samples.mean()),
        "trace_standard_error": float(trace_samples.std() / n_samples**0.5),
        "frobenius_norm": norm,
        # d√x = dx/(2√x)
        "frobenius_standard_error": error / (2 * norm) if norm else 0.0,
    }
