"""What only a GPU can tell, in order of value: `python benchmarks/gpu_day.py`, or `make gpu-day`.

1. the same numbers as on the CPU; 2. how fast training is, as a share of the measured peak; 3. the
benchmarks beside other tools; 4. DenseNet-121 trained on CIFAR-10; 5. all of the profile `paper`.

No step runs longer than ten minutes at once: then it is ended and goes on from its last saved state.
What is finished is noted in results/gpu_day/ and not done again. Works with PyTorch 2.11 to 2.13, in any
environment that has Snakemake and this project's other requirements.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from machine import ROOT

NOTES = ROOT / "results/gpu_day"
AT_ONCE = 600.0  # seconds
PEERS = ROOT / ".benchmarks-venv/bin/python"
PAPER = "results/computed/paper"
# What the published DenseNet-121 is said to reach on the original images.
ACCURACY = 0.93


@dataclass(frozen=True)
class Step:
    """A command that may be ended at any time and started again, and the name of the note of its end."""

    name: str
    command: Sequence[str]


def snakemake(target: str) -> list[str]:
    options = ["--configfile", "config/paper.yaml", "--config", "source=compute"]
    return [sys.executable, "-m", "snakemake", *options, "--quiet", "rules", "--", target]


def steps() -> list[Step]:
    python = sys.executable
    return [
        Step("check", [python, "-m", "pytest", "-q", "tests/test_gpu.py", "--require-gpu"]),
        Step("training", [python, "benchmarks/training.py", "--device", "cuda"]),
        Step("benchmarks", [str(PEERS), "benchmarks/run.py", "--device", "cuda"]),
        Step("densenet121", snakemake(f"{PAPER}/networks/densenet121/scores.nc")),
        Step("paper", snakemake("figures")),
    ]


def work(todo: Sequence[Step], notes: Path, seconds: float, at_once: float = AT_ONCE) -> bool:
    """Do the steps one after the other for so many seconds; whether all of them are finished.

    A step that fails is said to have failed, and the next one is done: it is tried again the next time.
    """
    notes.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    finished = True
    for step in todo:
        note = notes / f"{step.name}.done"
        while not note.exists():
            left = min(at_once, end - time.monotonic())
            if left <= 0:
                print(f"{step.name}: no time left; start again to go on", flush=True)
                return False
            status = run(step.command, left)
            if status == 0:
                note.touch()
            elif status is not None:
                print(f"{step.name}: failed", flush=True)
                finished = False
                break
        else:
            print(f"{step.name}: done", flush=True)
    return finished


def run(command: Sequence[str], seconds: float) -> int | None:
    """The exit status of a command, None if it was ended because its time was over."""
    try:
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        return 1
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Its jobs as well, however this ends: they go on from what they have saved.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def accuracy() -> str:
    """What became of DenseNet-121."""
    from hessian_directions.reproduction import artifacts

    path = ROOT / PAPER / "networks/densenet121/scores.nc"
    if not path.exists():
        return "DenseNet-121: not trained yet"
    found = float(artifacts.read_dataset(path)["test_accuracy"])
    compared = "reaches" if found >= ACCURACY else "falls short of"
    return f"DenseNet-121: test accuracy {found:.4f} {compared} {ACCURACY}"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description="What only a GPU can tell, in order of value.")
    parser.add_argument("--minutes", type=float, default=600, help="of all steps together")
    seconds = 60 * parser.parse_args().minutes
    if not torch.cuda.is_available():
        raise SystemExit("gpu_day: this machine has no GPU that PyTorch can use")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}", flush=True)
    finished = work(steps(), NOTES, seconds)
    print(accuracy())
    raise SystemExit(0 if finished else 1)


if __name__ == "__main__":
    main()
