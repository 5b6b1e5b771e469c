"""How far a run is: `python -m hessian_directions.reproduction.status <config>`, or `make progress`.

Run records tell what is done; logs, which a job holds as long as it lives, what runs; and the cost
model, or the archive, how long the rest will take.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hessian_directions.progress import duration
from hessian_directions.reproduction import artifacts, configuration, cost_model, locks
from hessian_directions.reproduction.cost_model import key_of
from hessian_directions.reproduction.job_logs import Job, job_of, logs_in

# How much of a run must have been seen before its pace counts as much as what was predicted [s].
TRUSTED = 60.0


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        done, total: Jobs that compute.
        seconds_left: Predicted time of one core of all jobs that are not done, at the pace of those
            that are.
        unknown: Those of them for which nothing is predicted.
        running: Jobs under way.
    """

    done: int
    total: int
    seconds_left: float
    unknown: int
    running: tuple[Job, ...]

    def describe(self, cores: int) -> str:
        """A line, and one more for every job under way."""
        jobs = [f"  {job.name}: {job.said}" for job in self.running]
        if self.done == self.total:
            drawn = "; figures, tables and pages are made now" if jobs else ""
            return "\n".join([f"all {self.total} jobs that compute are done{drawn}", *jobs])
        left = []
        if self.seconds_left or not self.unknown:
            left.append(f"about {duration(self.seconds_left / cores)} left on {cores} cores")
        if self.unknown:
            left.append(f"{self.unknown} jobs of unknown length")
        line = f"{self.done} of {self.total} jobs done, {len(self.running)} running, "
        return "\n".join([line + " beside ".join(left), *jobs])


def status(settings: Mapping[str, Any], results: Path, logs: Path, archive: Path) -> Status:
    """How far the jobs of a profile are that computes into `results`; `archive` may be missing."""
    expected = cost_model.expectations(settings, archive)
    records = [artifacts.read_json(path) for path in sorted(results.rglob("*.run.json"))]
    done = {key_of(record["rule"], record["wildcards"]): record for record in records}
    jobs = list(cost_model.jobs(settings))
    left = [job for job in jobs if key_of(*job) not in done]
    held = [job_of(path) for path in logs_in(logs) if locks.is_held(path)]
    predicted = [expected(*job) for job in left]
    return Status(
        done=len(jobs) - len(left),
        total=len(jobs),
        seconds_left=_pace(expected, done.values())
        * sum(job.seconds for job in predicted if job is not None),
        unknown=predicted.count(None),
        running=tuple(job for job in held if not job.ended),
    )


def _pace(
    expected: Callable[[str, Mapping[str, Any]], cost_model.Estimate | None],
    records: Iterable[Mapping[str, Any]],
) -> float:
    """What the jobs of a run took over what was predicted of them.

    The prediction counts as `TRUSTED` seconds of them, lest two short jobs decide.
    """
    taken = told = TRUSTED
    for record in records:
        if job := expected(record["rule"], record["wildcards"]):
            taken += record["wall_seconds"]
            told += job.seconds
    return taken / told


def main() -> int:
    def work(settings: configuration.Configuration, path: Path) -> str:
        folders = ("results/computed", "logs", "results/archive")
        now = status(settings, *(Path(folder) / settings["profile"] for folder in folders))
        return now.describe(os.cpu_count() or 1)

    return configuration.program("status", "Say how far a run is.", work)


if __name__ == "__main__":
    raise SystemExit(main())
