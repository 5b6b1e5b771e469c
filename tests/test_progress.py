import time

import pytest

from hessian_directions.progress import Clock


def test_clock_extrapolates_from_what_is_done():
    told = []
    clock = Clock(4, lambda *state: told.append(state))
    time.sleep(0.05)
    clock(1)
    clock(4)
    assert told[0][:2] == (1, 4)
    assert told[0][2] == pytest.approx(0.15, rel=0.5)
    assert told[1] == (4, 4, 0)


def test_clock_without_a_listener():
    Clock(3, None)(1)
