"""All that was found about one network on one page."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import (
    lines,
    localisation,
    relative_slices,
    spectra,
    visibility_networks,
)
from hessian_directions.reporting.figures.drawing import (
    DOUBLE,
    require,
    styled,
    title_panels,
)
from hessian_directions.reporting.page import Results


@styled
def draw(results: Results) -> Figure:
    """Slices, lines, spectrum, where the curvature lives, and what random slices show.

    Args:
        results: Of one network; parts that are missing leave no gap.
    """
    panels: list[tuple[str, Callable[[Axes], None]]] = []
    shown = [
        (f"{plane} slice", results.surfaces[f"{plane}_train"])
        for plane in ("random", "hessian")
        if f"{plane}_train" in results.surfaces
    ]
    if shown:
        norm, levels = relative_slices.relative_levels([dataset for _, dataset in shown])
    for title, dataset in shown:

        def draw_slice(ax: Axes, dataset: object = dataset) -> None:
            filled = relative_slices.draw_relative(ax, dataset, norm, levels)
            ax.set(xlabel=r"$\alpha\,\|\eta\|$", ylabel=r"$\beta\,\|\delta\|$")
            if dataset is shown[-1][1]:
                relative_slices.relative_colorbar(ax.figure, filled, [ax])

        panels.append((title.replace("hessian", "Hessian"), draw_slice))
    if results.lines is not None:

        def draw_lines(ax: Axes) -> None:
            lines.draw_lines(ax, results.lines)
            ax.set_ylabel(r"loss $L$")
            ax.legend(handles=lines.handles(), loc="upper center", fontsize=5.5)

        panels.append(("lines", draw_lines))
    if results.spectrum is not None:

        def draw_spectrum(ax: Axes) -> None:
            pairs = results.eigenpairs
            values = np.array([]) if pairs is None else pairs["value"].values
            scale = spectra.draw_spectrum(ax, results.spectrum, values)
            ax.set_xlabel(r"eigenvalue $\lambda$")
            ax.set_ylabel(rf"density of arcsinh$(\lambda/${scale:g}$)$")

        panels.append(("spectrum", draw_spectrum))
    if results.localisation is not None:

        def draw_kinds(ax: Axes) -> None:
            localisation.draw_kinds(ax, results.localisation)
            ax.legend(handles=localisation.handles(), loc="lower right", fontsize=5.5)

        panels.append(("where the curvature lives", draw_kinds))
    if results.projections is not None:

        def draw_shares(ax: Axes) -> None:
            visibility_networks.draw_shares(ax, results.projections)
            ax.set_ylabel(r"share of slices with smaller $\kappa_-$")
            predicted = "spectrum_quantile" in results.projections
            handles = visibility_networks.handles(predicted)
            ax.legend(handles=handles, loc="lower left", fontsize=5.5)

        panels.append(("what random slices show", draw_shares))
    require(panels)
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    size = DOUBLE * n_columns / 3, 2.2 * n_rows
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for ax, (_, draw_panel) in zip(axes, panels, strict=False):
        draw_panel(ax)
    for ax in axes[len(panels) :]:
        ax.remove()
    title_panels(axes[: len(panels)], [title for title, _ in panels])
    return figure
