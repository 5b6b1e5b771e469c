"""Searches of discs against losses whose lowest points are known in closed form."""

import numpy as np
import pytest
import torch
from matrices import generator
from networks import objective_of_function
from torch import Tensor

from hessian_directions.geometry import discs
from hessian_directions.geometry.directions import orthonormalise
from hessian_directions.geometry.quadratic_fit import polar_points
from hessian_directions.objectives.objective import Objective

RADII = np.geomspace(0.01, 1, 5)
EIGENVALUES = torch.tensor([-2.0, *torch.linspace(0.1, 1.0, 37), 30.0], dtype=torch.float64)


def objective(slope: float = 0.0, wall: float = np.inf) -> Objective:
    """L(θ) = g·θ + ½ Σ λ_i θ_i², ‖g‖ = slope, whose weights lie at 0; infinite beyond a radius."""
    n = len(EIGENVALUES)

    def loss(theta: Tensor) -> Tensor:
        found = slope * theta.sum() / n**0.5 + (EIGENVALUES * theta.square()).sum() / 2
        return torch.where(theta.norm() > wall, torch.inf, found)

    return objective_of_function(loss, [0.0] * n)


def plane(*columns: int) -> Tensor:
    return torch.eye(len(EIGENVALUES), dtype=torch.float64)[:, list(columns)]


def test_rings_are_the_losses_of_their_points() -> None:
    one, V = objective(0.3), discs.random_plane(objective(), generator())
    torch.testing.assert_close(V.T @ V, torch.eye(2, dtype=torch.float64))
    rings = discs.ring_losses(one, V, RADII, 6)
    x, y = polar_points(RADII, 6)
    for place in np.ndindex(5, 6):
        theta = x[place] * V[:, 0] + y[place] * V[:, 1]
        assert rings[place] == pytest.approx(float(one.value(theta)), rel=1e-12)


def test_the_hessian_plane_of_a_saddle_falls_by_half_lambda_min_rho_squared() -> None:
    """Random planes hardly fall: their curvature is close to t/N, which is positive here."""
    saddle = objective()
    rings = discs.ring_losses(saddle, plane(-1, 0), RADII, 16)
    np.testing.assert_allclose(discs.lowest_in_discs(rings, 0.0), -(RADII**2))
    # One eigenvalue of either sign and at any other angle: cos²·30 − sin²·2 is above −2.
    assert (rings.argmin(1) % 8 == 4).all()
    for seed in range(20):
        V = discs.random_plane(saddle, generator(seed))
        lowest = discs.lowest_in_discs(discs.ring_losses(saddle, V, RADII, 16), 0.0)
        H = (V.T * EIGENVALUES) @ V
        below = min(float(torch.linalg.eigvalsh(H)[0]), 0.0) / 2 * RADII**2
        assert (lowest >= below * (1 + 1e-9)).all()
        assert (lowest > -(RADII**2)).all()


def test_on_a_slope_a_plane_along_it_falls_most() -> None:
    """L = g·θ falls by ‖g‖ρ along −g and by √(2/N) of it, as root mean square, in random planes."""
    flat = objective(0.5e6)  # so that curvature is nothing
    g, n = flat.gradient(), flat.n_parameters
    other = torch.randn(n, 1, dtype=torch.float64, generator=generator())
    V = orthonormalise(torch.cat([-g[:, None], other], 1))
    lowest = discs.lowest_in_discs(discs.ring_losses(flat, V, RADII, 16), 0.0)
    np.testing.assert_allclose(lowest, -0.5e6 * RADII, rtol=1e-4)
    squares = []
    for seed in range(300):
        V = discs.random_plane(flat, generator(seed))
        falls = discs.lowest_in_discs(discs.ring_losses(flat, V, RADII[-1:], 64), 0.0)
        squares.append(float(falls[0] / 0.5e6) ** 2)
    error = 2 / n / 300**0.5  # of the mean of χ²₂/N
    assert np.mean(squares) == pytest.approx(2 / n, abs=4 * error)


def test_discs_at_a_minimum_have_their_lowest_point_at_the_centre() -> None:
    rings = discs.ring_losses(objective(), plane(20, 30), RADII, 8)
    assert discs.lowest_in_discs(rings, 0.0).tolist() == [0.0] * 5


def test_losses_that_are_not_finite_are_left_out_of_a_search() -> None:
    one = objective(wall=0.4)
    rings = discs.ring_losses(one, plane(0, 5), RADII, 8)
    assert np.isnan(rings).all(1).tolist() == [False] * 4 + [True]
    lowest = discs.lowest_in_discs(rings, 0.0)
    assert lowest[4] == lowest[3] == pytest.approx(-(RADII[3] ** 2))
    rings[1, 2] = np.nan
    assert np.isfinite(discs.lowest_in_discs(rings[None], 0.0)).all()
