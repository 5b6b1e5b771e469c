"""Measures of flatness against generalization over a population of trained networks."""

from itertools import cycle

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, GENERALIZATIONS, ORANGE, VERMILION

FIGURES = {
    "flatness": {
        "title": "Measures of flatness against the generalization gap",
        "category": "7. Flatness and generalization",
        "reads": {"population": "population"},
        "caption": r"""
Each point is a network of the population, trained to the same loss; those that did not reach it are
left out. Colour: share of the training labels that is wrong. Above each panel: Kendall's τ between
networks of equal label noise and width. Measures: mean curvature t/N, extreme eigenvalues λ\ :sub:`max` and
\|λ\ :sub:`min`\|, Frobenius norm ‖H‖\ :sub:`F`; with T = diag\|θ\| trace and largest eigenvalue of THT;
relative flatness of all layers; mean increase of the loss at a distance and its largest increase
within a ball (radius as index), the same by batches (m-sharpness); distance from the point θ\ :sub:`0` where
training began; norm of the weights.
""",
    },
}

COLOURS = (BLUE, ORANGE, VERMILION, "#000000", "#009E73")
MARKERS = "o^sDv"
# One of several relatives each; the rank correlations have them all.
LEFT_OUT = ("trace", "trace_scaled", "largest_scaled", "gradient_norm", "relative_flatness_output")


@drawing.styled
def draw(population: xr.Dataset) -> Figure:
    """The loss gap against each measure, a panel each; colour and marker tell the label noise.

    Args:
        population: The coordinate measure names variables (member), beside gap_loss, label_noise,
            reached (member), and correlation (statistic, measure, generalization).
    """
    names = _shown([str(name) for name in population["measure"].values])
    figure, axes = drawing.panel_grid(len(names), 4, 1.55, sharey=True)
    reached = population.isel(member=population["reached"].values.astype(bool))
    noise = reached["label_noise"].values
    styles = list(zip(np.unique(noise), cycle(COLOURS), cycle(MARKERS)))
    gap = reached["gap_loss"].values
    for ax, name in zip(axes, names, strict=True):
        values = reached[name].values
        for level, colour, marker in styles:
            of = noise == level
            ax.plot(values[of], gap[of], marker, ms=1.8, mew=0, color=colour, alpha=0.6)
        if values.size and values.min() > 0 and values.max() > 3 * values.min():
            drawing.log_axis(ax, "x")
        else:
            ax.xaxis.set_major_locator(MaxNLocator(4))
        if gap.size and gap.min() > 0 and gap.max() > 3 * gap.min():
            drawing.log_axis(ax, "y")
        ax.set_xlabel(drawing.measure_symbol(name))
    drawing.label_left(axes, GENERALIZATIONS["gap_loss"])
    figure.set_layout_engine("constrained", w_pad=0.08)  # labels of two axes do not meet
    tau = population["correlation"].sel(statistic="within_strata", generalization="gap_loss")
    drawing.title_panels(axes, [rf"$\tau={float(tau.sel(measure=name)):+.2f}$" for name in names])
    handles = [
        drawing.line_handle(f"label noise {level:g}", marker=m, color=c, ls="", ms=3.5, mew=0)
        for level, c, m in styles
    ]
    drawing.legend_below(figure, handles, 5)
    return figure


def _shown(names: list[str]) -> list[str]:
    """The measures with panels: of those at several radii the middle one."""
    kept = [name for name in names if name not in LEFT_OUT]
    for kind in drawing.MEASURES_AT_RADIUS:
        of_kind = [name for name in kept if name.startswith(kind)]
        middle = len(of_kind) // 2
        kept = [name for name in kept if name not in of_kind[:middle] + of_kind[middle + 1 :]]
    return kept
