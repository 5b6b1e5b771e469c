"""The path of training in the Hessian plane as an animation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import SINGLE
from hessian_directions.reporting.figures.trajectory import draw_plane

FIGURES = {
    "path": {
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
    figure = Figure(figsize=(SINGLE * n, SINGLE), layout="constrained")
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
