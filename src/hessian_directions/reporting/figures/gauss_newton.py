"""The Hessian, its Gauss–Newton part and the rest of every network."""

import numpy as np
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, DOUBLE, GREY, VERMILION

FIGURES = {
    "gauss_newton": {
        "title": "Gauss–Newton part",
        "category": "6. Spectra and visibility",
        "reads": {"parts": "gauss_newton"},
        "caption": r"""
The Hessian H, its Gauss–Newton part G = 1/n Σ J'(∇²ℓ)J, which is positive semidefinite, and the
rest H − G, each in units of H. **(a)** Largest and smallest eigenvalue over the largest one of H
(of G the largest); logarithmic beyond ±0.001. **(b)** Trace, **(c)** Frobenius norm, over those of
H, with standard errors. All traces and norms are sampled along the same directions.""",
    },
}

STYLES = {
    "hessian": ("$H$", GREY, "o", 0.22),
    "gauss_newton": ("$G$", BLUE, "s", 0.0),
    "rest": ("$H-G$", VERMILION, "D", -0.22),
}


@drawing.styled
def draw(parts: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """Eigenvalues, traces and norms of the three matrices, a row for each network.

    Args:
        parts: Per network, largest, smallest, trace with trace_standard_error, frobenius_norm with
            frobenius_standard_error (matrix), matrix one of hessian, gauss_newton, rest.
    """
    figure = Figure(figsize=(DOUBLE, 1.1 + 0.28 * len(parts)), layout="constrained")
    axes = list(figure.subplots(1, 3, sharey=True))
    for row, dataset in enumerate(parts.values()):
        for matrix, (_, colour, marker, shift) in STYLES.items():
            one, hessian = dataset.sel(matrix=matrix), dataset.sel(matrix="hessian")
            style = {"color": colour, "marker": marker, "ms": 3.5, "linewidth": 1.0}
            y = shift - row
            ends = np.array([float(one["smallest"]), float(one["largest"])])
            axes[0].plot(ends / float(hessian["largest"]), [y, y], **style)
            for ax, name, error in (
                (axes[1], "trace", "trace_standard_error"),
                (axes[2], "frobenius_norm", "frobenius_standard_error"),
            ):
                unit = abs(float(hessian[name]))
                ax.errorbar(
                    float(one[name]) / unit, y, xerr=float(one[error]) / unit, ls="none", **style
                )
    for ax, text in zip(
        axes,
        (
            r"$\lambda_{\min}$, $\lambda_{\max}$ over $\lambda_{\max}(H)$",
            r"$t$ over $|\mathrm{tr}\,H|$",
            r"$f$ over $\|H\|_F$",
        ),
    ):
        ax.axvline(0, color="black", linewidth=0.5)
        ax.axvline(1, color="black", linewidth=0.5, linestyle=":")
        ax.set_xlabel(text)
        ax.tick_params(axis="y", which="both", length=0)
    left = axes[0]
    # What is negative is a hundredth of what is positive.
    left.set_xscale("symlog", linthresh=1e-3)
    left.set_xlim(left.get_xlim()[0], 2.5)
    left.set_xticks([x for x in (-1.0, -1e-2, 0.0, 1e-2, 1.0) if x > left.get_xlim()[0]])
    names = [drawing.two_lines(labels.get(name, name)) for name in parts]
    left.set_yticks([-row for row in range(len(names))], names)
    left.set_ylim(0.6 - len(names), 0.5)
    drawing.title_panels(axes)
    handles = [
        drawing.line_handle(label, color=colour, marker=marker, ms=3.5, lw=1.0)
        for label, colour, marker, _ in STYLES.values()
    ]
    drawing.legend_below(figure, handles, 3)
    return figure
