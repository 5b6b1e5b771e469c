"""A run that is killed again and again: `python benchmarks/kills.py`.

Writes <folder>/kills.csv, a row for each time that the tests' smallest configuration of all rules was
killed in a clone: every process of the run at once, at a random moment, without a warning. What had
been finished by then stays; where all of it was, drawings or networks are deleted and made again.
After the last kill the run goes to its end, and the artifacts have to be those of a clone where
nothing was killed, to the bit, with no other file beside them: if they are not, no table is written.
Needs no other tools.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import yaml
from machine import ROOT, cloned, processor

from hessian_directions.reproduction import artifacts

# What is the same to the bit; tables and drawings beside them hold measured seconds.
EXACT = (".nc", ".safetensors")
POLL = 0.05  # seconds


def command_of(configfile: str) -> list[str]:
    options = f"--quiet all --configfile {configfile} --config source=compute --cores 2 -- figures"
    return ["snakemake", *options.split()]


def processes_in(folder: Path) -> list[int]:
    """Those that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


def kill_at_random(
    clone: Path,
    configfile: str,
    environment: Mapping[str, str],
    longest: float,
    draw: random.Random,
) -> tuple[float, list[str]]:
    """Start a run and kill all of it, at most `longest` seconds after its first job began.

    Returns:
        Seconds from its start, and the logs of the jobs that ran when it was killed.
    """
    logs, begun = clone / "logs", time.time()
    run = subprocess.Popen(
        command_of(configfile),
        cwd=clone,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def fresh() -> list[Path]:
        with contextlib.suppress(OSError):
            return [path for path in logs.rglob("*.log") if path.stat().st_mtime > begun]
        return []

    while run.poll() is None and not fresh():
        time.sleep(POLL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(draw.uniform(0, longest))
    seconds = time.time() - begun
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    while processes_in(clone):
        time.sleep(POLL)
    killed = [path for path in fresh() if not path.read_text().endswith(" done\n")]
    return seconds, sorted(str(path.relative_to(logs)) for path in killed)


def files_of(results: Path) -> dict[str, str]:
    """Every file of a run with its checksum, where that does not depend on the time it took."""
    return {
        str(path.relative_to(results)): (artifacts.sha256(path) if path.suffix in EXACT else "")
        for path in sorted(results.rglob("*"))
        if path.is_file()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A run that is killed again and again.")
    parser.add_argument("--folder", type=Path, default=ROOT / "results/archive/benchmarks")
    parser.add_argument("--configfile", default="tests/config/tiny.yaml")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--longest", type=float, default=40.0, help="seconds after the first job")
    parser.add_argument("--seed", type=int, default=30)
    arguments = parser.parse_args()
    name = yaml.safe_load((ROOT / arguments.configfile).read_text())["profile"]
    draw, rows = random.Random(arguments.seed), []
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for kind, trials in (("whole", 0), ("killed", arguments.trials)):
            clone, environment = cloned(Path(folder) / kind)
            results = clone / f"results/computed/{name}"
            for trial in range(trials):
                if (results / "paper.pdf").exists():
                    # All was finished: the last stages once more, then all that networks need.
                    shutil.rmtree(results / ("figures" if trial % 2 else "networks"))
                    (results / "paper.pdf").unlink()
                seconds, running = kill_at_random(
                    clone, arguments.configfile, environment, arguments.longest, draw
                )
                stages = " ".join(sorted({log.split("/")[1] for log in running}))
                rows.append({"trial": trial, "seconds": seconds, "stages": stages})
                print(trial, f"{seconds:.1f} s", stages or "between jobs", flush=True)
            subprocess.run(command_of(arguments.configfile), cwd=clone, env=environment, check=True)
            found[kind] = files_of(results)
    if found["killed"] != found["whole"]:
        differing = dict(found["killed"].items() ^ found["whole"].items())
        raise SystemExit(f"not what an undisturbed run makes: {', '.join(sorted(differing))}")
    table = pd.DataFrame(rows)
    table["identical_artifacts"] = sum(bool(checksum) for checksum in found["whole"].values())
    table["processor"] = processor("cpu")
    artifacts.write_table(arguments.folder / "kills.csv", table)
    print(
        f"{len(table)} kills, {table['identical_artifacts'].iloc[0]} artifacts the same to the bit"
    )


if __name__ == "__main__":
    main()
