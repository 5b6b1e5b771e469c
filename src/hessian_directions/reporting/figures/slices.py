"""Loss slices of networks relative to their own loss: red above it, blue below, a saddle has both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hessian_directions.geometry.quadratic_fit import fit_surface, surface_axes
from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import DOUBLE, Array

FIGURES = {
    "approximator_slices": {
        "title": "Slices of the function approximators",
        "category": "5. Slices",
        "reads": {"surfaces": "slices"},
        "networks": "regression",
        "caption": r"""
Training loss relative to that of the network, L − L(θ*), over slices through the trained weights,
one row per network: along two Gaussian directions; along two that have the norm of the weights filter
by filter; along the Hessian directions of λ\ :sub:`max` (α) and λ\ :sub:`min` (β); and, of the
latter, the middle (dashed square) without the slope of the quadratic fitted there. Colours span ± the
largest change of each panel, written in a corner, and follow arcsinh. Black line: the loss of the
network; cross: the network; circle: lowest loss on the grid. Axes: distance in parameter space.""",
    },
    "classifier_slices": {
        "title": "Slices of the classifiers",
        "category": "5. Slices",
        "reads": {"surfaces": "slices"},
        "networks": "classification",
        "caption": r"""
Training loss relative to that of the network, L − L(θ*), over slices through the trained weights,
one row per network: along two Gaussian directions; along two that have the norm of the weights filter
by filter; along the Hessian directions of λ\ :sub:`max` (α) and λ\ :sub:`min` (β); and, of the
latter, the middle (dashed square) without the slope of the quadratic fitted there. Colours span ± the
largest change of each panel, written in a corner, and follow arcsinh. Black line: the loss of the
network; cross: the network; circle: lowest loss on the grid. Axes: distance in parameter space.""",
    },
    "slices_of_test_loss": {
        "title": "Slices of the test loss",
        "category": "5. Slices",
        "reads": {"surfaces": "slices"},
        "arguments": {"splits": ["test"]},
        "caption": r"""
Test loss relative to that of the network, L − L(θ*), over the same slices as the training loss, one
row per network: Hessian directions are those of the training loss. Colours span ± the largest change
of each panel, written in a corner, and follow arcsinh. Black line: the loss of the network; cross:
the network; circle: lowest loss on the grid. Axes: distance in parameter space.""",
    },
}

PLANES = {"random": "random", "filter": "filter-normalised", "hessian": "Hessian"}
SPLITS = {"train": "training", "test": "test"}
RING = {"mfc": "none", "mec": "#D9A400", "ms": 7, "mew": 1.4}

TALL = 6.2  # inches: the width of a figure of many rows
# The middle of a Hessian slice: there ½|κ|s² is at most an eighth of the loss (`half_widths`).
MIDDLE = 0.5
# Colours are linear in the loss up to this part of a panel's largest change, logarithmic beyond.
LINEAR = 0.02
_STEPS = np.linspace(-1, 1, 25) * np.arcsinh(1 / LINEAR)
LEVELS = LINEAR * np.sinh(_STEPS)
NORM = AsinhNorm(LINEAR, -1, 1)


@dataclass(frozen=True)
class Panel:
    """One picture of a slice.

    Attributes:
        title: Printed.
        alpha: (A,) distances in parameter space.
        beta: (B,)
        change: (A, B) L − L(θ*), NaN where the loss is not finite.
        square: Half sides of a region to be marked, if any.
        lowest: Whether the lowest point is marked: it means nothing where a slope was taken off.
    """

    title: str
    alpha: Array
    beta: Array
    change: Array
    square: tuple[float, float] | None = None
    lowest: bool = True

    @property
    def bound(self) -> float:
        """The largest change; 1 where there is none."""
        return float(np.nanmax(np.abs(self.change), initial=0.0)) or 1.0


@drawing.styled
def draw(
    surfaces: Mapping[str, drawing.Datasets],
    labels: drawing.Labels,
    splits: Sequence[str] = ("train",),
) -> Figure:
    """L − L(θ*) over slices, a row for each network and split, with the Hessian slice twice.

    Axes have the same length on paper: each reaches as far as the curvature along it suggests. At a
    critical point the Hessian slice would look like the last panel.

    Args:
        surfaces: Per network, by "{plane}_{split}": loss (alpha, beta) with attributes length_alpha
            and length_beta. A slice that is missing leaves its place empty.
        splits: "train", "test", or both.
    """
    rows = {
        (name, split): row
        for name, own in surfaces.items()
        for split in splits
        if (row := panels(own, split))
    }
    columns = [key for key in (*PLANES, "middle") if any(key in row for row in rows.values())]
    width = DOUBLE if len(rows) < 3 else TALL
    side = (width - 1.2) / max(len(columns), 3) - 0.42  # what labels and the colour bar leave
    names = []
    for name, split in rows:
        lines = [drawing.two_lines(labels.get(name, name))] if len(surfaces) > 1 else []
        names.append("\n".join(lines + ([SPLITS[split]] if len(splits) > 1 else [])))
    grid = [[row.get(key) for key in columns] for row in rows.values()]
    return draw_rows((width, 0.65 + (side + 0.4) * len(rows)), grid, names)


def draw_rows(
    size: tuple[float, float], rows: Sequence[Sequence[Panel | None]], names: Sequence[str]
) -> Figure:
    """Rows of panels, with the colour bar and the legend of all of them.

    Args:
        size: Width of the figure, and its height as guessed from the panels [in].
        rows: As many in each row; the place of None stays empty.
        names: Of the rows; may be empty.
    """
    figure = Figure(figsize=size, layout="compressed")
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    drawn, titles = [], []
    for axes, row, name in zip(grid, rows, names, strict=True):
        for ax, panel in zip(axes, row, strict=True):
            if panel is None:
                ax.set_axis_off()
                continue
            filled = draw_panel(ax, panel)
            drawn.append(ax)
            titles.append(panel.title)
        first = next(ax for ax in axes if ax.axison)
        first.set_ylabel("\n".join(filter(None, [name, r"$\beta\,\|\delta\|$"])))
    for ax in grid[-1]:
        ax.set_xlabel(r"$\alpha\,\|\eta\|$")
    drawing.title_panels(drawn, titles)
    colorbar(figure, filled, drawn)
    handles = [
        drawing.line_handle(
            r"network $\theta^{*}$", color="black", marker="+", ls="", ms=5, mew=1.4
        ),
        drawing.line_handle("lowest loss on the grid", marker="o", ls="", **RING),
        drawing.line_handle("loss of the network", color="black", lw=0.9),
    ]
    drawing.legend_below(figure, handles, 3)
    # Labels as wide as these narrow the panels, which then need less height than was guessed.
    figure.draw_without_rendering()
    figure.set_figheight(figure.get_tightbbox().height + 0.16)
    return figure


def panels(slices: drawing.Datasets, split: str = "train") -> dict[str, Panel]:
    """The pictures of a network's slices by plane, and of the middle of its Hessian slice."""
    found = {}
    for plane, title in PLANES.items():
        if (key := f"{plane}_{split}") not in slices:
            continue
        loss = slices[key]["loss"].transpose("alpha", "beta")
        alpha, beta = surface_axes(loss)
        change = (loss - loss.sel(alpha=0.0, beta=0.0)).values
        change = np.where(np.isfinite(change), change, np.nan)
        found[plane] = Panel(title, alpha, beta, change)
        if plane != "hessian":
            continue
        slope = fit_surface(loss, MIDDLE).slope
        if np.isfinite(slope).all():
            square = (MIDDLE * alpha[-1], MIDDLE * beta[-1])
            found[plane] = Panel(title, alpha, beta, change, square)
            rows, columns = (
                np.abs(axis) <= half * (1 + 1e-9)
                for axis, half in zip((alpha, beta), square, strict=True)
            )
            level = change - (slope[0] * alpha[:, None] + slope[1] * beta)
            middle = level[np.ix_(rows, columns)]
            found["middle"] = Panel("… no slope", alpha[rows], beta[columns], middle, lowest=False)
    return found


