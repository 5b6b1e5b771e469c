"""Trace and Frobenius norm of a network's Hessian, independent of the samples compared with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Flag, Natural, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("eigenpairs", "eigenvectors")


class Settings(typed.Settings):
    n_sketch: Natural = setting(
        16,
        "vectors of a random sketch, three products each; their Ritz values stand beside the "
        "eigenpairs in the spectrum that visibility is drawn from, and deflate the trace",
    )
    n_samples: Several = setting(48, "Rademacher samples of the deflated trace, a product each")
    exact: Flag = setting(False, "whether N second directional derivatives give the trace")


def passes(settings: Settings) -> dict[str, int]:
    return {"product": 3 * settings.n_sketch + settings.n_samples}


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Trace t and Frobenius norm f with standard errors; what makes the eigenpairs a spectrum.

    That is the Ritz values of a sketch of what they leave, and the trace and norm of what both
    leave. The trace is the sum of all these, or exact (N second directional derivatives).
    """
    import torch

    from hessian_directions import seeds
    from hessian_directions.geometry.directions import orthonormalise
    from hessian_directions.traces import estimators
    from hessian_directions.traces.deflation import deflated_rest, sketch_beside

    objective = problem.objective("train")
    objective.self_test()
    seed = seeds.derive(job.seed, "projections")
    H = objective.hessian()
    vectors = problem.vectors(job.read["eigenvectors"]["vectors"])
    V = orthonormalise(vectors.double()).to(H.dtype)
    sketch = sketch_beside(
        H,
        V,
        settings.n_sketch,
        seeds.generator(seed, "sketch"),
        job.counted("products of the sketch"),
    )
    rest = deflated_rest(
        H,
        torch.cat([V, sketch.basis], dim=1),
        settings.n_samples,
        seeds.generator(seed, "reference"),
        job.counted("samples"),
    )
    known = np.concatenate([job.read["eigenpairs"]["value"].values, sketch.values])
    if settings.exact:
        total, error = estimators.exact(objective).mean, 0.0
    else:
        total, error = known.sum() + rest.trace, rest.trace_standard_error
    # Residuals are what joins the sketch to the rest, above the diagonal and below.
    rest_frobenius = np.hypot(
        math.sqrt(2) * np.linalg.norm(sketch.residuals), rest.frobenius_norm
    )
    frobenius = np.hypot(np.linalg.norm(known), rest_frobenius)
    scalars = {
        "trace": float(total),
        "trace_standard_error": float(error),
        "frobenius_norm": float(frobenius),
        # d√(a² + b²) = b·db/√(a² + b²): only the rest is sampled
        "frobenius_standard_error": rest.frobenius_standard_error
        * (rest.frobenius_norm / float(frobenius) if frobenius else 0.0),
        "rest_trace": float(total - known.sum()),
        "rest_frobenius_norm": float(rest_frobenius),
    }
    return xr.Dataset(
        {name: ((), value) for name, value in scalars.items()}
        | {"ritz_value": ("ritz", sketch.values), "ritz_residual": ("ritz", sketch.residuals)},
        attrs={"reference_kind": "exact" if settings.exact else "deflated Rademacher"},
    )
