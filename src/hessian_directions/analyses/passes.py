"""Seconds of one pass of each kind, against the number of images. All of it is in the run record."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from hessian_directions import settings as typed
from hessian_directions.progress import seconds_of
from hessian_directions.settings import Count, Counts, setting

if TYPE_CHECKING:
    from torch import Tensor

    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

# Times vary from run to run: an artifact of them would not be the same twice.
RECORD_ALONE = True


class Settings(typed.Settings):
    n_images: Counts = setting([10, 20, 50, 100, 200], "images of a pass")
    n_repeats: Count = setting(5, "passes of each kind, of which the median counts")


def passes(settings: Settings) -> dict[str, float]:
    repeats = len(settings.n_images) * (settings.n_repeats + 1)
    return dict.fromkeys(("value", "gradient", "product", "derivative"), repeats)


def n_images(settings: Settings, part: str) -> int:
    return math.ceil(statistics.mean(settings.n_images))


def run(problem: Problem, settings: Settings, job: Job) -> None:
    """The number of parameters, and seconds by kind of pass and by number of images.

    Each is the median of `n_repeats` passes after one that warms up.
    """
    from hessian_directions import seeds
    from hessian_directions.geometry.directions import gaussian

    objective = problem.objective("train")
    objective.self_test()
    generator = seeds.generator(job.seed, "passes")
    v = gaussian(objective.n_parameters, 1, generator, objective.dtype, objective.device)[:, 0]
    seconds: dict[str, dict[str, float]] = {}
    for n in sorted({min(n, objective.n_samples) for n in settings.n_images}):
        subset = objective.subset(range(n))
        kinds: dict[str, Callable[[], Tensor]] = {
            "value": subset.value,
            "gradient": subset.gradient,
            "hessian_vector_product": partial(subset.hessian_vector_product, v),
            "second_directional_derivative": partial(subset.second_directional_derivative, v),
        }
        for kind, compute in kinds.items():
            compute()
            spent = [seconds_of(compute) for _ in range(settings.n_repeats)]
            seconds.setdefault(kind, {})[str(n)] = statistics.median(spent)
            job.announce(f"{kind}, {n} images")
    job.record.update(n_parameters=objective.n_parameters, seconds=seconds)
