"""Rank statistics against SciPy, plain loops and hand-made populations; coverage of intervals."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from hessian_directions.statistics.rank_correlation import (
    difference,
    granulated,
    information,
    jackknife,
    kendall,
    mean,
    partial,
    value,
)

DESIGN = np.array(list(itertools.product([16, 64, 256], [0.1, 0.5], [0.0, 0.1], [32, 64])))
FACTORS = dict(zip(("batch_size", "rate", "noise", "width"), DESIGN.T))
ALONE = {"batch_size": DESIGN[:, 0]}


def kendall_tau(x, y):
    return value(kendall(x, y), len(x))


def granulated_tau(x, y, factors, held=()):
    return value(granulated(x, y, factors, held), len(x))


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
        assert math.isnan(value(information(y, x, {}), len(x)))
        assert math.isnan(value(partial(x, y, {}), len(x)))


def test_tau_sees_ranks_only():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 40))
    assert kendall_tau(np.exp(3 * x), y**3) == pytest.approx(kendall_tau(x, y))
    assert kendall_tau(x, x) == 1
    assert kendall_tau(x, -x) == -1


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


def test_factors_without_groups_do_not_count():
    x, y = np.random.default_rng(0).normal(size=(2, len(DESIGN)))
    # Every member has a seed of its own: no two differ in another factor only.
    numbered = {"number": np.arange(len(DESIGN))}
    assert granulated_tau(x, y, numbered) == pytest.approx(kendall_tau(x, y))
    assert math.isnan(granulated_tau(x[:2], y[:2], {"a": [0, 1], "b": [0, 1]}))
    assert math.isnan(granulated_tau(x, y, {}))


def test_held_factors_have_no_mean_of_their_own():
    """The seed differs between groups, and is none of the factors that are averaged over."""
    seeds = np.tile(np.arange(3), len(DESIGN))
    factors = {name: np.repeat(values, 3) for name, values in FACTORS.items()} | {"seed": seeds}
    x, y = np.random.default_rng(0).normal(size=(2, len(seeds)))
    of_seeds = [granulated_tau(x[seeds == s], y[seeds == s], FACTORS) for s in range(3)]
    assert granulated_tau(x, y, factors, ["seed"]) == pytest.approx(np.mean(of_seeds))
    assert granulated_tau(x, y, factors) != pytest.approx(np.mean(of_seeds))


# --- strata, partial τ and information, against plain loops ---


def test_tau_within_strata_by_pairs():
    random = np.random.default_rng(1)
    x, y = random.integers(12, size=(2, 40))
    strata = random.integers(3, size=40)
    both = in_x = in_y = 0
    for i, j in itertools.combinations(range(40), 2):
        if strata[i] == strata[j]:
            both += np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
            in_x += x[i] != x[j]
            in_y += y[i] != y[j]
    found = value(kendall(x, y, strata), 40)
    assert found == pytest.approx(both / math.sqrt(in_x * in_y))
    assert value(kendall(x, y, np.zeros(40)), 40) == pytest.approx(kendall_tau(x, y))


def test_a_common_stratum_has_no_part_in_tau_within_strata():
    random = np.random.default_rng(2)
    strata = np.repeat(np.arange(3), 100)
    x, y = 3 * strata + random.normal(size=(2, 300))
    assert kendall_tau(x, y) > 0.5
    assert abs(value(kendall(x, y, strata), 300)) < 0.1


def test_partial_tau_against_kendalls_formula_and_the_correlation_of_residuals():
    random = np.random.default_rng(3)
    z = random.normal(size=60)
    x, y = z + random.normal(size=(2, 60))
    w = random.integers(3, size=60)
    t = lambda a, b: stats.kendalltau(a, b).statistic  # noqa: E731
    expected = (t(x, y) - t(x, z) * t(y, z)) / math.sqrt((1 - t(x, z) ** 2) * (1 - t(y, z) ** 2))
    assert value(partial(x, y, {"z": z}), 60) == pytest.approx(expected)
    # Partial correlation of several: that of what regression on the others leaves.
    names = [x, y, z, w]
    matrix = np.array([[t(a, b) for b in names] for a in names])
    cross = matrix[:2, 2:] @ np.linalg.solve(matrix[2:, 2:], matrix[2:, :2])
    rest = matrix[:2, :2] - cross
    found = value(partial(x, y, {"z": z, "w": w}), 60)
    assert found == pytest.approx(rest[0, 1] / math.sqrt(rest[0, 0] * rest[1, 1]))
    assert value(partial(x, y, {"constant": np.ones(60)}), 60) == pytest.approx(t(x, y))


def information_by_loops(x, y, factors):
    """Jiang et al.'s normalised conditional mutual information, from probabilities of pairs."""
    least = math.inf
    for size in range(3):
        for names in itertools.combinations(factors, size):
            counts = {}
            for i, j in itertools.permutations(range(len(x)), 2):
                u = tuple((factors[name][i], factors[name][j]) for name in names)
                key = (u, np.sign(x[i] - x[j]), np.sign(y[i] - y[j]))
                counts[key] = counts.get(key, 0) + 1
            total = sum(counts.values())
            p = {key: count / total for key, count in counts.items()}
            shared = entropy = 0.0
            for (u, a, b), q in p.items():
                p_u = sum(r for key, r in p.items() if key[0] == u)
                p_ua = sum(r for key, r in p.items() if key[:2] == (u, a))
                p_ub = sum(r for key, r in p.items() if (key[0], key[2]) == (u, b))
                shared += q * math.log(q * p_u / (p_ua * p_ub))
                entropy -= q * math.log(p_ub / p_u)
            least = min(least, shared / entropy)
    return least


