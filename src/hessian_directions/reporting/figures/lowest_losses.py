"""How much lower a loss the same search finds in random planes and in the Hessian plane."""

from itertools import cycle
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hessian_directions.reporting import tables
from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import GREEN, GREY, LOOKS, VERMILION
from hessian_directions.statistics.proportions import TIE

# Of each kind of planes; what lies on another line has gaps that show it.
RANDOM: dict[str, Any] = {"color": GREY, "lw": 1.2}
HESSIAN: dict[str, Any] = {"color": VERMILION, "lw": 1.4}
SLOPE: dict[str, Any] = {"color": GREEN, "lw": 1.2, "ls": (0, (4, 1.5))}

FIGURES = {
    "lowest_losses": {
        "title": "Lower losses in random and Hessian planes",
        "category": "5. Slices",
        "reads": {"discs": "lowest_losses"},
        "caption": r"""
Relative fall of the loss, (L(θ*) − L)/L(θ*), at the lowest point that the same search
finds in discs of radius ρ: in random planes (line: median, band: the middle four fifths), in the
Hessian plane of λ\ :sub:`max` and λ\ :sub:`min`, and in a plane along the slope, as a control.
Dotted: the fall in random planes that the slope alone predicts, ‖∇L‖√(2/N)ρ. Falls within rounding
are not drawn. **Last panel:** share of the random planes that go at least as low as the Hessian
plane, a tie counting as half; band: 95 % interval, in which ties decide nothing.""",
    },
}


@drawing.styled
def draw(discs: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """A panel for each network, and one for the shares of all of them.

    Args:
        discs: Per network, lowest_loss (plane, radius), hessian_lowest_loss, slope_lowest_loss and
            random_slope (radius), loss, noise, and the coordinate radius.
    """
    # A figure without networks has no shares either.
    n_panels = len(discs) + bool(discs)
    # The legend takes its room from the rows: much from one alone.
    height = 1.85 if n_panels > 3 else 2.4
    figure, axes = drawing.panel_grid(n_panels, 4 if n_panels > 6 else 3, height)
    titles = [drawing.two_lines(labels.get(name, name)) for name in discs]
    for ax, dataset in zip(axes, discs.values(), strict=False):
        draw_falls(ax, dataset)
    shares = draw_shares(axes[-1], discs, labels)
    drawing.label_left(axes[:-1], r"fall of the loss / $L(\theta^{*}\,)$")
    drawing.title_panels(axes, [*titles, "planes as low\nas the Hessian"])
    handles = [
        drawing.line_handle("random planes", **RANDOM),
        drawing.line_handle("Hessian plane", **HESSIAN),
        drawing.line_handle("plane along the slope", **SLOPE),
        drawing.line_handle("slope alone, random planes", color="black", lw=0.9, ls=":"),
    ]
    drawing.legend_below(figure, [*handles, *shares], 4)
    return figure


def draw_falls(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw by how much the loss falls in the planes of each kind."""
    radius, loss = dataset["radius"].values, float(dataset["loss"])
    smallest = TIE * float(dataset["noise"]) / loss
    random, hessian, slope = (
        (loss - dataset[name].values) / loss
        for name in ("lowest_loss", "hessian_lowest_loss", "slope_lowest_loss")
    )
    low, middle, high = np.quantile(random, (0.1, 0.5, 0.9), axis=0)
    predicted = dataset["random_slope"].values / loss
    seen = [high[high > smallest]]
    for values, look in ((middle, RANDOM), (hessian, HESSIAN), (slope, SLOPE)):
        shown = np.where(values > smallest, values, np.nan)
        ax.plot(radius, shown, **look)
        seen.append(shown[np.isfinite(shown)])
    ax.plot(radius, predicted, color="black", lw=0.9, ls=":")
    # The prediction may leave the picture: beyond the loss itself it means nothing.
    falls = np.concatenate(seen)
    falls = falls if falls.size else predicted
    floor, top = falls.min() / 2, falls.max() * 2
    ends = np.clip([low, high], floor, None)
    ax.fill_between(radius, *ends, color=GREY, alpha=0.2, lw=0)
    ax.set_ylim(floor, top)
    drawing.log_axis(ax, "xy")
    ax.set_xlabel(r"radius $\rho$")


def draw_shares(ax: Axes, discs: drawing.Datasets, labels: drawing.Labels) -> list[Line2D]:
    """Draw the share of random planes that go as low as the Hessian plane, for all networks."""
    handles: list[Line2D] = []
    ax.axhline(0.5, color="0.6", lw=0.7, ls=":")
    networks = tables.lowest_losses(discs).groupby("network", sort=False)
    for (name, rows), (colour, marker) in zip(networks, cycle(LOOKS), strict=False):
        ends = rows["as_low_low"], rows["as_low_high"]
        ax.fill_between(rows["radius"], *ends, color=colour, alpha=0.12, lw=0)
        label = labels.get(str(name), str(name))
        look: dict[str, Any] = {"color": colour, "marker": marker, "label": label}
        handles += ax.plot(rows["radius"], rows["as_low"], ms=3, lw=1.0, **look)
    ax.set_ylim(-0.03, 1.03)
    drawing.log_axis(ax, "x")
    ax.set(xlabel=r"radius $\rho$", ylabel="share of random planes")
    return handles
