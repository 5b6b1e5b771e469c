"""How often a random slice of a trained network shows its saddle."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hessian_directions.geometry.principal_curvatures import (
    distribution_smallest,
    principal_curvatures,
)
from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, VERMILION
from hessian_directions.statistics.proportions import wilson

FIGURES = {
    "visibility_networks": {
        "title": "How visible a network's saddle is in one random slice",
        "category": "6. Spectra and visibility",
        "reads": {"projections": "visibility"},
        "caption": r"""
Share of slices along two Gaussian directions whose smaller principal curvature κ₋ lies below a
value. At zero it is the share that shows a direction of negative curvature: a saddle or, rarely
where r = t/f is large, a maximum. Counted in directly sampled slices (band: pointwise 95 %
intervals), drawn from the spectrum (eigenvalues found and Ritz values of a sketch, the rest as a
Gaussian matrix of the same trace and Frobenius norm), and in the Gaussian limit, which holds
without outliers only.""",
    },
}


@drawing.styled
def draw(projections: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """Share of slices whose κ₋ lies below a value: sampled, from the spectrum, in the Gaussian limit.

    Axes reach down to the smallest share that the spectrum was asked for, or that the samples show.

    Args:
        projections: Per network, projected_hessian (sample, row, column), trace, frobenius_norm, r,
            and, where it was predicted, spectrum_quantile (level).
    """
    figure, axes = drawing.panel_grid(len(projections), 4, 2.0)
    for ax, dataset in zip(axes, projections.values(), strict=True):
        draw_shares(ax, dataset)
    drawing.label_left(axes, r"share of slices with smaller $\kappa_-$")
    drawing.title_panels(axes, [drawing.two_lines(labels.get(name, name)) for name in projections])
    drawing.legend_below(figure, handles(*projections.values()), 3)
    return figure


def handles(*datasets: xr.Dataset) -> list[Line2D]:
    """Legend entries of the curves, of the spectrum's where some dataset has it."""
    spectrum = drawing.line_handle("from the spectrum", color=BLUE)
    return [
        drawing.line_handle("sampled slices, 95 % interval", color=VERMILION),
        *([spectrum] if any("spectrum_quantile" in one for one in datasets) else []),
        drawing.line_handle("Gaussian limit", color="black", ls=(0, (4, 2))),
    ]


def draw_shares(ax: Axes, dataset: xr.Dataset) -> None:
    """Draw the shares of one network; those that a spectrum predicts where there are such."""
    smallest = np.sort(principal_curvatures(dataset["projected_hessian"].values)[0])
    n = smallest.size
    low, high = min(smallest[0], 0.0), max(np.quantile(smallest, 0.9), 0.0)
    width = high - low or 1.0  # where there is no curvature at all
    x = np.linspace(low - 0.1 * width, high + 0.1 * width, 400)
    predicted = "spectrum_quantile" in dataset
    lowest = float(dataset["level"][0]) if predicted else 0.5 / n
    # From each sample to the next the share is that of the samples so far.
    steps = np.concatenate([x[:1], smallest, [max(x[-1], smallest[-1])]])
    bounds_low, bounds_high = np.transpose([wilson(min(k, n), n) for k in range(n + 2)])
    ends = np.maximum(bounds_low, lowest), bounds_high
    ax.fill_between(steps, *ends, step="post", color=VERMILION, alpha=0.25, lw=0)
    ax.step(smallest, np.arange(1, n + 1) / n, where="post", color=VERMILION)
    if predicted:
        ax.plot(dataset["spectrum_quantile"], dataset["level"], color=BLUE)
    limit = distribution_smallest(x, float(dataset["trace"]), float(dataset["frobenius_norm"]))
    ax.plot(x, limit, color="black", linestyle=(0, (4, 2)))
    ax.axvline(0, color="black", linewidth=0.6)
    ax.set(xlim=(x[0], x[-1]), ylim=(lowest, 1.1))
    drawing.log_axis(ax, "y")
    ax.ticklabel_format(axis="x", style="plain")
    ax.locator_params(axis="x", nbins=3)
    ax.set_xlabel(r"principal curvature $\kappa_-$")
    ax.text(0.96, 0.06, f"$r={float(dataset['r']):.1f}$", ha="right", transform=ax.transAxes)
