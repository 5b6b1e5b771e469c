"""Planes in parameter space: how far points lie off them, and the shortest way from one to another."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hessian_directions.geometry.directions import orthonormalise


def plane_through(points: Tensor) -> tuple[Tensor, Tensor]:
    """The plane through three points: its origin, the first of them, and an orthonormal basis.

    The first direction of the basis points to the second point, the second one to the side of the
    line through both on which the third point lies.

    Args:
        points: (N, 3) columns that lie on no line.

    Returns:
        (N,) origin and (N, 2) basis, float64.

    Raises:
        ValueError: The points lie on a line.
    """
    origin = points[:, 0].double()
    return origin, orthonormalise(points[:, 1:].double() - origin[:, None])


def project(points: Tensor, origin: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of the nearest points of a plane, and the part of the distance that lies off it.

    Args:
        points: (N, K).
        origin: (N,) a point of the plane.
        basis: (N, 2) orthonormal.

    Returns:
        (2, K) coordinates in units of parameter-space length, and (K,) ‖θ − Pθ‖/‖θ − origin‖, the
        off-plane residual: 0 in the plane, 1 where the projection shows the origin, NaN at the
        origin itself; float64.
    """
    origin, basis = origin.double(), basis.double()
    displacements = points.double() - origin[:, None]
    coordinates = basis.T @ displacements
    off = (displacements - basis @ coordinates).norm(dim=0)
    return coordinates, off / displacements.norm(dim=0)


@dataclass(frozen=True)
class Turn:
    """The shortest way from one plane to another, a geodesic of the Grassmann manifold.

    The planes meet in two principal angles θ₁ ≤ θ₂. On the way each principal direction of the first
    plane turns into its partner of the second one, by the same share of its angle. A basis is
    carried along without turning within its plane, so that the second plane is reached in the basis
    it was given in.

    Attributes:
        frame: (N, 4) orthonormal: the principal directions of the first plane, and the directions
            that they turn towards (0 where a principal angle is 0); float64.
        angles: (2,) principal angles in radians, ascending.
        axes: (2, 2) the second plane's basis in its principal directions.
    """

    frame: Tensor
    angles: Tensor
    axes: Tensor

    def coordinates(self, share: float) -> Tensor:
        """The basis at a share of the way, 0 to 1, as columns (4, 2) in `frame`."""
        turned = share * self.angles
        return torch.cat([turned.cos().diag(), turned.sin().diag()]) @ self.axes

    def basis(self, share: float) -> Tensor:
        """The orthonormal basis (N, 2) at a share of the way, 0 to 1."""
        return self.frame @ self.coordinates(share)


def turn(start: Tensor, end: Tensor) -> Turn:
    """The shortest way from the plane that two directions span to a plane with a given basis.

    Args:
        start: (N, 2) linearly independent columns. Only their plane matters: the way begins in that
            orthonormal basis of it that is nearest to `end`.
        end: (N, 2) orthonormal columns, reached at the end.

    Raises:
        ValueError: The first two directions are linearly dependent.
    """
    first, last = orthonormalise(start.double()), end.double()
    left, cosines, axes = torch.linalg.svd(first.T @ last)
    principal = first @ left
    # What the partners add to the principal directions: orthogonal columns of length sin θ.
    beyond = last @ axes.T - principal * cosines
    sines = beyond.norm(dim=0)
    directions = torch.where(sines > 0, beyond / sines, 0.0)
    return Turn(torch.cat([principal, directions], dim=1), torch.atan2(sines, cosines), axes)
