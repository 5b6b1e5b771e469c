"""The mean curvature that random slices show, against the size of the picture."""

from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import DOUBLE, LOOKS
from hessian_directions.statistics.departure import departure

FIGURES = {
    "apparent_curvature": {
        "title": "Curvature that random slices show",
        "category": "4. Curvature of the networks",
        "reads": {"discs": "apparent_curvature"},
        "caption": r"""
**(a)** Mean curvature of the quadratic fitted to the loss over a disc of radius ρ in a random plane,
in units of t/N: median over planes (line) and the middle four fifths of them (band). Point: the
radius at which the median leaves t/N by half (grey band), with its 95 % interval. Radii at which
rounding exceeds a twentieth of t/N are left out. **(b)** Share of these fits that have curvature of
both signs, so that the slice looks like a saddle. Directions have unit length: ρ is a distance in
parameter space.""",
    },
}

SHARE = 0.5


@drawing.styled
def draw(discs: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """Apparent mean curvature over t/N, and the share of apparent saddles, against the radius.

    Args:
        discs: Per network, mean_curvature, smallest and largest (plane, radius), rounding (radius),
            reference, and the coordinate radius.
    """
    figure = Figure(figsize=(DOUBLE, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    left.axhspan(1 - SHARE, 1 + SHARE, color="0.92", lw=0)
    left.axhline(1, color="0.5", linewidth=0.7)
    handles = []
    reach = [1 - SHARE, 1 + SHARE]
    for (name, dataset), (colour, marker) in zip(discs.items(), cycle(LOOKS), strict=False):
        reference, radius = float(dataset["reference"]), dataset["radius"].values
        curvature, rounding = dataset["mean_curvature"].values, dataset["rounding"].values
        resolved = rounding <= SHARE * abs(reference) / 10
        ratio = np.where(resolved, curvature / reference, np.nan)
        # A plane whose loss is not finite in the disc has no curvature: beyond any number.
        low, middle, high = np.quantile(ratio, (0.1, 0.5, 0.9), axis=0)
        left.fill_between(radius, low, high, color=colour, alpha=0.15, lw=0)
        left.plot(radius, middle, color=colour, linewidth=1.2)
        reach += middle[np.isfinite(middle)].tolist()
        found = departure(radius, curvature, reference, rounding, SHARE)
        if 0 < found.scale < np.inf:
            seen = np.interp(np.log(found.scale), np.log(radius), middle)
            at = 1 + SHARE if seen > 1 else 1 - SHARE
            ends = np.clip([found.low, found.high], radius[0], radius[-1])
            left.plot(ends, [at, at], color=colour, linewidth=2.2, solid_capstyle="butt")
            left.plot(found.scale, at, marker, color=colour, mec="black", ms=5, mew=0.6, zorder=4)
        smallest, largest = dataset["smallest"].values, dataset["largest"].values
        share = ((smallest < 0) & (largest > 0)).mean(axis=0)
        share[np.isnan(smallest).any(axis=0)] = np.nan
        right.plot(radius, np.where(resolved, share, np.nan), color=colour, marker=marker, ms=3)
        label = labels.get(name, name)
        handles.append(drawing.line_handle(label, color=colour, marker=marker, ms=4, mec="black"))
    left.set_yscale("symlog", linthresh=2, linscale=1.0)
    low, high = min(0.0, *reach), max(reach)
    left.set_ylim(1.3 * low if low < 0 else 0, max(2.0, 1.5 * high))
    left.set_ylabel(r"apparent mean curvature / $(t/N)$")
    right.set(ylabel="share of slices like a saddle", ylim=(-0.03, 1.03))
    radii = np.concatenate([dataset["radius"].values for dataset in discs.values()])
    for ax in (left, right):
        ax.set_xlim(radii.min() / 1.2, radii.max() * 1.2)
        drawing.log_axis(ax, "x")
        ax.set_xlabel(r"radius $\rho$")
    drawing.title_panels([left, right])
    drawing.legend_below(figure, handles, 3)
    return figure
