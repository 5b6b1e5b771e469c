"""Sampled 2×2 projected Hessians of a network, and how visible its saddle is in random slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Count, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

GATHER_READS = ("trace", "eigenpairs")

# Shares of slices at which the κ₋ that the spectrum predicts is kept: what a figure of its
# distribution needs, close enough for straight lines between them in its lower tail and its body.
LEVELS = np.concatenate([np.geomspace(1e-4, 0.1, 61), np.linspace(0.11, 1.0, 90)])


class Settings(typed.Settings):
    n_planes: Several = setting(
        100, "random planes of a shard, two Gaussian directions and two products each"
    )
    n_shards: Count = setting(1, "shards", stage="parts")
    n_spectrum_samples: Several = setting(100_000, "planes drawn from the spectrum", stage="gather")


def passes(settings: Settings) -> dict[str, float]:
    return {"products": 2 * settings.n_planes}


def vectors(settings: Settings) -> float:
    return 32


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Samples of M = [η δ]'H[η δ] for Gaussian η, δ; other shards have other seeds."""
    from hessian_directions import seeds
    from hessian_directions.geometry import visibility

    objective = problem.objective("train")
    seed = seeds.derive(job.seed, "projections", str(job.shard))
    H, generator = objective.hessian(), seeds.generator(seed, "planes")
    matrices = visibility.sample_projections(
        H, settings.n_planes, generator, progress=job.counted("planes")
    )
    return xr.Dataset({"projected_hessian": (("sample", "row", "column"), matrices)})


def gather(shards: Sequence[xr.Dataset], settings: Settings, job: Job) -> xr.Dataset:
    """All samples of M beside the trace, and the visibility of the saddle in three ways.

    The spectrum that visibility is drawn from is that of the eigenpairs and of the trace's Ritz
    values, each once, and the rest by its trace and Frobenius norm. `lowest_twentieth` tests it:
    the share of the samples whose κ₋ lies below the 5 % quantile that this spectrum predicts;
    `spectrum_quantile` holds its quantiles at many levels.
    """
    from hessian_directions import seeds
    from hessian_directions.geometry import visibility
    from hessian_directions.geometry.principal_curvatures import principal_curvatures

    reference = job.read["trace"]
    matrices = np.concatenate([part["projected_hessian"].values for part in shards])
    values = np.concatenate([job.read["eigenpairs"]["value"], reference["ritz_value"]])
    rest = float(reference["rest_trace"]), float(reference["rest_frobenius_norm"])
    generator = seeds.generator(seeds.derive(job.seed, "projections"), "spectrum")
    n_samples = settings.n_spectrum_samples
    from_spectrum = visibility.sample_from_spectrum(values, *rest, n_samples, generator)
    formula = visibility.formula(values, *rest)
    # The lower tail of κ₋ in more samples than those few, or none, that show a saddle.
    predicted = principal_curvatures(from_spectrum)[0]
    below = visibility.share_below(matrices, float(np.quantile(predicted, 0.05)))
    scalars: dict[str, float] = {
        "r": float(reference["trace"] / reference["frobenius_norm"]),
        "visibility_formula": formula.probability,
        "visibility_corrected": formula.corrected,
        "condition": formula.condition,
        "third_moment": formula.third_moment,
        "tail": formula.tail,
        **below.named("lowest_twentieth"),
    }
    for name, sampled in (("direct", matrices), ("spectrum", from_spectrum)):
        scalars |= visibility.share_of_saddles(sampled).named(f"visibility_{name}")
    return reference.assign(
        {
            "projected_hessian": (("sample", "row", "column"), matrices),
            "spectrum_quantile": ("level", np.quantile(predicted, LEVELS)),
        }
        | scalars
    ).assign_coords(level=LEVELS)
