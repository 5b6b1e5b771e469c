"""Directly sampled projected Hessians of a network, and how visible its saddle is in random slices."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from hessian_directions import seeds, trace, visibility
from hessian_directions.directions import orthonormalise, rademacher
from hessian_directions.objective import Objective
from hessian_directions.principal_curvatures import critical_dimension
from hessian_directions.studies.announcing import Announce, counted


def study(
    objective: Objective,
    eigenpairs: xr.Dataset,
    vectors: Tensor,
    settings: Mapping[str, Any],
    seed: int,
    announce: Announce,
) -> xr.Dataset:
    """Samples of M = [η δ]'H[η δ], and the visibility of the saddle in three ways.

    The reference trace is exact (N second directional derivatives) or deflated by the eigenvectors found, with
    directions independent of the samples. The spectrum that visibility is drawn from is that of the converged
    eigenpairs, each once, and the deflated rest by its trace t_b and Frobenius norm f_b.
    """
    H = objective.hessian()
    matrices = visibility.sample_projections(
        H,
        settings["n_samples"],
        seeds.generator(seed, "planes"),
        progress=counted(announce, "planes"),
    )
    rest = deflated_rest(H, vectors, settings["n_reference"], seeds.generator(seed, "reference"))
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
        "r": float(reference) / frobenius,
        "visibility_formula": formula.probability,
        "third_moment": formula.third_moment,
        "tail": formula.tail,
        "critical_dimension": critical_dimension(
            *_discrete_spectrum(values, reference, rest["frobenius_norm"], H.shape[0])
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


def deflated_rest(
    H: Any, vectors: Tensor, n_samples: int, generator: torch.Generator, chunk: int = 16
) -> dict[str, float]:
    """Trace and Frobenius norm of PHP, P the projection off the vectors, with standard errors.

    One product serves both: v'PHPv has the mean tr(PHP), ‖PHPv‖² the mean ‖PHP‖_F², for Rademacher v.
    """
    Q = orthonormalise(vectors.double()).to(H.dtype)
    traces, squares = [], []
    for start in range(0, n_samples, chunk):
        k = min(chunk, n_samples - start)
        V = rademacher(H.shape[0], k, generator, H.dtype, H.device)
        V = V - Q @ (Q.T @ V)
        HV = H @ V
        HV = HV - Q @ (Q.T @ HV)
        traces.append((V.double() * HV.double()).sum(0))
        squares.append(HV.double().square().sum(0))
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
