"""Seconds of one pass of each kind, against the number of images."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hessian_directions.analyses.announcing import Announce
from hessian_directions.geometry.directions import gaussian
from hessian_directions.objectives.objective import Objective


def measure(
    objective: Objective,
    settings: Mapping[str, Any],
    generator: torch.Generator,
    announce: Announce,
) -> dict[str, Any]:
    """The number of parameters, and seconds by kind of pass and by number of images.

    Each is the median of `n_repeats` passes after one that warms up.
    """
    objective.self_test()
    v = gaussian(objective.n_parameters, 1, generator, objective.dtype, objective.device)[:, 0]
    seconds: dict[str, dict[str, float]] = {}
    for n in sorted({min(n, objective.n_samples) for n in settings["n_images"]}):
        subset = objective.subset(range(n))
        kinds: dict[str, Callable[[], Tensor]] = {
            "value": subset.value,
            "gradient": subset.gradient,
            "hessian_vector_product": partial(subset.hessian_vector_product, v),
            "second_directional_derivative": partial(subset.second_directional_derivative, v),
        }
        for kind, compute in kinds.items():
            compute()
            spent = [_seconds(compute) for _ in range(settings["n_repeats"])]
            seconds.setdefault(kind, {})[str(n)] = statistics.median(spent)
            announce(f"{kind}, {n} images")
    return {"n_parameters": objective.n_parameters, "seconds": seconds}


def _seconds(compute: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    compute().sum().item()  # a GPU is waited for
    return time.perf_counter() - started
