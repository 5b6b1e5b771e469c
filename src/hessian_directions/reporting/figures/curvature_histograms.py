"""Principal curvatures of random slices of synthetic saddles, against their theory."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.geometry.principal_curvatures import (
    density_largest,
    density_smallest,
    expected_principal_curvatures,
    principal_curvatures,
)
from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import LARGEST, SMALLEST

FIGURES = {
    "curvature_histograms": {
        "title": "Principal curvatures of random slices",
        "category": "3. Synthetic saddles",
        "reads": {"saddles": "saddles"},
        "caption": r"""
Histograms of the principal curvatures κ₋ ≤ κ₊ (the eigenvalues of the projected Hessian) over many
random slices of three synthetic saddles. Curves: their densities in the Gaussian limit; dashed:
their expectations there, t ± f √(π/2), with the trace t and the Frobenius norm f of the Hessian, r
= t/f. A slice shows a saddle when κ₋ < 0 < κ₊.""",
    },
}


@drawing.styled
def draw(saddles: xr.Dataset) -> Figure:
    """Histograms of κ₋ and κ₊ over random slices, Gaussian-limit densities, and E κ± = t ± f√(π/2).

    Args:
        saddles: projected_hessian (saddle, sample, row, column), trace and frobenius_norm (saddle);
            drawn are the saddles of the coordinate `shown`.
    """
    shown = [n for n in saddles["shown"].values if n in saddles["saddle"].values]
    figure, axes = drawing.panel_grid(len(shown), 3, 2.0)
    titles = []
    for ax, n_positive in zip(axes, shown, strict=True):
        saddle = saddles.sel(saddle=n_positive)
        t, f = float(saddle["trace"]), float(saddle["frobenius_norm"])
        samples = principal_curvatures(saddle["projected_hessian"].dropna("sample").values)
        low, high = min(part.min() for part in samples), max(part.max() for part in samples)
        edges = np.linspace(low, high, 41).tolist()
        x = np.linspace(low - 0.05 * (high - low), high + 0.05 * (high - low), 400)
        for part, density, expected, colour in zip(
            samples,
            (density_smallest, density_largest),
            expected_principal_curvatures(t, f),
            (SMALLEST, LARGEST),
            strict=True,
        ):
            ax.hist(part, edges, density=True, color=colour, alpha=0.3, histtype="stepfilled")
            ax.plot(x, density(x, t, f), color=colour)
            ax.axvline(expected, color=colour, linewidth=0.8, linestyle=(0, (4, 2)))
        of_f = drawing.signed(t / f, digits=1)
        titles.append(rf"$\tilde{{n}}={n_positive}$, $t={drawing.signed(t)}$, $r={of_f}$")
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set_xlim(x[0], x[-1])
        ax.set_ylim(bottom=0)
        ax.set_xlabel(r"principal curvature $\kappa_\pm$")
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-1, 2))
    drawing.label_left(axes, "probability density")
    drawing.title_panels(axes, titles)
    handles = [
        drawing.line_handle(r"$\kappa_-$", color=SMALLEST, linewidth=5, alpha=0.4),
        drawing.line_handle(r"$\kappa_+$", color=LARGEST, linewidth=5, alpha=0.4),
        drawing.line_handle("Gaussian limit", color="black"),
        drawing.line_handle(r"$t\pm f\sqrt{\pi/2}$", color="black", lw=0.8, ls=(0, (4, 2))),
    ]
    drawing.legend_below(figure, handles, 4)
    return figure
