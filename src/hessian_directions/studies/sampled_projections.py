"""Directly sampled projected Hessians of a network, and how visible its saddle is in random slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from hessian_directions import seeds, trace, visibility
from hessian_directions.directions import gaussian, orthonormalise, rademacher
from hessian_directions.objective import Objective
from hessian_directions.operators import Operator
from hessian_directions.principal_curvatures import critical_dimension
from hessian_directions.progress import Clock, Progress
from hessian_directions.studies.announcing import Announce, counted


def sample(
    objective: Objective, settings: Mapping[str, Any], seed: int, announce: Announce
) -> xr.Dataset:
    """Some samples of M = [η δ]'H[η δ]: a file of them; others have other seeds."""
    matrices = visibility.sample_projections(
        objective.hessian(),
        settings["n_samples"],
        seeds.generator(seed, "planes"),
        progress=counted(announce, "planes"),
    )
    return xr.Dataset({"projected_hessian": (("sample", "row", "column"), matrices)})


def study(
    objective: Objective,
    samples: Sequence[xr.Dataset],
    eigenpairs: xr.Dataset,
    vectors: Tensor,
    settings: Mapping[str, Any],
    seed: int,
    announce: Announce,
) -> xr.Dataset:
    """All samples of M, a reference trace, and the visibility of the saddle in three ways.

    The reference trace is exact (N second directional derivatives), or it is that of the eigenpairs found and of the
    deflated rest, whose directions are independent of the samples'. The spectrum that visibility is drawn from is
    that of the eigenpairs, each once, and the rest by its trace t_b and Frobenius norm f_b.
    """
    matrices = np.concatenate([part["projected_hessian"].values for part in samples])
    rest = sketched_rest(
        objective.hessian(),
        vectors,
        settings["n_sketch"],
        settings["n_reference"],
        seed,
        progress=counted(announce, "reference samples"),
    )
    values = eigenpairs["value"].values
    if settings["exact_trace"]:
        reference, reference_error = trace.exact(objective).mean, 0.0
    else:
        reference, reference_error = values.sum() + rest["trace"], rest["trace_standard_error"]
    frobenius = float(np.hypot(np.linalg.norm(values), rest["frobenius_norm"]))
    from_spectrum = visibility.sample_from_spectrum(
        values,
        reference - values.sum(),
        rest["frobenius_norm"],
        settings["n_spectrum_samples"],
        seeds.generator(seed, "spectrum"),
    )
    formula = visibility.formula(values, reference - values.sum(), rest["frobenius_norm"])
    scalars: dict[str, float] = {
        "trace": float(reference),
        "trace_standard_error": float(reference_error),
        "frobenius_norm": frobenius,
        "frobenius_standard_error": rest["frobenius_standard_error"]
        * rest["frobenius_norm"]
        / frobenius,
        "rest_frobenius_norm": rest["frobenius_norm"],
        "r": float(reference) / frobenius,
        "visibility_formula": formula.probability,
        "third_moment": formula.third_moment,
        "tail": formula.tail,
        "critical_dimension": critical_dimension(
            *_discrete_spectrum(values, reference, rest["frobenius_norm"], objective.n_parameters)
        ),
    }
    for name, sampled in (("direct", matrices), ("spectrum", from_spectrum)):
        share = visibility.share_of_saddles(sampled)
        scalars[f"visibility_{name}"] = share.probability
        scalars[f"visibility_{name}_low"] = share.low
        scalars[f"visibility_{name}_high"] = share.high
    return xr.Dataset(
        {"projected_hessian": (("sample", "row", "column"), matrices)}
        | {name: ((), value) for name, value in scalars.items()},
        attrs={"reference_kind": "exact" if settings["exact_trace"] else "deflated Rademacher"},
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


def _discrete_spectrum(
    values: np.ndarray, trace: float, rest_frobenius: float, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The found eigenvalues, and two values that share the rest's count, trace and Frobenius norm."""
    count = n - len(values)
    if count <= 0:
        return values, np.ones(len(values))
    mean = (trace - values.sum()) / count
    spread = np.sqrt(max(rest_frobenius**2 / count - mean**2, 0.0))
    eigenvalues = np.concatenate([values, [mean - spread, mean + spread]])
    return eigenvalues, np.concatenate([np.ones(len(values)), [count / 2, count / 2]])
