"""Measures of flatness against generalization over a population of trained networks."""

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.reporting.figures.drawing import (
    GENERALIZATIONS,
    MEASURES,
    label_left,
    legend_below,
    line_handle,
    log_axis,
    panel_grid,
    styled,
    title_panels,
)

FIGURES = {
    "flatness": {
        "title": "Measures of flatness against the generalization gap",
        "category": "7. Flatness and generalization",
        "reads": {"population": "population"},
        "caption": r"""
Each point is a network of the population, trained to the same loss; hollow ones did not reach it
and are not counted. Measures: trace t, mean curvature t/N, extreme eigenvalues λ\ :sub:`max` and λ\
:sub:`min`, Frobenius norm ‖H‖\ :sub:`F`, the scaled t‖θ‖²/N and λ\ :sub:`max`\ ‖θ‖², gradient norm
‖∇L‖. Above each panel: Kendall's τ with the gap, test minus training loss.""",
    },
}

MARKERS = "osD^vP"


@styled
def draw(
    population: xr.Dataset, generalization: str = "gap_loss", factor: str = "batch_size"
) -> Figure:
    """One panel a measure; colour and marker tell the value of one factor of the design.

    Hollow: members that did not reach the training loss asked for. The measure's axis is
    logarithmic where its values have one sign and span more than a factor of ten.

    Args:
        population: The coordinate measure names variables (member), beside `generalization`,
            `factor`, reached (member), and kendall (measure, generalization).
        generalization: "gap_loss" or "gap_accuracy".
        factor: Factor of the design that gives the colours.
    """
    measures = [str(name) for name in population["measure"].values]
    figure, axes = panel_grid(len(measures), 3, 1.75, sharey=True)
    groups = np.unique(population[factor].values[np.isfinite(population[factor].values)])
    # cividis without its palest end
    colours = matplotlib.colormaps["cividis"](np.linspace(0.0, 0.9, max(groups.size, 2)))
    gap = population[generalization].values
    reached = population["reached"].values.astype(bool)
    for ax, measure in zip(axes, measures, strict=True):
        values = population[measure].values
        for group, colour, marker in zip(groups, colours, np.resize(list(MARKERS), groups.size)):
            member = population[factor].values == group
            for which, face in ((member & reached, colour), (member & ~reached, "none")):
                ax.plot(
                    values[which],
                    gap[which],
                    str(marker),
                    ms=3.2,
                    mfc=face,
                    mec=colour,
                    alpha=0.85,
                )
        finite = np.abs(values[np.isfinite(values)])
        one_sign = (values > 0).all() or (values < 0).all()
        if one_sign and finite.size and finite.max() > 10 * finite.min():
            if (values > 0).all():
                log_axis(ax, "x")
            else:
                ax.set_xscale("symlog", linthresh=float(finite.min()))
                ax.set_xlim(right=-0.8 * float(finite.min()))
        ax.set_xlabel(MEASURES.get(measure, measure))
    label_left(axes, GENERALIZATIONS.get(generalization, generalization))
    tau = population["kendall"].sel(generalization=generalization)
    title_panels(axes, [rf"$\tau={float(tau.sel(measure=measure)):+.2f}$" for measure in measures])
    name = factor.replace("_", " ")
    handles = [
        line_handle(f"{name} {group:g}", marker=str(marker), color=colour, ls="", ms=3.5)
        for group, colour, marker in zip(groups, colours, np.resize(list(MARKERS), groups.size))
    ]
    if not reached.all():
        handles.append(
            line_handle("loss not reached", marker="o", color="0.4", mfc="none", ls="", ms=3.5)
        )
    legend_below(figure, handles, 5)
    return figure
