"""Bounds of rounding: they hold where rounding is what differs, and are not wide."""

import math

import numpy as np
import pytest

from hessian_directions.reproduction import quantities, rounding
from hessian_directions.reproduction.quantities import Quantity
from hessian_directions.reproduction.rounding import Scale

SETTINGS = {"eigenpairs": {"tolerance": 1e-3}, "visibility": {"n_spectrum_samples": 1000}}
NETWORK = Scale(10_000, norm=2.0, frobenius=3.0, trace=9.0, loss=0.1, settings=SETTINGS)


def bound(name: str, old: dict[str, float], scale: Scale = NETWORK, **new: float) -> float:
    table, column = name.split(".", 1)
    kind = quantities.quantity(table, column)
    return rounding.tolerance(table, column, kind, old, old | new, scale)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_unit_bounds_sums_in_any_order(precision: str) -> None:
    """An independent oracle: exact sums of the same numbers, by `math.fsum`."""
    random = np.random.default_rng(0)
    n = 10_000
    unit = Scale(n, precision).unit
    for _ in range(20):
        x = random.normal(size=n).astype(precision)
        exact = math.fsum(map(float, x))
        one_by_one = float(np.cumsum(x, dtype=precision)[-1])
        size = float(np.abs(x.astype(float)).sum())
        assert abs(one_by_one - exact) < unit * size
        assert abs(float(np.sum(x)) - exact) < unit * size
    # Not so wide that it would bound anything.
    assert unit < {"float32": 1e-4, "float64": 1e-12}[precision]


def test_printing() -> None:
    published = float(f"{1 / 3:.10g}")
    assert abs(1 / 3 - published) < rounding.PRINTED / 2 * published
    assert bound("saddles.r", {"r": 2.0}) == 2 * rounding.PRINTED


def test_eigenvalues_by_their_residuals() -> None:
    """Rayleigh quotients of disturbed eigenvectors, whose residuals are known."""
    random = np.random.default_rng(1)
    H = np.diag([1.0, 0.4, -0.1, -0.8])
    for size in (1e-1, 1e-3, 1e-6):
        rows = []
        for _ in range(2):
            v = np.eye(4)[0] + size * random.normal(size=4)
            v /= np.linalg.norm(v)
            value = v @ H @ v
            rows.append({"value": value, "residual": np.linalg.norm(H @ v - value * v)})
        allowed = bound("surface_checks.value", rows[0], **rows[1])
        assert abs(rows[0]["value"] - rows[1]["value"]) < allowed
        assert allowed < 10 * size


def test_eigenvalues_without_residuals_by_the_tolerance_of_their_search() -> None:
    allowed = bound("shallow_sides.curvature", {"curvature": -0.5})
    assert allowed == pytest.approx(2 * 1e-3 * 0.5, rel=1e-3)


def test_residuals_are_at_most_what_was_asked_for() -> None:
    allowed = bound("networks.largest_residual", {"largest": 2.0, "largest_residual": 0.0})
    assert allowed == pytest.approx(2e-3)


@pytest.mark.parametrize("step", [1e-1, 1e-3, 1e-5])
def test_differences_by_the_error_of_losses(step: float) -> None:
    """Losses with errors of a known deviation; their second differences, 10,000 times."""
    errors = 0.1 * NETWORK.unit * np.random.default_rng(2).normal(size=(3, 10_000))
    moved = (errors[0] - 2 * errors[1] + errors[2]) / step**2
    row = {"pair": 0, "loss_at_origin": 0.0}
    allowed = bound(f"surface_checks.surface_{step:g}", row | {f"surface_{step:g}": 1.0})
    assert np.abs(moved).max() < allowed
    noise = math.sqrt(6) * NETWORK.unit / step**2
    assert allowed < 2 * noise + 1e-8


def test_differences_across_a_kink() -> None:
    """ℓ(x) = J·max(x − k, 0): where rounding moves the kink by dx, the bound of the loss covers it."""
    step, jump = 1e-3, 5.0
    dx = NETWORK.unit / jump  # moves the loss by `unit`

    def difference(kink: float) -> float:
        points = np.array([-step, 0.0, step])
        return float(np.array([1, -2, 1]) @ (jump * np.maximum(points - kink, 0))) / step**2

    row = {"pair": 0, "surface_0.001": 1.0}
    for kink in np.linspace(-2 * step, 2 * step, 41):
        moved = abs(difference(kink + dx) - difference(kink))
        assert moved < bound("surface_checks.surface_0.001", row)


