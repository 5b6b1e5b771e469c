"""One-dimensional slices of the loss: lines through the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Odd, Positive, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("eigenvectors",)


class Settings(typed.Settings):
    half_width: Positive | None = setting(
        None,
        "half width of the lines; null: from the curvature along the Hessian directions",
        unit="length in parameter space",
    )
    n_points: Odd = setting(41, "points of a line; the network itself is the middle one")


def passes(settings: Settings) -> dict[str, float]:
    return {"values": 4 * settings.n_points, "gradient": 1, "derivatives": 4}


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Loss along lines of unit direction: two random ones and the two extreme Hessian directions.

    With the exact slope ∇L·v and curvature v'Hv along each: a trained network is no critical point.
    And with the accuracy on the same images, where they have classes.
    """
    import torch

    from hessian_directions import seeds
    from hessian_directions.geometry import slices
    from hessian_directions.geometry.directions import gaussian, unit

    objective = problem.objective("train")
    vectors = problem.vectors(job.read["eigenvectors"]["vectors"])
    generator = seeds.generator(seeds.derive(job.seed, "profiles"), "lines")
    random = gaussian(objective.n_parameters, 2, generator, objective.dtype, objective.device)
    directions = torch.cat([unit(random), vectors[:, :1], vectors[:, -1:]], dim=1)
    half_width = settings.half_width
    if half_width is None:
        half_width = float(max(slices.half_widths(objective, directions[:, 2:])))
    distances = slices.grid(half_width, settings.n_points)
    loss = slices.line(objective, directions, distances, progress=job.counted("points"))
    slope = directions.T.double() @ objective.gradient().double()
    lines = xr.Dataset(
        {
            "loss": (("direction", "distance"), loss.values),
            "slope": ("direction", slope.cpu()),
            "curvature": ("direction", objective.second_directional_derivative(directions).cpu()),
        },
        coords={
            "direction": ["random_0", "random_1", "smallest", "largest"],
            "distance": distances,
        },
    )
    if problem.dataset.n_classes is None:
        return lines
    return lines.assign(accuracy=(("direction", "distance"), loss["accuracy"].values))
