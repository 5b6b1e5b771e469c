"""What kinks add to second differences: predicted against measured, and the jumps behind it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, DOUBLE, SINGLE, VERMILION

FIGURES = {
    "kinks": {
        "title": "What kinks add to second differences of the loss",
        "category": "4. Traces",
        "reads": {"studies": "kinks"},
        "caption": r"""
Above: D(ε) − v'Hv, what the second difference along a Gaussian direction v measures beside the
curvature, against Σ J_k K_ε(x_k), what the kinks within ε are predicted to add to first order from
derivatives at θ alone; a point is a direction, its colour the step, and both are divided by the
mean of v'Hv. On the line they are equal; off it lie truncation, at the largest steps, and what is
of higher order in ε. Axes that reach beyond ±10 are linear between −1 and 1 and logarithmic
elsewhere. Below: jumps J_k of the slope of the loss at the kinks crossed with the step written there,
by size, for each sign: the number of kinks per direction and quarter of a decade (jumps below
10⁻¹⁶ count as 10⁻¹⁶), and the share of negative ones.""",
    },
}
COLUMNS = 5
MARKERS = "osD^vP<>X"


@drawing.styled
def draw(studies: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """Two panels a network: measured against predicted excess, and the sizes of the jumps.

    Networks without kinks are left out where others have some.

    Args:
        studies: Per network, difference and predicted (step, direction), exact (direction), size
            (sign, step, bin), n_kinks (sign, step, direction); coordinates step in units of the
            Gaussian directions, bin in log₁₀|J|.
    """
    kinked = {name: one for name, one in studies.items() if float(one["n_kinks"].sum()) > 0}
    studies = kinked or studies
    n_columns = min(len(studies), COLUMNS)
    n_blocks = -(-len(studies) // n_columns)
    width = SINGLE if n_columns == 1 else DOUBLE
    height = (4.6 if n_columns < 3 else 3.5) * n_blocks
    figure = Figure(figsize=(width, height), layout="constrained")
    ratios = [1.25, 1.0] * n_blocks
    grid = figure.subplots(2 * n_blocks, n_columns, squeeze=False, height_ratios=ratios)
    steps = sorted({float(step) for one in studies.values() for step in one["step"].values})
    colours = colormaps["viridis"](np.linspace(0.0, 0.9, len(steps)))
    looks = {step: (MARKERS[i % 9], colour) for i, (step, colour) in enumerate(zip(steps, colours))}
    above, below = list(grid[::2].flat), list(grid[1::2].flat)
    for ax in above[len(studies) :] + below[len(studies) :]:
        ax.remove()
    above, below = above[: len(studies)], below[: len(studies)]
    for upper, lower, study in zip(above, below, studies.values(), strict=True):
        _draw_excess(upper, study, looks)
        _draw_jumps(lower, study)
    drawing.label_left(above, "measured excess")
    drawing.label_left(below, "kinks per direction")
    drawing.title_panels(above, [drawing.two_lines(labels.get(name, name)) for name in studies])
    handles = [
        drawing.line_handle(_step(step), color=colour, marker=marker, ls="", ms=3.5)
        for step, (marker, colour) in looks.items()
    ]
    handles += [
        drawing.line_handle("positive jumps", color=VERMILION),
        drawing.line_handle("negative jumps", color=BLUE),
    ]
    drawing.legend_below(figure, handles, 5)
    return figure


def _draw_excess(ax: Axes, study: xr.Dataset, looks: Mapping[float, tuple[str, Any]]) -> None:
    scale = abs(float(study["exact"].mean())) or 1.0
    predicted, measured = study["predicted"] / scale, (study["difference"] - study["exact"]) / scale
    for step in study["step"].values:
        marker, colour = looks[float(step)]
        look: dict[str, Any] = {"ms": 3.5, "mfc": (*colour[:3], 0.5), "mec": colour, "mew": 0.5}
        ax.plot(predicted.sel(step=step), measured.sel(step=step), marker, **look)
    ax.axline((0, 0), slope=1, color="black", linewidth=0.8, zorder=1)
    low = min(0.0, float(predicted.min()), float(measured.min()))
    high = max(0.0, float(predicted.max()), float(measured.max()))
    if max(-low, high) > 10:
        ax.set_xscale("symlog", linthresh=1.0)
        ax.set_yscale("symlog", linthresh=1.0)
        low, high = 1.4 * low - 0.2, 1.4 * high
    else:
        low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(ticker.MaxNLocator(4))
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel="predicted excess")


def _draw_jumps(ax: Axes, study: xr.Dataset) -> None:
    """Sizes of the jumps at the step in the middle."""
    step = float(np.sort(study["step"].values)[study.sizes["step"] // 2])
    size = study["size"].sel(step=step) / study.sizes["direction"]
    centres = study["bin"].values
    width = centres[1] - centres[0]
    edges = np.append(centres - width / 2, centres[-1] + width / 2)
    for sign, colour in ((1, VERMILION), (-1, BLUE)):
        values = size.sel(sign=sign).values
        ax.stairs(values, edges, color=colour, fill=True, alpha=0.25)
        ax.stairs(values, edges, color=colour, linewidth=0.9)
    filled = np.flatnonzero(size.sum("sign").values)
    if filled.size:
        # No tick in the corners, where those of both axes would meet.
        ax.set_xlim(np.floor(edges[filled[0]]) - 0.6, np.ceil(edges[filled[-1] + 1]) + 0.6)
    # Most jumps of a large network are far too small to count, and fill one bin.
    ax.set_yscale("symlog", linthresh=1.0)
    ax.set_ylim(0, 30 * max(float(size.max()), 1.0))
    decades = ticker.SymmetricalLogLocator(base=10, linthresh=1.0, subs=[1.0])
    decades.set_params(numticks=5)
    ax.yaxis.set_major_locator(decades)
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    counts = study["n_kinks"].sel(step=step).sum("direction")
    total = float(counts.sum())
    share = f"{100 * float(counts.sel(sign=-1)) / total:.0f} % negative" if total else "no kinks"
    ax.set_title(f"{_step(step)}\n{share}", fontsize=7)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    ax.set_xlabel(r"$\log_{10}|J|$")


def _step(step: float) -> str:
    """ε = 3×10⁻⁴."""
    return rf"$\varepsilon={drawing.power_of_ten(step)}$"
