"""What one pass costs against the size of the network and the number of images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import COLOURS, DOUBLE
from hessian_directions.statistics import power_law

FIGURES = {
    "cost_scaling": {
        "title": "Cost of one pass",
        "category": "4. Traces",
        "reads": {"passes": "passes_record"},
        "caption": r"""
Seconds of one loss value, gradient, exact second directional derivative and Hessian-vector product,
median of several. **(a)** Per image, against the number of parameters N: networks of several
architectures and image sizes, so that N stands for their work only roughly. **(b)** Of the largest
network, against the number of images. Lines: fitted power laws.""",
    },
}

KINDS = {
    "value": "value",
    "gradient": "gradient",
    "second_directional_derivative": r"$v^\top H v$",
    "hessian_vector_product": "$Hv$",
}


@drawing.styled
def draw(passes: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Log-log plots with fitted exponents.

    Args:
        passes: Per network, n_parameters and seconds[kind][number of images].
    """
    figure = Figure(figsize=(DOUBLE, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    largest = max(passes.values(), key=lambda record: record["n_parameters"])
    for index, (kind, label) in enumerate(KINDS.items()):
        sizes = [record["n_parameters"] for record in passes.values()]
        per_image = [
            list(record["seconds"][kind].values())[-1] / int(list(record["seconds"][kind])[-1])
            for record in passes.values()
        ]
        _law(left, index, label, "N", sizes, per_image)
        seconds = largest["seconds"][kind]
        _law(right, index, label, "n", [int(n) for n in seconds], list(seconds.values()))
    for ax in (left, right):
        drawing.log_axis(ax, "xy")
        low, high = ax.get_ylim()
        ax.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
        ax.legend(loc="upper left", ncols=2)
    left.set(xlabel="number of parameters $N$", ylabel="seconds per image")
    right.set(xlabel="number of images $n$", ylabel="seconds")
    count = f"{largest['n_parameters']:,}".replace(",", "{,}")
    drawing.title_panels([left, right], ["", f"$N={count}$"])
    return figure


def _law(ax: Axes, index: int, label: str, symbol: str, x: list[int], y: list[float]) -> None:
    """Points and the fitted power law, named by its exponent."""
    order = np.argsort(x)
    sizes, costs = np.asarray(x, float)[order], np.asarray(y)[order]
    colour = COLOURS[index % len(COLOURS)]
    law = power_law.fit(sizes, costs)
    if law is not None:
        ax.plot(sizes, law.factor * sizes**law.exponent, color=colour, linewidth=0.8)
        label += rf" $\propto {symbol}^{{{law.exponent:.2f}}}$"
    ax.plot(sizes, costs, "os^D"[index % 4], color=colour, label=label)
