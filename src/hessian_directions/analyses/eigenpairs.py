"""The extreme eigenpairs of a network's Hessian, each checked in two other ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Count, Natural, Positive, Positives, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

TENSORS = "eigenvectors"


class Settings(typed.Settings):
    k_smallest: Natural = setting(1, "pairs at the lower end of the spectrum")
    k_largest: Natural = setting(1, "pairs at the upper end; all pairs found deflate the trace")
    tolerance: Positive = setting(1e-3, "residual ‖Hv − λv‖ that is enough", unit="|λ|")
    max_products: Count = setting(1000, "Hessian-vector products before giving up")
    steps: Positives = setting(
        [1e-1, 1e-2, 1e-3, 1e-4],
        "steps of the second differences of the loss along each eigenvector",
        unit="length in parameter space",
    )


def passes(settings: Settings) -> dict[str, float]:
    """Trained networks take 20 to 80 products, and as many for the check: nobody knows before."""
    pairs = settings.k_smallest + settings.k_largest
    return {
        "product": min(settings.max_products, 70 + 4 * pairs),
        "precise_derivatives": pairs,
        "precise_values": 2 * pairs * len(settings.steps) + 1,
    }


def vectors(settings: Settings) -> float:
    pairs = settings.k_smallest + settings.k_largest
    return min(settings.max_products, 50) + 5 * pairs


def run(
    problem: Problem, settings: Settings, job: Job
) -> tuple[xr.Dataset, dict[str, np.ndarray[Any, Any]]]:
    """Eigenpairs in ascending order and their vectors (N, k).

    `exact_curvature` is v'Hv in float64 without a Hessian-vector product: what it differs from the
    eigenvalue by is rounding of the products. On a network with kinks `surface_curvature`, the
    second difference of the loss along v at finite steps, need not equal either.
    """
    from hessian_directions import seeds
    from hessian_directions.spectral.eigenpairs import extreme_eigenpairs
    from hessian_directions.traces.finite_differences import in_float64, second_differences

    objective = problem.objective("train")
    self_test = objective.self_test()
    pairs = extreme_eigenpairs(
        objective.hessian(),
        **settings.model_dump(exclude={"steps"}),
        seed=seeds.generator(job.seed, "eigenpairs"),
        state_path=job.state_path,
        save_seconds=job.save_seconds,
        progress=lambda status: job.announce(str(status)),
    )
    # An eigenvector has no sign; its largest entry is made positive: slices keep their orientation.
    largest_entries = pairs.vectors.gather(0, pairs.vectors.abs().argmax(0, keepdim=True))
    vectors = pairs.vectors * largest_entries.sign()
    steps = np.asarray(settings.steps, dtype=float)
    precise = in_float64(objective)
    exact = precise.second_directional_derivative(vectors.double())
    dataset = pairs.dataset().assign(
        exact_curvature=("pair", exact.cpu()),
        surface_curvature=(("pair", "step"), second_differences(precise, vectors, steps)),
    )
    dataset = dataset.assign_coords(step=steps).assign_attrs(self_test=self_test.describe())
    return dataset, {"vectors": vectors.cpu().numpy()}
