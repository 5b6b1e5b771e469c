"""The path of training in the Hessian plane as an animation."""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.figures.drawing import SINGLE, mark, save_animation, styled
from hessian_directions.figures.trajectory import draw_plane


@styled
def animate(trajectory: xr.Dataset, label: str, path: str | Path, n_frames: int = 40) -> None:
    """Write a GIF of the weights moving over the loss in the final weights' Hessian plane.

    Between measured epochs the path is interpolated linearly, the same time for each of them.

    Args:
        trajectory: alpha, beta, loss (epoch), loss_surface (alpha_grid, beta_grid).
        label: Printed name of the network.
        path: The GIF to write, under 1 MB for 40 frames.
        n_frames: Number of pictures.
    """
    epoch = trajectory["epoch"].values.astype(float)
    alpha, beta = trajectory["alpha"].values, trajectory["beta"].values
    figure = Figure(figsize=(SINGLE, SINGLE), layout="constrained")
    ax = figure.subplots()
    draw_plane(ax, trajectory)
    (rim,) = ax.plot([], [], color="black", linewidth=2.2)
    (line,) = ax.plot([], [], color="white", linewidth=1.1)
    (head,) = ax.plot([], [], "o", color="#FFD23F", mec="black", ms=6)
    mark(ax, float(alpha[-1]), float(beta[-1]), "+", size=5.5)
    places = np.linspace(0, epoch.size - 1, n_frames)

    def draw_frame(index: int) -> None:
        place = places[index]
        known = np.arange(epoch.size)
        passed = known[known < place]
        x = np.append(alpha[passed], np.interp(place, known, alpha))
        y = np.append(beta[passed], np.interp(place, known, beta))
        for artist in (rim, line):
            artist.set_data(x, y)
        head.set_data(x[-1:], y[-1:])
        now = np.interp(place, known, epoch)
        loss = np.interp(place, known, trajectory["loss"].values)
        ax.set_title(rf"{label}: epoch {now:.0f}, $L={loss:.3g}$")

    save_animation(path, figure, draw_frame, n_frames)
