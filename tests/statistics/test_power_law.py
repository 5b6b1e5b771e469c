import math

import numpy as np
import pytest

from hessian_directions.statistics import power_law


def test_exact_law_is_recovered():
    x = np.array([3.0, 1.0, 10.0, 200.0])
    law = power_law.fit(x, 2.5 * x**-0.7)
    assert law.exponent == pytest.approx(-0.7, abs=1e-12)
    assert law.factor == pytest.approx(2.5, rel=1e-12)
    assert law.standard_error == pytest.approx(0, abs=1e-7)


def test_standard_error_covers():
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 100, 40)
    z = []
    for _ in range(2_000):
        law = power_law.fit(x, x**1.3 * np.exp(0.2 * rng.standard_normal(x.size)))
        z.append((law.exponent - 1.3) / law.standard_error)
    share = np.mean(np.abs(z) < 1.96)
    assert 0.92 < share < 0.965  # Student's t with 38 degrees of freedom: 0.943


def test_two_sizes_have_no_error_and_one_no_law():
    assert math.isnan(power_law.fit([1, 10], [1, 100]).standard_error)
    assert power_law.fit([10, 10], [1, 2]) is None
