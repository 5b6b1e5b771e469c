"""Where a median leaves its reference: closed forms, and the coverage of the intervals."""

import numpy as np
import pytest
from scipy import stats

from hessian_directions.statistics.departure import departure, median_interval

SCALES = np.geomspace(0.01, 10, 13)
EXACT = np.zeros(13)


@pytest.mark.parametrize(("n", "confidence"), [(6, 0.95), (9, 0.9), (24, 0.95), (101, 0.99)])
def test_median_interval_against_scipy(n: int, confidence: float) -> None:
    values = np.random.default_rng(n).normal(size=n)
    expected = stats.quantile_test(values, p=0.5).confidence_interval(confidence)
    assert median_interval(values, confidence) == pytest.approx((expected.low, expected.high))


def test_median_interval_covers() -> None:
    """Exact for any continuous distribution: at least 95 %, and not much more for 24 values."""
    values = np.random.default_rng(0).exponential(size=(24, 4000))
    low, high = median_interval(values)
    covered = ((low <= np.log(2)) & (high >= np.log(2))).mean()
    assert 0.94 < covered < 0.98


def test_too_few_values_have_no_interval_and_nan_is_largest() -> None:
    assert median_interval(np.arange(5.0)) == (-np.inf, np.inf)
    low, high = median_interval([1.0, np.nan, 3.0, 2.0, 4.0, 5.0, np.nan, 0.0])
    assert (low, high) == (0.0, np.inf)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_power_leaves_where_it_should(sign: int) -> None:
    """1 + s² leaves 1 by half at √½, up or, mirrored, down."""
    values = -3.0 * (1 + sign * SCALES**2) * np.ones((10, 1))
    found = departure(SCALES, values, -3.0, EXACT)
    assert found.scale == pytest.approx(0.5**0.5)
    assert found.low == found.high == found.scale


def test_what_never_leaves_and_what_has_left() -> None:
    never = departure(SCALES, np.full((10, 13), 1.49), 1.0, EXACT)
    assert (never.scale, never.low, never.high) == (np.inf, np.inf, np.inf)
    left = departure(SCALES, np.full((10, 13), 1.51), 1.0, EXACT)
    assert (left.scale, left.low, left.high) == (0.0, 0.0, 0.0)


def test_infinite_losses_leave_and_unresolved_scales_do_not_count() -> None:
    values = np.ones((10, 13))
    values[:, 8:] = np.nan
    assert departure(SCALES, values, 1.0, EXACT).scale == pytest.approx(SCALES[7])
    values[:, :3] = 1e9
    errors = np.where(np.arange(13) < 3, 0.1, 0.0)
    assert departure(SCALES, values, 1.0, errors).scale == pytest.approx(SCALES[7])
    nothing = departure(SCALES, values, 1.0, EXACT + 1)
    assert (nothing.scale, nothing.high) == (np.inf, np.inf)


def test_the_interval_covers_the_departure_of_the_population() -> None:
    """24 planes, whose curvatures scatter by a factor, with the median 1 + s²."""
    rng = np.random.default_rng(1)
    scatter = np.exp(0.4 * rng.normal(size=(400, 24, 1)))
    noise = np.exp(0.05 * rng.normal(size=(400, 24, 13)))
    values = 1 + SCALES**2 * scatter * noise
    found = [departure(SCALES, one, 1.0, EXACT) for one in values]
    covered = np.mean([one.low <= 0.5**0.5 <= one.high for one in found])
    assert 0.93 < covered <= 1
    assert np.median([one.high / one.low for one in found]) < 3
