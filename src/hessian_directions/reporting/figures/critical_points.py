"""True saddles of small networks: their index and loss, and how often a random slice shows them."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.geometry.principal_curvatures import visibility
from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, DOUBLE, GREEN, GREY, VERMILION

FIGURES = {
    "critical_points": {
        "title": "True saddles: index, loss and visibility",
        "category": "3. Synthetic saddles",
        "reads": {"saddles": "saddles", "points": "critical_points"},
        "caption": r"""
Critical points of networks with one hidden layer (gradient norm at most 10\ :sup:`−8`): found by a
search in narrow networks, and embedded from these in wide ones, of which all layers or the first
layer alone are trained. **(a)** Loss against the index, the number of negative eigenvalues, as a
share of the N parameters. **(b)** Share of random slices that show the saddle, κ₋ < 0 < κ₊, drawn
from the whole spectrum, against r = t/f; with synthetic saddles and the Gaussian limit exp(−r²/4)/√2.
**(c)** That share
over the Gaussian limit, against \|r\|\ :sup:`3`\ \|Σλ³\|/f³, which has to be small for the limit to
hold. Line: the next order, exp(−r³Σλ³/(6f³)), which in turn needs Σ\|λ\|³/f³ to be small. Bars: 95 %
intervals; points at which no slice showed a saddle have the upper end alone.""",
    },
}

SYNTHETIC: dict[str, Any] = {"marker": "D", "color": GREY, "markerfacecolor": "white"}
# Marker, colour and printed name of each kind of point.
KINDS = {
    ("searched", "all"): ("o", VERMILION, "searched, all layers"),
    ("embedded", "all"): ("s", GREEN, "embedded, all layers"),
    ("embedded", "first layer"): ("^", BLUE, "embedded, first layer"),
}


@drawing.styled
def draw(saddles: xr.Dataset, points: xr.Dataset) -> Figure:
    """(a) Loss against index; (b) visibility against r; (c) over its limit, against the condition.

    Args:
        saddles: visibility_sampled, _low, _high, trace, frobenius_norm (saddle).
        points: origin, layers, loss, index, n_parameters, r, condition, visibility_sampled, _low,
            _high, _formula, smallest, largest, zero_tolerance (point).
    """
    figure = Figure(figsize=(DOUBLE, 2.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.35, 1))
    tolerance = points["zero_tolerance"]
    is_saddle = (points["smallest"] < -tolerance) & (points["largest"] > tolerance)
    saddle = points.isel(point=is_saddle.values)
    low, high = float(points["r"].min()), float(points["r"].max())
    span = np.linspace(min(-3.0, low - 0.3), max(6.0, high + 0.3), 400)
    middle.plot(span, visibility(span), color="black", zorder=1)
    synthetic = (saddles["trace"] / saddles["frobenius_norm"]).values
    draw_shares(middle, synthetic, saddles, **SYNTHETIC)
    handles = [drawing.line_handle("synthetic saddles", ls="", **SYNTHETIC)]
    for (origin, layers), (marker, colour, name) in KINDS.items():
        of_kind = (saddle["origin"] == origin) & (saddle["layers"] == layers)
        chosen = saddle.isel(point=of_kind.values)
        look: dict[str, Any] = {"marker": marker, "color": colour, "alpha": 0.8}
        handles.append(drawing.line_handle(name, ls="", **look))
        if chosen.sizes["point"] == 0:
            continue
        left.plot(chosen["index"] / chosen["n_parameters"], chosen["loss"], ls="", **look)
        draw_shares(middle, chosen["r"].values, chosen, **look)
        limit = chosen["visibility_formula"].values
        draw_shares(right, chosen["condition"].values, chosen, limit, **look)
    left.set(xlabel="index$/N$", ylabel=r"loss $L(\theta^{*}\,)$")
    left.margins(0.06)
    middle.set(xlim=(span[0], span[-1]), ylim=(3e-6, 1.6))
    drawing.log_axis(middle, "y")
    middle.set(xlabel=r"$r=t/\|H\|_F$", ylabel=r"$P(\kappa_-<0<\kappa_+)$")
    farthest = max(100.0, 2 * float(saddle["condition"].values.max(initial=0.0)))
    condition = np.geomspace(1e-3, farthest, 200)
    right.plot(condition, np.exp(-condition / 6), color="black", zorder=1)
    right.set_xlim(condition[0], condition[-1])
    shares = (saddle["visibility_sampled"] / saddle["visibility_formula"]).values
    shares = shares[shares > 0]
    right.set_ylim(np.min(shares / 3, initial=1e-3), np.max(3 * shares, initial=3.0))
    drawing.log_axis(right, "xy")
    right.set_xlabel(r"$|r|^3\,|\sum\lambda^3|\,/\,\|H\|_F^3$")
    right.set_ylabel("visibility / Gaussian limit")
    handles.append(drawing.line_handle("Gaussian limit; in (c) the next order", color="black"))
    drawing.title_panels([left, middle, right])
    drawing.legend_below(figure, handles, 5)
    return figure


def draw_shares(
    ax: Axes, x: np.ndarray, shares: xr.Dataset, unit: np.ndarray | float = 1.0, **look: object
) -> None:
    """Draw sampled visibilities with their intervals, in a unit; one of zero as its upper end."""
    sampled, low, high = (
        shares[f"visibility_{name}"].values / unit for name in ("sampled", "low", "high")
    )
    seen = sampled > 0
    yerr = drawing.errors(sampled, low, high)
    ax.errorbar(x[seen], sampled[seen], yerr[:, seen], ls="", elinewidth=0.6, **look)  # type: ignore[arg-type]
    arrow = {"arrowstyle": "->", "color": look["color"], "lw": 0.6}
    for at, end in zip(x[~seen], high[~seen]):
        ax.annotate("", (at, end / 3), (at, end), arrowprops=arrow)
