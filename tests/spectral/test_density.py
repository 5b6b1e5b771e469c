"""Broadening and moments of quadrature rules, without torch."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import norm

from hessian_directions.spectral.density import broaden, cell_edges, moments, norm_samples


def test_importing_density_does_not_import_torch():
    program = (
        "import sys; import hessian_directions.spectral.density; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("width", [1e-6, 0.01, 0.3])
@pytest.mark.parametrize(
    "grid", [np.linspace(-4, 7, 200), 8 * np.sinh(np.linspace(-3, 3, 301)) / 5]
)
def test_mass_is_conserved_however_narrow_the_gaussians(width, grid):
    random = np.random.default_rng(0)
    nodes = random.uniform(-2, 4, size=(3, 50))
    weights = random.dirichlet(np.ones(50), size=3)
    density = broaden(nodes, weights, grid, width)
    assert density.shape == (3, len(grid))
    assert (density >= 0).all()
    assert density @ np.diff(cell_edges(grid)) == pytest.approx(np.ones(3), abs=1e-12)


def test_wide_gaussians_on_a_fine_grid():
    grid = np.linspace(-3, 3, 2001)
    density = broaden([-1.0, 0.5], [0.25, 0.75], grid, 0.2)
    exact = 0.25 * norm.pdf(grid, -1, 0.2) + 0.75 * norm.pdf(grid, 0.5, 0.2)
    assert density == pytest.approx(exact, abs=1e-4)


def test_mass_off_the_grid_is_missing():
    grid = np.linspace(0, 1, 11)
    density = broaden([0.5, 30.0], [0.4, 0.6], grid, 0.05)
    assert density @ np.diff(cell_edges(grid)) == pytest.approx(0.4)


def test_padding_of_weight_zero_does_not_show():
    grid = np.linspace(-2, 2, 50)
    padded = broaden([[0.0, 1.0, 1.0]], [[0.3, 0.7, 0.0]], grid, 0.1)
    assert padded[0] == pytest.approx(broaden([0.0, 1.0], [0.3, 0.7], grid, 0.1))


@pytest.mark.parametrize(
    ("grid", "width", "message"),
    [
        ([0.0, 1.0], 0.0, "positive"),
        ([0.0, 1.0], float("nan"), "positive"),
        ([1.0, 0.0], 1.0, "increasing"),
        ([0.0], 1.0, "increasing"),
        ([[0.0, 1.0]], 1.0, "increasing"),
    ],
)
def test_arguments_that_do_not_fit(grid, width, message):
    with pytest.raises(ValueError, match=message):
        broaden([0.0], [1.0], grid, width)


def spectral_measures(values, n_probes, random):
    """Every eigenvalue as a node: what a probe's quadrature tends to."""
    v = random.normal(size=(n_probes, len(values)))
    weights = v**2 / (v**2).sum(axis=1, keepdims=True)
    return np.tile(values, (n_probes, 1)), weights


def test_moments_are_covered_by_their_standard_errors():
    values = np.concatenate([np.linspace(-1, 1, 60), [5.0, 8.0]])
    t, f = values.sum(), np.linalg.norm(values)
    random = np.random.default_rng(0)
    z = []
    for _ in range(400):
        found = moments(*spectral_measures(values, 60, random), len(values))
        z.append(
            [
                (found.trace - t) / found.trace_standard_error,
                (found.frobenius_norm - f) / found.frobenius_standard_error,
            ]
        )
    assert np.abs(np.mean(z, axis=0)).max() < 0.35
    inside = np.mean(np.abs(z) < 1.96, axis=0)
    assert (inside > 0.88).all()
    assert (inside < 0.98).all()


def test_moments_of_one_eigenvalue_have_no_error():
    found = moments([[3.0, 3.0], [3.0, 3.0]], [[1.0, 0.0], [1.0, 0.0]], 100)
    assert (found.trace, found.frobenius_norm) == (300, pytest.approx(30))
    assert (found.trace_standard_error, found.frobenius_standard_error) == (0, 0)


def test_one_probe_has_no_standard_error():
    with pytest.raises(ValueError, match="two probes"):
        moments([[1.0, 2.0]], [[0.5, 0.5]], 5)


def test_norm_samples_are_those_of_the_delta_method():
    squares = np.random.default_rng(0).uniform(3, 5, size=1000)
    samples = norm_samples(squares)
    assert samples.mean() == pytest.approx(np.sqrt(squares.mean()))
    assert samples.std() == pytest.approx(squares.std() / (2 * samples.mean()))
    assert norm_samples([0.0, 0.0]).tolist() == [0, 0]
