"""All that was found about one network on one page."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hessian_directions.reporting.figures import (
    drawing,
    lines,
    localisation,
    slices,
    spectra,
    visibility_networks,
)
from hessian_directions.reporting.figures.drawing import DOUBLE, Array
from hessian_directions.reporting.report.results import Results

Panel = Callable[[Figure, Axes], None]


@drawing.styled
def draw(results: Results) -> Figure:
    """Slices, lines, spectrum, where the curvature lives, and what random slices show.

    Args:
        results: Of one network; parts that are missing leave no gap.
    """
    panels = _slices(results)
    if results.lines is not None:
        panels["lines"] = partial(_lines, results.lines)
    if results.spectrum is not None:
        pairs = results.eigenpairs
        values = np.array([]) if pairs is None else pairs["value"].values
        panels["spectrum"] = partial(_spectrum, results.spectrum, values)
    if results.localisation is not None:
        panels["where the curvature lives"] = partial(_kinds, results.localisation)
    if results.visibility is not None:
        panels["what random slices show"] = partial(_shares, results.visibility)
    drawing.require(panels)
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(DOUBLE * n_columns / 3, 2.2 * n_rows), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for ax, draw_panel in zip(axes, panels.values(), strict=False):
        draw_panel(figure, ax)
    for ax in axes[len(panels) :]:
        ax.remove()
    drawing.title_panels(axes[: len(panels)], list(panels))
    return figure


def _slices(results: Results) -> dict[str, Panel]:
    """A panel for each slice of the training loss, in units of its largest change."""
    found = slices.panels(results.slices)
    shown = [found[key] for key in ("random", "hessian") if key in found]

    def draw_slice(panel: slices.Panel, figure: Figure, ax: Axes) -> None:
        filled = slices.draw_panel(ax, panel)
        ax.set(xlabel=r"$\alpha\,\|\eta\|$", ylabel=r"$\beta\,\|\delta\|$")
        if panel is shown[-1]:
            slices.colorbar(figure, filled, [ax])

    return {f"{panel.title} slice": partial(draw_slice, panel) for panel in shown}


def _lines(dataset: xr.Dataset, figure: Figure, ax: Axes) -> None:
    lines.draw_lines(ax, dataset)
    ax.set_ylabel(r"loss $L$")
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.6 * (top - bottom))
    handles = lines.handles()
    handles[-1].set_label("exact parabola")  # the panel is narrow
    _legend(ax, handles, "upper center")


def _spectrum(dataset: xr.Dataset, values: Array, figure: Figure, ax: Axes) -> None:
    scale = spectra.draw_spectrum(ax, dataset, values)
    ax.set(xlabel=r"eigenvalue $\lambda$", ylabel=rf"density of arcsinh$(\lambda/${scale:g}$)$")


def _kinds(dataset: xr.Dataset, figure: Figure, ax: Axes) -> None:
    localisation.draw_kinds(ax, dataset)
    ax.set_xlim(right=2.2 * ax.get_xlim()[1])
    _legend(ax, localisation.handles(), "center right")


def _shares(dataset: xr.Dataset, figure: Figure, ax: Axes) -> None:
    visibility_networks.draw_shares(ax, dataset)
    ax.set_ylabel(r"share of slices with smaller $\kappa_-$")
    _legend(ax, visibility_networks.handles(dataset), (0.02, 0.12))


def _legend(ax: Axes, handles: Sequence[Line2D], place: Any) -> None:
    """In room that was made for it: nothing drawn lies behind."""
    ax.legend(handles=handles, loc=place, frameon=True, framealpha=0.85, edgecolor="none")
