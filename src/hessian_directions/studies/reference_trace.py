"""Trace and Frobenius norm of a network's Hessian, independent of the samples they are compared with."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from hessian_directions import seeds, trace
from hessian_directions.directions import gaussian, orthonormalise, rademacher
from hessian_directions.objective import Objective
from hessian_directions.operators import Operator
from hessian_directions.progress import Clock, Progress
from hessian_directions.studies.announcing import Announce, counted


def estimate(
    objective: Objective,
    eigenpairs: xr.Dataset,
    vectors: Tensor,
    settings: Mapping[str, Any],
    seed: int,
    announce: Announce,
) -> xr.Dataset:
    """Trace t and Frobenius norm f, and t_b and f_b of what the eigenpairs leave, with standard errors.

    The trace is exact (N second directional derivatives), or it is that of the eigenpairs found and of the deflated
    rest.
    """
    values = eigenpairs["value"].values
    rest = sketched_rest(
        objective.hessian(),
        vectors,
        settings["n_sketch"],
        settings["n_reference"],
        seed,
        progress=counted(announce, "reference samples"),
    )
    if settings["exact_trace"]:
        total, error = trace.exact(objective).mean, 0.0
    else:
        total, error = values.sum() + rest["trace"], rest["trace_standard_error"]
    frobenius = float(np.hypot(np.linalg.norm(values), rest["frobenius_norm"]))
    scalars = {
        "trace": float(total),
        "trace_standard_error": float(error),
        "frobenius_norm": frobenius,
        "frobenius_standard_error": rest["frobenius_standard_error"]
        * rest["frobenius_norm"]
        / frobenius,
        "rest_trace": float(total - values.sum()),
        "rest_frobenius_norm": rest["frobenius_norm"],
    }
    return xr.Dataset(
        {name: ((), value) for name, value in scalars.items()},
        attrs={
            "reference_kind": "exact" if settings["exact_trace"] else "deflated Rademacher",
            "n_parameters": objective.n_parameters,
        },
    )


def sketched_rest(
    H: Operator,
    vectors: Tensor,
    n_sketch: int,
    n_samples: int,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Trace and Frobenius norm of H deflated by the vectors, with standard errors, by few samples.

    W spans what a random sketch HS adds to the vectors V (as in Hutch++). With P and P' the projections off V and off
    both, tr(PHP) = tr(W'HW) + tr(P'HP') and ‖PHP‖² = 2‖PHW‖² − ‖W'HW‖² + ‖P'HP'‖²: what W sees is computed, the
    last terms are sampled.
    """
    n, k = vectors.shape
    n_sketch = min(n_sketch, n - k)
    V = orthonormalise(vectors.double()).to(H.dtype)
    W = V[:, :0]
    if n_sketch > 0:
        sketch = H @ gaussian(n, n_sketch, seeds.generator(seed, "sketch"), H.dtype, H.device)
        # Householder QR: the basis is orthonormal even where the sketch has not full rank.
        W = torch.linalg.qr(torch.cat([V, sketch], dim=1).double())[0][:, k:].to(H.dtype)
    HW = H @ W if n_sketch > 0 else W
    HW = (HW - V @ (V.T @ HW)).double()
    inner = W.double().T @ HW
    known = 2 * HW.square().sum() - inner.square().sum()
    rest = deflated_rest(
        H, torch.cat([V, W], dim=1), n_samples, seeds.generator(seed, "reference"), progress
    )
    frobenius = float((known + rest["frobenius_norm"] ** 2).sqrt())
    # d√x = dx/(2√x), twice
    shrink = rest["frobenius_norm"] / frobenius if frobenius else 0.0
    return rest | {
        "trace": float(inner.trace()) + rest["trace"],
        "frobenius_norm": frobenius,
        "frobenius_standard_error": rest["frobenius_standard_error"] * shrink,
    }


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
    traces, squares, clock = [], [], Clock(n_samples, progress)
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
