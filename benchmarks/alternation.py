"""Timing by turns: what is compared runs alternately in one process."""

import time
from collections.abc import Callable, Mapping


def alternate(
    tasks: Mapping[str, Callable[[], object]],
    rounds: int,
    repeats: Mapping[str, int] | None = None,
    settle: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each task in each round.

    Every round runs all tasks, starting with another one each time, so that none of them always
    follows the same other. The caller has run each task once before: that is the warm-up.

    Args:
        tasks: Name and what to time.
        rounds: How often.
        repeats: Calls in one measurement of short tasks, whose mean is taken; 1 where not given.
        settle: Waits until the device is done with what was called.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            count = (repeats or {}).get(name, 1)
            settle()
            start = clock()
            for _ in range(count):
                tasks[name]()
            settle()
            seconds[name].append((clock() - start) / count)
    return seconds
