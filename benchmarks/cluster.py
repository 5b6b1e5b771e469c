"""What a cluster adds to a run: `python benchmarks/cluster.py`, where the project's one-node Slurm is started.

Writes <folder>/slurm.csv: the tests' smallest configuration computed from scratch by Snakemake alone
and as submissions to Slurm on the same machine, each in a clone of its own. Levels are how many
submissions follow one upon the other. Slurm's times are whole seconds. Needs no other tools.
"""

import argparse
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd
from machine import ROOT, cloned, processor

from hessian_directions.reproduction import artifacts

PROFILE = "workflow/profiles/slurm"
# One node whose cores nobody else waits for.
OPTIONS = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10")


def run(clone: Path, environment: dict[str, str], *command: str) -> str:
    """What a command in a clone says."""
    done = subprocess.run(
        command, cwd=clone, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def submissions() -> pd.DataFrame:
    """Of every job that this Slurm remembers: when it was submitted and ended, and how."""
    listed = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--format=%i %V %e %T"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    table = pd.DataFrame(
        [listed[k : k + 4] for k in range(0, len(listed), 4)],
        columns=["job", "submitted", "ended", "state"],
    )
    return table.astype({"submitted": "datetime64[s]", "ended": "datetime64[s]"})


def n_levels(table: pd.DataFrame) -> int:
    """The longest chain of submissions each of which was made after the one before had ended."""
    levels: list[tuple[pd.Timestamp, int]] = []
    for row in table.sort_values("submitted").itertuples():
        before = [level for ended, level in levels if ended <= row.submitted]
        levels.append((row.ended, 1 + max(before, default=0)))
    return max((level for _, level in levels), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="A run through Slurm beside one without.")
    parser.add_argument("--folder", type=Path, default=ROOT / "results/archive/benchmarks")
    parser.add_argument("--configfile", default="tests/config/tiny.yaml")
    parser.add_argument("--cores", default=str(os.cpu_count() or 1))
    arguments = parser.parse_args()
    rows = []
    for engine, options in (("local", ()), ("slurm", ("--workflow-profile", PROFILE, *OPTIONS))):
        with tempfile.TemporaryDirectory() as folder:
            clone, environment = cloned(Path(folder))
            configured = ("--configfile", arguments.configfile)
            # Only what was measured is known to be small.
            announcement = "hessian_directions.reproduction.announcement"
            run(clone, environment, "python", "-m", announcement, arguments.configfile)
            known = set(submissions()["job"])
            started = time.perf_counter()
            said = run(
                clone,
                environment,
                *("snakemake", *options, *configured, "--config", "source=compute"),
                *("--cores", arguments.cores, "--", "figures"),
            )
            seconds = time.perf_counter() - started
        table = submissions()
        table = table[~table["job"].isin(known)]
        rows.append(
            {
                "engine": engine,
                "processor": processor("cpu"),
                "jobs": int(re.findall(r"(\d+) of \1 steps \(100%\) done", said)[-1]),
                "submissions": len(table),
                "levels": n_levels(table),
                "seconds": seconds,
            }
        )
    result = pd.DataFrame(rows)
    artifacts.write_table(arguments.folder / "slurm.csv", result)
    print(result.to_string(index=False))


if __name__ == "__main__":
    main()
