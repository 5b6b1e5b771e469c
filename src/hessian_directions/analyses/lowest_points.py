"""The lowest loss over random planes and over the Hessian plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Odd, Positive, Several, setting

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem
    from hessian_directions.objectives.objective import Objective

READS = ("eigenvectors",)


class Settings(typed.Settings):
    n_planes: Several = setting(30, "random planes")
    half_width: Positive = setting(0.1, "of every grid", unit="length in parameter space")
    n_points: Odd = setting(9, "points a side")


def passes(settings: Settings) -> dict[str, int]:
    return {"value": (settings.n_planes + 1) * settings.n_points**2}


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """The lowest loss over many random planes and over the Hessian plane, on equal grids."""
    import torch

    from hessian_directions import seeds
    from hessian_directions.geometry import slices
    from hessian_directions.geometry.directions import gaussian, orthonormalise

    objective = problem.objective("train")
    vectors = problem.vectors(job.read["eigenvectors"]["vectors"])
    points = slices.grid(settings.half_width, settings.n_points)
    generator = seeds.generator(seeds.derive(job.seed, "planes"), "planes")
    lowest = []
    for number in range(settings.n_planes):
        pair = gaussian(objective.n_parameters, 2, generator, objective.dtype, objective.device)
        lowest.append(_lowest(objective, orthonormalise(pair), points))
        job.announce(f"plane {number + 1} of {settings.n_planes}")
    hessian = _lowest(objective, torch.stack([vectors[:, -1], vectors[:, 0]], dim=1), points)
    return xr.Dataset(
        {
            "lowest_loss": ("plane", [loss for loss, _ in lowest]),
            "lowest_distance": ("plane", [distance for _, distance in lowest]),
            "hessian_lowest_loss": ((), hessian[0]),
            "hessian_lowest_distance": ((), hessian[1]),
            "loss_at_origin": ((), float(objective.value())),
            "radius": ((), settings.half_width),
            "n_points": ((), settings.n_points),
        }
    )


def _lowest(objective: Objective, directions: Tensor, points: NDArray) -> tuple[float, float]:
    from hessian_directions.geometry import slices

    attributes = slices.surface(objective, directions, points, points, "unit").attrs
    return attributes["lowest_loss"], attributes["lowest_distance"]
