"""A job in several processes, which share out the images of a network; torchrun's launcher starts them."""

import ctypes
import logging
import os
import pickle
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from stage import FOLDER, Stage, fail, start_log

from hessian_directions.errors import HessianDirectionsError
from hessian_directions.reproduction import devices

# Of <linux/prctl.h>: the signal that a process gets when the one that started it ends.
PR_SET_PDEATHSIG = 1


def run_in_processes(snakemake: Any, script: str) -> None:
    """Where a job is to have several processes, run its script in each of them and end this one.

    Where it has one, and in each of several, it just goes on. What they say of an error is said once.
    """
    n = snakemake.params.get("processes", 1)
    if n == 1 or FOLDER in os.environ:
        return
    if snakemake.params.device == "cuda":
        try:
            devices.claim_gpus(n)
        except HessianDirectionsError as error:
            start_log(snakemake)
            fail(Stage(snakemake), str(error))
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It reports every failure on two pages.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "job").write_bytes(pickle.dumps((script, snakemake)))
        os.environ[FOLDER] = folder
        here = {"rdzv_endpoint": "localhost:0", "local_addr": "localhost", "rdzv_backend": "c10d"}
        once = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": n, "max_restarts": 0}
        config = LaunchConfig(run_id=Path(folder).name, **once, **here)
        try:
            elastic_launch(config, sys.executable)(__file__)
        except ChildFailedError as error:
            del os.environ[FOLDER]
            start_log(snakemake, mode="a")
            fail(Stage(snakemake), _why(error.failures, Path(folder), n))
    raise SystemExit


def _why(failures: Any, folder: Path, n: int) -> str:
    """One sentence: an error that was raised, else a process that was killed, else one that is lost."""
    for sentence in sorted(folder.glob("error_*")):
        return sentence.read_text()
    for rank, failure in sorted(failures.items()):
        # Once one has failed, the others are ended by SIGTERM.
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            return f"process {rank + 1} of {n} was ended by {failure.signal_name()}"
    for sentence in sorted(folder.glob("lost_*")):
        return sentence.read_text()
    return f"one of {n} processes failed"


def main() -> None:
    """One of the processes."""
    # The launcher gives it a session of its own: what kills a job by force would leave it running.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    import torch
    import torch.distributed as dist

    script, snakemake = pickle.loads(Path(os.environ[FOLDER], "job").read_bytes())
    on_gpu = snakemake.params.device == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    runpy.run_path(script, {"snakemake": snakemake}, "__main__")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
