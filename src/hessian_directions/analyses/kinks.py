"""What kinks add to second differences of the loss, predicted and measured, direction by direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Positives, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

# Edges of the bins of log₁₀|J|, J in units of the loss: a quarter of a decade each.
EDGES = np.linspace(-16.0, 4.0, 81)


class Settings(typed.Settings):
    steps: Positives = setting(
        [1e-2, 3e-3, 1e-3, 3e-4, 1e-4], "steps ε", unit="a Gaussian direction"
    )
    n_directions: Several = setting(10, "Gaussian directions, the same as those of step_sizes")


def passes(settings: Settings) -> dict[str, float]:
    return {
        "precise_values": 2 * settings.n_directions * len(settings.steps),
        # An exact derivative, and one of the activations, a direction.
        "precise_derivatives": 2 * settings.n_directions,
    }


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Second differences, exact curvatures and the excess that kinks are predicted to make.

    In float64. The directions are those of `step_sizes`: differences agree with its own where both
    have a step.
    """
    from hessian_directions import seeds
    from hessian_directions.geometry.directions import gaussian
    from hessian_directions.traces.finite_differences import in_float64, second_differences
    from hessian_directions.traces.kinks import survey

    objective = in_float64(problem.objective("train"))
    n, generator = objective.n_parameters, seeds.generator(job.seed, "step sizes")
    directions = gaussian(n, settings.n_directions, generator, problem.dtype, problem.device)
    directions = directions.double()
    steps = np.asarray(settings.steps, dtype=float)
    exact = objective.second_directional_derivative(directions)
    difference = second_differences(objective, directions, steps)
    crossed = survey(objective, directions, settings.steps, EDGES.tolist())
    return xr.Dataset(
        {
            "difference": (("step", "direction"), difference.T),
            "exact": ("direction", exact.cpu().numpy()),
            "predicted": (("step", "direction"), crossed.excess.cpu().numpy()),
            "n_kinks": (("sign", "step", "direction"), crossed.count.cpu().numpy()),
            "jump": (("sign", "step", "direction"), crossed.jump.cpu().numpy()),
            "size": (("sign", "step", "bin"), crossed.sizes.cpu().numpy()),
            "nearest": ("direction", crossed.nearest.cpu().numpy()),
        },
        coords={"step": steps, "sign": [-1, 1], "bin": (EDGES[:-1] + EDGES[1:]) / 2},
        attrs={"kinks": ", ".join(objective.kinks()), "n_images": objective.n_samples},
    )
