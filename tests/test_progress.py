import math
import time

import pytest

from hessian_directions.progress import SAY_SECONDS, Clock, Status


def test_clock_extrapolates_from_what_is_done():
    told = []
    clock = Clock(4, "points", told.append)
    time.sleep(0.05)
    clock(1)
    clock(4)
    assert (told[0].done, told[0].total) == (1, 4)
    assert told[0].seconds_left == pytest.approx(0.15, rel=0.5)
    assert told[1] == Status(4, 4, "points", 0)


def test_what_an_earlier_run_has_done_took_no_time_of_this_one():
    told = []
    clock = Clock(4, "epochs", told.append, begun=2.5)
    time.sleep(0.05)
    clock(2.5)
    clock(3.5)
    assert math.isnan(told[0].seconds_left)
    assert told[1].seconds_left == pytest.approx(0.025, rel=0.5)
    assert told[1].done == 3


def test_a_clock_is_due_where_nothing_was_said_for_long(monkeypatch):
    told, now = [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock, deaf = Clock(4, "epochs", told.append), Clock(4, "epochs", None)
    assert not clock.due
    now[0] = SAY_SECONDS
    assert clock.due
    assert not deaf.due
    deaf(1)
    clock(1)
    assert not clock.due


def test_a_status_is_one_line():
    assert str(Status(3, 40, "epochs", 7.2, "train_loss 0.1")) == (
        "3/40 epochs, 7 s left; train_loss 0.1"
    )
    told = []
    Clock(None, "products", told.append)(2)
    assert str(told[0]) == "2 products"
