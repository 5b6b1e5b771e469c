"""What the function approximators learned."""

from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import VERMILION

FIGURES = {
    "approximator_fits": {
        "title": "What the function approximators learned",
        "category": "5. Slices",
        "reads": {"measurements": "scores"},
        "networks": "regression",
        "caption": r"""
The function f(x) = log(sin(10x) + 2) + sin x, the training points, and the output of the networks
with the lowest training loss.""",
    },
}

FUNCTION = r"$f(x)=\log(\sin(10x)+2)+\sin x$"


@drawing.styled
def draw(measurements: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """The function, the training points and the network's output, one panel a network.

    Args:
        measurements: Per network, x, target, output (point), train_x, train_target (train_point),
            train_loss, test_loss.
    """
    figure, axes = drawing.panel_grid(len(measurements), 2, 2.2, sharey=True)
    for ax, fit in zip(axes, measurements.values(), strict=True):
        fit = fit.sortby("x")
        ax.plot(fit["x"], fit["target"], color="0.55", lw=2.6, alpha=0.6, label=FUNCTION)
        x, y = fit["train_x"], fit["train_target"]
        ax.plot(x, y, "o", color="black", ms=2.6, mfc="white", label="training points")
        ax.plot(fit["x"], fit["output"], color=VERMILION, lw=0.9, label="network")
        ax.set_xlabel(r"$x$")
        losses = (drawing.power_of_ten(float(fit[f"{split}_loss"])) for split in ("train", "test"))
        said = "training loss ${}$\ntest loss ${}$".format(*losses)
        # The function rises to the right: the corner below it is free.
        ax.text(0.97, 0.05, said, ha="right", va="bottom", fontsize=7, transform=ax.transAxes)
    drawing.label_left(axes, r"$f(x)$")
    drawing.title_panels(axes, [labels.get(name, name) for name in measurements])
    drawing.legend_below(figure, axes[0].lines, 3)
    return figure
