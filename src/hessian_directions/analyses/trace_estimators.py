"""The trace by every estimator on the same network and, where it can be, the same directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Odd, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("trace", "eigenvectors")


class Settings(typed.Settings):
    n_samples: Several = setting(
        100, "directions, shared by the four estimators on Gaussian directions"
    )
    n_paired: Several = setting(
        100, "directions of loss differences and exact derivatives, whose bias is tested on them"
    )
    fit_points: Odd = setting(5, "points of the quadratic fit along a direction")


def passes(settings: Settings) -> dict[str, int]:
    differences = 2 * settings.n_paired + (settings.fit_points - 1) * settings.n_samples
    return {
        "value": differences,
        "derivative": settings.n_paired,
        "product": 4 * settings.n_samples,
    }


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Every estimator beside the trace that does not depend on their samples."""
    from hessian_directions import seeds
    from hessian_directions.analyses.estimates import compare

    objective = problem.objective("train")
    objective.self_test()
    dataset, job.record["seconds"] = compare(
        objective,
        problem.vectors(job.read["eigenvectors"]["vectors"]),
        settings,
        seeds.derive(job.seed, "traces"),
        job,
    )
    reference = job.read["trace"]
    return dataset.assign(
        reference=reference["trace"],
        reference_standard_error=reference["trace_standard_error"],
    ).assign_attrs(
        reference_kind=reference.attrs["reference_kind"],
        activation="relu" if objective.kinks() else "smooth",
    )
