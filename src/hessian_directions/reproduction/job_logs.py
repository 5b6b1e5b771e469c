"""What the log of a job says, line by line: when it began, how far it is, how it ended."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The first line, with wildcards, and the last; why a job failed that was told to end.
STARTED, DONE, FAILED = "started", "done", "failed"
INTERRUPTED = "interrupted"
# What stands before all of them: date, time, rule.
FORMAT = "%(asctime)s %(name)s: %(message)s"
STAMP = re.compile(r"^\S+ \S+ (\w+): ")


@dataclass(frozen=True)
class Job:
    """What a job's log says.

    Attributes:
        name: Its rule and wildcards.
        said: The last line.
        ended: It said how it ended: a job that was killed did not.
    """

    name: str
    said: str
    ended: bool


def logs_in(folder: Path) -> Iterator[Path]:
    """The logs of a profile's jobs."""
    yield from sorted(folder.glob("*/**/*.log"))


def job_of(log: Path) -> Job:
    """What a job's log says."""
    lines = log.read_text(errors="replace").splitlines() or [""]
    stamp = STAMP.match(lines[0])
    rule = stamp[1] if stamp else log.parent.name
    said = [STAMP.sub("", line) for line in lines]
    name = f"{rule} {said[0].removeprefix(STARTED).strip()}".strip()
    return Job(name, said[-1], said[-1].startswith((DONE, FAILED)))
