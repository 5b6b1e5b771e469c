"""The lowest losses over discs in random planes, in the Hessian plane, and in one along the slope."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from hessian_directions.analyses import apparent_curvature
from hessian_directions.settings import Positive, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("eigenvectors",)


class Settings(apparent_curvature.Settings):
    n_planes: Several = setting(100, "planes of two random directions")
    largest_radius: Positive = setting(1.0, "of the discs", unit="length in parameter space")
    n_radii: Several = setting(9, "discs, their radii in geometric progression")
    n_angles: Several = setting(
        16, "points of a ring, the same in every plane; at best a multiple of 4"
    )


def passes(settings: Settings) -> dict[str, float]:
    points = settings.n_radii * settings.n_angles
    return {"values": (settings.n_planes + 2) * points + 10, "gradient": 1}


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """The lowest loss that the same search finds in planes of each kind.

    A disc of radius ρ_k is searched at its centre θ* and on the rings of radii ρ_1 < … < ρ_k, at
    the same angles on each; planes have orthonormal bases, so that radii are distances in parameter
    space. Losses L(θ):

    - lowest_loss (plane, radius): over planes of two Gaussian directions;
    - hessian_lowest_loss (radius): over the plane of the eigenvectors of λ_max (angle 0) and λ_min;
    - slope_lowest_loss (radius): a control, over the plane of −∇L (angle 0) and a Gaussian
      direction: what is lower there is found by descent, not by curvature;
    - random_slope (radius): a prediction, not a loss: ‖∇L‖·√(2/N)·ρ, by how much the slope alone
      lowers the loss of a random plane, as root mean square over planes.

    Scalars: loss L(θ*), noise, the standard deviation of its rounding errors, gradient_norm ‖∇L‖.
    """
    import torch

    from hessian_directions import seeds
    from hessian_directions.geometry import discs, slices
    from hessian_directions.geometry.directions import gaussian, orthonormalise
    from hessian_directions.traces.finite_differences import loss_noise

    objective = problem.over(settings.n_images).objective("train")
    radii = np.geomspace(settings.smallest_radius, settings.largest_radius, settings.n_radii)
    loss, gradient = float(objective.value()), objective.gradient()
    generator = seeds.generator(seeds.derive(job.seed, "planes"), "planes")

    def lowest(plane: torch.Tensor) -> np.ndarray:
        rings = discs.ring_losses(objective, plane, radii, settings.n_angles)
        return discs.lowest_in_discs(rings, loss)

    vectors = problem.vectors(job.read["eigenvectors"]["vectors"])
    hessian = lowest(orthonormalise(slices.both_ends(vectors)))
    other = gaussian(objective.n_parameters, 1, generator, objective.dtype, objective.device)
    slope = lowest(orthonormalise(torch.cat([-gradient[:, None], other], dim=1)))
    noise = loss_noise(objective, other[:, 0])
    random = []
    for number in range(settings.n_planes):
        random.append(lowest(discs.random_plane(objective, generator)))
        job.announce(f"plane {number + 1} of {settings.n_planes}")
    norm = float(gradient.double().norm())
    return xr.Dataset(
        {
            "lowest_loss": (("plane", "radius"), np.stack(random)),
            "hessian_lowest_loss": ("radius", hessian),
            "slope_lowest_loss": ("radius", slope),
            "random_slope": ("radius", norm * (2 / objective.n_parameters) ** 0.5 * radii),
            "loss": loss,
            "noise": noise,
            "gradient_norm": norm,
        },
        coords={"radius": radii},
        attrs={"n_images": objective.n_samples, "n_angles": settings.n_angles},
    )
