"""Curvature along training, and the path of training in the Hessian plane."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing

FIGURES = {
    "trajectory": {
        "title": "Curvature along training",
        "category": "8. Training",
        "reads": {"trajectories": "trajectory"},
        "caption": r"""
**(a)** Training and test loss and gradient norm ‖∇L‖, **(b)** extreme eigenvalues of the Hessian
with their residuals, **(c)** trace with its standard error, against epoch. **(d)** Path of the
weights (square: start, cross: end) projected on the plane of the Hessian directions of the final
weights, over the loss in that plane; axes: distance in parameter space. Far from the end the loss
behind the path is not the one that training saw. Off the plane: the part ‖θ − Pθ‖/‖θ − θ*‖ of the
distance from the end that the projection P does not show, smallest and largest along the path.""",
    },
    "path": {
        "animation": True,
        "title": "The path of training in the Hessian plane (animation)",
        "category": "8. Training",
        "reads": {"trajectories": "trajectory"},
        "networks": "first",
        "caption": r"""
The weights moving through training, projected on the plane of the Hessian directions of λ\
:sub:`max` (α) and λ\ :sub:`min` (β) of the final weights (cross), over the loss in that plane.
Axes: distance in parameter space.""",
    },
}


@drawing.styled
def draw(trajectories: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """Loss, ‖∇L‖, extreme eigenvalues and trace against epoch, and the path, for each network.

    Args:
        trajectories: Per network, loss, test_loss, gradient_norm, largest, smallest with
            _residual, trace with _standard_error, alpha, beta, off_plane (epoch), and
            loss_surface (alpha_grid, beta_grid).
    """
    figure = Figure(figsize=(drawing.DOUBLE, 3.5 * len(trajectories)), layout="constrained")
    blocks = figure.subfigures(len(trajectories), 1, squeeze=False)[:, 0]
    drawn: list[Axes] = []
    titles: list[str] = []
    for block, (name, run) in zip(blocks, trajectories.items(), strict=True):
        axes = block.subplot_mosaic(
            [["loss", "path"], ["ends", "path"], ["trace", "path"]],
            width_ratios=[1.15, 1],
        )
        epoch = run["epoch"].values
        draw_loss(axes["loss"], epoch, run)
        draw_ends(axes["ends"], epoch, run)
        draw_trace(axes["trace"], epoch, run)
        for key in ("loss", "ends", "trace"):
            axes[key].set_xlim(epoch.min(), max(epoch.max(), epoch.min() + 1))
            axes[key].tick_params(labelbottom=key == "trace")
        axes["trace"].set_xlabel("epoch")
        filled = draw_plane(axes["path"], run)
        draw_path(axes["path"], run["alpha"].values, run["beta"].values)
        off = run["off_plane"].dropna("epoch").values
        if off.size:
            text = f"off the plane: {off.min():.3f} to {off.max():.3f}"
            axes["path"].set_title(text, loc="right", fontsize=7)
        drawing.loss_colorbar(
            block, filled, [axes["path"]], r"loss $L$", aspect=22, pad=0.02, shrink=0.8
        )
        drawn += [axes[key] for key in ("loss", "ends", "trace", "path")]
        titles += [labels.get(name, name), "", "", ""]
    drawing.title_panels(drawn, titles)
    return figure


def draw_loss(ax: Axes, epoch: drawing.Array, run: xr.Dataset) -> None:
    """Training and test loss, and the gradient norm, on one logarithmic axis."""
    ax.plot(epoch, run["loss"], color=drawing.BLUE, label=r"$L$, training")
    if run["test_loss"].notnull().any():
        ax.plot(epoch, run["test_loss"], color=drawing.ORANGE, label=r"$L$, test")
    ax.plot(
        epoch, run["gradient_norm"], color=drawing.GREY, label=r"$\|\nabla L\|$", linestyle="--"
    )
    ax.set_yscale("log")
    ax.legend(loc="lower left", ncols=3)
    low, high = ax.get_ylim()
    ax.set_ylim(low / (high / low) ** 0.35, high)  # room for the legend
    ax.set_ylabel(r"$L$, $\|\nabla L\|$")


def draw_ends(ax: Axes, epoch: drawing.Array, run: xr.Dataset) -> None:
    ax.axhline(0, color="black", linewidth=0.5)
    for name, colour, label in (
        ("largest", drawing.LARGEST, r"$\lambda_{\max}$"),
        ("smallest", drawing.SMALLEST, r"$\lambda_{\min}$"),
    ):
        value, residual = run[name], np.abs(run[f"{name}_residual"])
        ax.fill_between(epoch, value - residual, value + residual, color=colour, alpha=0.3, lw=0)
        ax.plot(epoch, value, color=colour, marker="o", ms=2, label=label)
    ax.legend(loc="best", ncols=2)
    ax.set_ylabel(r"$\lambda_{\max}$, $\lambda_{\min}$")


def draw_trace(ax: Axes, epoch: drawing.Array, run: xr.Dataset) -> None:
    ax.axhline(0, color="black", linewidth=0.5)
    trace, error = run["trace"], run["trace_standard_error"]
    ax.fill_between(epoch, trace - error, trace + error, color=drawing.PURPLE, alpha=0.35, lw=0)
    ax.plot(epoch, trace, color=drawing.PURPLE, marker="o", ms=2)
    ax.set_ylabel(r"$t=\mathrm{tr}\,H$")


def draw_plane(ax: Axes, run: xr.Dataset) -> ContourSet:
    """Loss over the Hessian plane of the final weights."""
    filled = drawing.loss_slice(ax, run["loss_surface"].transpose("alpha_grid", "beta_grid"))
    ax.set(xlabel=r"$\alpha\,\|\eta\|$", ylabel=r"$\beta\,\|\delta\|$")
    return filled


def draw_path(ax: Axes, alpha: drawing.Array, beta: drawing.Array) -> None:
    """The path with its epochs as dots; cross: the final weights."""
    ax.plot(alpha, beta, color="black", linewidth=1.8)
    ax.plot(alpha, beta, color="white", linewidth=0.9, marker="o", ms=2.2, mec="black", mew=0.4)
    drawing.mark(ax, float(alpha[0]), float(beta[0]), "s", "#FFD23F", 4.5)
    drawing.mark(ax, float(alpha[-1]), float(beta[-1]), "+", size=5.5)


@drawing.styled
def animate(
    trajectories: drawing.Datasets,
    labels: drawing.Labels,
    path: str | Path,
    n_frames: int = 40,
) -> None:
    """Write a GIF of the weights moving over the loss in the final weights' Hessian plane.

    Between measured epochs the path is interpolated linearly, the same time for each of them.

    Args:
        trajectories: Per network, alpha, beta, loss (epoch), loss_surface (alpha_grid, beta_grid);
            one panel each.
        path: The GIF to write, under 1 MB for 40 frames of one network.
    """
    n = len(trajectories)
    figure = Figure(figsize=(drawing.SINGLE * n, drawing.SINGLE), layout="constrained")
    axes = figure.subplots(1, n, squeeze=False)[0]
    movers = [
        moving_point(ax, run, labels.get(name, name), n_frames)
        for ax, (name, run) in zip(axes, trajectories.items(), strict=True)
    ]

    def draw_frame(index: int) -> None:
        for move in movers:
            move(index)

    drawing.save_animation(path, figure, draw_frame, n_frames)


def moving_point(ax: Axes, run: xr.Dataset, label: str, n_frames: int) -> Callable[[int], None]:
    """Draw what stands still and return a function that moves the rest to a frame."""
    epoch, loss = run["epoch"].values.astype(float), run["loss"].values
    alpha, beta = run["alpha"].values, run["beta"].values
    known, places = np.arange(epoch.size), np.linspace(0, epoch.size - 1, n_frames)
    draw_plane(ax, run)
    (rim,) = ax.plot([], [], color="black", linewidth=2.2)
    (line,) = ax.plot([], [], color="white", linewidth=1.1)
    (head,) = ax.plot([], [], "o", color="#FFD23F", mec="black", ms=6)
    drawing.mark(ax, float(alpha[-1]), float(beta[-1]), "+", size=5.5)

    def move(index: int) -> None:
        place = places[index]
        passed = known < place
        x = np.append(alpha[passed], np.interp(place, known, alpha))
        y = np.append(beta[passed], np.interp(place, known, beta))
        for artist in (rim, line):
            artist.set_data(x, y)
        head.set_data(x[-1:], y[-1:])
        now, value = np.interp(place, known, epoch), np.interp(place, known, loss)
        ax.set_title(rf"{label}: epoch {now:.0f}, $L={value:.3f}$")

    return move
