"""Rank correlations of flatness measures with generalization."""

import numpy as np
import xarray as xr
from matplotlib import ticker
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing

FIGURES = {
    "rank_correlations": {
        "title": "Rank correlations with the generalization gap",
        "category": "7. Flatness and generalization",
        "reads": {"population": "population"},
        "caption": r"""
Kendall's τ of every measure of flatness with the loss gap and with the accuracy gap: over all
networks; between networks of equal label noise and width; between networks that differ in one factor only
(granulated); and the conditional mutual information, which has no sign, 0 where two factors explain
what both have in common. Bars: 95 % intervals by the jackknife over seeds. Symbols as in the
scatter plots; κ\ :sub:`out` is the relative flatness of the output layer, θ\ :sub:`0` the point
where training began.
""",
    },
}

STATISTICS = {
    "kendall": (r"$\tau$, all networks", drawing.GREY, "o"),
    "within_strata": (r"$\tau$ at equal noise and width", drawing.VERMILION, "s"),
    "granulated": (r"granulated $\tau$", drawing.BLUE, "D"),
    "information": ("conditional mutual information", drawing.GREEN, "^"),
}


@drawing.styled
def draw(population: xr.Dataset) -> Figure:
    """Four statistics of each measure with 95 % intervals, one panel a gap.

    Args:
        population: correlation with _low and _high (statistic, measure, generalization).
    """
    measures = [str(name) for name in population["measure"].values]
    generalizations = [str(name) for name in population["generalization"].values]
    height = max(1.6, 0.9 + 0.27 * len(measures))
    figure, axes = drawing.panel_grid(len(generalizations), 2, height, sharey=True)
    rows = np.arange(len(measures))
    shifts = np.linspace(-0.3, 0.3, len(STATISTICS))
    for ax, generalization in zip(axes, generalizations, strict=True):
        ax.axvline(0, color="black", linewidth=0.6)
        for row in rows[1::2]:
            ax.axhspan(row - 0.5, row + 0.5, color="0.95", lw=0)
        for (name, (_, colour, marker)), shift in zip(STATISTICS.items(), shifts, strict=True):
            part = population.sel(generalization=generalization, statistic=name)
            value, *ends = (part[f"correlation{end}"].values for end in ("", "_low", "_high"))
            arms = drawing.errors(value, *ends)
            ax.errorbar(value, rows + shift, xerr=arms, fmt=marker, color=colour, ms=2.5, lw=0.9)
        ax.set_xlim(-1.02, 1.02)
        ax.xaxis.set_major_locator(ticker.MultipleLocator(0.5))
        ax.set(xlabel="rank correlation, information", ylim=(len(measures) - 0.5, -0.5))
        ax.set_yticks(rows, [drawing.measure_symbol(measure) for measure in measures])
        ax.tick_params(axis="y", length=0)
    drawing.title_panels(axes, [drawing.GENERALIZATIONS[name] for name in generalizations])
    handles = [
        drawing.line_handle(name, color=colour, marker=marker, ms=3)
        for name, colour, marker in STATISTICS.values()
    ]
    drawing.legend_below(figure, handles, 4)
    return figure
