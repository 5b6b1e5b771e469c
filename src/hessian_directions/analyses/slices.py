"""Slices of the loss along random and along Hessian directions: surfaces, profiles, lowest points."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from hessian_directions import seeds
from hessian_directions.analyses.announcing import Announce, counted
from hessian_directions.geometry import slices
from hessian_directions.geometry.directions import gaussian, orthonormalise, unit
from hessian_directions.objectives.objective import Objective


def plane(objective: Objective, kind: str, vectors: Tensor, seed: int) -> tuple[Tensor, str]:
    """The two directions of a plane (N, 2) and their normalisation.

    `random`: two Gaussian directions, of length about √N. `hessian`: η the direction of the largest, δ that of
    the smallest eigenvalue, of length one.
    """
    if kind == "hessian":
        return torch.stack([vectors[:, -1], vectors[:, 0]], dim=1), "unit"
    generator = seeds.generator(seed, "plane")
    n = objective.n_parameters
    return gaussian(n, 2, generator, objective.dtype, objective.device), "gaussian"


def surface_shard(
    objectives: Mapping[str, Objective],
    directions: Tensor,
    normalisation: str,
    settings: Mapping[str, Any],
    radius: float,
    shard: int,
    announce: Announce,
) -> xr.Dataset:
    """The rows shard, shard + n_shards, … of a surface, a variable for each split.

    `radius` is the half width of the grid in parameter space: coordinates are divided by the directions' length.
    """
    length = float(directions.double().norm(dim=0).mean())
    points = slices.grid(radius / length, settings["n_points"])
    rows = range(shard, settings["n_points"], settings["n_shards"])
    return xr.Dataset(
        {
            split: slices.surface_rows(
                objective,
                directions,
                points,
                points,
                rows,
                normalisation,
                counted(announce, "points"),
            )
            for split, objective in objectives.items()
        }
    )


def gather_surface(shards: Sequence[xr.Dataset]) -> xr.Dataset:
    """The surface of all its shards, its lowest point stated for each split."""
    return xr.Dataset(
        {
            str(split): slices.gather([shard[split] for shard in shards])
            for split in shards[0].data_vars
        }
    )


def profiles(
    objective: Objective,
    vectors: Tensor,
    settings: Mapping[str, Any],
    seed: int,
    announce: Announce,
) -> xr.Dataset:
    """Loss along lines of unit direction: two random ones and the two extreme Hessian directions.

    With the exact slope ∇L·v and curvature v'Hv along each, since a trained network is not a critical point.
    """
    n = objective.n_parameters
    random = gaussian(n, 2, seeds.generator(seed, "lines"), objective.dtype, objective.device)
    lines = torch.cat([unit(random), vectors[:, :1], vectors[:, -1:]], dim=1)
    distances = slices.grid(settings["radius"], settings["n_points"])
    loss = slices.line(objective, lines, distances, progress=counted(announce, "points"))
    return xr.Dataset(
        {
            "loss": (("direction", "distance"), loss.values),
            "slope": ("direction", (lines.T.double() @ objective.gradient().double()).cpu()),
            "curvature": ("direction", objective.second_directional_derivative(lines).cpu()),
        },
        coords={
            "direction": ["random_0", "random_1", "smallest", "largest"],
            "distance": distances,
        },
    )


def survey(
    objective: Objective,
    vectors: Tensor,
    settings: Mapping[str, Any],
    seed: int,
    announce: Announce,
) -> xr.Dataset:
    """The lowest loss over many random planes and over the Hessian plane, on equal grids of equal radius."""
    points = slices.grid(settings["radius"], settings["n_points"])
    generator = seeds.generator(seed, "planes")
    n, n_planes = objective.n_parameters, settings["n_planes"]
    lowest = []
    for number in range(n_planes):
        pair = gaussian(n, 2, generator, objective.dtype, objective.device)
        lowest.append(_lowest(objective, orthonormalise(pair), points))
        announce(f"plane {number + 1} of {n_planes}")
    hessian = _lowest(objective, torch.stack([vectors[:, -1], vectors[:, 0]], dim=1), points)
    return xr.Dataset(
        {
            "lowest_loss": ("plane", [loss for loss, _ in lowest]),
            "lowest_distance": ("plane", [distance for _, distance in lowest]),
            "hessian_lowest_loss": ((), hessian[0]),
            "hessian_lowest_distance": ((), hessian[1]),
            "loss_at_origin": ((), float(objective.value())),
            "radius": ((), settings["radius"]),
            "n_points": ((), settings["n_points"]),
        }
    )


def _lowest(objective: Objective, directions: Tensor, points: np.ndarray) -> tuple[float, float]:
    attributes = slices.surface(objective, directions, points, points, "unit").attrs
    return attributes["lowest_loss"], attributes["lowest_distance"]
