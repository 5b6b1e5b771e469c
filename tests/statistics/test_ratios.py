"""Ratios of means: their standard error is the scatter of ratios."""

import numpy as np
import pytest

from hessian_directions.statistics.ratios import ratio_of_means


def test_error_is_that_of_repeated_estimates() -> None:
    random = np.random.default_rng(0)
    scores = []
    for _ in range(2000):
        common = random.normal(5, 1, 40)
        a, b = 2 * common + random.normal(0, 0.3, 40), common + random.normal(0, 0.2, 40)
        ratio, error = ratio_of_means(a, b)
        scores.append((ratio - 2) / error)
    assert np.mean(np.abs(scores) < 1.96) == pytest.approx(0.95, abs=0.02)


def test_what_is_common_cancels() -> None:
    b = np.random.default_rng(0).normal(5, 1, 40)
    assert ratio_of_means(3 * b, b) == pytest.approx((3, 0), abs=1e-12)
