"""Run scripts one after another, each in a fork of this process, which has imported their libraries.

Importing them takes longer than drawing most figures, and than analysing a small network. Jobs are of a kind that the
command names, `draw` or `compute`, and read from stdin, pickled: the script's path and the `snakemake` that it sees. A
job's exit status is a line of stdout. The end of stdin ends it all.
"""

import contextlib
import gc
import importlib
import io
import os
import pickle
import runpy
import signal
import sys

import numpy

# What many scripts of a kind import. Modules of ours that compute are read when a job begins.
LIBRARIES = {
    "draw": ("artifact_inputs", "h5netcdf", "scipy.stats", "snakemake.iocontainers", "typst"),
    "compute": (
        "h5netcdf",
        "pydantic",
        "scipy.stats",
        "sklearn.datasets",
        "snakemake.iocontainers",
        "torch.fx.experimental.symbolic_shapes",  # by torch.autograd.grad: all of SymPy
        "xarray",
    ),
}


def draw_a_little() -> None:
    """Matplotlib imports backends and builds its grammar of formulas when they are first used."""
    from matplotlib.figure import Figure

    from hessian_directions.reporting.figures.drawing import styled

    @styled
    def draw() -> None:
        figure = Figure()
        figure.text(0, 0, "$0$")
        for suffix in ("pdf", "png"):
            figure.savefig(io.BytesIO(), format=suffix)

    draw()


def main(kind: str) -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # What a script prints is no answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Ctrl-C reaches every process: the job ends, then Snakemake, and with it this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for library in LIBRARIES[kind]:
        importlib.import_module(library)
    if kind == "draw":
        draw_a_little()
    # A fork that ends would otherwise tear down all that was imported here.
    gc.freeze()
    while True:
        try:
            script, snakemake = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # What users draw without a seed is other in every job, as in a process of its own; it is refused by that.
            numpy.random.seed()  # noqa: NPY002
            runpy.run_path(script, {"snakemake": snakemake}, "__main__")
            return
        _, status = os.wait()
        # Where Snakemake was killed nobody listens.
        with contextlib.suppress(BrokenPipeError):
            print(os.waitstatus_to_exitcode(status), file=answers)


if __name__ == "__main__":
    main(sys.argv[1])
