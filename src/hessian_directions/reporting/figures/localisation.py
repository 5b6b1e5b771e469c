"""Where the curvature lives: shares of kinds of parameters and of layers in the extreme eigenvectors."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import DOUBLE, LARGEST, SMALLEST
from hessian_directions.reporting.shares import added

FIGURES = {
    "localisation": {
        "title": "Where the curvature lives",
        "category": "6. Spectra and visibility",
        "reads": {"localisations": "localisation"},
        "caption": r"""
Shares of the squared entries of the eigenvectors of λ\ :sub:`max` and λ\ :sub:`min`, by kind of
parameter (left) and by layer (right). Grey: their part of all parameters, the share that a
direction spread evenly over the network would have.""",
    },
}

# More layers than these are numbered, not named.
NAMED = 14
PARAMETERS = "0.75"


@drawing.styled
def draw(localisations: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """Shares of kinds (left) and of layers (right) in Σ v_i² of v_min and v_max, one row a network.

    Args:
        localisations: Per network, share (pair, parameter), ascending pairs; size, layer and kind
            of each parameter.
    """
    figure = Figure(figsize=(DOUBLE, 0.4 + 1.8 * len(localisations)), layout="constrained")
    grid = figure.subplots(len(localisations), 2, squeeze=False, width_ratios=[1, 1.6])
    titles = []
    for (left, right), (name, dataset) in zip(grid, localisations.items(), strict=True):
        draw_kinds(left, dataset)
        draw_layers(right, dataset)
        label = labels.get(name, name)
        titles += [f"{label}: kinds", f"{label}: layers"]
    drawing.title_panels(list(grid.flat), titles)
    drawing.legend_below(figure, handles(), 3)
    return figure


def handles() -> list[Line2D]:
    square: dict[str, Any] = {"ls": "", "marker": "s", "ms": 5}
    return [
        drawing.line_handle(r"of $v_{\max}$", color=LARGEST, **square),
        drawing.line_handle(r"of $v_{\min}$", color=SMALLEST, **square),
        drawing.line_handle("of the parameters", color=PARAMETERS, **square),
    ]


def draw_kinds(ax: Axes, dataset: xr.Dataset) -> None:
    """Bars of the kinds, the largest share of v_max on top."""
    names, share, part = added(dataset, "kind")
    order = np.argsort(share[-1])
    places = np.arange(len(names))
    rows = ((share[-1], LARGEST), (share[0], SMALLEST), (part, PARAMETERS))
    for offset, (values, colour) in zip((0.27, 0.0, -0.27), rows, strict=True):
        ax.barh(places + offset, values[order], 0.27, color=colour)
    ax.set_yticks(places, [names[i] for i in order])
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1.02 * max(values.max() for values, _ in rows))
    ax.xaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    ax.set_xlabel("share")


def draw_layers(ax: Axes, dataset: xr.Dataset) -> None:
    """Shares of the layers, from the input to the output."""
    names, share, part = added(dataset, "layer")
    places = np.arange(len(names))
    ax.bar(places, part, 0.9, color=PARAMETERS)
    for values, colour, offset in ((share[-1], LARGEST, -0.16), (share[0], SMALLEST, 0.16)):
        ax.bar(places + offset, values, 0.32, color=colour)
    if len(names) <= NAMED:
        ax.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor")
    else:
        ax.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
        ax.set_xlabel("layer, from the input to the output")
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.7, len(names) - 0.3)
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
