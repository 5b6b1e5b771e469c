"""Run scripts one after another, each in a fork of this process, which has imported their libraries.

Importing pandas, xarray and matplotlib takes longer than drawing most figures. A job is read from stdin, pickled:
the script's path and the `snakemake` that it sees. Its exit status is a line of stdout. The end of stdin ends it all.
"""

import gc
import io
import os
import pickle
import runpy
import signal
import sys

import artifact_inputs  # noqa: F401
import h5netcdf  # noqa: F401
import scipy.stats  # noqa: F401
import typst  # noqa: F401
from matplotlib.figure import Figure
from snakemake import iocontainers  # noqa: F401

from hessian_directions.reporting.figures.drawing import styled


@styled
def warm_up() -> None:
    """Draw a little: matplotlib imports backends and builds its grammar of formulas when they are first used."""
    figure = Figure()
    figure.text(0, 0, "$0$")
    for suffix in ("pdf", "png"):
        figure.savefig(io.BytesIO(), format=suffix)


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # What a script prints is no answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Ctrl-C reaches every process: the job ends, then Snakemake, and with it this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm_up()
    # A fork that ends would otherwise tear down all that was imported here.
    gc.freeze()
    while True:
        try:
            script, snakemake = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            runpy.run_path(script, {"snakemake": snakemake}, "__main__")
            return
        _, status = os.wait()
        print(os.waitstatus_to_exitcode(status), file=answers)


if __name__ == "__main__":
    main()
