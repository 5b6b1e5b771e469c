"""A GPU of its own for each of the jobs that run side by side on one machine.

A job locks a file of the GPU's name and lets the others see no other GPU. The system releases the
lock when the process ends, however it ends. Where a scheduler has given a job its GPUs, only jobs
that share them, as those of one submission, exclude one another.
"""

import os
import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hessian_directions.errors import DeviceError
from hessian_directions.reproduction import locks

# Between two looks at GPUs that are all taken [s].
PAUSE = 0.5


def claim_gpus(n: int = 1) -> None:
    """Wait for n GPUs that no other job of this user has, and have CUDA see them alone.

    Before the process uses CUDA: it looks at CUDA_VISIBLE_DEVICES once. Where there is no GPU
    nothing happens.

    Raises:
        DeviceError: There are GPUs, but fewer than n.
    """
    names = visible_gpus()
    if not names:
        return
    # A scheduler may count the GPUs of each of its jobs from 0.
    of = os.environ.get("SLURM_JOB_ID", "machine")
    folder = Path(tempfile.gettempdir()) / f"hessian_directions_gpus_{os.getuid()}" / of
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lock(names, n, folder))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (told := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in told.split(",") if name.strip()]
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def lock(names: Sequence[str], n: int, folder: Path) -> list[str]:
    """Wait until n of these are free and lock them until this process ends: their names.

    All or none are held meanwhile: two jobs that want two of two do not wait for each other.
    """
    if n > len(names):
        raise DeviceError(f"{n} GPUs are asked for, but this job may use {len(names)}")
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        held: dict[str, int] = {}
        for name in names:
            file = folder / f"{name.replace('/', '_')}.lock"
            file.touch()
            if (descriptor := locks.hold(file)) is not None:
                held[name] = descriptor
            if len(held) == n:
                return list(held)
        for descriptor in held.values():
            os.close(descriptor)
        time.sleep(PAUSE * random.uniform(0.5, 1.5))
