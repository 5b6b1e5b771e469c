"""Trace and Frobenius norm of a network's Hessian, independent of the samples compared with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from pydantic import model_validator

from hessian_directions import settings as typed
from hessian_directions.settings import Count, Flag, Natural, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("eigenpairs", "eigenvectors")
GATHER_READS = ("eigenpairs",)

# Samples that share passes: of one shard.
CHUNK = 16


class Settings(typed.Settings):
    n_sketch: Natural = setting(
        16,
        "vectors of a random sketch, three products each; their Ritz values stand beside the "
        "eigenpairs in the spectrum that visibility is drawn from, and deflate the trace",
    )
    n_samples: Several = setting(48, "Rademacher samples of the deflated trace, a product each")
    exact: Flag = setting(False, "whether N second directional derivatives give the trace")
    n_shards: Count | None = setting(
        None,
        f"shards that groups of {CHUNK} samples are shared out over; each makes the sketch anew, "
        "and the first an exact trace; null: one job",
    )

    @model_validator(mode="after")
    def _fit(self) -> Settings:
        typed.require_shards(self.n_shards, self.n_samples, CHUNK)
        return self


def passes(settings: Settings) -> dict[str, float]:
    """Of the first shard, which has most samples and an exact trace."""
    samples = typed.largest_shard(settings.n_shards, settings.n_samples, CHUNK)
    return {"products": 3 * settings.n_sketch + samples, "diagonal": int(settings.exact)}


def vectors(settings: Settings) -> float:
    """The sketch and its QR decomposition, which is in float64."""
    return 6 * settings.n_sketch


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """A shard of the samples, with the sketch; all that they imply where there are no shards."""
    import torch

    from hessian_directions import seeds
    from hessian_directions.geometry.directions import orthonormalise
    from hessian_directions.traces import estimators
    from hessian_directions.traces.deflation import deflated_samples, sketch_beside

    objective = problem.objective("train")
    seed = seeds.derive(job.seed, "projections")
    H = objective.hessian()
    vectors = problem.vectors(job.read["eigenvectors"]["vectors"])
    V = orthonormalise(vectors.double()).to(H.dtype)
    generator, progress = seeds.generator(seed, "sketch"), job.counted("products of the sketch")
    sketch = sketch_beside(H, V, settings.n_sketch, generator, progress)
    known, generator = torch.cat([V, sketch.basis], dim=1), seeds.generator(seed, "reference")
    shares = CHUNK, job.shard, settings.n_shards or 1
    numbers, traces, squares = deflated_samples(
        H, known, settings.n_samples, generator, job.counted("samples"), *shares
    )
    shard = xr.Dataset(
        {
            "ritz_value": ("ritz", sketch.values),
            "ritz_residual": ("ritz", sketch.residuals),
            "trace_sample": ("sample", traces.cpu().numpy()),
            "square_sample": ("sample", squares.cpu().numpy()),
        },
        coords={"sample": numbers.numpy()},
    )
    if settings.exact and job.shard == 0:
        shard["exact_trace"] = estimators.exact(objective).mean
    return shard if settings.n_shards else gather([shard], settings, job)


def gather(shards: Sequence[xr.Dataset], settings: Settings, job: Job) -> xr.Dataset:
    """Trace t and Frobenius norm f with standard errors; what makes the eigenpairs a spectrum.

    That is the Ritz values of a sketch of what they leave, and the trace and norm of what both
    leave. The trace is the sum of all these, or exact (N second directional derivatives).
    """
    import torch

    from hessian_directions.traces.deflation import moments_of_samples

    sketch = shards[0]
    names = ["trace_sample", "square_sample"]
    samples = xr.concat([shard[names] for shard in shards], "sample").sortby("sample")
    rest = moments_of_samples(*(torch.from_numpy(samples[name].values) for name in names))
    known = np.concatenate([job.read["eigenpairs"]["value"], sketch["ritz_value"]])
    if settings.exact:
        total, error = float(sketch["exact_trace"]), 0.0
    else:
        total, error = known.sum() + rest.trace, rest.trace_standard_error
    # Residuals are what joins the sketch to the rest, above the diagonal and below.
    rest_frobenius = np.hypot(
        math.sqrt(2) * np.linalg.norm(sketch["ritz_residual"]), rest.frobenius_norm
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
        scalars | {name: ("ritz", sketch[name].values) for name in ("ritz_value", "ritz_residual")},
        attrs={"reference_kind": "exact" if settings.exact else "deflated Rademacher"},
    )
