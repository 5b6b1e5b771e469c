"""The same function with another curvature: layers scaled against each other."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.reporting.figures.drawing import (
    BLUE,
    GREY,
    LARGEST,
    SINGLE,
    log_axis,
    styled,
    title_panels,
)

FIGURES = {
    "rescaling": {
        "title": "One function, many curvatures",
        "category": "7. Flatness and generalization",
        "reads": {"population": "population"},
        "caption": r"""
ReLU(sx) = s·ReLU(x) for s > 0, so a layer times s and the next divided by s is the same function at
the same loss (below), while the trace t and the largest eigenvalue λ\ :sub:`max` of its Hessian
change (above). No measure that changes so can cause generalization by itself.""",
    },
}


@styled
def draw(population: xr.Dataset) -> Figure:
    """Trace and λ_max (above) and loss (below) against the scale of one layer.

    ReLU(sx) = s·ReLU(x) for s > 0, so one layer times s and the next divided by s is the same
    function, at the same loss, with whatever trace one likes.

    Args:
        population: rescaled_trace, rescaled_largest, rescaled_loss (scale).
    """
    figure = Figure(figsize=(SINGLE, 3.1), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    study = population.sortby("scale")
    scale = study["scale"].values
    above.plot(scale, study["rescaled_trace"], color=BLUE, marker="o", label=r"$t$")
    above.plot(
        scale, study["rescaled_largest"], color=LARGEST, marker="s", label=r"$\lambda_{\max}$"
    )
    above.set_ylabel("curvature")
    above.legend(loc="best")
    loss = study["rescaled_loss"].values
    below.plot(scale, loss, color=GREY, marker="D", ms=3)
    middle = float(np.median(loss))
    reach = max(0.5 * abs(middle), 2 * float(np.abs(loss - middle).max()))
    below.set_ylim(middle - reach, middle + reach)
    below.set_xlabel(r"scale $s$ of one layer ($1/s$ of the next)")
    below.set_ylabel(r"loss $L$")
    for ax in (above, below):
        ax.axvline(1, color="0.6", linewidth=0.7, linestyle=":")
    log_axis(above, "x")
    if (study["rescaled_largest"] > 0).all() and (study["rescaled_trace"] > 0).all():
        log_axis(above, "y")
    title_panels([above, below])
    return figure
