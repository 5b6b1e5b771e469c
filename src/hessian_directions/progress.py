"""How far a long computation is, and how long the rest will take."""

import time
from collections.abc import Callable

# Called after every part with (parts done, parts in all, seconds left).
Progress = Callable[[int, int, float], None]


class Clock:
    """Calls a progress function, if there is one, with the seconds that the rest will take.

    The rest is taken to cost as much per part as what has been done since the clock was made.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._start = total, progress, time.perf_counter()

    def __call__(self, done: int) -> None:
        if self._progress is not None:
            elapsed = time.perf_counter() - self._start
            self._progress(done, self._total, elapsed * (self._total - done) / done)
