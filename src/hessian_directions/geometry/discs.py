"""The loss over discs of growing radius in planes through the weights.

A disc is searched on rings of growing radius, with the same angles on each: the same share of the
plane is seen at a hundredth of a length and at a hundred lengths. Directions have unit length, so
that a radius is a distance in parameter space in every plane.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hessian_directions.arrays import Floats
from hessian_directions.geometry.directions import gaussian, orthonormalise
from hessian_directions.geometry.quadratic_fit import polar_points
from hessian_directions.geometry.slices import finite_values
from hessian_directions.objectives.objective import Objective


def random_plane(objective: Objective, generator: torch.Generator) -> Tensor:
    """An orthonormal basis (N, 2) of the plane that two Gaussian directions span."""
    pair = gaussian(objective.n_parameters, 2, generator, objective.dtype, objective.device)
    return orthonormalise(pair)


def ring_losses(objective: Objective, plane: Tensor, radii: ArrayLike, n_angles: int) -> Floats:
    """Loss L(θ + xη + yδ) at the points (x, y) of rings around the weights θ.

    Args:
        plane: (N, 2), η and δ as orthonormal columns.
        radii: (R,) radii of the rings, lengths in parameter space.
        n_angles: A, points of a ring: (x, y) are those of `quadratic_fit.polar_points`.

    Returns:
        (R, A), float64; a loss that is not finite is NaN. Cost: R·A forward passes. Memory: that of
        `Objective.values` for A points.
    """
    theta, eta, delta = objective.theta[:, None], plane[:, :1], plane[:, 1:]
    x, y = (torch.from_numpy(points).to(theta) for points in polar_points(radii, n_angles))
    return np.stack(
        [
            finite_values(objective, theta + across * eta + along * delta)[:, 0]
            for across, along in zip(x, y, strict=True)
        ]
    )


def lowest_in_discs(rings: Floats, centre: float) -> Floats:
    """The lowest loss found in each disc: on the rings up to its radius, and at its centre.

    Args:
        rings: (…, R, A) losses on rings of ascending radius; NaN where they are not finite.
        centre: Loss at the weights.

    Returns:
        (…, R), not increasing with the radius, at most `centre`.
    """
    # The centre is everywhere, and finite: no ring is without a loss.
    rings = np.concatenate([rings, np.full_like(rings[..., :1], centre)], axis=-1)
    return np.minimum.accumulate(np.nanmin(rings, axis=-1), axis=-1)
