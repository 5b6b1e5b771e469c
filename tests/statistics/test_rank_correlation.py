"""Kendall's and the granulated τ against SciPy, hand-made populations, and their coverage."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from hessian_directions.statistics.rank_correlation import (
    granulated_interval,
    granulated_tau,
    kendall_interval,
    kendall_tau,
)

DESIGN = np.array(list(itertools.product([16, 64, 256], [0.1, 0.5], [0.0, 0.1], [32, 64])))
FACTORS = dict(zip(("batch_size", "rate", "noise", "width"), DESIGN.T))
ALONE = {"batch_size": DESIGN[:, 0]}


def test_importing_rank_correlation_does_not_import_torch():
    program = "import sys; import hessian_directions.statistics.rank_correlation; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("levels", [3, 10, 1000])
@pytest.mark.parametrize("n", [2, 3, 30])
def test_tau_against_scipy_with_and_without_ties(n, levels):
    random = np.random.default_rng(n)
    for _ in range(10):
        x, y = random.integers(levels, size=(2, n))
        assert kendall_tau(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, nan_ok=True)


def test_tau_is_not_defined_where_nothing_is_ranked():
    for x, y in (([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0])):
        assert math.isnan(kendall_tau(x, y))
        assert all(map(math.isnan, kendall_interval(x, y)))


def test_tau_sees_ranks_only():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 40))
    assert kendall_tau(np.exp(3 * x), y**3) == pytest.approx(kendall_tau(x, y))
    assert kendall_tau(x, x) == 1
    assert kendall_tau(x, -x) == -1


@pytest.mark.parametrize(("n", "correlation"), [(12, 0.0), (48, 0.6)])
def test_interval_covers(n, correlation):
    random = np.random.default_rng(0)
    tau = 2 / np.pi * np.arcsin(correlation)
    covered = []
    for _ in range(300):
        x, noise = random.normal(size=(2, n))
        y = correlation * x + np.sqrt(1 - correlation**2) * noise
        low, high = kendall_interval(x, y, 0.9, n_bootstrap=300, generator=random)
        covered.append(low <= tau <= high)
    assert 0.85 <= np.mean(covered) <= 0.97


def test_bootstrap_is_that_of_resampled_members():
    """Counts of members give the τ-b of the population in which they are repeated."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 15))
    taus = []
    for _ in range(4000):
        picked = random.integers(15, size=15)
        taus.append(stats.kendalltau(x[picked], y[picked]).statistic)
    low, high = kendall_interval(x, y, 0.8, n_bootstrap=4000)
    assert (low, high) == pytest.approx(np.quantile(taus, [0.1, 0.9]), abs=0.04)


def test_equal_data_have_equal_intervals():
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    assert kendall_interval(x, y) == kendall_interval(x, y)
    other = kendall_interval(x, y, generator=np.random.default_rng(1))
    assert other != kendall_interval(x, y)


def test_granulated_tau_by_hand():
    # Two factors a, b; groups that differ in a only: {0, 2}, {1, 3}; in b only: {0, 1}, {2, 3}.
    factors = {"a": ["u", "u", "v", "v"], "b": [0, 1, 0, 1]}
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 3.0, 2.0]
    assert granulated_tau(x, y, {"a": factors["a"], "b": factors["b"]}) == pytest.approx(
        (1 - 1) / 2
    )
    # A tie in y leaves a group out.
    assert granulated_tau(x, [1.0, 0.0, 3.0, 3.0], factors) == pytest.approx((1 - 1) / 2)
    assert granulated_tau(x, [1.0, 1.0, 3.0, 3.0], factors) == pytest.approx(1)


def test_common_factor_does_not_pass_for_a_correlation():
    """Batch size moves x and y alike, all else is noise: Kendall's τ is large, but only the τ of
    the factor batch size is."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(2, len(DESIGN)))
    x, y = 10 * np.log(DESIGN[:, 0]) + noise
    assert kendall_tau(x, y) > 0.6
    within = []
    for batch_size in (16, 64, 256):
        kept = DESIGN[:, 0] == batch_size
        others = {name: values[kept] for name, values in FACTORS.items() if name != "batch_size"}
        within.append(granulated_tau(x[kept], y[kept], others))
    expected = (1 + 3 * np.mean(within)) / 4
    assert granulated_tau(x, y, FACTORS) == pytest.approx(expected)
    assert granulated_tau(x, y, FACTORS) < 0.5


def test_one_factor_alone_is_kendalls_tau():
    x, y = np.random.default_rng(0).normal(size=(2, len(DESIGN)))
    assert granulated_tau(x, y, ALONE) == pytest.approx(kendall_tau(x, y))
    assert granulated_interval(x, y, ALONE) == pytest.approx(kendall_interval(x, y))


def test_factors_without_groups_do_not_count():
    x, y = np.random.default_rng(0).normal(size=(2, len(DESIGN)))
    # Every member has a seed of its own: no two differ in another factor only.
    numbered = {"number": np.arange(len(DESIGN))}
    assert granulated_tau(x, y, numbered) == pytest.approx(kendall_tau(x, y))
    assert math.isnan(granulated_tau(x[:2], y[:2], {"a": [0, 1], "b": [0, 1]}))
    assert all(map(math.isnan, granulated_interval(x[:2], y[:2], {"a": [0, 1], "b": [0, 1]})))
    assert math.isnan(granulated_tau(x, y, {}))


def test_granulated_interval_covers():
    random = np.random.default_rng(0)

    def population():
        noise = random.normal(size=(2, len(DESIGN)))
        effect = np.log(DESIGN[:, 0]) - 0.02 * DESIGN[:, 3]
        return effect + noise[0], effect + noise[1] + 0.5 * noise[0]

    expected = np.mean([granulated_tau(*population(), FACTORS) for _ in range(400)])
    ends = np.array(
        [
            granulated_interval(*population(), FACTORS, 0.9, n_bootstrap=300, generator=random)
            for _ in range(150)
        ]
    )
    covered = (ends[:, 0] <= expected) & (expected <= ends[:, 1])
    assert 0.83 <= covered.mean() <= 0.98


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [1.0], "shapes"),
        ([[1.0]], [[1.0]], "shapes"),
        ([1.0, math.nan], [1.0, 2.0], "not finite"),
        ([1.0, 2.0], [1.0, math.inf], "not finite"),
    ],
)
def test_values_that_have_no_rank(x, y, message):
    with pytest.raises(ValueError, match=message):
        kendall_tau(x, y)


def test_factor_of_another_length():
    with pytest.raises(ValueError, match="factor a has 3 values for 2 members"):
        granulated_tau([1.0, 2.0], [1.0, 2.0], {"a": [1, 2, 3]})


def test_confidence_out_of_range():
    with pytest.raises(ValueError, match="between 0 and 1"):
        kendall_interval([1.0, 2.0], [1.0, 2.0], confidence=95)
