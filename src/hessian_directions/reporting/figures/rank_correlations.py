"""Rank correlations of flatness measures with generalization."""

import numpy as np
import xarray as xr
from matplotlib import ticker
from matplotlib.figure import Figure

from hessian_directions.reporting.figures.drawing import (
    BLUE,
    GENERALIZATIONS,
    MEASURES,
    VERMILION,
    errors,
    legend_below,
    line_handle,
    panel_grid,
    styled,
    title_panels,
)

FIGURES = {
    "rank_correlations": {
        "title": "Rank correlations with the generalization gap",
        "category": "7. Flatness and generalization",
        "reads": {"population": "population"},
        "caption": r"""
Kendall's τ of every measure of flatness with the loss gap and with the accuracy gap over the
population, and the granulated τ, its mean over groups of networks that differ in one factor only.
Bars: 95 % bootstrap intervals over networks. Symbols as in the figure beside it: N parameters,
Hessian H with trace t, weights θ.""",
    },
}

STATISTICS = {
    "kendall": (r"Kendall's $\tau$ over all networks", BLUE, "o", -0.16),
    "granulated": (r"granulated $\tau$ (one factor varied at a time)", VERMILION, "s", 0.16),
}


@styled
def draw(population: xr.Dataset) -> Figure:
    """Kendall's τ and granulated τ of each measure with 95 % intervals, one panel a gap.

    Args:
        population: kendall and granulated with _low and _high (measure, generalization).
    """
    measures = [str(name) for name in population["measure"].values]
    generalizations = [str(name) for name in population["generalization"].values]
    height = max(1.6, 0.9 + 0.24 * len(measures))
    figure, axes = panel_grid(len(generalizations), 2, height, sharey=True)
    rows = np.arange(len(measures))
    for ax, generalization in zip(axes, generalizations, strict=True):
        part = population.sel(generalization=generalization)
        ax.axvline(0, color="black", linewidth=0.6)
        for row in rows[1::2]:
            ax.axhspan(row - 0.5, row + 0.5, color="0.95", lw=0)
        for name, (_, colour, marker, shift) in STATISTICS.items():
            tau = part[name].values
            arms = errors(tau, part[f"{name}_low"].values, part[f"{name}_high"].values)
            ax.errorbar(tau, rows + shift, xerr=arms, fmt=marker, color=colour, ms=3.5)
        ax.set_xlim(-1.02, 1.02)
        ax.xaxis.set_major_locator(ticker.MultipleLocator(0.5))
        ax.set_xlabel(r"rank correlation $\tau$")
        ax.set_ylim(len(measures) - 0.5, -0.5)
        ax.set_yticks(rows, [MEASURES.get(measure, measure) for measure in measures])
        ax.tick_params(axis="y", length=0)
    title_panels(axes, [GENERALIZATIONS.get(name, name) for name in generalizations])
    legend_below(
        figure,
        [
            line_handle(name, color=colour, marker=marker, ms=3.5)
            for name, colour, marker, _ in STATISTICS.values()
        ],
        2,
    )
    return figure
