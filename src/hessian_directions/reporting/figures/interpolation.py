"""The loss between trained networks: along lines, and in the plane through three of them."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, DOUBLE, VERMILION

FIGURES = {
    "interpolation": {
        "title": "Between networks",
        "category": "8. Training",
        "reads": {"interpolations": "interpolation"},
        "caption": r"""
Between networks of one architecture that were trained apart. **Left:** loss, **middle:** accuracy
at (1 − x)θ_a + xθ_b for every pair, a line each; solid: training images, dashed: test images;
colours: BatchNorm statistics interpolated like the weights, or re-estimated on the training images
at every point. **Right:** training loss in the plane through the first three networks (squares;
cross: the one that the row is named after), statistics re-estimated; axes: distance in parameter
space.""",
    },
}

COLOURS = {"interpolated": VERMILION, "re-estimated": BLUE}
DASHES = {"train": "-", "test": "--"}


@drawing.styled
def draw(interpolations: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """Loss and accuracy along lines, and the loss in the plane where there is one.

    Args:
        interpolations: Per network, loss and accuracy (line, statistics, x, split); with three
            networks plane_loss (alpha, beta, split), network_alpha, network_beta (network).
    """
    figure = Figure(figsize=(DOUBLE, 2.4 * len(interpolations) + 0.25), layout="constrained")
    blocks = figure.subfigures(len(interpolations), 1, squeeze=False)[:, 0]
    drawn: list[Axes] = []
    titles: list[str] = []
    for block, (name, dataset) in zip(blocks, interpolations.items(), strict=True):
        axes = list(block.subplots(1, 3 if "plane_loss" in dataset else 2))
        _lines(axes[0], dataset, "loss")
        _lines(axes[1], dataset, "accuracy")
        if "plane_loss" in dataset:
            _plane(block, axes[2], dataset)
        drawn += axes
        titles += [labels.get(name, name), *[""] * (len(axes) - 1)]
    drawing.title_panels(drawn, titles)
    drawing.legend_below(figure, _handles(interpolations), 4)
    return figure


def _lines(ax: Axes, dataset: xr.Dataset, score: str) -> None:
    values = dataset[score]
    for statistics in dataset["statistics"].values:
        for split, dashes in DASHES.items():
            curves = values.sel(statistics=statistics, split=split).transpose("x", "line")
            ax.plot(dataset["x"], curves, dashes, color=COLOURS[str(statistics)], lw=0.9, alpha=0.9)
    finite = values.values[np.isfinite(values.values)]
    if score == "loss" and finite.size and finite.min() > 0:
        ax.set_yscale("log")
    ax.set(xlim=(0, 1), xlabel=r"$x$ in $(1-x)\,\theta_a+x\,\theta_b$")
    ax.set_ylabel(r"loss $L$" if score == "loss" else "accuracy")


def _plane(block: SubFigure, ax: Axes, dataset: xr.Dataset) -> None:
    loss = dataset["plane_loss"].sel(split="train").transpose("alpha", "beta")
    filled = drawing.loss_slice(ax, loss)
    places = zip(dataset["network_alpha"].values[:3], dataset["network_beta"].values[:3])
    for number, (alpha, beta) in enumerate(places):
        drawing.mark(ax, float(alpha), float(beta), "s" if number else "+", "#FFD23F", 5.0)
    ax.set(xlabel=r"distance $\alpha$", ylabel=r"distance $\beta$")
    drawing.loss_colorbar(block, filled, [ax], r"loss $L$", aspect=22, pad=0.02)


def _handles(interpolations: drawing.Datasets) -> list[Line2D]:
    used = {str(s) for dataset in interpolations.values() for s in dataset["statistics"].values}
    handles = [
        drawing.line_handle(f"statistics {name}", color=colour, lw=1.2)
        for name, colour in COLOURS.items()
        if name in used
    ]
    return [
        *handles,
        drawing.line_handle("training images", color="black", lw=1.0, ls=DASHES["train"]),
        drawing.line_handle("test images", color="black", lw=1.0, ls=DASHES["test"]),
    ]
