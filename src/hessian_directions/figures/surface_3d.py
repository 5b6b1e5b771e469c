"""The same network seen from the side: a random and a Hessian slice as surfaces."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib import ticker
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from hessian_directions.figures.drawing import (
    DOUBLE,
    attributes,
    loss_levels,
    panel_letter,
    require,
    styled,
)

PLANES = {"random": "random directions", "hessian": "Hessian directions"}


@styled
def draw(surfaces: Mapping[str, xr.Dataset], label: str) -> Figure:
    """Two surfaces over planes of the same units with one height and colour scale.

    The height is logarithmic where the losses span more than a factor of 30.

    Args:
        surfaces: By "random" and "hessian": loss (alpha, beta) with attributes length_alpha and
            length_beta.
        label: Printed name of the network.
    """
    require(surfaces)
    norm, levels = loss_levels(dataset["loss"].values for dataset in surfaces.values())
    viridis = matplotlib.colormaps["viridis"]
    logarithmic = isinstance(norm, LogNorm)
    figure = Figure(figsize=(DOUBLE, 2.8))
    present = [plane for plane in PLANES if plane in surfaces]
    for index, plane in enumerate(present):
        loss = surfaces[plane]["loss"].transpose("alpha", "beta")
        lengths = attributes(surfaces[plane], "loss")
        alpha, beta = np.meshgrid(
            loss["alpha"].values * lengths["length_alpha"],
            loss["beta"].values * lengths["length_beta"],
            indexing="ij",
        )
        width = 1 / len(present)
        ax: Any = figure.add_axes((index * width, 0.0, width * 0.93, 1.0), projection="3d")
        height = np.log10(loss.values) if logarithmic else loss.values
        low, high = np.log10(levels[[0, -1]]) if logarithmic else levels[[0, -1]]
        colours = viridis(norm(loss.values))
        ax.plot_surface(
            alpha,
            beta,
            np.where(np.isfinite(height), height, np.nan),
            facecolors=colours,
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
        figure.text(index * width + 0.02, 0.95, f"({panel_letter(index)}) {label}, {PLANES[plane]}")
    return figure
