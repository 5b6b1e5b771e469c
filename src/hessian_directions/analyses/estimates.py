"""All estimators of the trace on one objective: samples, errors, cost."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import xarray as xr
from torch import Tensor

from hessian_directions import seeds
from hessian_directions.analyses.job import Job
from hessian_directions.errors import KinkError
from hessian_directions.geometry.directions import gaussian
from hessian_directions.objectives.objective import Objective
from hessian_directions.traces import estimators
from hessian_directions.traces.finite_differences import PILOTS, choose_step, in_float64

# Cost in forward passes of the network: convolutions and matrix products, gradient 3, product 8
# (6 with shared passes), second directional derivative in Taylor mode 5, first one in forward mode
# 3. Loss values count in their own precision, as 1.
FORWARDS = {
    "value": 1,
    "gradient": 3,
    "hessian_vector_product": 8,
    "second_directional_derivative": 5,
    "directional_derivative": 3,
}


def compare(
    objective: Objective,
    vectors: Tensor | None,
    n_samples: int,
    n_paired: int,
    fit_points: int,
    seed: int,
    job: Job,
) -> tuple[xr.Dataset, dict[str, float]]:
    """Samples, means and standard errors of every estimator, and their seconds.

    Loss differences (three points, those corrected for kinks where there are any, and a quadratic
    fit), exact second directional derivatives and Hutchinson's products share Gaussian directions;
    Rademacher, deflated and Hutch++ have their own. Corrected differences have a step of their own,
    too, since kinks make the others' long. Differences and exact derivatives go on to `n_paired`
    directions: what kinks add to a difference varies much from one to the next.
    """
    H, said, random = objective.hessian(), job.counted, partial(seeds.generator, seed)
    n, k = objective.n_parameters, max(n_paired, n_samples)
    paired = gaussian(n, k, random("shared directions"), objective.dtype, objective.device)
    shared = paired[:, :n_samples]
    # The step is chosen once for differences and fits from loss values, and each is charged for it.
    precise = in_float64(objective)
    before = precise.cost
    step = choose_step(precise, shared[:, :PILOTS])
    choice = precise.cost - before
    with warnings.catch_warnings():
        # What kinks do to differences is what is studied.
        warnings.simplefilter("ignore", estimators.KinkWarning)
        differences = estimators.finite_difference(
            precise, directions=paired, step=step, progress=said("loss differences")
        )
        progress = said("quadratic fits")
        fits = estimators.quadratic_fit(
            precise, directions=shared, step=step, n_points=fit_points, progress=progress
        )
    estimates = {
        "finite_difference": replace(differences, cost=differences.cost + choice),
        "quadratic_fit": replace(fits, cost=fits.cost + choice),
        "directional": estimators.directional(
            objective, directions=paired, progress=said("directional derivatives")
        ),
        "hutchinson": estimators.hutchinson(
            H, directions=shared, progress=said("Hutchinson's products")
        ),
        "hutchinson_rademacher": estimators.hutchinson(
            H, n_samples, random("rademacher"), progress=said("Rademacher products")
        ),
        "hutch_plus_plus": estimators.hutch_plus_plus(
            H, n_samples, random("hutch++"), progress=said("products of Hutch++")
        ),
    }
    if vectors is not None:
        estimates["deflated"] = estimators.deflated(
            H, vectors, n_samples, random("deflated"), progress=said("deflated products")
        )
    if precise.kinks():
        try:
            estimates["finite_difference_corrected"] = estimators.finite_difference(
                precise, directions=paired, kinks="correct", progress=said("corrected differences")
            )
        except KinkError as error:
            job.announce(f"no corrected differences: {error}")
    samples = np.full((len(estimates), paired.shape[1]), np.nan)
    for row, estimate in zip(samples, estimates.values()):
        row[: estimate.n_samples] = estimate.samples
    dataset = xr.Dataset(
        {
            "samples": (("estimator", "sample"), samples),
            "mean": ("estimator", [e.mean for e in estimates.values()]),
            "standard_error": ("estimator", [e.standard_error for e in estimates.values()]),
            "n_samples": ("estimator", [e.n_samples for e in estimates.values()]),
            "passes": ("estimator", [forward_passes(e) for e in estimates.values()]),
            "step": ("estimator", [e.step for e in estimates.values()]),
        },
        coords={"estimator": list(estimates)},
    )
    return dataset, {name: e.cost.seconds for name, e in estimates.items()}


def forward_passes(estimate: estimators.Estimate) -> float:
    """What an estimate cost, in forward passes over the same images."""
    passes = estimate.cost.passes.items()
    return float(sum(FORWARDS[kind.split()[0]] * count for kind, count in passes))
