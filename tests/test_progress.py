import time

import pytest

from hessian_directions.progress import Clock, Status


def test_clock_extrapolates_from_what_is_done():
    told = []
    clock = Clock(4, "points", told.append)
    time.sleep(0.05)
    clock(1)
    clock(4)
    assert (told[0].done, told[0].total) == (1, 4)
    assert told[0].seconds_left == pytest.approx(0.15, rel=0.5)
    assert told[1] == Status(4, 4, "points", 0)


def test_a_status_is_one_line():
    assert str(Status(3, 40, "epochs", 7.2, "train_loss 0.1")) == (
        "3/40 epochs, 7 s left; train_loss 0.1"
    )
    told = []
    Clock(None, "products", told.append)(2)
    assert str(told[0]) == "2 products"


def test_clock_without_a_listener():
    Clock(3, "points", None)(1)
