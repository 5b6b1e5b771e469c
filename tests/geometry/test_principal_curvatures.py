import math

import numpy as np
import pytest
from scipy import integrate

from hessian_directions.errors import ArgumentError
from hessian_directions.geometry import principal_curvatures as pc


def gaussian_limit(trace: float, frobenius: float, n: int, seed: int = 0) -> np.ndarray:
    """t·I + f·G from its definition: (n, 2, 2)."""
    X = np.random.default_rng(seed).standard_normal((n, 2, 2))
    return trace * np.eye(2) + frobenius * (X + X.transpose(0, 2, 1)) / math.sqrt(2)


def test_principal_curvatures_are_the_eigenvalues():
    M = gaussian_limit(0.3, 2.0, 500)
    smallest, largest = pc.principal_curvatures(M)
    np.testing.assert_allclose(np.stack([smallest, largest], -1), np.linalg.eigvalsh(M), atol=1e-12)


@pytest.mark.parametrize(
    ("M", "message"),
    [
        (np.zeros((3, 2)), r"the shape \(3, 2\), not"),
        (np.eye(3), r"the shape \(3, 3\), not"),
        ([[1.0, 5.0], [0.0, 1.0]], "not symmetric"),
        ([[[1.0, 0.0], [0.0, 1.0]], [[1e9, 2e3], [0.0, 1.0]]], "not symmetric"),
    ],
)
def test_what_has_no_principal_curvatures(M, message):
    with pytest.raises(ArgumentError, match=message):
        pc.principal_curvatures(M)


@pytest.mark.parametrize(
    ("M", "expected"),
    [
        ([[0, 0], [0, 0]], (0, 0)),
        ([[2, 0], [0, 2]], (2, 2)),
        ([[0, 3], [3, 0]], (-3, 3)),
        ([[1e-200, 0], [0, -1e200]], (-1e200, 0)),
    ],
)
def test_principal_curvatures_of_special_matrices(M, expected):
    assert tuple(float(k) for k in pc.principal_curvatures(M)) == expected


@pytest.mark.parametrize(("trace", "frobenius"), [(0.0, 1.0), (5.0, 2.0), (-40.0, 31.6)])
def test_densities_integrate_to_one_and_have_the_expected_means(trace, frobenius):
    x = np.linspace(trace - 12 * frobenius, trace + 12 * frobenius, 4001)
    expected = pc.expected_principal_curvatures(trace, frobenius)
    for density, mean in zip((pc.density_smallest, pc.density_largest), expected):
        p = density(x, trace, frobenius)
        assert integrate.simpson(p, x=x) == pytest.approx(1, abs=1e-9)
        assert integrate.simpson(x * p, x=x) == pytest.approx(mean, abs=1e-8 * frobenius)


def test_densities_are_those_of_the_gaussian_limit():
    trace, frobenius, n = 3.0, 2.0, 200_000
    samples = pc.principal_curvatures(gaussian_limit(trace, frobenius, n))
    x = np.linspace(trace - 10 * frobenius, trace + 10 * frobenius, 4001)
    for sample, density in zip(samples, (pc.density_smallest, pc.density_largest)):
        cumulative = integrate.cumulative_simpson(density(x, trace, frobenius), x=x, initial=0)
        empirical = np.searchsorted(np.sort(sample), x) / n
        # Kolmogorov-Smirnov at the level 1e-6
        assert np.abs(empirical - cumulative).max() < 2.7 / math.sqrt(n)


@pytest.mark.parametrize(("trace", "frobenius"), [(0.0, 1.0), (5.0, 2.0), (-40.0, 31.6)])
def test_distribution_is_the_integral_of_the_density(trace, frobenius):
    def density(x: float) -> float:
        return float(pc.density_smallest(x, trace, frobenius))

    for y in (-6.0, -2.0, 0.0, 1.5):
        x = trace + y * frobenius
        integral = integrate.quad(density, trace - 30 * frobenius, x, epsabs=1e-13, limit=200)[0]
        assert float(pc.distribution_smallest(x, trace, frobenius)) == pytest.approx(
            integral, abs=1e-9
        )


def test_density_is_never_negative_far_out():
    x = np.linspace(-60, 60, 1001)
    assert (pc.density_largest(x, 0.0, 1.0) >= 0).all()
    assert (pc.density_smallest(x, 0.0, 1.0) >= 0).all()


@pytest.mark.parametrize("r", [0.0, 0.7, -1.5, 4.0])
def test_visibility_is_what_minima_and_maxima_leave(r):
    minimum = integrate.quad(lambda x: float(pc.density_smallest(x, r, 1.0)), 0, r + 12)[0]
    maximum = integrate.quad(lambda x: float(pc.density_largest(x, r, 1.0)), r - 12, 0)[0]
    assert float(pc.visibility(r)) == pytest.approx(1 - minimum - maximum, abs=1e-7)


