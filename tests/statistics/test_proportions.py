"""Intervals of proportions: their coverage, computed from the binomial distribution itself."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from hessian_directions.statistics.proportions import clopper_pearson, wilson

P = np.linspace(0.005, 0.995, 199)


def coverage(interval, n, confidence):
    """Probability that the interval covers p, for each p of P."""
    ends = np.array([interval(k, n, confidence) for k in range(n + 1)])
    covers = (ends[:, :1] <= P) & (ends[:, 1:] >= P)
    return (stats.binom.pmf(np.arange(n + 1)[:, None], n, P) * covers).sum(axis=0)


def test_importing_proportions_does_not_import_torch():
    program = "import sys; import hessian_directions.statistics.proportions; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


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