def test_deflation_with_turned_vectors() -> None:
    """Equal Rademacher samples, deflated along an eigenvector and along one turned by φ."""
    random = np.random.default_rng(3)
    eigenvalues, turn, n_samples = np.linspace(-1, 5, 40), 1e-3, 8
    H = np.diag(eigenvalues)
    scale = Scale(40, frobenius=1.0, turned=[turn], eigenvalues=[5.0])
    allowed = bound("networks.trace", {"trace": 80.0}, scale)
    moved = []
    for _ in range(300):
        z = random.choice([-1.0, 1.0], size=(40, n_samples))
        across = random.normal(size=39)
        v = np.zeros(40)
        v[-1] = 1
        w = v.copy()
        w[:-1] = turn * across / np.linalg.norm(across)
        w /= np.linalg.norm(w)
        traces = []
        for u in (v, w):
            rest = z - np.outer(u, u @ z)
            traces.append(u @ H @ u + (rest * (H @ rest)).sum(0).mean())
        moved.append(abs(traces[0] - traces[1]))
    assert max(moved) < allowed
    assert allowed < 50 * np.median(moved)


def test_angle_between_vectors() -> None:
    angle = 1e-9
    old = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    new = np.array([[-math.cos(angle), 0.0], [math.sin(angle), 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(rounding.turned(old, new), [angle, 0.0], rtol=1e-6)


def test_angle_by_residual_over_gap() -> None:
    """Davis and Kahan, on a matrix whose vectors are known."""
    random = np.random.default_rng(4)
    values = np.array([-0.5, 0.01, 1.0, 1.5])
    H = np.diag(values)
    for pair in (0, 2, 3):
        v = np.eye(4)[pair] + 1e-3 * random.normal(size=4)
        v /= np.linalg.norm(v)
        residuals = np.full(4, np.linalg.norm(H @ v - (v @ H @ v) * v))
        sine = math.sqrt(1 - v[pair] ** 2)
        assert sine < rounding.turned_at_most(values, residuals)[pair] < 0.02
    assert list(rounding.turned_at_most(np.array([1.0, 1.0]), np.array([0.1, 0.1]))) == [1.0, 1.0]
    # A network whose scores alone are of interest, and one pair.
    assert rounding.turned_at_most(np.empty(0), np.empty(0)).shape == (0,)
    assert list(rounding.turned_at_most(np.array([2.0]), np.array([0.1]))) == [0.05]


def test_no_case_changes_sides_in_float64_and_few_in_float32() -> None:
    row = {"n_planes": 400, "visibility_direct": 0.1}
    in_float64 = bound("visibility.visibility_direct", row)
    assert in_float64 == pytest.approx(0.1 * rounding.PRINTED)
    single = Scale(10_000, "float32", frobenius=3.0)
    assert 1 / 400 < bound("visibility.visibility_direct", row, single) < 10 / 400


def test_a_ratio_without_a_stated_reference_is_to_the_trace() -> None:
    for column in ("ratio", "ratio_low", "ratio_high"):
        row = {column: 2.0, "rounding": 1e-7}
        allowed = bound(f"apparent_curvature.{column}", row, Scale(100, trace=3.0, frobenius=2.0))
        assert rounding.DEVIATIONS * 1e-7 < allowed < rounding.DEVIATIONS * 1e-7 + 1e-8


def test_ratios_by_their_parts() -> None:
    row = {"mean": 6.0, "reference": 3.0, "ratio": 2.0, "n_samples": 100, "standard_error": 0.1}
    moved = bound("traces.mean", row) - 6 * rounding.PRINTED
    allowed = bound("traces.ratio", row)
    assert abs((6.0 + moved) / (3.0 - moved) - 2.0) < allowed < 1e-8


@pytest.mark.parametrize("kind", [quantities.SETTING, quantities.FLAG, quantities.CORRELATION])
def test_what_no_rounding_changes(kind: str) -> None:
    allowed = rounding.tolerance("t", "c", Quantity(kind), {"c": 7.0}, {"c": 7.0}, NETWORK)
    assert allowed == 7 * rounding.PRINTED


def test_no_number_no_bound() -> None:
    assert bound("networks.trace", {"trace": math.nan}) == 0.0
    assert bound("networks.trace", {}) == 0.0
