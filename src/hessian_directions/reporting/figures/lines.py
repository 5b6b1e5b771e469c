"""One-dimensional loss profiles along random directions and the two ends of the spectrum."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import LARGEST, RANDOM, SMALLEST, Array

FIGURES = {
    "lines": {
        "title": "Profiles along lines",
        "category": "5. Slices",
        "reads": {"profiles": "lines"},
        "caption": r"""
Loss along unit vectors through the trained weights θ*: two random directions and the eigenvectors
of the largest and of the smallest eigenvalue of the Hessian. Dashed: parabola with the exact slope
v'∇L and the exact curvature v'Hv. Trained networks are not critical points, so the slope need not
vanish; on ReLU networks the profile need not follow the parabola however near. Below, for
classifiers: accuracy on the same images.""",
    },
}

STYLES = {
    "largest": (r"along $\lambda_{\max}$", LARGEST, 1.3),
    "smallest": (r"along $\lambda_{\min}$", SMALLEST, 1.3),
    "random": ("random directions", RANDOM, 0.7),
}
PARABOLA: dict[str, Any] = {"linewidth": 0.9, "linestyle": (0, (2, 1.5))}


@drawing.styled
def draw(profiles: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """Loss along unit vectors against distance, with L(θ*) + gs + ½cs² of exact slope and curvature.

    Args:
        profiles: Per network, loss (direction, distance), slope and curvature (direction),
            coordinates direction ("random_0", …, "smallest", "largest") and distance (parameter
            space); accuracy (direction, distance) where there are classes.
    """
    has_accuracy = any("accuracy" in dataset for dataset in profiles.values())
    figure, axes = drawing.panel_grid(len(profiles), 3, 2.5 if has_accuracy else 1.95)
    drawing.label_left(axes, r"loss $L$")
    for ax, dataset in zip(axes, profiles.values(), strict=True):
        draw_lines(ax, dataset)
        if "accuracy" in dataset:
            draw_accuracy(divided(ax), dataset)
    drawing.title_panels(axes, [labels.get(name, name) for name in profiles])
    drawing.legend_below(figure, handles(), 4)
    return figure


def handles() -> list[Line2D]:
    lines = [drawing.line_handle(name, color=c, linewidth=w) for name, c, w in STYLES.values()]
    exact = "parabola of exact slope and curvature"
    return [*lines, drawing.line_handle(exact, color="black", **PARABOLA)]


def draw_lines(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw the loss along all lines of one network, with its parabolas."""
    distance = dataset["distance"].values
    near = np.abs(distance) <= 0.5 * np.abs(distance).max()
    for direction in dataset["direction"].values:
        one = dataset.sel(direction=direction)
        loss = one["loss"].values
        _, colour, width = STYLES[direction.split("_")[0]]
        ax.plot(distance, loss, color=colour, linewidth=width)
        exact = parabola(distance, loss, float(one["slope"]), float(one["curvature"]))
        ax.plot(distance[near], exact[near], color=colour, **PARABOLA)
    losses = dataset["loss"].values
    finite = losses[np.isfinite(losses)]
    low, high = finite.min(), finite.max()
    if low > 0 and high > 30 * low:
        ax.set(yscale="log", ylim=(low / 1.5, high * 1.3))
    else:
        margin = 0.06 * (high - low) or 0.1
        ax.set_ylim(low - 2 * margin, high + margin)
    ax.set(xlim=(distance[0], distance[-1]), xlabel=r"distance $\|\theta-\theta^{*}\|$")


def divided(ax: Axes) -> Axes:
    """Axes in the lower fourth of a panel, whose own axes keep the upper part."""
    place = ax.get_subplotspec()
    assert place is not None
    parts = place.subgridspec(2, 1, height_ratios=(3, 1), hspace=0.04)
    below = ax.figure.add_subplot(parts[1], sharex=ax)
    below.set_xlabel(ax.get_xlabel())
    ax.set_subplotspec(parts[0])
    ax.set_xlabel("")
    ax.tick_params(labelbottom=False)
    if place.is_first_col():
        below.set_ylabel("accuracy")
    return below


def draw_accuracy(ax: Axes, dataset: xr.Dataset) -> None:
    for direction in dataset["direction"].values:
        _, colour, width = STYLES[direction.split("_")[0]]
        accuracy = dataset["accuracy"].sel(direction=direction)
        ax.plot(dataset["distance"], accuracy, color=colour, linewidth=width)
    lowest = float(dataset["accuracy"].min())
    ax.set_ylim(lowest - 0.1 * max(1 - lowest, 0.01), 1 + 0.1 * max(1 - lowest, 0.01))
    ax.yaxis.set_major_locator(ticker.MaxNLocator(2))


def parabola(distance: Array, loss: Array, slope: float, curvature: float) -> Array:
    """L(0) + g·s + ½·c·s²."""
    origin = int(np.argmin(np.abs(distance)))
    return loss[origin] + slope * distance + 0.5 * curvature * distance**2
