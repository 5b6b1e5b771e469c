"""How far a long computation is, and how long the rest will take."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Status:
    """How far a computation is, given to a progress callback after every part: `str` is one line.

    Attributes:
        done: Parts done.
        total: Parts in all; None where nobody knows.
        unit: What the parts are: "products", "points", "epochs".
        seconds_left: Until the end, if the rest costs as much per part; NaN without a total.
        note: What has been found so far, for a reader.
    """

    done: int
    total: int | None
    unit: str
    seconds_left: float = math.nan
    note: str = ""

    def __str__(self) -> str:
        of_all = "" if self.total is None else f"/{self.total}"
        left = "" if math.isnan(self.seconds_left) else f", {self.seconds_left:.0f} s left"
        return f"{self.done}{of_all} {self.unit}{left}{self.note and f'; {self.note}'}"


# A listener hears something this often where parts take long [s].
SAY_SECONDS = 10.0

# `print` is one.
Progress = Callable[[Status], None]


class Clock:
    """Tells a progress callback, if there is one, how many of the parts are done.

    The rest is taken to cost as much per part as what has been done since the clock was made;
    `begun` parts had been done before, by a run that was killed.
    """

    def __init__(
        self, total: int | None, unit: str, progress: Progress | None, begun: float = 0
    ) -> None:
        self._total, self._unit, self._progress, self._begun = total, unit, progress, begun
        self._start = self._said = time.perf_counter()

    @property
    def due(self) -> bool:
        """Whether somebody listens and has heard nothing for long."""
        return self._progress is not None and time.perf_counter() - self._said >= SAY_SECONDS

    def __call__(self, done: float, note: str = "") -> None:
        if self._progress is None:
            return
        self._said, left = time.perf_counter(), math.nan
        if self._total is not None and done > self._begun:
            left = (self._said - self._start) * (self._total - done) / (done - self._begun)
        self._progress(Status(int(done), self._total, self._unit, left, note))


def seconds_of(compute: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds, by a clock, in which a tensor is computed; a GPU is waited for."""
    started = clock()
    compute().sum().item()
    return clock() - started


def duration(seconds: float) -> str:
    """A length of time for a reader, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
