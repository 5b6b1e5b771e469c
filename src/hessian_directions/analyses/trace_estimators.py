"""The trace by every estimator on the same network and, where it can be, the same directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Count, Odd, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("trace", "eigenvectors")

# Samples of the reference where the images are others than those of the analysis `trace`.
N_REFERENCE = 100


class Settings(typed.Settings):
    n_samples: Several = setting(
        100, "directions, shared by the four estimators on Gaussian directions"
    )
    n_paired: Several = setting(
        100, "directions of loss differences and exact derivatives, whose bias is tested on them"
    )
    fit_points: Odd = setting(5, "points of the quadratic fit along a direction")
    n_images: Count | None = setting(
        None,
        "balanced choice of the training images, with a reference of its own; null: those of the "
        "network's curvature, whose trace is known",
    )


def passes(settings: Settings) -> dict[str, float]:
    fits = (settings.fit_points - 1) * settings.n_samples
    return {
        "precise_values": 4 * settings.n_paired + fits,
        # On networks with kinks a derivative of the activations corrects a difference.
        "precise_derivatives": settings.n_paired,
        "derivatives": settings.n_paired,
        "products": 4 * settings.n_samples + (N_REFERENCE if settings.n_images else 0),
    }


def vectors(settings: Settings) -> float:
    return settings.n_paired + 2 * settings.n_samples


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Every estimator beside the trace that does not depend on their samples."""
    from hessian_directions import seeds
    from hessian_directions.analyses.estimates import compare
    from hessian_directions.traces import estimators

    objective = problem.over(settings.n_images).objective("train")
    objective.self_test()
    vectors = problem.vectors(job.read["eigenvectors"]["vectors"])
    seed = seeds.derive(job.seed, "traces")
    numbers = settings.n_samples, settings.n_paired, settings.fit_points
    dataset, job.record["seconds"] = compare(objective, vectors, *numbers, seed, job)
    if settings.n_images is None:
        known = job.read["trace"]
        reference, error = known["trace"], known["trace_standard_error"]
        kind = known.attrs["reference_kind"]
    else:
        # Whatever the vectors are of these images, the identity behind it is exact.
        H, generator = objective.hessian(), seeds.generator(seed, "reference")
        progress = job.counted("products of the reference")
        sampled = estimators.deflated(H, vectors, N_REFERENCE, generator, progress=progress)
        reference, error, kind = sampled.mean, sampled.standard_error, "deflated Rademacher"
    return dataset.assign(reference=reference, reference_standard_error=error).assign_attrs(
        reference_kind=kind,
        activation="relu" if objective.kinks() else "smooth",
        n_images=objective.n_samples,
    )
