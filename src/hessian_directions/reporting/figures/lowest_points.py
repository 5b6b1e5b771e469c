"""The lowest losses found in random planes and in the Hessian plane, at equal grids and radii."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.reporting.figures.drawing import (
    DOUBLE,
    GREY,
    VERMILION,
    Array,
    legend_below,
    line_handle,
    require,
    styled,
    title_panels,
    two_lines,
)

FIGURES = {
    "lowest_points": {
        "title": "Lowest losses in random and Hessian planes",
        "category": "5. Slices",
        "reads": {"planes": "lowest_points"},
        "caption": r"""
**(a)** Lowest loss over many random planes (dots, bar: median) and over the Hessian plane of λ\
:sub:`max` and λ\ :sub:`min` (diamond), on equal grids of equal half-width in parameter space, in
units of the network's own loss L(θ*). **(b)** Distance of that point from the network, in units of
the half-width.""",
    },
}


@styled
def draw(planes: Mapping[str, xr.Dataset], labels: Mapping[str, str]) -> Figure:
    """Lowest loss in units of the network's own, and its distance, for every plane.

    Dots: random planes, spread sideways for the eye; bar: their median; diamond: the Hessian plane.

    Args:
        planes: Per network, lowest_loss and lowest_distance (plane), hessian_lowest_loss,
            hessian_lowest_distance, loss_at_origin, radius.
        labels: Printed names of the networks.
    """
    require(planes)
    figure = Figure(figsize=(DOUBLE, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for column, dataset in enumerate(planes.values()):
        origin, radius = float(dataset["loss_at_origin"]), float(dataset["radius"])
        for ax, name, unit in (
            (left, "lowest_loss", origin),
            (right, "lowest_distance", radius),
        ):
            values = np.sort(dataset[name].dropna("plane").values) / unit
            ax.plot(column + spread(values.size), values, "o", color=GREY, ms=2.6, alpha=0.6, mew=0)
            middle = np.median(values)
            ax.plot([column - 0.3, column + 0.3], [middle, middle], color="black", linewidth=1.2)
            hessian = float(dataset[f"hessian_{name}"]) / unit
            ax.plot(column, hessian, "D", color=VERMILION, mec="black", ms=5.5, mew=0.6, zorder=4)
    left.axhline(1, color="0.6", linewidth=0.7, linestyle=":")
    left.set_ylabel(r"lowest loss / $L(\theta^{*}\,)$")
    right.set_ylabel("distance of that point / half-width")
    low = left.get_ylim()[0]
    left.set_ylim(low, 1 + 0.15 * (1 - low) if low < 1 else None)
    right.set_ylim(-0.06, max(1.06, right.get_ylim()[1]))
    for ax in (left, right):
        ax.set_xlim(-0.6, len(planes) - 0.4)
        ax.set_xticks(
            range(len(planes)),
            [two_lines(labels.get(name, name)) for name in planes],
            rotation=30 if len(planes) > 3 else 0,
            ha="right" if len(planes) > 3 else "center",
            rotation_mode="anchor",
        )
        ax.tick_params(axis="x", length=0)
    title_panels([left, right])
    legend_below(
        figure,
        [
            line_handle("random planes", color=GREY, marker="o", ls="", ms=3, alpha=0.6, mew=0),
            line_handle("their median", color="black", linewidth=1.2),
            line_handle("Hessian plane", color=VERMILION, mec="black", marker="D", ls="", ms=5),
            line_handle(r"$L(\theta^{*}\,)$", color="0.6", linewidth=0.7, ls=":"),
        ],
        4,
    )
    return figure


def spread(n: int) -> Array:
    """n sideways places within ±0.22 that look random and are the same in every run."""
    golden = 0.6180339887498949
    return np.asarray(0.44 * ((np.arange(n) * golden) % 1 - 0.5), dtype=float)
