"""What the analyses cost against the size of the network and the number of images."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hessian_directions.figures.drawing import (
    BLUE,
    DOUBLE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILION,
    log_axis,
    styled,
    title_panels,
)

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE)
AXES = {
    "n_parameters": ("n_images", r"number of parameters $N$"),
    "n_images": ("n_parameters", "number of images"),
}


@styled
def draw(costs: pd.DataFrame, unit: str = "forward passes") -> Figure:
    """Log-log plots of cost against N and against the number of images, with fitted exponents.

    Each panel holds the other size at the value with the most points (the largest of those).

    Args:
        costs: Columns analysis, n_parameters, n_images, forwards; rows of equal sizes are averaged.
        unit: What the column `forwards` counts.
    """
    figure = Figure(figsize=(DOUBLE, 2.4), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = []
    mean = costs.groupby(["analysis", "n_parameters", "n_images"], as_index=False)[
        "forwards"
    ].mean()
    for ax, (along, (fixed, label)) in zip(panels, AXES.items(), strict=True):
        counts = mean.groupby(fixed)[along].nunique()
        value = counts[counts == counts.max()].index.max()
        part = mean[mean[fixed] == value]
        for index, (analysis, rows) in enumerate(part.groupby("analysis", sort=True)):
            rows = rows.sort_values(along)
            x, y = rows[along].to_numpy(float), rows["forwards"].to_numpy(float)
            colour = COLOURS[index % len(COLOURS)]
            name = str(analysis).replace("_", " ")
            if x.size > 1:
                exponent, offset = np.polyfit(np.log(x), np.log(y), 1)
                ax.plot(x, np.exp(offset) * x**exponent, color=colour, linewidth=0.8)
                symbol = "N" if along == "n_parameters" else "n"
                name += rf" $\propto {symbol}^{{{round(exponent, 2) + 0.0:.2f}}}$"
            ax.plot(x, y, "os^DvP"[index % 6], color=colour, label=name)
        log_axis(ax, "x")
        log_axis(ax, "y")
        low, high = ax.get_ylim()
        ax.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
        ax.legend(loc="upper left", ncols=2)
        ax.set_xlabel(label)
        ax.set_ylabel(f"cost ({unit})")
        other = rf"$N={value:,}$" if fixed == "n_parameters" else f"{value:,} images"
        titles.append(other.replace(",", "{,}") if "$" in other else other)
    title_panels(list(panels), titles)
    return figure
