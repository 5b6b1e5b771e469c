"""What a trained network scores: losses, accuracies, the gradient that is left."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import xarray as xr

from hessian_directions.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem
    from hessian_directions.data.dataset import Split


def passes(settings: Settings) -> dict[str, float]:
    return {"value": 1, "gradient": 1, "all value": 1}


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Scalars of one network.

    `loss` and `gradient_norm` are those of the objective whose curvature is analysed; `train_…` and
    `test_…` are over all samples of the split. The attributes say what the objective's self-test
    found, and by which modes it differentiates. Regression has no accuracy (NaN), but its fit:
    inputs, targets and outputs of the test points in order of x, where x is one number.
    """
    objective = problem.objective("train")
    self_test = objective.self_test()
    scores = {
        "n_parameters": objective.n_parameters,
        "n_images": objective.n_samples,
        "loss": float(objective.value()),
        "gradient_norm": float(objective.gradient().norm()),
        "theta_norm": float(objective.theta.norm()),
    }
    splits = {"train": problem.dataset.train, "test": problem.dataset.test}
    outputs = {name: _outputs(problem, split) for name, split in splits.items()}
    for name, split in splits.items():
        given, targets = outputs[name], split.targets.to(problem.device)
        wanted = targets.to(given.dtype) if targets.is_floating_point() else targets
        scores[f"{name}_loss"] = float(problem.loss(given, wanted))
        scores[f"{name}_accuracy"] = math.nan
        if problem.dataset.n_classes:
            scores[f"{name}_accuracy"] = float((given.argmax(1) == targets).double().mean())
    dataset = xr.Dataset(
        scores,
        attrs={
            "data": problem.dataset.describe(),
            "self_test": self_test.describe(),
            "product_mode": self_test.product_mode,
            "second_derivative_mode": self_test.second_derivative_mode,
        },
    )
    has_curve = not problem.dataset.n_classes and splits["test"].inputs[0].numel() == 1
    return dataset.assign(_fit(splits, outputs["test"])) if has_curve else dataset


def _outputs(problem: Problem, split: Split) -> Tensor:
    import torch

    model = problem.model.to(problem.device, problem.dtype).eval()
    inputs = split.inputs_on(problem.device, problem.dtype)
    with torch.no_grad():
        return torch.cat([model(batch) for batch in inputs.split(problem.batch_size)])


def _fit(splits: dict[str, Split], outputs: Tensor) -> dict[str, tuple[str, Tensor]]:
    x = splits["test"].inputs.flatten()
    order = x.argsort()
    return {
        "x": ("point", x[order]),
        "target": ("point", splits["test"].targets.flatten()[order]),
        "output": ("point", outputs.cpu().flatten()[order]),
        "train_x": ("train_point", splits["train"].inputs.flatten()),
        "train_target": ("train_point", splits["train"].targets.flatten()),
    }
