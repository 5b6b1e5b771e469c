"""What every script does around its work: threads, log, errors as one sentence, the run record."""

import contextlib
import logging
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hessian_directions.errors import HessianDirectionsError
from hessian_directions.reproduction import artifacts


class Stage:
    """One job: its inputs, outputs and parameters, and the provenance that its artifacts carry."""

    def __init__(self, snakemake: Any) -> None:
        self.rule = snakemake.rule
        self.input = snakemake.input
        self.output = snakemake.output
        self.params = snakemake.params
        self.wildcards = snakemake.wildcards
        self.threads = snakemake.threads
        # Where files lie changes no result: no parameter, or another folder would re-run everything.
        self.cache: str | None = snakemake.config.get("cache")
        self.folder = Path(snakemake.config.get("folder", ""))
        self.log = logging.getLogger(self.rule)
        self.record: dict[str, Any] = {}
        self.states: list[Path] = []

    @property
    def configuration(self) -> dict[str, Any]:
        """The parameters that made the artifact."""
        return dict(self.params.items())

    def provenance(self, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return artifacts.provenance(
            configuration=self.configuration,
            seed=self.params.seed,
            threads=self.threads,
            device=self.params.device,
            precision=self.params.precision,
            code=self.input.code,
            data=data,
        )

    def state_path(self, output: str) -> str:
        """Where a long computation keeps its state until all of the job's outputs are written."""
        self.states.append(Path(f"{output}.state"))
        return str(self.states[-1])

    def progress(self, text: object) -> None:
        """Say how far the job is; at most one line in five seconds reaches the log."""
        now = time.monotonic()
        if now - getattr(self, "_last_progress", -5.0) >= 5.0:
            self._last_progress = now
            self.log.info(text)


@contextlib.contextmanager
def stage(snakemake: Any) -> Iterator[Stage]:
    """Run a job's body; write its run record on success, end a user's error in one sentence."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if snakemake.log:
        handlers.append(logging.FileHandler(snakemake.log[0], mode="w"))
        handlers[0].setLevel(logging.ERROR)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", handlers=handlers)
    # Other libraries' news belong into nobody's log; our own are the job's progress.
    logging.getLogger(snakemake.rule).setLevel(logging.INFO)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(snakemake.threads)
        # Not all GPU kernels have a deterministic form; those that have one use it, cuBLAS where this is set.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    job = Stage(snakemake)
    started, clock = time.time(), time.perf_counter()
    try:
        yield job
    except HessianDirectionsError as error:
        _fail(job, str(error))
    except OSError as error:
        _fail(job, f"{error.filename or 'a file'}: {error.strerror or error}")
    except MemoryError:
        _fail(job, "the memory is full")
    except RuntimeError as error:
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        _fail(job, "the GPU's memory is full: lower the network's key 'batch_size'")
    if record := snakemake.output.get("run"):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        artifacts.write_json(
            record,
            {
                "rule": job.rule,
                "wildcards": dict(job.wildcards.items()),
                "host": platform.node(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                "threads": job.threads,
                "wall_seconds": round(time.perf_counter() - clock, 3),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
                "peak_memory_bytes": usage.ru_maxrss * 1024,
            }
            | job.record,
        )
    for state in job.states:
        state.unlink(missing_ok=True)


def _fail(job: Stage, sentence: str) -> None:
    wildcards = ", ".join(f"{key}={value}" for key, value in job.wildcards.items())
    job.log.error("%s%s: %s", job.rule, f" ({wildcards})" if wildcards else "", sentence)
    raise SystemExit(1)
