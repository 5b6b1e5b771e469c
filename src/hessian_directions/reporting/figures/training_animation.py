"""Training as an animation: the losses as they fall."""

from pathlib import Path

import numpy as np

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, ORANGE

FIGURES = {
    "training": {
        "animation": True,
        "title": "Training of the function approximators (animation)",
        "category": "8. Training",
        "reads": {"histories": "history"},
        "networks": "regression",
        "caption": r"""
Training and, where it was recorded, test loss as they fall; long trainings run on a logarithmic
clock.""",
    },
}

LOSSES = {"train_loss": ("training loss", BLUE), "test_loss": ("test loss", ORANGE)}


@drawing.styled
def animate(
    histories: drawing.Datasets,
    labels: drawing.Labels,
    path: str | Path,
    n_frames: int = 40,
) -> None:
    """Write a GIF of training and test loss against epoch, one panel a network.

    Args:
        histories: Per network, train_loss and maybe test_loss (epoch).
        path: The GIF to write, under 1 MB for 40 frames.
    """
    figure, axes = drawing.panel_grid(len(histories), 3, 2.2)
    moving = []
    for ax, history in zip(axes, histories.values(), strict=True):
        epoch = history["epoch"].values.astype(float)
        shown = epoch > 0 if epoch.max() > 100 else np.isfinite(epoch)
        epoch = epoch[shown]
        for name, (_, colour) in LOSSES.items():
            if name in history:
                loss = history[name].values[shown]
                ax.plot(epoch, loss, color="0.85", linewidth=0.8)
                (line,) = ax.plot([], [], color=colour)
                (head,) = ax.plot([], [], "o", color=colour, ms=4)
                moving.append((line, head, epoch, loss))
        drawing.log_axis(ax, "y")
        if epoch.max() > 100:
            drawing.log_axis(ax, "x")
        ax.set_xlabel("epoch")
    axes[0].set_ylabel(r"loss $L$")
    drawing.title_panels(axes, [labels.get(name, name) for name in histories])
    drawing.legend_below(
        figure, [drawing.line_handle(n, color=c, marker="o") for n, c in LOSSES.values()], 2
    )

    def draw_frame(index: int) -> None:
        share = (index + 1) / n_frames
        for line, head, epoch, loss in moving:
            first, last = epoch[0], epoch[-1]
            clock = (
                first * (last / first) ** share if last > 100 else first + share * (last - first)
            )
            passed = epoch <= clock * (1 + 1e-12)
            passed[0] = True
            line.set_data(epoch[passed], loss[passed])
            head.set_data(epoch[passed][-1:], loss[passed][-1:])

    drawing.save_animation(path, figure, draw_frame, n_frames)