def test_critical_dimension_is_the_maximum_over_x():
    values = np.concatenate([np.random.default_rng(0).standard_normal(40) + 0.5, [30.0, -2.5]])
    x = np.linspace(0, 1 / abs(values.min()), 200_001)[1:-1]
    scan = (values[:, None] * x / (1 + values[:, None] * x)).sum(0).max()
    assert pc.critical_dimension(values) == pytest.approx(scan, rel=1e-6)


def test_critical_dimension_does_not_depend_on_scale_or_on_counting():
    values = [5.0, 1.0, 1.0, 1.0, 0.0, -0.5, -0.5]
    d = pc.critical_dimension(values)
    assert pc.critical_dimension(1e-9 * np.array(values)) == pytest.approx(d, rel=1e-9)
    counted = pc.critical_dimension([5, 1, 0, -0.5, 7], [1, 3, 1, 2, 0])
    assert counted == pytest.approx(d, rel=1e-12)


def test_critical_dimension_over_twelve_orders_of_magnitude():
    assert 1 < pc.critical_dimension([1e6, 1.0, 1.0, -1e-6]) < 3 + 1e-6


def test_critical_dimension_of_definite_and_of_mostly_negative_matrices():
    assert pc.critical_dimension([1.0, 0.0]) == math.inf
    assert pc.critical_dimension([1.0, -1.0]) == 0
    assert pc.critical_dimension([-1.0]) == 0


# Two hundred spectra' worth of probes: what a quadrature with every eigenvalue as a node has.


def probes(values: np.ndarray, n_probes: int, random: np.random.Generator) -> np.ndarray:
    """Weights of random unit vectors on the eigenvectors: (P, N)."""
    squares = random.standard_normal((n_probes, len(values))) ** 2
    return squares / squares.sum(axis=1, keepdims=True)


SPREAD = np.concatenate([np.linspace(0.0, 2.0, 900), np.linspace(-0.5, 0.0, 300)])


def test_dimensions_from_a_density_scatter_as_their_standard_errors_say():
    exact, random = pc.critical_dimension(SPREAD), np.random.default_rng(0)
    found = []
    for _ in range(200):
        weights = probes(SPREAD, 10, random)
        nodes = np.broadcast_to(SPREAD, weights.shape)
        found.append(pc.critical_dimension_of_density(nodes, weights, len(SPREAD)))
    scores = [(one.dimension - exact) / one.standard_error for one in found]
    # Student's t with nine degrees of freedom deviates by 1.13.
    assert np.std(scores) == pytest.approx(1.13, abs=0.2)
    assert abs(np.mean(scores)) < 0.4
    covered = np.mean(np.abs(scores) < 2.262)
    assert covered == pytest.approx(0.95, abs=0.05)


def test_a_single_dominant_negative_eigenvalue_breaks_it():
    """Its weight in a probe is χ² over N: one probe in two sees a tenth of it, or twice as much."""
    values, random = np.concatenate([np.full(999, 0.01), [-20.0]]), np.random.default_rng(0)
    weights = probes(values, 3, random)
    nodes = np.broadcast_to(values, weights.shape)
    found = pc.critical_dimension_of_density(nodes, weights, 1000)
    assert pc.critical_dimension(values) == 0  # the trace is negative: one direction suffices
    assert found.dimension == 0 or found.standard_error > 0.2 * found.dimension


def test_dimensions_from_a_density_without_negative_nodes_or_with_negative_trace():
    weights = np.full((2, 2), 0.5)
    for nodes, expected in (([1.0, 2.0], math.inf), ([1.0, -2.0], 0.0)):
        found = pc.critical_dimension_of_density([nodes, nodes], weights, 10)
        assert found.dimension == expected
        assert math.isnan(found.standard_error)
    with pytest.raises(ValueError, match="two probes"):
        pc.critical_dimension_of_density([[1.0, -0.1]], [[0.5, 0.5]], 10)


def test_the_next_order_of_visibility():
    assert pc.visibility(2.0, 0.0) == pc.visibility(2.0)
    assert pc.visibility(2.0, 0.01) / pc.visibility(2.0) == pytest.approx(math.exp(-0.08 / 6))
    assert pc.visibility(-2.0, -0.01) == pc.visibility(2.0, 0.01)
    assert pc.visibility(20.0, -1.0) == 1


@pytest.mark.parametrize("weight", [1e-30, 1e-20, 1e-12])
def test_critical_dimension_of_a_negative_eigenvalue_of_hardly_any_weight(weight):
    """Its own term is lost, and the others are largest at the pole: Σ λ/(1 + λ), in units of it."""
    d = pc.critical_dimension([1.0, 3.0, -0.5], [10, 2, weight])
    assert d == pytest.approx(10 * 2 / 3 + 2 * 6 / 7, rel=1e-5)


def test_eigenvalues_negative_by_rounding_are_zero():
    B = np.random.default_rng(0).normal(size=(80, 20))
    values = np.linalg.eigvalsh(B @ B.T)
    assert values[0] < 0
    assert pc.critical_dimension(values) == math.inf
