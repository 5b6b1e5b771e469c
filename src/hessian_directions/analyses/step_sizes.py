"""What second differences of the loss measure, against the step and the number of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Counts, Positives, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem
    from hessian_directions.objectives.objective import Objective


class Settings(typed.Settings):
    steps: Positives = setting(
        [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5],
        "steps ε",
        unit="a Gaussian direction",
    )
    n_directions: Several = setting(10, "Gaussian directions")
    n_images: Counts = setting([100, 500], "images; all are added to the list")
    sharpness: Positives = setting(
        [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0],
        "sharpness β of the Softplus that stands in for ReLU",
    )


def passes(settings: Settings) -> dict[str, float]:
    """Over all images, though some counts are smaller."""
    counts = len(settings.n_images)
    return {
        "precise_values": 2 * settings.n_directions * len(settings.steps) * counts,
        "derivatives": settings.n_directions * (counts + len(settings.sharpness)),
    }


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Second differences and exact curvatures along the same Gaussian directions.

    On a ReLU network also the exact curvature of the same weights with Softplus of growing
    sharpness β in place of ReLU: a smooth network that tends to the ReLU network, and an
    independent witness of what differences see.
    """
    import torch

    from hessian_directions import seeds
    from hessian_directions.geometry.directions import gaussian
    from hessian_directions.traces.finite_differences import second_differences

    objective = problem.objective("train")
    # The Softplus networks see all images: so does the last of the ReLU network's counts.
    smaller = {n for n in settings.n_images if n < objective.n_samples}
    n_images = [*sorted(smaller), objective.n_samples]
    steps = np.asarray(settings.steps, dtype=float)
    n, generator = objective.n_parameters, seeds.generator(job.seed, "step sizes")
    directions = gaussian(n, settings.n_directions, generator, problem.dtype, problem.device)
    differences, exact = [], []
    for n in n_images:
        subset = objective.subset(torch.arange(n))
        differences.append(second_differences(subset, directions, steps).T)
        exact.append(subset.second_directional_derivative(directions).cpu().numpy())
    variables: dict[str, Any] = {
        "difference": (("n_images", "step", "direction"), np.stack(differences)),
        "exact": (("n_images", "direction"), np.stack(exact)),
    }
    coords: dict[str, Any] = {"n_images": n_images, "step": steps}
    # Only where no kinks are left is the softened network a witness.
    if objective.kinks() and not _softened(problem, 1.0).kinks():
        softened = [
            _softened(problem, sharpness).second_directional_derivative(directions).cpu().numpy()
            for sharpness in settings.sharpness
        ]
        variables["softplus"] = (("sharpness", "direction"), np.stack(softened))
        coords["sharpness"] = np.asarray(settings.sharpness, dtype=float)
    activation = "relu" if objective.kinks() else "smooth"
    return xr.Dataset(variables, coords, attrs={"activation": activation})


def _softened(problem: Problem, sharpness: float) -> Objective:
    """The same weights with Softplus in place of ReLU."""
    from dataclasses import replace

    from torch import nn

    from hessian_directions.models.activations import replace_activation

    model = problem.model
    if any(isinstance(module, nn.ReLU) for module in model.modules()):
        model = replace_activation(model, nn.ReLU, lambda: nn.Softplus(beta=sharpness))
    return replace(problem, model=model).objective("train")
