"""How curvature depends on the number of images that the loss is a mean over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Counts, Positive, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem


class Settings(typed.Settings):
    n_images: Counts = setting(
        [50, 100, 200, 500], "nested balanced choices of the training images", stage="parts"
    )
    tolerance: Positive = setting(1e-2, "residual of the extreme eigenpairs", unit="|λ|")
    n_samples: Several = setting(16, "Rademacher samples of each trace")


def parts(settings: Settings) -> Sequence[str]:
    return [str(n) for n in settings.n_images]


def passes(settings: Settings) -> dict[str, float]:
    """Trained networks take 20 to 70 products for both ends: nobody knows before."""
    return {"product": 36, "products": settings.n_samples, "gradient": 1, "value": 1}


def vectors(settings: Settings) -> float:
    return 50


def n_images(settings: Settings, part: str) -> int:
    return int(part)


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """λ_min, λ_max and trace of one network over a balanced choice of its training images.

    The choices are nested, and every count draws the same directions: what differs is the images.
    """
    from hessian_directions import seeds
    from hessian_directions.analyses.curvature import summarize

    objective = problem.over(int(job.part)).objective("train")
    seed = seeds.derive(job.seed, "image counts")
    summary = summarize(objective, settings.tolerance, settings.n_samples, seed, job)
    summary |= {"n_images": objective.n_samples, "loss": float(objective.value())}
    return xr.Dataset(summary)