@pytest.mark.parametrize("levels", [6, 1000])
def test_information_against_loops(levels):
    random = np.random.default_rng(4)
    x = random.integers(levels, size=24)
    y = x + random.integers(levels // 2, size=24)
    factors = {name: random.integers(2, size=24) for name in "abc"}
    expected = information_by_loops(x, y, factors)
    assert value(information(x, y, factors), 24) == pytest.approx(expected, rel=1e-9)


def test_information_of_order_independence_and_a_common_factor():
    random = np.random.default_rng(5)
    factor = np.repeat(np.arange(3), 100)
    factors = {"a": factor, "b": np.tile([0, 1], 150)}
    x, noise = random.normal(size=(2, 300))
    assert value(information(x, np.exp(x), factors), 300) == pytest.approx(1)
    assert value(information(x, noise, factors), 300) < 0.01
    common_x, common_y = 3 * factor + x, 3 * factor + noise
    assert value(information(common_x, common_y, factors), 300) < 0.01
    assert value(information(common_x, common_y, {"b": factors["b"]}), 300) > 0.2


def test_mean_and_difference():
    x, y = np.random.default_rng(6).normal(size=(2, 20))
    one, other = kendall(x, y), mean(x)
    assert value(other, 20) == pytest.approx(x.mean())
    found = value(difference(one, other), 20)
    assert found == pytest.approx(kendall_tau(x, y) - x.mean())
    assert math.isnan(value(mean([]), 0))


# --- intervals over clusters ---

N_SEEDS = 10
CELLS = np.array(list(itertools.product(range(2), range(2), range(3))))
SEED = np.tile(np.arange(N_SEEDS), len(CELLS))


def clustered_population(random, correlation, n_seeds=N_SEEDS):
    """Factors move x and y; members of a seed share a third of what is left of the variance."""
    covariance = [[1.0, correlation], [correlation, 1.0]]
    cell, seed = (
        np.repeat(np.arange(len(CELLS)), n_seeds),
        np.tile(np.arange(n_seeds), len(CELLS)),
    )
    shared = random.multivariate_normal([0, 0], covariance, n_seeds)[seed]
    own = random.multivariate_normal([0, 0], covariance, len(cell))
    x, y = (math.sqrt(0.3) * shared + math.sqrt(0.7) * own).T
    batch, rate, noise = CELLS[cell].T
    factors = {"batch_size": batch, "rate": rate, "noise": noise, "seed": seed}
    return x + noise - 0.5 * rate, y + noise + 0.3 * batch, factors


STATISTICS = {
    "kendall": lambda x, y, f: kendall(x, y),
    "within": lambda x, y, f: kendall(x, y, f["noise"]),
    "partial": lambda x, y, f: partial(x, y, {"noise": f["noise"]}),
    "granulated": lambda x, y, f: granulated(x, y, f, ["seed"]),
}


@pytest.mark.parametrize("correlation", [0.0, 0.6])
@pytest.mark.parametrize("name", STATISTICS)
def test_jackknife_over_seeds_covers_where_percentiles_do_not(name, correlation):
    """400 populations of ten seeds; the truth is that of many seeds, to which the τ tend."""
    random = np.random.default_rng(7)
    many = [clustered_population(random, correlation, 60) for _ in range(8)]
    truth = np.mean([value(STATISTICS[name](*one), len(one[0])) for one in many])
    covered, by_percentiles = [], []
    for _ in range(400):
        x, y, factors = clustered_population(random, correlation)
        statistic = STATISTICS[name](x, y, factors)
        interval = jackknife(statistic, factors["seed"])
        covered.append(interval.low <= truth <= interval.high)
        if name == "within":
            drawn = random.multinomial(N_SEEDS, np.full(N_SEEDS, 1 / N_SEEDS), size=200)
            taus = statistic(drawn[:, factors["seed"]].astype(float))
            low, high = np.quantile(taus, [0.025, 0.975])
            by_percentiles.append(low <= truth <= high)
    assert 0.91 <= np.mean(covered) <= 0.985
    if by_percentiles:
        assert np.mean(by_percentiles) < np.mean(covered)


def test_jackknife_of_a_mean_is_the_t_interval_of_the_seeds_means():
    values = np.random.default_rng(8).normal(size=len(SEED))
    means = [values[s == SEED].mean() for s in range(N_SEEDS)]
    expected = stats.t.interval(0.9, N_SEEDS - 1, np.mean(means), stats.sem(means))
    found = jackknife(mean(values), SEED, 0.9)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.value == pytest.approx(values.mean())


def test_many_clusters_are_left_out_in_groups():
    """300 populations of 90 clusters: the interval of a mean covers it, and is as wide as by clusters."""
    random = np.random.default_rng(12)
    cluster = np.repeat(np.arange(90), 3)
    covered, widths = [], []
    for _ in range(300):
        effects = random.normal(size=90)
        values = effects[cluster] + random.normal(size=len(cluster))
        found = jackknife(mean(values), cluster)
        means = values.reshape(90, 3).mean(axis=1)
        by_clusters = stats.t.interval(0.95, 89, means.mean(), stats.sem(means))
        covered.append(found.low <= 0 <= found.high)
        widths.append((found.high - found.low) / np.diff(by_clusters).item())
    assert 0.92 <= np.mean(covered) <= 0.98
    assert 0.95 < np.mean(widths) < 1.1


def test_one_cluster_has_no_interval():
    x, y = np.random.default_rng(9).normal(size=(2, 10))
    found = jackknife(kendall(x, y), np.zeros(10))
    assert found.value == pytest.approx(kendall_tau(x, y))
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(jackknife(kendall([], []), []).value)


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
        jackknife(mean([1.0, 2.0]), [0, 1], confidence=95)


# --- many members: memory that does not grow with pairs ---


def peak_bytes(compute):
    """What a computation gives, and the most memory that it held."""
    tracemalloc.start()
    try:
        result = compute()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_tau_at_scale_against_scipy():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 10_000))
    x[:5000] = x[:5000].round(1)
    tau, peak = peak_bytes(lambda: kendall_tau(x, y))
    assert tau == pytest.approx(stats.kendalltau(x, y).statistic, rel=1e-12)
    # The signs of all pairs would be 800 MB.
    assert peak < 10e6


def test_information_at_scale_holds_no_pairs():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 3000))
    factors = {"a": random.integers(3, size=3000), "b": random.integers(4, size=3000)}
    _, peak = peak_bytes(lambda: value(information(x, y, factors), 3000))
    # Indices of all pairs for four sets would be more than 200 MB.
    assert peak < 80e6
