"""Costs add and subtract."""

import pytest

from hessian_directions.cost import Cost


def test_sum_and_difference() -> None:
    a = Cost({"value float64": 3, "gradient float32": 1}, 2.0)
    b = Cost({"value float64": 2}, 0.5)
    assert a + b == Cost({"gradient float32": 1, "value float64": 5}, 2.5)
    assert a - b == Cost({"gradient float32": 1, "value float64": 1}, 1.5)
    assert a - a == Cost()
    assert a + Cost() == a


def test_adding_leaves_the_terms_alone() -> None:
    a = Cost({"value float64": 3}, 2.0)
    a + a
    assert a == Cost({"value float64": 3}, 2.0)
    with pytest.raises(AttributeError):
        a.seconds = 1.0  # type: ignore[misc]
