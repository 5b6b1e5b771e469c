"""Planes through three points."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from hessian_directions.geometry.planes import plane_through, project, turn


def test_distances_in_the_plane_are_those_in_space() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    origin, basis = plane_through(points[:, :3])
    coordinates, off_plane = project(points, origin, basis)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))
    inside = coordinates[:, :3].T.contiguous()
    torch.testing.assert_close(torch.cdist(inside, inside), torch.cdist(points.T[:3], points.T[:3]))
    assert coordinates[0, 1] > 0
    assert abs(float(coordinates[1, 1])) < 1e-12
    assert coordinates[1, 2] > 0
    assert torch.isnan(off_plane[0])
    assert float(off_plane[1:3].max()) < 1e-12
    # Least squares in NumPy finds the same nearest point.
    spans = (points[:, 1:3] - points[:, :1]).numpy()
    displacement = (points[:, 3] - points[:, 0]).numpy()
    residual = np.linalg.lstsq(spans, displacement)[1][0] ** 0.5
    assert float(off_plane[3]) == pytest.approx(residual / np.linalg.norm(displacement))


def test_points_on_a_line_have_no_plane() -> None:
    with pytest.raises(ValueError, match="dependent"):
        plane_through(torch.ones(5, 1).double() * torch.arange(3))


def pair(seed: int, n: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def test_a_plane_turns_evenly_into_another_and_its_basis_into_the_given_one() -> None:
    start, end = pair(1), torch.linalg.qr(pair(2))[0]
    way = turn(start, end)
    torch.testing.assert_close(way.basis(1.0), end)
    angles = subspace_angles(start.numpy(), end.numpy())  # descending
    np.testing.assert_allclose(way.angles, angles[::-1])
    for share in (0.0, 0.3, 0.8, 1.0):
        basis = way.basis(share)
        torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))
        turned = subspace_angles(start.numpy(), basis.numpy())
        np.testing.assert_allclose(turned, share * angles, atol=1e-7)
    # Nothing turns within the plane: the basis moves at right angles to it.
    step = (way.basis(0.3 + 1e-6) - way.basis(0.3 - 1e-6)) / 2e-6
    assert float((way.basis(0.3).T @ step).abs().max()) < 1e-8


@pytest.mark.parametrize("n_shared", [1, 2])
def test_planes_that_share_directions_keep_them(n_shared: int) -> None:
    end = torch.linalg.qr(pair(2))[0]
    start = torch.cat([end[:, :n_shared] * 3, pair(1)[:, n_shared:]], dim=1)
    way = turn(start, end)
    assert float(way.angles[n_shared - 1]) < 1e-7
    for share in (0.0, 0.5, 1.0):
        basis = way.basis(share)
        torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))
        inside = basis @ (basis.T @ end[:, :n_shared])
        torch.testing.assert_close(inside, end[:, :n_shared], atol=1e-7, rtol=0)


def test_a_turn_needs_a_plane_to_start_from() -> None:
    with pytest.raises(ValueError, match="dependent"):
        turn(pair(1)[:, :1].expand(-1, 2), torch.linalg.qr(pair(2))[0])
