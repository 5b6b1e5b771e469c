"""Lanczos quadrature on matrices with chosen eigenvalues."""

import numpy as np
import pytest
from matrices import diagonal, generator, matrix

from hessian_directions.geometry.directions import draw, unit
from hessian_directions.spectral.density import broaden
from hessian_directions.spectral.spectrum import spectral_density


def bulk_with_outliers(n=400, seed=0):
    bulk = 0.05 * np.random.default_rng(seed).normal(size=n - 4)
    return np.sort(np.concatenate([[-1, 2, 5, 10], bulk]))


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("probes_at_once", [1, 3, 8])
def test_moments_up_to_2m_minus_1_are_exact_for_every_probe(distribution, probes_at_once):
    values = np.random.default_rng(3).normal(size=60)
    H, m, n_probes = matrix(values), 6, 7
    density = spectral_density(
        H, n_probes, m, generator(), distribution, probes_at_once=probes_at_once
    )
    nodes, weights = density.nodes, density.weights
    V = unit(draw(distribution, 60, n_probes, generator()))
    power = V
    for k in range(1, 2 * m + 1):
        power = H @ power
        exact = (V * power).sum(0).numpy()
        error = np.abs((weights * nodes**k).sum(1) - exact).max()
        assert (error < 1e-12 * np.abs(values).max() ** k) == (k < 2 * m)


def test_pyhessian_weights_are_complex_and_landscaper_s_sum_to_fifty():
    density = spectral_density(matrix(bulk_with_outliers()), 5, 40, generator())
    nodes, weights = density.nodes, density.weights
    assert nodes.shape == weights.shape == (5, 40)
    assert nodes.dtype == weights.dtype == np.float64
    assert (weights >= 0).all()
    assert weights.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-14)
    assert (np.diff(nodes, axis=1) >= 0).all()


def test_density_is_that_of_the_eigenvalues():
    """An isolated eigenvalue has the weight 1/N on average, and the bulk its density."""
    values = bulk_with_outliers()
    density = spectral_density(diagonal(values), 80, 40, generator())
    nodes, weights = density.nodes, density.weights
    for isolated in (-1, 2, 5, 10):
        share = (weights * (np.abs(nodes - isolated) < 0.1)).sum(axis=1)
        assert abs(share.mean() - 1 / 400) < 4 * share.std(ddof=1) / np.sqrt(80)
    grid = np.linspace(-0.3, 0.3, 61)
    densities = broaden(nodes, weights, grid, 0.03)
    exact = broaden(values, np.full(400, 1 / 400), grid, 0.03)
    error = densities.std(axis=0, ddof=1) / np.sqrt(80)
    assert (np.abs(densities.mean(axis=0) - exact) < 4 * error + 0.005 * exact.max()).all()


@pytest.mark.parametrize(
    ("values", "n_nodes"),
    [([2.0] * 9, 1), ([0.0] * 9, 1), ([1.0] * 5 + [-3.0] * 4, 2), ([4.0], 1), ([1.0, 2.0], 2)],
)
def test_exhausted_krylov_spaces_are_filled_up_with_weight_zero(values, n_nodes):
    density = spectral_density(diagonal(values), 3, 7, generator())
    nodes, weights = density.nodes, density.weights
    assert nodes.shape == (3, min(7, len(values)))
    assert (weights[:, n_nodes:] == 0).all()
    assert weights.sum(axis=1) == pytest.approx(np.ones(3))
    assert nodes[:, :n_nodes] == pytest.approx(np.tile(np.unique(values), (3, 1)))
    assert (nodes[:, n_nodes:] == nodes[:, [n_nodes - 1]]).all()


def test_all_steps_give_the_whole_spectrum():
    values = np.sort(np.random.default_rng(0).normal(size=25))
    nodes = spectral_density(matrix(values), 2, 100, generator()).nodes
    assert nodes == pytest.approx(np.tile(values, (2, 1)), abs=1e-12)


def test_progress_counts_products():
    seen = []
    spectral_density(
        diagonal(np.arange(20.0)),
        5,
        3,
        generator(),
        probes_at_once=2,
        progress=lambda now: seen.append((now.done, now.total)),
    )
    assert seen[-1] == (15, 15)
    assert [done for done, _ in seen] == [2, 4, 6, 8, 10, 12, 13, 14, 15]
