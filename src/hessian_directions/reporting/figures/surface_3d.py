"""The same network seen from the side: a random and a Hessian slice as surfaces."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib import ticker
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from hessian_directions.reporting.figures.drawing import (
    DOUBLE,
    Array,
    attributes,
    loss_levels,
    panel_letter,
    require,
    styled,
)

FIGURES = {
    "surface_3d": {
        "title": "A random and a Hessian slice from the side",
        "category": "5. Slices",
        "reads": {"surfaces": "slices"},
        "networks": "first classification",
        "caption": r"""
The same network's loss over a plane of two Gaussian directions and over the plane of the Hessian
directions of λ\ :sub:`max` and λ\ :sub:`min`, with one scale of heights and colours. Axes: distance
in parameter space.""",
    },
}

PLANES = {"random": "random directions", "hessian": "Hessian directions"}


@styled
def draw(surfaces: Mapping[str, Mapping[str, xr.Dataset]], labels: Mapping[str, str]) -> Figure:
    """Training loss over a random and a Hessian slice, one row a network, one scale a row.

    The height is logarithmic where the losses of a row span more than a factor of 30.

    Args:
        surfaces: Per network, by "random_train" and "hessian_train": loss (alpha, beta) with
            attributes length_alpha and length_beta.
        labels: Printed names of the networks.
    """
    require(surfaces)
    n_rows = len(surfaces)
    figure = Figure(figsize=(DOUBLE, 2.8 * n_rows))
    for row, (name, slices) in enumerate(surfaces.items()):
        present = [plane for plane in PLANES if f"{plane}_train" in slices]
        shown = [slices[f"{plane}_train"] for plane in present]
        norm, levels = loss_levels(dataset["loss"].values for dataset in shown)
        for column, (plane, dataset) in enumerate(zip(present, shown, strict=True)):
            left, bottom = column / 2, 1 - (row + 1) / n_rows
            ax = figure.add_axes((left, bottom, 0.465, 1 / n_rows), projection="3d")
            draw_surface(ax, dataset, norm, levels)
            letter = panel_letter(2 * row + column)
            figure.text(
                left + 0.02,
                bottom + 0.95 / n_rows,
                f"({letter}) {labels.get(name, name)}, {PLANES[plane]}",
            )
    return figure


def draw_surface(ax: Any, dataset: xr.Dataset, norm: Normalize, levels: Array) -> None:
    """Draw one surface with its contours on the floor."""
    viridis = matplotlib.colormaps["viridis"]
    loss = dataset["loss"].transpose("alpha", "beta")
    lengths = attributes(dataset, "loss")
    alpha, beta = np.meshgrid(
        loss["alpha"].values * lengths["length_alpha"],
        loss["beta"].values * lengths["length_beta"],
        indexing="ij",
    )
    logarithmic = isinstance(norm, LogNorm)
    height = np.where(np.isfinite(loss.values), loss.values, np.nan)
    low, high = levels[[0, -1]]
    if logarithmic:
        height, low, high = np.log10(height), np.log10(low), np.log10(high)
    ax.plot_surface(
        alpha,
        beta,
        height,
        facecolors=viridis(norm(loss.values)),
        rcount=60,
        ccount=60,
        linewidth=0.15,
        edgecolor=(1, 1, 1, 0.35),
        shade=False,
        rasterized=True,
    )
    floor = low - 0.35 * (high - low)
    ax.contour(
        alpha,
        beta,
        height,
        levels=np.linspace(low, high, levels.size),
        zdir="z",
        offset=floor,
        cmap=viridis,
        linewidths=0.6,
    )
    ax.set_zlim(floor, high)
    ax.view_init(elev=24, azim=-58)
    ax.set_box_aspect((1, 1, 0.75), zoom=1.03)
    ax.set_xlabel(r"$\alpha\,\|\eta\|$", labelpad=-6)
    ax.set_ylabel(r"$\beta\,\|\delta\|$", labelpad=-6)
    ax.set_zlabel(r"loss $L$", labelpad=-4)
    ax.tick_params(pad=-2)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_major_locator(ticker.MaxNLocator(4, integer=axis is ax.zaxis and logarithmic))
        axis.set_pane_color((1.0, 1.0, 1.0, 0.0))
    if logarithmic:
        ax.zaxis.set_major_formatter(
            ticker.FuncFormatter(lambda value, _: rf"$10^{{{value:.0f}}}$")
        )
