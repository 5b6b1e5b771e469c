"""What second differences of the loss measure, against the step and against the number of images."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hessian_directions.analyses.extreme_curvature import second_differences
from hessian_directions.analyses.problem import Problem
from hessian_directions.geometry.directions import gaussian
from hessian_directions.models.activations import replace_activation
from hessian_directions.objectives.objective import Objective


def study(problem: Problem, settings: Mapping[str, Any], generator: torch.Generator) -> xr.Dataset:
    """Second differences and exact curvatures along the same Gaussian directions.

    On a ReLU network also the exact curvature of the same weights with Softplus of growing sharpness β in place
    of ReLU: a smooth network that tends to the ReLU network, and an independent witness of what differences see.
    """
    objective = problem.objective("train")
    # The Softplus networks see all images: so does the last of the ReLU network's counts.
    smaller = {n for n in settings["n_images"] if n < objective.n_samples}
    n_images = [*sorted(smaller), objective.n_samples]
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
    # Only where no kinks are left is the softened network a witness.
    example = problem.split("train").inputs[:1]
    if kinks(problem.model, example) and not kinks(_softened(problem.model, 1.0), example):
        softened = [
            _softened_objective(problem, sharpness)
            .second_directional_derivative(directions)
            .cpu()
            .numpy()
            for sharpness in settings["sharpness"]
        ]
        variables["softplus"] = (("sharpness", "direction"), np.stack(softened))
        coords["sharpness"] = np.asarray(settings["sharpness"], dtype=float)
    return xr.Dataset(variables, coords, attrs={"activation": activation_kind(problem)})


# Operations of PyTorch that are not differentiable everywhere, by the names they have in torch and functional.
# fmt: off
KINKED = {
    "abs", "absolute", "amax", "amin", "clamp", "clamp_max", "clamp_min", "clip", "hardshrink", "hardsigmoid",
    "hardswish", "hardtanh", "leaky_relu", "max", "maximum", "min", "minimum", "prelu", "relu", "relu6", "rrelu",
    "softshrink", "threshold",
}
# fmt: on


class _Names(TorchFunctionMode):
    """Collects the names of the operations that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__.strip("_"))
        return func(*args, **(kwargs or {}))


def kinks(model: nn.Module, example: Tensor) -> set[str]:
    """Operations in a forward pass of the network that are not differentiable everywhere."""
    model = copy.deepcopy(model).to(example.device, example.dtype).eval()
    with torch.no_grad(), _Names() as called:
        model(example)
    return {name for name in called.names if name in KINKED or "max_pool" in name}


def activation_kind(problem: Problem) -> str:
    """`relu` for networks with kinks, `smooth` for the others."""
    return "relu" if kinks(problem.model, problem.split("train").inputs[:1]) else "smooth"


def _softened(model: nn.Module, sharpness: float) -> nn.Module:
    if not any(isinstance(module, nn.ReLU) for module in model.modules()):
        return model
    return replace_activation(model, nn.ReLU, lambda: nn.Softplus(beta=sharpness))


def _softened_objective(problem: Problem, sharpness: float) -> Objective:
    model = _softened(problem.model, sharpness)
    images = problem.split("train")
    return Objective(
        model.to(problem.device, problem.dtype),
        problem.loss,
        images.inputs.to(problem.device),
        images.targets.to(problem.device),
        batch_size=problem.batch_size,
    )
