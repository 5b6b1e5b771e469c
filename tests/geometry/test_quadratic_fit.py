"""Fits against polynomials in closed form, and against NumPy's own least squares."""

import numpy as np
import pytest
import xarray as xr

from hessian_directions.geometry import quadratic_fit
from hessian_directions.geometry.quadratic_fit import fit_discs, fit_quadratic, fit_surface

RNG = np.random.default_rng(0)
K = np.array([[3.0, 0.5], [0.5, -0.2]])
G = np.array([0.7, -0.1])


def quadratic(x: np.ndarray, y: np.ndarray, constant: float = 1.0) -> np.ndarray:
    curved = K[0, 0] * x**2 + 2 * K[0, 1] * x * y + K[1, 1] * y**2
    return constant + G[0] * x + G[1] * y + curved / 2


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_a_quadratic_is_found_on_any_scale(scale: float) -> None:
    x, y = RNG.normal(size=(2, 12)) * np.array([[scale], [10 * scale]])
    fit = fit_quadratic(x, y, quadratic(x, y))
    # On a small scale rounding of the constant leaves few digits of the curvature.
    atol = 1e-14 / scale**2 + 1e-9
    np.testing.assert_allclose(fit.curvature, K, atol=atol)
    np.testing.assert_allclose(fit.slope, G, atol=1e-13 / scale + 1e-9 * scale)
    assert float(fit.constant) == pytest.approx(1.0, abs=1e-9 * max(scale, 1) ** 2)


def test_principal_curvatures_and_level_point() -> None:
    x, y = RNG.normal(size=(2, 12))
    fit = fit_quadratic(x, y, quadratic(x, y))
    np.testing.assert_allclose(fit.principal, np.linalg.eigvalsh(K))
    np.testing.assert_allclose(fit.stationary_point, -np.linalg.solve(K, G))
    assert float(fit.mean_curvature) == pytest.approx(1.4)
    assert bool(fit.is_saddle)
    assert float(fit.residual) < 1e-12


def test_many_surfaces_are_fitted_as_one_by_one_with_numpy() -> None:
    """Against `lstsq` on the design matrix; one loss that is not finite takes its surface alone."""
    x, y = RNG.normal(size=(2, 20))
    values = RNG.normal(size=(3, 4, 20))
    values[1, 2, 5], values[0, 0, 0] = np.inf, np.nan
    fits = fit_quadratic(x, y, values)
    design = np.stack([np.ones(20), x, y, x**2 / 2, x * y, y**2 / 2], axis=1)
    for place in np.ndindex(3, 4):
        if not np.isfinite(values[place]).all():
            assert np.isnan(fits.curvature[place]).all()
            assert np.isnan(fits.residual[place])
            continue
        c, g, h, a, b, d = np.linalg.lstsq(design, values[place], rcond=None)[0]
        np.testing.assert_allclose(fits.constant[place], c)
        np.testing.assert_allclose(fits.slope[place], [g, h])
        np.testing.assert_allclose(fits.curvature[place], [[a, b], [b, d]])
        rest = values[place] - design @ [c, g, h, a, b, d]
        assert fits.residual[place] == pytest.approx(np.sqrt((rest**2).mean()))


@pytest.mark.parametrize("n", [5, 30])
def test_points_that_determine_no_quadratic_are_refused(n: int) -> None:
    angle = np.linspace(0, 6, n)
    with pytest.raises(ValueError, match="do not determine a quadratic"):
        fit_quadratic(np.cos(angle), np.sin(angle), angle)


def surface(loss: np.ndarray, x: np.ndarray, y: np.ndarray) -> xr.DataArray:
    return xr.DataArray(
        loss,
        coords={"alpha": x / 4, "beta": y / 0.5},
        dims=("alpha", "beta"),
        attrs={"length_alpha": 4.0, "length_beta": 0.5},
    )


def test_a_region_of_a_surface_is_fitted_in_parameter_space_lengths() -> None:
    """The loss is another quadratic outside of the middle half."""
    x, y = np.linspace(-2, 2, 21), np.linspace(-0.3, 0.3, 21)
    X, Y = np.meshgrid(x, y, indexing="ij")
    outside = (np.abs(X) > 1.001) | (np.abs(Y) > 0.1501)
    loss = surface(quadratic(X, Y) + 10 * outside * X**2, x, y)
    for region in (0.25, 0.5):
        np.testing.assert_allclose(fit_surface(loss, region).curvature, K, atol=1e-10)
        np.testing.assert_allclose(fit_surface(loss.T, region).slope, G, atol=1e-10)
    assert fit_surface(loss).curvature[0, 0] > 10