def draw_panel(ax: Axes, panel: Panel) -> ContourSet:
    """Draw one slice with its marks, in units of its largest change."""
    alpha, beta, values = panel.alpha, panel.beta, panel.change / panel.bound
    filled = drawing.signed_slice(ax, alpha, beta, values, NORM, LEVELS)
    if panel.square is not None:
        a, b = panel.square
        dashed: dict[str, Any] = {"ec": "0.2", "lw": 0.7, "ls": (0, (3, 2))}
        ax.add_patch(Rectangle((-a, -b), 2 * a, 2 * b, fill=False, **dashed))
    is_low = False
    if panel.lowest and np.isfinite(values).any():
        lowest = drawing.lowest_point(alpha, beta, values)
        drawing.mark(ax, *lowest, "o", "#FFD23F", 7)
        is_low = lowest[1] < beta[0] / 2
    drawing.mark(ax, 0, 0, "+", size=4.5)
    bound = f"±{panel.bound:.1g}"
    if "e" in bound:
        bound = rf"$\pm{drawing.power_of_ten(panel.bound, 1)}$"
    y, va = (0.96, "top") if is_low else (0.04, "bottom")  # where the ring is not
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0}
    ax.text(0.04, y, bound, va=va, fontsize=7, bbox=box, zorder=6, transform=ax.transAxes)
    ax.set_aspect("auto")
    ax.set_box_aspect(1)
    for axis, along in ((ax.xaxis, alpha), (ax.yaxis, beta)):
        ticks = [along[0], 0, along[-1]]
        axis.set_ticks(ticks, [f"{tick:.2g}".replace("-", "−") for tick in ticks])
    return filled


def colorbar(figure: Figure, filled: ContourSet, axes: Sequence[Axes]) -> None:
    """One colour bar for panels that each have a scale of their own."""
    ticks = [-1, -0.1, 0, 0.1, 1]
    label = r"$(L-L(\theta^{*}\,))$ / largest change"
    bar = figure.colorbar(filled, ax=list(axes), ticks=ticks, label=label, pad=0.01, aspect=30)
    bar.ax.set_yticklabels([f"{tick:g}".replace("-", "−") for tick in ticks])
    bar.ax.minorticks_off()
    bar.ax.tick_params(direction="out", left=False, right=True)
