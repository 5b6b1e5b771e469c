"""What second differences of the loss measure, against the step and against the number of images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from hessian_directions.directions import gaussian
from hessian_directions.models.activations import replace_activation
from hessian_directions.objective import Objective
from hessian_directions.studies.extreme_curvature import second_differences
from hessian_directions.studies.problem import Problem


def study(problem: Problem, settings: Mapping[str, Any], generator: torch.Generator) -> xr.Dataset:
    """Second differences and exact curvatures along the same Gaussian directions.

    On a ReLU network also the exact curvature of the same weights with Softplus of growing sharpness β in place
    of ReLU: a smooth network that tends to the ReLU network, and an independent witness of what differences see.
    """
    objective = problem.objective("train")
    n_images = [min(n, objective.n_samples) for n in settings["n_images"]]
    steps = np.asarray(settings["steps"], dtype=float)
    directions = gaussian(
        objective.n_parameters,
        settings["n_directions"],
        generator,
        objective.dtype,
        objective.device,
    )
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
    kinked = has_kinks(problem.model)
    if kinked:
        softened = [
            _softened(problem, sharpness).second_directional_derivative(directions).cpu().numpy()
            for sharpness in settings["sharpness"]
        ]
        variables["softplus"] = (("sharpness", "direction"), np.stack(softened))
        coords["sharpness"] = np.asarray(settings["sharpness"], dtype=float)
    return xr.Dataset(variables, coords, attrs={"activation": activation_kind(problem.model)})


def has_kinks(model: nn.Module) -> bool:
    """Whether an activation of the network is not differentiable everywhere."""
    kinked = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardswish, nn.Hardtanh)
    return any(isinstance(module, kinked) for module in model.modules())


def activation_kind(model: nn.Module) -> str:
    """`relu` for networks with kinks, `smooth` for the others."""
    return "relu" if has_kinks(model) else "smooth"


def _softened(problem: Problem, sharpness: float) -> Objective:
    model = replace_activation(problem.model, nn.ReLU, lambda: nn.Softplus(beta=sharpness))
    images = problem.split("train")
    return Objective(
        model.to(problem.device, problem.dtype),
        problem.loss,
        images.inputs.to(problem.device),
        images.targets.to(problem.device),
        batch_size=problem.batch_size,
    )
