"""Two-dimensional slices of the loss along random and along Hessian directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Allowed, Count, Different, Odd, Positive, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("eigenvectors",)

PLANES = ("random", "hessian", "filter")


class Settings(typed.Settings):
    planes: Annotated[
        Different[Literal["random", "hessian", "filter"]],
        Allowed(f"a list of different planes: {', '.join(PLANES)}"),
    ] = setting(
        ["random", "hessian"],
        "planes: of two Gaussian directions, of the directions of λ_max and λ_min, of two Gaussian "
        "directions that have the norm of the weights filter by filter (Li et al. 2018)",
        stage="parts",
    )
    random_half_width: Positive | None = setting(
        None,
        "half width of random and filter-normalised slices; null: from the curvature",
        unit="length in parameter space",
    )
    hessian_half_width: Positive | None = setting(
        None,
        "half width of Hessian slices; null: from the curvature along each direction",
        unit="length in parameter space",
    )
    n_points: Odd = setting(21, "points a side; the network itself is the middle one")
    n_shards: Count = setting(1, "shards that a slice is computed in")


def parts(settings: Settings) -> Sequence[str]:
    return settings.planes


def passes(settings: Settings) -> dict[str, float]:
    """Points of training and test loss in the rows of a shard."""
    points = settings.n_points * math.ceil(settings.n_points / settings.n_shards)
    return {"values": points, "test values": points}


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """The rows shard, shard + n_shards, … of a slice, a variable for each split.

    Half widths are distances in parameter space: coordinates are divided by the directions' length.
    """
    from hessian_directions import seeds
    from hessian_directions.geometry import slices

    objectives = {split: problem.objective(split) for split in ("train", "test")}
    train = objectives["train"]
    vectors = problem.vectors(job.read["eigenvectors"]["vectors"])
    plane: Any = job.part  # one of `PLANES`
    seed = seeds.derive(job.seed, "surface")
    directions = slices.plane_directions(train, plane, seed, vectors)
    length = directions.double().norm(dim=0)
    is_hessian = plane == "hessian"
    half_width = settings.hessian_half_width if is_hessian else settings.random_half_width
    if half_width is None:
        alphas, betas = (
            slices.grid(width / float(norm), settings.n_points)
            for width, norm in zip(slices.half_widths(train, directions), length)
        )
    else:
        alphas = betas = slices.grid(half_width / float(length.mean()), settings.n_points)
    rows = range(job.shard, settings.n_points, settings.n_shards)
    lattice = directions, alphas, betas, rows, slices.NORMALISATIONS[plane]
    surfaces = {
        split: slices.surface_rows(objective, *lattice, job.counted(f"{split} loss"))
        for split, objective in objectives.items()
    }
    if problem.dataset.n_classes is None:
        return xr.Dataset(surfaces).drop_vars("accuracy")
    return xr.Dataset(
        {split: loss.rename(accuracy=f"{split}_accuracy") for split, loss in surfaces.items()}
    )


def gather(shards: Sequence[xr.Dataset], settings: Settings, job: Job) -> xr.Dataset:
    """The slice of all its shards, its lowest point stated for each split.

    Losses `train` and `test`; `train_accuracy` and `test_accuracy` where there are classes.
    """
    from hessian_directions.geometry import slices

    splits = map(str, shards[0].data_vars)
    surfaces = {split: slices.gather([shard[split] for shard in shards]) for split in splits}
    accuracies = [f"{split}_accuracy" for split in surfaces if f"{split}_accuracy" in shards[0]]
    return xr.Dataset(surfaces).reset_coords(accuracies)
