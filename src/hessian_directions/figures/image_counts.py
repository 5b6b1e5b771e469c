"""Both ends of the spectrum and the trace against the number of images."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hessian_directions.figures.drawing import (
    COLOURS,
    DOUBLE,
    require,
    styled,
    title_panels,
)

PANELS = {
    "largest": ("largest_residual", r"$\lambda_{\max}$"),
    "smallest": ("smallest_residual", r"$\lambda_{\min}$"),
    "trace": ("trace_standard_error", r"$t=\mathrm{tr}\,H$"),
}


@styled
def draw(image_counts: Mapping[str, xr.Dataset], labels: Mapping[str, str]) -> Figure:
    """λ_max, λ_min and t against the number of images, one curve a network.

    Bars: residuals of the eigenvalues, one standard error of the trace.

    Args:
        image_counts: Per network, n_images, largest, smallest (each with _residual), trace with
            trace_standard_error (count).
        labels: Printed names of the networks.
    """
    require(image_counts)
    figure = Figure(figsize=(DOUBLE, 2.2), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    ticks = np.unique(np.concatenate([c["n_images"].values for c in image_counts.values()]))
    for ax, (name, (error, label)) in zip(axes, PANELS.items(), strict=True):
        for index, (network, counted) in enumerate(image_counts.items()):
            ax.errorbar(
                counted["n_images"],
                counted[name],
                np.abs(counted[error]),
                color=COLOURS[index % len(COLOURS)],
                marker="os^Dv"[index % 5],
                ms=3.5,
                capsize=2,
                label=labels.get(network, network),
            )
        ax.set_xscale("log")
        ax.set_xticks(ticks, [f"{n:,}".replace(",", "\u202f") for n in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.1)
        ax.axhline(0, color="black", linewidth=0.5, zorder=0)
        ax.set_xlabel("images $n$")
        ax.set_ylabel(label)
    axes[0].legend(loc="best")
    title_panels(list(axes), [""] * len(PANELS))
    return figure
