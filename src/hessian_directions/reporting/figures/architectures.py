"""Kinds of networks side by side: the ends of the spectrum, the trace, visibility, and where it curves."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.reporting import tables
from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import DOUBLE, GREY, LARGEST, SMALLEST

FIGURES = {
    "architectures": {
        "title": "Architectures side by side",
        "category": "6. Spectra and visibility",
        "reads": {
            "scores": "scores",
            "eigenpairs": "eigenpairs",
            "visibility": "visibility",
            "localisations": "localisation",
        },
        "caption": r"""
One row per network, with its number of parameters N. **(a)** λ\ :sub:`max`, \|λ\ :sub:`min`\| and the
gradient norm ‖∇L‖. **(b)** Mean curvature t/N with its standard error; open where it is negative.
**(c)** r = t/f. **(d)** Probability that one random slice shows curvature of both signs, drawn from
the spectrum, and its share among sampled slices, both with 95 % intervals. **(e)** Share of each
kind of parameter in the squared entries of the eigenvectors of λ\ :sub:`max` (upper bar) and
λ\ :sub:`min` (lower bar).""",
    },
}

KINDS = {
    "convolution": drawing.BLUE,
    "linear": drawing.SKY,
    "classifier": drawing.ORANGE,
    "normalisation": drawing.GREEN,
    "bias": drawing.PURPLE,
    "other": "0.75",
}


@drawing.styled
def draw(
    scores: drawing.Datasets,
    eigenpairs: drawing.Datasets,
    visibility: drawing.Datasets,
    localisations: drawing.Datasets,
    labels: drawing.Labels,
) -> Figure:
    """Dots of λ_max, |λ_min|, ‖∇L‖, t/N, r and visibility, and bars of kinds, one row a network.

    Args:
        scores, eigenpairs, visibility, localisations: Per network, as for the table of this name;
            visibility_spectrum and _direct with _low and _high.
    """
    printed = {name: labels.get(name, name) for name in localisations}
    table = tables.architectures(printed, scores, eigenpairs, visibility, localisations)
    figure = Figure(figsize=(DOUBLE, 1.1 + 0.3 * len(table)), layout="constrained")
    axes = list(figure.subplots(1, 5, sharey=True, width_ratios=[1.3, 1, 0.8, 1, 1.2]))
    draw_ends(axes[0], table)
    draw_mean_curvature(axes[1], table)
    axes[2].plot(table["r"], table.index, "o", color=GREY)
    axes[2].axvline(0, color="black", linewidth=0.5)
    axes[2].set_xlabel(r"$r=t/\|H\|_F$")
    draw_visibility(axes[3], [visibility[name] for name in localisations])
    draw_kinds(axes[4], localisations.values())
    names = [f"{one.label}\n$N=${one.n_parameters:,}" for one in table.itertuples()]
    axes[0].set_yticks(table.index, names)
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    for ax in axes:
        ax.tick_params(axis="y", which="both", length=0)
        ax.grid(axis="y", color="0.9", linewidth=0.5)
        ax.set_axisbelow(True)
    drawing.title_panels(axes)
    present = {str(kind) for one in localisations.values() for kind in one["kind"].values}
    handles = [
        drawing.line_handle(r"$\lambda_{\max}$", color=LARGEST, marker="o", ls=""),
        drawing.line_handle(r"$|\lambda_{\min}|$", color=SMALLEST, marker="o", ls=""),
        drawing.line_handle(r"$\|\nabla L\|$", color=GREY, marker="|", ls=""),
        drawing.line_handle("from the spectrum", color=GREY, marker="o", ls=""),
        drawing.line_handle("sampled", color=GREY, marker="o", mfc="white", ls=""),
        *(
            drawing.line_handle(kind, color=colour, ls="", marker="s", ms=5)
            for kind, colour in KINDS.items()
            if kind in present
        ),
    ]
    drawing.legend_below(figure, handles, 6)
    return figure


def draw_ends(ax: Axes, table: pd.DataFrame) -> None:
    """Sizes of both ends of the spectrum and of the gradient."""
    for end, colour in (("largest", LARGEST), ("smallest", SMALLEST)):
        ax.plot(table[end].abs(), table.index, "o", color=colour)
    ax.plot(table["gradient_norm"], table.index, "|", color=GREY, ms=7, mew=1.3)
    whole_decades(ax)
    ax.set_xlabel(r"$\lambda_{\max}$, $|\lambda_{\min}|$, $\|\nabla L\|$")


def draw_mean_curvature(ax: Axes, table: pd.DataFrame) -> None:
    """|t/N| with its standard error, open where t is negative."""
    for row, one in enumerate(table.to_dict("records")):
        mean, error = one["mean_curvature"], one["trace_standard_error"] / one["n_parameters"]
        face = "white" if mean < 0 else GREY
        ax.errorbar(abs(mean), row, xerr=error, fmt="o", color=GREY, mfc=face)
    whole_decades(ax)
    ax.set_xlabel(r"$|t|/N$")


def whole_decades(ax: Axes) -> None:
    """A logarithmic axis from one power of ten to another, so that two of them are named."""
    ax.set_xscale("log")
    low, high = np.log10(ax.get_xlim())
    ax.set_xlim(10 ** np.floor(low), 10 ** np.ceil(high))
    ax.xaxis.set_major_locator(ticker.LogLocator(numticks=4))
    ax.xaxis.set_minor_formatter(ticker.NullFormatter())


def draw_visibility(ax: Axes, sampled: list[xr.Dataset]) -> None:
    """Both probabilities with their intervals."""
    rows = np.arange(len(sampled))
    for kind, offset, face in (("spectrum", -0.15, GREY), ("direct", 0.15, "white")):
        value, low, high = (
            np.array([float(one[f"visibility_{kind}{end}"]) for one in sampled])
            for end in ("", "_low", "_high")
        )
        arms = drawing.errors(value, low, high)
        ax.errorbar(value, rows + offset, xerr=arms, fmt="o", color=GREY, mfc=face)
    ax.set_xlim(-0.04, 1.04)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_xlabel("visibility")


def draw_kinds(ax: Axes, localisations: Iterable[xr.Dataset]) -> None:
    """Stacked shares of the kinds in both eigenvectors."""
    for row, one in enumerate(localisations):
        kinds = one["kind"].values.astype(str)
        for pair, offset in ((-1, -0.2), (0, 0.2)):
            share, left = one["share"].values[pair], 0.0
            for kind, colour in KINDS.items():
                width = float(share[kinds == kind].sum())
                ax.barh(row + offset, width, 0.36, left=left, color=colour)
                left += width
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_xlabel(r"share in $v_{\max}$, $v_{\min}$")
