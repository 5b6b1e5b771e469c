"""The central picture: a true saddle of a network, unseen in a random slice, seen in the Hessian slice."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import ticker
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import DOUBLE, Array

FIGURES = {
    "true_saddle": {
        "title": "A true saddle in a random slice and along its Hessian directions",
        "category": "3. Synthetic saddles",
        "reads": {"points": "critical_points"},
        "caption": r"""
Loss around one critical point θ* of a network, relative to its value there: red above, blue below,
white and the black line at L(θ*). **(a)** Along two random directions: the saddle looks like a
minimum where t > 0, a maximum where t < 0. **(b)** Along the eigenvectors of λ\ :sub:`max` and
λ\ :sub:`min`: the same point is a
saddle. Directions have length one, so axes are distances in parameter space. Half-widths are in
proportion to \|κ\|\ :sup:`−1/2`, κ being the curvature along a direction (t/N for random ones), so
that the quadratic part of the loss changes by the same amount up to every edge. Both panels share
one scale.""",
    },
}

TITLES = {"random": "two random directions", "hessian": "two Hessian directions"}
AXES = {
    "random": (r"$\alpha\,\|\eta\|$", r"$\beta\,\|\delta\|$"),
    "hessian": (r"direction of $\lambda_{\max}$", r"direction of $\lambda_{\min}$"),
}


@drawing.styled
def draw(points: xr.Dataset) -> Figure:
    """L − L(θ*) of the shown critical point over both planes, from the side.

    Args:
        points: surface (plane, alpha, beta), half_width (plane, direction), shown; of each point
            r, index, n_parameters, visibility_sampled.
    """
    point = points.isel(point=int(points["shown"]))
    norm, levels = drawing.signed_levels(points["surface"].values)
    figure = Figure(figsize=(DOUBLE, 3.2))
    for column, (plane, title) in enumerate(TITLES.items()):
        ax = figure.add_axes((0.005 + 0.5 * column, 0.07, 0.46, 0.88), projection="3d")
        half_widths = points["half_width"].sel(plane=plane).values
        draw_surface(ax, points["surface"].sel(plane=plane), half_widths, norm, levels)
        for name, text in zip("xy", AXES[plane], strict=True):
            ax.set(**{f"{name}label": text})
        figure.text(0.02 + 0.5 * column, 0.95, f"({'ab'[column]}) {title}")
    share = 100 * float(point["visibility_sampled"])
    seen = f"{share:.2g} %" if share else f"less than {100 * float(point['visibility_high']):.1g} %"
    said = (
        rf"$N={int(point['n_parameters'])}$ parameters, {int(point['index'])} negative eigenvalues, "
        rf"$r={float(point['r']):.1f}$: {seen} of random slices show the saddle"
    )
    figure.text(0.5, 0.015, said, ha="center")
    return figure


def draw_surface(
    ax: Any, surface: xr.DataArray, half_widths: Array, norm: Normalize, levels: Array
) -> None:
    """Draw one surface with its contours on the floor, the level of the saddle in black."""
    surface = surface.transpose("alpha", "beta")
    height = surface.values
    axes = (surface[name].values * half for name, half in zip(surface.dims, half_widths))
    alpha, beta = np.meshgrid(*axes, indexing="ij")
    colours = drawing.diverging_map()
    bound = float(levels[-1])
    floor = -1.9 * bound
    ax.computed_zorder = False
    on_floor: dict[str, Any] = {"zdir": "z", "offset": floor}
    ax.contourf(alpha, beta, height, levels, cmap=colours, norm=norm, zorder=0, **on_floor)
    if height.min() < 0 < height.max():
        ax.contour(alpha, beta, height, levels=[0.0], colors="black", zorder=1, **on_floor)
    look: dict[str, Any] = {"edgecolor": (0, 0, 0, 0.18), "zorder": 2}
    drawing.plot_surface(ax, alpha, beta, height, colours(norm(height)), **look)
    if height.min() < 0 < height.max():
        ax.contour(alpha, beta, height, levels=[0.0], colors="black", linewidths=1.0, zorder=3)
    ax.plot([0], [0], [0], "o", color="black", markersize=3, zorder=4)
    ax.set_zlim(floor, bound)
    ax.set_box_aspect((1, 1, 0.8), zoom=1.0)
    ax.set_zlabel(r"$L-L(\theta^{*}\,)$", labelpad=-2)
    ax.xaxis.labelpad = ax.yaxis.labelpad = -5
    ticks = ticker.MaxNLocator(4, symmetric=True).tick_values(-bound, bound)
    ax.zaxis.set_major_locator(ticker.FixedLocator([tick for tick in ticks if abs(tick) <= bound]))
