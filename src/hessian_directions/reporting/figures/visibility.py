"""How often random directions show a synthetic saddle: in two dimensions, and in d dimensions."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.geometry.principal_curvatures import visibility
from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, DOUBLE, ORANGE, PURPLE, VERMILION

FIGURES = {
    "visibility": {
        "title": "Visibility of a saddle, and dimensions needed",
        "category": "3. Synthetic saddles",
        "reads": {"saddles": "saddles"},
        "caption": r"""
**(a)** Share of random slices that show a synthetic saddle, κ₋ < 0 < κ₊, against r = t/f (trace
over Frobenius norm of the Hessian), with the Gaussian limit exp(−r²/4)/√2. **(b)** Share of random
subspaces of dimension d in which a direction of negative curvature is seen. Dashed: d* = max Σ λ\
:sub:`i` x/(1 + λ\ :sub:`i` x) over 0 < x < 1/\|λ\ :sub:`min`\|; dotted: its limit r²/4. Bars and
bands: 95 % intervals.""",
    },
}

# Printed symbol and dashes.
MARKS = {
    "critical_dimension": (r"$d^{*}$", (0, (4, 2))),
    "quarter_r_squared": (r"$r^2/4$", (0, (1, 1.5))),
}


@drawing.styled
def draw(saddles: xr.Dataset) -> Figure:
    """(a) P(κ₋ < 0 < κ₊) against r = t/f; (b) chance of a negative direction against d.

    Args:
        saddles: visibility_sampled, _low, _high, trace, frobenius_norm (saddle); negative_seen,
            _low, _high (dimension_saddle, dimension), critical_dimension, quarter_r_squared.
    """
    figure = Figure(figsize=(DOUBLE, 1.75), layout="constrained")
    left, right = figure.subplots(1, 2)

    r = (saddles["trace"] / saddles["frobenius_norm"]).values
    sampled, *bounds = (saddles[f"visibility_{kind}"].values for kind in ("sampled", "low", "high"))
    yerr = drawing.errors(sampled, *bounds)
    span = np.linspace(r.min() - 0.4, r.max() + 0.4, 300)
    left.plot(span, visibility(span), color="black", label=r"$\mathrm{e}^{-r^2/4}/\sqrt{2}$")
    left.errorbar(r, sampled, yerr, fmt="o", color=VERMILION, label="sampled, 95 % interval")
    left.set(xlim=(span[0], span[-1]), ylim=(-0.03, 0.9), xlabel=r"$r=t/\|H\|_F$")
    left.set_ylabel(r"$P(\kappa_-<0<\kappa_+)$")
    left.legend(loc="upper left")

    handles = []
    colours = (BLUE, ORANGE, PURPLE, VERMILION)
    dimension = saddles["dimension"].values
    marks = []
    for index, n_positive in enumerate(saddles["dimension_saddle"].values):
        saddle = saddles.sel(dimension_saddle=n_positive)
        colour = colours[index % len(colours)]
        right.plot(dimension, saddle["negative_seen"], color=colour)
        ends = saddle["negative_seen_low"], saddle["negative_seen_high"]
        right.fill_between(dimension, *ends, color=colour, alpha=0.25, lw=0)
        for name, (_, dashes) in MARKS.items():
            value = float(saddle[name])
            if np.isfinite(value):
                right.axvline(value, color=colour, linewidth=0.9, linestyle=dashes)
                marks.append(value)
        handles.append(drawing.line_handle(rf"$\tilde{{n}}={n_positive}$", color=colour))
    for label, dashes in MARKS.values():
        handles.append(drawing.line_handle(label, color="0.3", linewidth=0.9, linestyle=dashes))
    # as far as anything happens
    unsure = dimension[(saddles["negative_seen"] < 0.999).any("dimension_saddle").values]
    last = 1.25 * max([*marks, float(unsure.max(initial=dimension[0])), dimension[0] + 1.0])
    right.set(xlim=(0, min(last, max(dimension[-1], *marks, 1.0))), ylim=(-0.03, 1.03))
    right.set_xlabel(r"dimension $d$ of the random subspace")
    right.set_ylabel(r"$P$(a negative direction is seen)")
    right.legend(handles=handles, loc="lower right")
    drawing.title_panels([left, right])
    return figure
