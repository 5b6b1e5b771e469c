"""Both ends of the spectrum and the trace against the number of images."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, DOUBLE

FIGURES = {
    "image_counts": {
        "title": "Curvature against the number of images",
        "category": "6. Spectra and visibility",
        "reads": {"image_counts": "image_counts"},
        "caption": r"""
Largest and smallest eigenvalue of the Hessian and its trace t, each over nested, balanced choices
of training images. Bars: residuals ‖Hv − λv‖ of the eigenvalues, one standard error of the trace.
The same random directions serve every choice, so what differs between points of a network is the
images.""",
    },
}

PANELS = {
    "largest": ("largest_residual", r"$\lambda_{\max}$"),
    "smallest": ("smallest_residual", r"$\lambda_{\min}$"),
    "trace": ("trace_standard_error", r"$t=\mathrm{tr}\,H$"),
}


@drawing.styled
def draw(image_counts: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """λ_max, λ_min and t against the number of images, a row of panels for each network.

    Args:
        image_counts: Per network, n_images, largest, smallest (each with _residual), trace with
            trace_standard_error (count).
    """
    figure = Figure(figsize=(DOUBLE, 1.75 * len(image_counts) + 0.2), layout="constrained")
    axes = figure.subplots(len(image_counts), len(PANELS), sharex=True, squeeze=False)
    ticks = np.unique(np.concatenate([c["n_images"].values for c in image_counts.values()]))
    for row, counted in zip(axes, image_counts.values(), strict=True):
        for ax, (name, (error, label)) in zip(row, PANELS.items(), strict=True):
            arms = np.abs(counted[error])
            ax.errorbar(counted["n_images"], counted[name], arms, color=BLUE, fmt="-o", capsize=2)
            ax.set_xscale("log")
            ax.set_xticks(ticks, [f"{n:,}".replace(",", "\u202f") for n in ticks])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.margins(x=0.1)
            ax.axhline(0, color="black", linewidth=0.5, zorder=0)
            ax.set_ylabel(label)
    for ax in axes[-1]:
        ax.set_xlabel("images $n$")
    titles = [title for name in image_counts for title in (labels.get(name, name), "", "")]
    drawing.title_panels(list(axes.flat), titles)
    return figure
