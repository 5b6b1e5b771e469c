"""The plane of a slice turned from random to Hessian directions: where on the way the saddle comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Odd, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("eigenvectors",)


class Settings(typed.Settings):
    n_planes: Several = setting(13, "planes, at equal angles from the random to the Hessian one")
    n_points: Odd = setting(13, "points a side of each; the network itself is the middle one")


def passes(settings: Settings) -> dict[str, float]:
    points = settings.n_planes * settings.n_points**2
    return {"values": points + 2, "products": 4, "derivatives": 4}


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Training loss over planes between the random slice's and that of λ_max and λ_min.

    The planes lie on the shortest way between those two (`geometry.planes.turn`). Two random
    directions are almost orthogonal to any other two, so that on this way every direction turns by
    nearly 90°; `angle` is the share of it, in degrees. The basis η, δ is orthonormal at every angle
    and ends in the directions of λ_max and λ_min. Variables:

    - loss (angle, alpha, beta): the same points in every plane, alpha and beta in half-widths;
      NaN where it is not finite;
    - half_width (angle, axis): distances in parameter space at which the plane's picture ends. Those
      of both ends follow from the curvature (`geometry.slices.half_widths`); between them
      s⁻² = s₀⁻² cos² φ + s₁⁻² sin² φ, as the curvature |κ| ∝ s⁻² would turn;
    - projected_hessian (angle, row, column): the exact [η δ]'H[η δ], in loss per length²;
    - principal_angle (principal): between the two planes, degrees.
    """
    import torch

    from hessian_directions import seeds
    from hessian_directions.geometry import planes, slices

    objective = problem.objective("train")
    vectors = problem.vectors(job.read["eigenvectors"]["vectors"])
    start = slices.plane_directions(objective, "random", seeds.derive(job.seed, "surface"))
    way = planes.turn(start, slices.both_ends(vectors))
    frame = way.frame.to(objective.dtype)
    projected = frame.double().T @ (objective.hessian() @ frame).double()  # (4, 4)
    ends = [slices.half_widths(objective, way.basis(share)) ** -2 for share in (0.0, 1.0)]
    angles = np.linspace(0.0, 90.0, settings.n_planes)
    points = slices.grid(1.0, settings.n_points)
    losses, half_widths, matrices = [], [], []
    for number, share in enumerate(angles / 90):
        turned = np.sin(np.pi / 2 * share) ** 2
        half_width = ((1 - turned) * ends[0] + turned * ends[1]) ** -0.5
        alphas, betas = (points * width for width in half_width)
        directions, rows = way.basis(share).to(objective.dtype), range(settings.n_points)
        surface = slices.surface_rows(objective, directions, alphas, betas, rows, "unit")
        losses.append(surface.values)
        half_widths.append(half_width)
        basis = way.coordinates(share)
        matrices.append((basis.T @ ((projected + projected.T) / 2) @ basis).cpu())
        job.announce(f"plane {number + 1} of {settings.n_planes}")
    return xr.Dataset(
        {
            "loss": (("angle", "alpha", "beta"), np.stack(losses)),
            "half_width": (("angle", "axis"), np.stack(half_widths)),
            "projected_hessian": (("angle", "row", "column"), torch.stack(matrices)),
            "principal_angle": ("principal", way.angles.rad2deg().cpu()),
        },
        coords={"angle": angles, "alpha": points, "beta": points, "axis": ["alpha", "beta"]},
    )
