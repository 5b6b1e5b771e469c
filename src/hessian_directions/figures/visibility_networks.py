"""How often a random slice of a trained network shows its saddle."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.figures.drawing import (
    BLUE,
    DOUBLE,
    VERMILION,
    errors,
    legend_below,
    line_handle,
    log_axis,
    require,
    styled,
)

METHODS = {
    "direct": ("sampled projections", VERMILION, "o", -0.2),
    "spectrum": ("from the spectrum", BLUE, "s", 0.0),
    "formula": (r"Gaussian limit, $\mathrm{e}^{-r^2/4}/\sqrt{2}$", "black", "x", 0.2),
}


@styled
def draw(projections: Mapping[str, xr.Dataset], labels: Mapping[str, str]) -> Figure:
    """P(κ₋ < 0 < κ₊) per network: directly sampled, from the spectrum, and by the formula.

    A probability of zero or below the axis stands as an arrow at its end.

    Args:
        projections: Per network, visibility_direct and visibility_spectrum with _low and _high,
            visibility_formula, r.
        labels: Printed names of the networks.
    """
    require(projections)
    figure = Figure(figsize=(DOUBLE * 0.75, 0.9 + 0.42 * len(projections)), layout="constrained")
    ax = figure.subplots()
    smallest = [0.5]
    for dataset in projections.values():
        for method in ("direct", "spectrum"):
            for bound in ("_low", ""):
                value = float(dataset[f"visibility_{method}{bound}"])
                smallest.append(value if value > 0 else float(dataset["visibility_direct_high"]))
    floor = 10 ** np.floor(np.log10(max(min(smallest), 1e-6)) - 0.3)
    for method, (_, colour, marker, shift) in METHODS.items():
        for row, dataset in enumerate(projections.values()):
            value = float(dataset[f"visibility_{method}"])
            at = max(value, floor)
            if f"visibility_{method}_low" in dataset:
                low, high = (
                    float(dataset[f"visibility_{method}_{end}"]) for end in ("low", "high")
                )
                xerr = errors([at], [max(low, floor)], [max(high, floor)])
                ax.errorbar([at], [row + shift], xerr=xerr, fmt=marker, color=colour)
            else:
                ax.plot([at], [row + shift], marker, ms=4.5, mew=1.2, color=colour)
            if value < floor:
                ax.plot([at], [row + shift], "<", color=colour, ms=5, clip_on=False)
    ax.axvline(1 / np.sqrt(2), color="0.6", linewidth=0.7, linestyle=":")
    ax.set_xlim(floor, 1)
    log_axis(ax, "x")
    ax.set_ylim(len(projections) - 0.5, -0.5)
    ax.set_yticks(
        range(len(projections)),
        [
            f"{labels.get(name, name)}\n$r={float(dataset['r']):.1f}$"
            for name, dataset in projections.items()
        ],
    )
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(r"probability that a random slice shows a saddle, $P(\kappa_-<0<\kappa_+)$")
    legend_below(
        figure,
        [
            line_handle(name, color=colour, marker=marker, ls="", mew=1.0)
            for name, colour, marker, _ in METHODS.values()
        ],
        3,
    )
    return figure