def test_a_region_with_too_few_points_has_no_fit() -> None:
    x = np.linspace(-1, 1, 5)
    fit = fit_surface(surface(np.zeros((5, 5)), x, x), 0.25)
    assert np.isnan(fit.curvature).all()
    assert not fit.is_saddle


def test_right_angles_of_a_ring_lie_on_the_axes() -> None:
    x, y = quadratic_fit.polar_points([0.1, 3.0], 12)
    np.testing.assert_allclose(np.hypot(x, y), np.repeat([[0.1], [3.0]], 12, 1), rtol=1e-14)
    assert y[:, 0].tolist() == x[:, 3].tolist() == y[:, 6].tolist() == x[:, 9].tolist() == [0, 0]


RADII = np.geomspace(0.01, 10, 7)


def test_discs_of_a_quadratic_have_its_curvature_at_every_radius() -> None:
    x, y = quadratic_fit.polar_points(RADII, 8)
    fits = fit_discs(RADII, np.stack([quadratic(x, y), 2 * quadratic(x, y)]), [1.0, 2.0])
    np.testing.assert_allclose(fits.curvature[0], np.broadcast_to(K, (7, 2, 2)), atol=1e-10)
    np.testing.assert_allclose(fits.curvature[1], 2 * fits.curvature[0], atol=1e-10)
    assert fits.is_saddle.all()


@pytest.mark.parametrize("n_angles", [5, 8])
def test_discs_of_a_quartic_against_a_line_through_means_of_rings(n_angles: int) -> None:
    """½a·s + b·s², s = ρ²: with equal angles the mean curvature follows from the rings' means alone.

    It is twice the slope of the least-squares line through (s, mean loss), the centre once and each
    ring as often as it has points.
    """
    x, y = quadratic_fit.polar_points(RADII, n_angles)
    s = x**2 + y**2
    fits = fit_discs(RADII, 0.5 * s + 3.0 * s**2, 0.0)
    for k in range(len(RADII)):
        squares = np.append(0.0, s[: k + 1])
        line = np.polyfit(squares, 0.5 * squares + 3.0 * squares**2, 1)
        assert fits.mean_curvature[k] == pytest.approx(2 * line[0], rel=1e-9)


def test_a_disc_that_is_not_finite_somewhere_has_no_fit_nor_have_larger_ones() -> None:
    x, y = quadratic_fit.polar_points(RADII, 8)
    rings = quadratic(x, y)
    rings[4, 3] = np.nan
    finite = np.isfinite(fit_discs(RADII, rings, 1.0).mean_curvature)
    assert finite.tolist() == [True] * 4 + [False] * 3


def test_weights_give_the_mean_curvature_and_its_error() -> None:
    rings, centre = RNG.normal(size=(4000, 7, 8)), RNG.normal(size=4000)
    curvature = fit_discs(RADII, rings, centre).mean_curvature
    weights = quadratic_fit.mean_curvature_weights(RADII, 8)
    every = np.concatenate([centre[:, None], rings.reshape(4000, -1)], axis=1)
    np.testing.assert_allclose(curvature, every @ weights.T, rtol=1e-6, atol=1e-9)
    # The scatter of 4000 is known to a ninetieth.
    np.testing.assert_allclose(curvature.std(0), np.linalg.norm(weights, axis=1), rtol=0.05)


@pytest.mark.parametrize("angle", np.linspace(0.1, 3.0, 7))
@pytest.mark.parametrize(("constant", "scale"), [(0.0, 1.0), (2.3, 1.0), (2.3, 1e-3), (5.0, -1e-6)])
def test_a_valley_is_no_saddle_by_rounding(angle, constant, scale):
    """L = c + s·(x cos φ + y sin φ)² has one curvature, 2s, and none across it."""
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(-3, 3, 9), np.linspace(-0.1, 0.1, 7)))
    fit = fit_quadratic(x, y, constant + scale * (x * np.cos(angle) + y * np.sin(angle)) ** 2)
    assert not fit.is_saddle
    rising = max(fit.principal, key=abs)
    assert rising == pytest.approx(2 * scale, rel=1e-4)


def test_a_hardly_bent_valley_is_a_saddle():
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(-3, 3, 9), np.linspace(-0.1, 0.1, 7)))
    assert fit_quadratic(x, y, 2.3 + x**2 - 1e-8 * y**2).is_saddle
