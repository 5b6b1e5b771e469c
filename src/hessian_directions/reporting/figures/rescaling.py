"""The same function with another curvature: layers scaled against each other."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hessian_directions.reporting.figures import drawing

FIGURES = {
    "rescaling": {
        "title": "One function, many curvatures",
        "category": "7. Flatness and generalization",
        "reads": {"population": "population"},
        "caption": r"""
ReLU(sx) = s·ReLU(x) for s > 0, so a layer times s and the next divided by s is the same function at
the same loss. Each measure of flatness of the rescaled network over that of the network itself:
most change with s, and so cannot cause generalization by themselves; trace and largest eigenvalue
of THT, T = diag|θ|, and the relative flatness stay as they are.
""",
    },
}

CHANGING = {
    "trace": (drawing.BLUE, "o"),
    "largest": (drawing.LARGEST, "s"),
    "trace_scaled": (drawing.SKY, "v"),
    "worst_increase": (drawing.ORANGE, "^"),
    "m_sharpness": (drawing.PURPLE, "P"),
    "distance": (drawing.GREY, "X"),
}
INVARIANT = {
    "adaptive_trace": (drawing.GREEN, "o"),
    "adaptive_largest": (drawing.GREEN, "s"),
    "relative_flatness": (drawing.GREEN, "D"),
}


@drawing.styled
def draw(population: xr.Dataset) -> Figure:
    """Measures of a rescaled network over those of the network itself, against the scale.

    Args:
        population: rescaled_<measure> (scale) with scale 1 among the scales, or else the ratio to
            the scale nearest to 1.
    """
    study = population.sortby("scale")
    scale = study["scale"].values
    itself = int(np.abs(np.log(scale)).argmin())
    worst = [str(m) for m in study["measure"].values if str(m).startswith("worst_increase")]
    figure = Figure(figsize=(drawing.SINGLE, 3.3), layout="constrained")
    ax = figure.subplots()
    for family, look in ((CHANGING, {"ls": "-"}), (INVARIANT, {"ls": "--", "mfc": "none"})):
        for kind, (colour, marker) in family.items():
            name = worst[len(worst) // 2] if kind == "worst_increase" else kind
            values = study[f"rescaled_{name}"].values
            style: dict[str, Any] = {"color": colour, "marker": marker, "ms": 4, "lw": 0.9} | look
            label = drawing.measure_symbol(name)
            ax.plot(scale, values / values[itself], label=label, **style)
    ax.axvline(1, color="0.6", linewidth=0.7, linestyle=":")
    ax.set_xlabel(r"scale $s$ of one layer ($1/s$ of the next)")
    ax.set_ylabel("measure, relative to $s = 1$")
    drawing.log_axis(ax, "y")
    ax.set_xscale("log")
    ax.set_xticks(scale, [f"{s:g}" for s in scale])
    ax.xaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside lower center", ncols=3)
    drawing.title_panels([ax])
    return figure
