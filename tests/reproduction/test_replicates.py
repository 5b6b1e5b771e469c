"""Prediction intervals cover the next run, and the number of misses that are allowed is calibrated."""

import math

import numpy as np
import pytest

from hessian_directions.reproduction import quantities, replicates
from hessian_directions.reproduction.replicates import Acceptance, accept, predict

N_RUNS = 6


def coverage(kind: str, draws: np.ndarray, n_cases: float | None = None) -> float:
    """The share of last columns of (n, N_RUNS + 1) that lie in the interval of the others."""
    inside = 0
    for *archived, new in draws:
        low, high = predict(kind, archived, n_cases).interval()
        inside += low <= new <= high
    return inside / len(draws)


def test_intervals_cover_the_next_run() -> None:
    z = np.random.default_rng(0).normal(size=(4000, N_RUNS + 1))
    expected = pytest.approx(0.99, abs=3 * math.sqrt(0.01 * 0.99 / 4000))
    assert coverage(quantities.DIFFERENCE, 3 + z) == expected
    assert coverage(quantities.EIGENVALUE, np.exp(2 * z)) == expected
    assert coverage(quantities.EIGENVALUE, -np.exp(2 * z)) == expected
    assert coverage(quantities.CORRELATION, np.tanh(0.5 * z)) == expected
    assert coverage(quantities.SHARE, 1 / (1 + np.exp(-z))) == expected


@pytest.mark.parametrize("share", [0.5, 0.98, 0.999])
def test_shares_are_not_predicted_more_closely_than_they_are_sampled(share: float) -> None:
    """Also where all archived runs have the same."""
    counts = np.random.default_rng(1).binomial(450, share, size=(2000, N_RUNS + 1))
    assert coverage(quantities.SHARE, counts / 450, 450) > 0.98
    low, high = predict(quantities.SHARE, [1.0] * N_RUNS, 450).interval()
    assert 0.97 < low < 449 / 450
    assert high == 1.0


def test_scale_follows_from_the_kind_and_the_sign() -> None:
    positive, mixed = [1.0, 2.0, 3.0], [-1.0, 2.0, 3.0]
    assert predict(quantities.CURVATURE, positive).scale == "logarithm"
    assert predict(quantities.CURVATURE, mixed).scale == "identity"
    assert predict(quantities.DIFFERENCE, positive).scale == "identity"
    assert predict(quantities.SHARE, [0.1, 0.2]).scale == "logit"
    assert predict(quantities.SHARE, [0.0, 0.2], 10).scale == "arcsine"
    assert predict(quantities.CORRELATION, [0.1, -0.2]).scale == "Fisher's z"
    assert predict(quantities.CORRELATION, [0.1, 1.0]).scale == "identity"


def test_another_sign_than_all_archived_runs_is_impossible() -> None:
    predicted = predict(quantities.EIGENVALUE, [-1.0, -2.0, -1.5, -1.2])
    assert predicted.probability(1.5) == 0
    assert predicted.probability(0.0) == 0
    assert predicted.probability(-1.4) > 0.5
    low, high = predicted.interval()
    assert low < -2
    assert -1 < high < 0


def test_probability_and_interval_are_one() -> None:
    predicted = predict(quantities.LOSS, [0.9, 1.1, 1.3, 0.8, 1.0, 1.2])
    for missing in (0.5, 0.01, 1e-6):
        for end in predicted.interval(missing):
            assert predicted.probability(end) == pytest.approx(missing)
    assert predicted.probability(math.nan) == 0


def test_rounding_is_granted_beside() -> None:
    predicted = predict(quantities.CURVATURE, [2.0] * N_RUNS, slack=1e-6)
    assert predicted.interval() == pytest.approx((2 - 1e-6, 2 + 1e-6), abs=1e-12)
    assert predicted.probability(2 + 0.9e-6) == 1
    assert predicted.probability(2 + 1.1e-6) == 0


# How many may miss.


def world(random: np.random.Generator, n_runs: int) -> tuple[np.ndarray, list[int]]:
    """Runs of five networks with twelve numbers each, which go together within a network."""
    columns, groups = [], []
    for network in range(5):
        together = random.normal(size=(n_runs, 2))
        for _ in range(12):
            own = 0.2 * random.normal(size=n_runs)
            columns.append(np.exp(together @ random.normal(size=2) + own))
            groups.append(network)
    return np.array(columns).T, groups


def left_out(runs: np.ndarray) -> np.ndarray:
    probabilities = np.empty_like(runs)
    for k, run in enumerate(runs):
        others = np.delete(runs, k, axis=0)
        for j, value in enumerate(run):
            probabilities[k, j] = predict(quantities.LOSS, others[:, j]).probability(value)
    return probabilities


def is_accepted(new: np.ndarray, archived: np.ndarray, groups: list[int]) -> bool:
    acceptance = accept(left_out(archived), groups)
    pairs = zip(archived.T, new, strict=True)
    probabilities = np.array([predict(quantities.LOSS, x).probability(value) for x, value in pairs])
    return bool(
        (probabilities < 0.01).sum() <= acceptance.most
        and (probabilities >= acceptance.least_probability).all()
    )


@pytest.mark.parametrize("n_archived", [replicates.FEWEST, N_RUNS])
def test_false_alarms_are_rare(n_archived: int) -> None:
    """A further run of the same world is accepted; one of another world is not."""
    random = np.random.default_rng(2)
    accepted, detected, n_worlds = 0, 0, 40
    for _ in range(n_worlds):
        runs, groups = world(random, n_archived + 1)
        accepted += is_accepted(runs[-1], runs[:-1], groups)
        wrong = runs[-1].copy()
        wrong[0] *= -1
        detected += not is_accepted(wrong, runs[:-1], groups)
    assert accepted >= 0.9 * n_worlds
    assert detected == n_worlds


def test_misses_that_go_together_count_less() -> None:
    apart, together = np.full((6, 100), 0.5), np.full((6, 100), 0.5)
    for run in range(6):
        apart[run, run] = 1e-3
    together[2, :6] = 1e-3
    one, other = (accept(p, [j // 10 for j in range(100)]) for p in (apart, together))
    assert one.rate == pytest.approx(0.01)
    assert other.rate == pytest.approx(0.01)
    assert one.overdispersion == pytest.approx(1, abs=0.1)
    assert other.overdispersion > 4
    assert other.most > one.most
    assert one.least_probability == pytest.approx(1e-4)


def test_nothing_predicted_nothing_missed() -> None:
    assert accept(np.empty((0, 0)), []).most == 0
    assert isinstance(accept(np.empty((0, 0)), []), Acceptance)
    assert replicates.FEWEST == 5
