"""Loss slices of trained networks along random and along Hessian directions."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.reporting.figures.drawing import (
    DOUBLE,
    attributes,
    contour_slice,
    legend_below,
    line_handle,
    loss_colorbar,
    loss_levels,
    lowest_point,
    mark,
    require,
    styled,
    title_panels,
    two_lines,
)

FIGURES = {
    "approximator_slices": {
        "title": "Slices of the function approximators",
        "category": "5. Slices",
        "reads": {"surfaces": "slices"},
        "networks": "regression",
        "caption": r"""
Loss L over slices through the trained weights, one row a network: along two Gaussian directions and
along the Hessian directions of λ\ :sub:`max` (α) and λ\ :sub:`min` (β), for training and test data.
Cross: the network; circle: lowest loss on the grid. Axes: distance in parameter space, α‖η‖ and
β‖δ‖ (Gaussian directions have length about √N, eigenvectors have length 1). Colours share one scale
a row, logarithmic where losses span more than a factor of 30; contour lines have levels of their
own in each panel.""",
    },
    "classifier_slices": {
        "title": "Slices of the classifiers",
        "category": "5. Slices",
        "reads": {"surfaces": "slices"},
        "networks": "classification",
        "caption": r"""
Loss L over slices through the trained weights, one row a network: along two Gaussian directions and
along the Hessian directions of λ\ :sub:`max` (α) and λ\ :sub:`min` (β), for training and test data.
Cross: the network; circle: lowest loss on the grid. Axes: distance in parameter space, α‖η‖ and
β‖δ‖ (Gaussian directions have length about √N, eigenvectors have length 1). Colours share one scale
a row, logarithmic where losses span more than a factor of 30; contour lines have levels of their
own in each panel.""",
    },
}

RING = {"mfc": "none", "mec": "#D9A400", "ms": 7, "mew": 1.4}
COLUMNS = {
    "random_train": "random, training",
    "hessian_train": "Hessian, training",
    "random_test": "random, test",
    "hessian_test": "Hessian, test",
}


@styled
def draw(surfaces: Mapping[str, Mapping[str, xr.Dataset]], labels: Mapping[str, str]) -> Figure:
    """Slices, one row a network with one colour scale; cross: the network, circle: lowest loss.

    The colour scale is logarithmic where the losses of a row span more than a factor of 30. The
    lines have levels of their own in each panel: a panel without colour still shows its shape.

    Args:
        surfaces: Per network, by "{plane}_{split}": loss (alpha, beta) with attributes
            length_alpha and length_beta. A slice that is missing leaves its place empty.
        labels: Printed names of the networks.
    """
    require(surfaces)
    columns = [key for key in COLUMNS if any(key in row for row in surfaces.values())]
    panel = (DOUBLE - 0.85) / len(columns) - 0.38  # what labels and the colour bar leave
    figure = Figure(figsize=(DOUBLE, 0.4 + (panel + 0.4) * len(surfaces)), layout="compressed")
    grid = figure.subplots(len(surfaces), len(columns), squeeze=False)
    drawn, titles = [], []
    for axes, (name, row) in zip(grid, surfaces.items(), strict=True):
        norm, levels = loss_levels((dataset["loss"].values for dataset in row.values()), 28)
        for ax, key in zip(axes, columns, strict=True):
            if key not in row:
                ax.set_axis_off()
                continue
            loss = row[key]["loss"].transpose("alpha", "beta")
            lengths = attributes(row[key], "loss")
            alpha = loss["alpha"].values * lengths["length_alpha"]
            beta = loss["beta"].values * lengths["length_beta"]
            filled = contour_slice(
                ax, alpha, beta, loss, norm, levels, line_levels=loss_levels([loss.values], 8)[1]
            )
            if not np.isclose(alpha[-1], beta[-1]):  # as far as the curvature along each suggests
                ax.set(aspect="auto", box_aspect=1)
            if np.isfinite(loss).any():
                mark(ax, *lowest_point(alpha, beta, loss), "o", "#FFD23F", 8)
            mark(ax, 0, 0, "+", size=4.5)
            # The same ticks whatever the panel: its edges and the network.
            for axis, along in ((ax.xaxis, alpha), (ax.yaxis, beta)):
                ticks = [along[0], 0, along[-1]]
                axis.set_ticks(ticks, [f"{tick:.2g}".replace("-", "−") for tick in ticks])
            drawn.append(ax)
            titles.append(COLUMNS[key])
        # A label as long as a row is high breaks at its comma.
        label = two_lines(labels.get(name, name))
        axes[0].set_ylabel(label + "\n" + r"$\beta\,\|\delta\|$")
        loss_colorbar(figure, filled, list(axes), r"loss $L$", aspect=18, pad=0.01)
    for ax in grid[-1]:
        ax.set_xlabel(r"$\alpha\,\|\eta\|$")
    title_panels(drawn, titles)
    legend_below(
        figure,
        [
            line_handle(r"network $\theta^{*}$", color="black", marker="+", ls="", ms=5, mew=1.4),
            line_handle("lowest loss on the grid", marker="o", ls="", **RING),
        ],
        2,
    )
    # Labels as wide as these narrow the panels, which then need less height than was guessed.
    figure.draw_without_rendering()
    figure.set_figheight(figure.get_tightbbox().height + 0.16)
    return figure
