"""The same network seen from the side: its slices as surfaces over their planes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import DOUBLE
from hessian_directions.reporting.figures.slices import LEVELS, NORM, Panel, panels

FIGURES = {
    "surface_3d": {
        "title": "Slices from the side",
        "category": "5. Slices",
        "reads": {"surfaces": "slices"},
        "networks": "first classification",
        "caption": r"""
The same network's training loss relative to its own, L − L(θ*), over its slices: along two Gaussian
directions, along two filter-normalised ones, along the Hessian directions of λ\ :sub:`max` (α) and
λ\ :sub:`min` (β); and, of the latter, the middle without the slope of the quadratic fitted there.
Colours as in the maps: red above the loss of the network, blue below. Axes: distance in parameter
space.""",
    },
}


@drawing.styled
def draw(surfaces: Mapping[str, drawing.Datasets], labels: drawing.Labels) -> Figure:
    """L − L(θ*) of the training data as surfaces, each with a scale of heights of its own.

    Args:
        surfaces: Per network, by "{plane}_train": loss (alpha, beta) with attributes length_alpha
            and length_beta.
    """
    shown = [
        (labels.get(name, name), panel)
        for name, slices in surfaces.items()
        for panel in panels(slices).values()
    ]
    n_rows = -(-len(shown) // 2)
    figure = Figure(figsize=(DOUBLE, 2.8 * n_rows))
    for index, (label, panel) in enumerate(shown):
        left, bottom = index % 2 / 2, 1 - (index // 2 + 1) / n_rows
        ax = figure.add_axes((left, bottom, 0.465, 1 / n_rows), projection="3d")
        draw_surface(ax, panel)
        title = f"({drawing.panel_letter(index)}) {label}, {panel.title}"
        figure.text(left + 0.02, bottom + 0.95 / n_rows, title)
    return figure


def draw_surface(ax: Any, panel: Panel) -> None:
    """Draw one surface with its contours on the floor, its own loss level in black."""
    colours = drawing.diverging_map()
    alpha, beta = np.meshgrid(panel.alpha, panel.beta, indexing="ij")
    height = panel.change
    low, high = (float(end(height, initial=0.0)) for end in (np.nanmin, np.nanmax))
    high = high if high > low else low + 1.0
    face = colours(NORM(height / panel.bound))
    drawing.plot_surface(ax, alpha, beta, height, face, edgecolor=(1, 1, 1, 0.35))
    floor = low - 0.35 * (high - low)
    if np.isfinite(height).any():
        on_floor: dict[str, Any] = {"zdir": "z", "offset": floor}
        lines = {"colors": list(colours(NORM(LEVELS))), "linewidths": 0.6}
        ax.contour(alpha, beta, height, levels=LEVELS * panel.bound, **lines, **on_floor)
        if low < 0 < high:
            black: dict[str, Any] = {"colors": "black", "linewidths": 0.9}
            ax.contour(alpha, beta, height, levels=[0.0], **black, **on_floor)
    ax.set_zlim(floor, high)
    ax.set_box_aspect((1, 1, 0.75), zoom=1.03)
    ax.set_xlabel(r"$\alpha\,\|\eta\|$", labelpad=-6)
    ax.set_ylabel(r"$\beta\,\|\delta\|$", labelpad=-6)
    ax.set_zlabel(r"$L-L(\theta^{*}\,)$", labelpad=-4)
    ax.zaxis.set_major_formatter(ticker.ScalarFormatter(useMathText=True))
    ax.ticklabel_format(axis="z", style="sci", scilimits=(-2, 3))
