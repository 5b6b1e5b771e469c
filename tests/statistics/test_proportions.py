"""Intervals of proportions: their coverage, computed from the binomial distribution itself."""

import numpy as np
import pytest
from scipy import stats

from hessian_directions.statistics.proportions import as_low, clopper_pearson, wilson

P = np.linspace(0.005, 0.995, 199)


def coverage(interval, n, confidence):
    """Probability that the interval covers p, for each p of P."""
    ends = np.array([interval(k, n, confidence) for k in range(n + 1)])
    covers = (ends[:, :1] <= P) & (ends[:, 1:] >= P)
    return (stats.binom.pmf(np.arange(n + 1)[:, None], n, P) * covers).sum(axis=0)


@pytest.mark.parametrize("n", [1, 2, 10, 50, 200])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_clopper_pearson_covers_every_proportion(n, confidence):
    assert coverage(clopper_pearson, n, confidence).min() >= confidence - 1e-12


@pytest.mark.parametrize("n", [10, 50, 200])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_covers_on_average(n, confidence):
    covered = coverage(wilson, n, confidence)
    assert covered.mean() == pytest.approx(confidence, abs=0.02)
    assert covered[(P > 0.05) & (P < 0.95)].min() > confidence - 0.2


def test_against_scipy():
    for k, n in ((0, 7), (3, 7), (7, 7), (41, 300)):
        result = stats.binomtest(k, n)
        for method, interval in (("wilson", wilson), ("exact", clopper_pearson)):
            expected = result.proportion_ci(0.9, method)
            assert interval(k, n, 0.9) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_ends(interval):
    assert interval(0, 0) == (0, 1)
    assert interval(0, 20)[0] == 0
    assert interval(20, 20)[1] == 1
    assert 0 < interval(0, 20)[1] < 0.2
    low, high = interval(3, 20)
    mirrored = interval(17, 20)
    assert (1 - high, 1 - low) == pytest.approx(mirrored)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@pytest.mark.parametrize("arguments", [(-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0)])
def test_numbers_that_do_not_fit(interval, arguments):
    with pytest.raises(ValueError, match=r"possible|between 0 and 1"):
        interval(*arguments)


def test_ties_count_as_half_and_decide_nothing():
    share, low, high = as_low([1.0, 2.0, 2.5, 3.0], 2.0, 0.6)
    assert share == 0.5
    assert (low, high) == (clopper_pearson(1, 4)[0], clopper_pearson(3, 4)[1])
    assert as_low(np.full(100, 0.3), 0.3, 0.0) == (0.5, 0.0, 1.0)
    assert np.isnan(as_low([1.0, np.nan], 1.0, 0.0)).all()


def test_the_interval_with_ties_covers():
    """Values that are low with probability 0.3; whatever a fifth of ties would have been, it is covered."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        values = rng.choice([0.0, 1.0, 2.0], p=[0.3, 0.2, 0.5], size=40)
        _, low, high = as_low(values, 1.0, 0.0)
        covered += low <= 0.3 and high >= 0.5
    assert covered / 1000 > 0.95
