"""Loss slices of networks relative to their own loss: red above it, blue below, a saddle has both."""

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hessian_directions.reporting.figures.drawing import (
    Array,
    attributes,
    contour_slice,
    diverging_map,
    legend_below,
    line_handle,
    lowest_point,
    mark,
    require,
    signed_levels,
    styled,
    title_panels,
    two_lines,
)
from hessian_directions.reporting.figures.slices import COLUMNS, RING

# Colours are linear in the loss unless the smaller side spans less than this part of the larger.
FAINT = 0.1


@styled
def draw(surfaces: Mapping[str, Mapping[str, xr.Dataset]], labels: Mapping[str, str]) -> Figure:
    """L − L(θ*) over slices, one row a network; one colour scale for training, one for test.

    White is the loss of the network, and the black line joins the points that have it. The colours
    are symmetric about zero; where the changes of one sign are small beside those of the other they
    follow arcsinh. Axes are distances in parameter space, all of the same length on paper: each
    reaches as far as the curvature along it suggests.

    Args:
        surfaces: Per network, by "{plane}_{split}": loss (alpha, beta) with attributes
            length_alpha and length_beta. A slice that is missing leaves its place empty.
        labels: Printed names of the networks.
    """
    require(surfaces)
    columns = [key for key in COLUMNS if any(key in row for row in surfaces.values())]
    splits = list(dict.fromkeys(_split(key) for key in columns))
    size = (1.43 * len(columns) + 0.65 * len(splits), 0.45 + 1.75 * len(surfaces))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(surfaces), len(columns), squeeze=False)
    drawn, titles = [], []
    for axes, (name, row) in zip(grid, surfaces.items(), strict=True):
        for split in splits:
            norm, levels = relative_levels(row[key] for key in row if _split(key) == split)
            places = [ax for ax, key in zip(axes, columns, strict=True) if _split(key) == split]
            for ax, key in zip(axes, columns, strict=True):
                if ax in places and key in row:
                    filled = draw_relative(ax, row[key], norm, levels)
                    ax.set_xlabel(r"$\alpha\,\|\eta\|$")
                    drawn.append(ax)
                    titles.append(COLUMNS[key])
                elif ax in places:
                    ax.set_axis_off()
            if any(_split(key) == split for key in row):
                relative_colorbar(figure, filled, places)
        label = two_lines(labels.get(name, name))
        axes[0].set_ylabel((label + "\n" if len(surfaces) > 1 else "") + r"$\beta\,\|\delta\|$")
    title_panels(drawn, titles)
    legend_below(figure, handles(), 3)
    return figure


def handles() -> list[Line2D]:
    """Legend entries of the marks."""
    return [
        line_handle(r"network $\theta^{*}$", color="black", marker="+", ls="", ms=5, mew=1.4),
        line_handle("lowest loss on the grid", marker="o", ls="", **RING),
        line_handle("loss of the network", color="black", lw=0.9),
    ]


def _split(key: str) -> str:
    return key.rpartition("_")[2]


def relative(dataset: xr.Dataset) -> xr.DataArray:
    """L − L(θ*) over (alpha, beta); where the loss is not finite it is NaN."""
    loss = dataset["loss"].transpose("alpha", "beta")
    return loss - loss.sel(alpha=0.0, beta=0.0)


def relative_levels(datasets: Iterable[xr.Dataset]) -> tuple[Normalize, Array]:
    """Colour norm and contour levels, symmetric about zero, that the slices share."""
    values = np.concatenate([np.ravel(relative(dataset)) for dataset in datasets])
    finite = values[np.isfinite(values)]
    norm, levels = signed_levels([finite], 24)
    bound = levels[-1]
    sides = [side for side in (finite.max(initial=0.0), -finite.min(initial=0.0)) if side > 0]
    if len(sides) < 2 or min(sides) > FAINT * max(sides):
        return norm, levels
    width = max(min(sides) / 2, 1e-3 * bound)
    steps = np.linspace(-1, 1, len(levels)) * np.arcsinh(bound / width)
    levels = width * np.sinh(steps)
    levels[[0, -1]] = -bound, bound
    return AsinhNorm(width, -bound, bound), levels


def draw_relative(ax: Axes, dataset: xr.Dataset, norm: Normalize, levels: Array) -> ContourSet:
    """Draw one slice with its marks; the axes are distances in parameter space."""
    values, lengths = relative(dataset), attributes(dataset, "loss")
    alpha = values["alpha"].values * lengths["length_alpha"]
    beta = values["beta"].values * lengths["length_beta"]
    filled = contour_slice(
        ax, alpha, beta, values, norm, levels, diverging_map(), line_colour="0.3"
    )
    if values.min() < 0 < values.max():
        ax.contour(alpha, beta, values.values.T, levels=[0.0], colors="black", linewidths=0.9)
    if np.isfinite(values).any():
        mark(ax, *lowest_point(alpha, beta, values), "o", "#FFD23F", 8)
    mark(ax, 0, 0, "+", size=4.5)
    ax.set_aspect("auto")
    ax.set_box_aspect(1)
    for axis, along in ((ax.xaxis, alpha), (ax.yaxis, beta)):
        ticks = [along[0], 0, along[-1]]
        axis.set_ticks(ticks, [f"{tick:.2g}".replace("-", "−") for tick in ticks])
    return filled


def relative_colorbar(figure: Figure, filled: ContourSet, axes: list[Axes]) -> None:
    """A colour bar with ticks at zero, at both ends, and in between."""
    levels = np.asarray(filled.levels)
    middle = len(levels) // 2
    ticks = levels[[0, middle // 2, middle, middle + (middle + 1) // 2, -1]]
    ticks[2] = 0.0  # but for rounding
    bar = figure.colorbar(filled, ax=axes, ticks=ticks, label=r"$L-L(\theta^{*}\,)$", pad=0.01)
    bar.ax.set_yticklabels([f"{tick:.2g}".replace("-", "−") for tick in ticks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(direction="out", left=False, right=True)
