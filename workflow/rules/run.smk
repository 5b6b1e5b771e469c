# One run at a time, how far it is, and what became of it.

import atexit
import contextlib
import threading
import time

from hessian_directions.reproduction import artifacts, job_logs, locks, status

# Between two lines that say how far a run is [s].
SAY_EVERY = 60
# Logs that are younger are of this run.
BEGUN = time.time()
# What one opens when a run has ended, and the rules that make it.
TO_OPEN = {
    "compile_paper": f"The paper: {DRAWN}/paper.pdf",
    "make_report": f"The report: {DRAWN}/report.html",
}


def say(sentence):
    print(f"hessian-directions: {sentence}", file=sys.stderr, flush=True)


def say_how_far():
    """A line on the terminal and in a log, as long as this process lives."""
    cores = workflow.resource_settings.cores or 1
    while True:
        time.sleep(SAY_EVERY)
        # A file may go while it is looked at.
        with contextlib.suppress(HessianDirectionsError, OSError):
            places = map(Path, (ARTIFACTS, LOGS, ARCHIVE))
            now = status.status(COMPLETE, *places).describe(cores)
            say(now)
            with open(f"{LOGS}/progress.log", "a") as log:
                print(time.strftime("%Y-%m-%d %H:%M:%S"), now, file=log)


onstart:
    try:
        # The folder is ours until this process ends.
        locks.hold_results(DRAWN)
    except HessianDirectionsError as error:
        raise SystemExit(f"hessian-directions: {error}")
    # The limit of 100 jobs a second wakes the scheduler once a second for every job that has ended, while others wait
    # (Snakemake 9.27): a sixth of a core after 116 jobs.
    workflow.scheduler.job_rate_limiter = None
    if COMPUTES:
        threading.Thread(target=say_how_far, daemon=True).start()


onsuccess:
    records = [
        path
        for network in (NETWORK_NAMES if COMPUTES else [])
        for path in Path(ARTIFACTS, "networks", network).rglob("*.run.json")
    ]
    if failed := sorted(set(filter(None, map(artifacts.failure, records)))):
        for sentence in failed:
            say(f"{sentence}; all that depends on it is left out")
        raise SystemExit(1)
    made = {job.rule.name for job in workflow.dag.jobs}
    if lines := [line for name, line in TO_OPEN.items() if name in made]:
        # After Snakemake's own last words.
        atexit.register(print, *lines, sep="\n", file=sys.stderr)


onerror:
    ours = [
        job_logs.job_of(path)
        for path in job_logs.logs_in(Path(LOGS))
        if path.stat().st_mtime >= BEGUN
    ]
    if any(job.said.endswith(job_logs.INTERRUPTED) for job in ours):
        say("interrupted; the same command goes on with what is left")
    for job in ours:
        if not job.ended:
            say(
                f"{job.name} was killed, most often because the memory is full: lower the network's "
                "key 'batch_size', or run fewer jobs at once (--cores)"
            )
