"""What every script does around its work: threads, log, errors as one sentence, the run record."""

import contextlib
import logging
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hessian_directions.errors import HessianDirectionsError, LostProcessError, NonFiniteError
from hessian_directions.reproduction import artifacts, devices, locks
from hessian_directions.reproduction.job_logs import DONE, FAILED, FORMAT, INTERRUPTED, STARTED

LESS_MEMORY = "lower the network's key 'batch_size', or run fewer jobs at once (--cores)"

# Where one of several processes of a job finds it and leaves what it has to say of an error.
FOLDER = "HESSIAN_DIRECTIONS_JOB_FOLDER"


class Stage:
    """One job: its inputs, outputs and parameters, and the provenance that its artifacts carry.

    Of several processes of a job the first, of rank 0, alone writes files.
    """

    def __init__(self, snakemake: Any) -> None:
        self.rank = int(os.environ["RANK"]) if FOLDER in os.environ else 0
        self.rule = snakemake.rule
        self.input = snakemake.input
        self.output = snakemake.output
        self.params = snakemake.params
        self.wildcards = snakemake.wildcards
        self.threads = snakemake.threads
        wildcards = ", ".join(f"{key}={value}" for key, value in self.wildcards.items())
        self.where = f"({wildcards})" if wildcards else ""
        self.name = f"{self.rule} {self.where}".strip()
        # Whether it computes something of one network.
        self.is_of_network = bool(self.output.get("run") and self.wildcards.get("network"))
        # Where files lie changes no result: no parameter, or another folder would re-run everything.
        self.cache: str | None = snakemake.config.get("cache")
        self.folder = Path(snakemake.config.get("folder", ""))
        self.log = logging.getLogger(self.rule)
        self.record: dict[str, Any] = {}
        self.states: list[Path] = []
        self.start_clock()

    def start_clock(self) -> None:
        """Count the job's time from now."""
        self._started, self._clock = time.time(), time.perf_counter()

    def provenance(self, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
        # Dates of files re-run a job; what the data are is said by their checksums.
        configuration = {key: value for key, value in self.params.items() if key != "own_data"}
        return artifacts.provenance(
            configuration=configuration,
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

    def write_record(self) -> None:
        """Where, when and for how long the job ran, beside its artifacts."""
        if self.rank or not (path := self.output.get("run")):
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        artifacts.write_json(
            path,
            {
                "rule": self.rule,
                "wildcards": dict(self.wildcards.items()),
                "host": platform.node(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "device": self.params.get("device", "cpu"),
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
                "threads": self.threads,
                "wall_seconds": round(time.perf_counter() - self._clock, 3),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
                "peak_memory_bytes": usage.ru_maxrss * 1024,
            }
            | self.record,
        )

    def progress(self, text: object) -> None:
        """Say how far the job is; at most one line in five seconds reaches the log."""
        now = time.monotonic()
        if now - getattr(self, "_last_progress", -5.0) >= 5.0:
            self._last_progress = now
            self.log.info(text)


@contextlib.contextmanager
def stage(snakemake: Any) -> Iterator[Stage]:
    """Run a job's body; write its run record on success, end a user's error in one sentence."""
    job = Stage(snakemake)
    if FOLDER not in os.environ:  # of several processes their launcher hears it
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if job.rank == 0:
        start_log(snakemake)
        job.log.info(f"{STARTED} {job.where}")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(max(1, snakemake.threads // snakemake.params.get("processes", 1)))
        # Not all GPU kernels have a deterministic form; those that have one use it, cuBLAS where this is set.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        try:
            if sentence := _failed_input(job):
                _leave_out(job, sentence)
                raise SystemExit(0)
            # One of several processes has a share of what was claimed for all.
            if snakemake.params.get("device") == "cuda" and FOLDER not in os.environ:
                devices.claim_gpus()
                job.start_clock()
            yield job
            job.write_record()
        except NonFiniteError as error:
            if not job.is_of_network:
                raise
            _leave_out(job, f"{job.name}: {error}")
    except HessianDirectionsError as error:
        # What the process says that was lost, if it says anything, is the reason.
        fail(job, str(error), "lost" if isinstance(error, LostProcessError) else "error")
    except OSError as error:
        fail(job, f"{error.filename or 'a file'}: {error.strerror or error}")
    except MemoryError:
        fail(job, f"the memory is full: {LESS_MEMORY}")
    except KeyboardInterrupt:
        job.log.info(f"{FAILED}: {INTERRUPTED}")
        raise SystemExit(1) from None
    except BaseException as error:
        if torch is not None and isinstance(error, torch.OutOfMemoryError):
            fail(job, "the GPU's memory is full: lower the network's key 'batch_size'")
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            fail(job, f"the memory is full: {LESS_MEMORY}")
        job.log.info(DONE if isinstance(error, SystemExit) else f"{FAILED}: {error!r}")
        raise
    if job.rank:
        return
    for state in job.states:
        state.unlink(missing_ok=True)
    job.log.info(DONE)


def start_log(snakemake: Any, mode: str = "w") -> None:
    """Send what a job says to its log file, errors to the terminal as well."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if snakemake.log:
        handlers.append(_own_log(snakemake.log[0], mode))
        handlers[0].setLevel(logging.ERROR)
    logging.basicConfig(format=FORMAT, handlers=handlers)
    logging.raiseExceptions = False  # where the disk is full, what is computed matters, not the log
    # Other libraries' news belong into nobody's log; our own are the job's progress.
    logging.getLogger(snakemake.rule).setLevel(logging.INFO)


def fail(job: Stage, sentence: str, kind: str = "error") -> NoReturn:
    """End a job with one sentence: in its log, or for the process that started this one."""
    if FOLDER in os.environ:
        Path(os.environ[FOLDER], f"{kind}_{job.rank}").write_text(sentence)
        raise SystemExit(1)
    job.log.error(f"{job.name}: {sentence}")
    job.log.info(FAILED)
    raise SystemExit(1)


def _own_log(path: str, mode: str) -> logging.Handler:
    """The job's log, held as long as the job lives: a path has one writer at a time."""
    handler = logging.FileHandler(path, mode="a")
    # A job may outlive the run that started it.
    if locks.hold(path) is None:
        print(f"{path}: a job of an earlier run goes on and is waited for", file=sys.stderr)
        locks.hold(path, wait=True)
    if mode == "w":
        handler.stream.truncate(0)
    return handler


def _failed_input(job: Stage) -> str | None:
    """Why a job of a network cannot compute: it would do so with numbers that are not finite.

    Files of the user's own are no artifacts: what is wrong with them says who reads them.
    """
    if not job.is_of_network:
        return None
    own = set(job.input.get("own", ()))
    read = [path for path in job.input if path.endswith((".nc", ".safetensors"))]
    return next(filter(None, (artifacts.failure(path) for path in read if path not in own)), None)


def _leave_out(job: Stage, sentence: str) -> None:
    """Files that say why there are no numbers: drawings and tables leave them out, others go on."""
    if job.rank:  # comes to the same end
        return
    job.log.error(sentence)
    job.record["failed"] = sentence
    for path in job.output:
        if not path.endswith(".run.json"):
            artifacts.write_failure(path, sentence, job.provenance())
    job.write_record()
