"""Second differences of the loss against their step, and what kinks do to them."""

from collections.abc import Mapping

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.figures.drawing import (
    BLUE,
    ORANGE,
    VERMILION,
    label_left,
    legend_below,
    line_handle,
    panel_grid,
    styled,
    title_panels,
)


@styled
def draw(studies: Mapping[str, xr.Dataset], labels: Mapping[str, str]) -> Figure:
    """Second differences against ε; for ReLU networks also the trace with Softplus in its place.

    Both are divided by the exact value (mean of v'Hv over the directions; trace of the ReLU
    network), so that 1 is right and the lines of all networks can be compared.

    Args:
        studies: Per network, difference (step, direction[, n_images]), exact
            (direction[, n_images]), coordinate step (parameter-space length); for ReLU
            softplus_trace, softplus_trace_standard_error (sharpness), relu_trace.
        labels: Printed names of the networks.
    """
    panels = [(name, "step") for name in studies]
    panels += [(name, "sharpness") for name in studies if "softplus_trace" in studies[name]]
    figure, axes = panel_grid(len(panels), 3, 1.85)
    for ax, (name, kind) in zip(axes, panels, strict=True):
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_xscale("log")
        (_draw_differences if kind == "step" else _draw_softplus)(ax, studies[name])
    label_left(axes, "divided by exact value")
    title_panels(
        axes,
        [
            labels.get(name, name) + ("" if kind == "step" else ", Softplus for ReLU")
            for name, kind in panels
        ],
    )
    handles = [
        line_handle("mean of the second differences", color=VERMILION, marker="o", ms=2.5),
        line_handle("one direction", color=ORANGE, alpha=0.6, lw=0.6),
        line_handle(r"exact $v^{\top}Hv$, exact trace", color="black", lw=0.8),
    ]
    if len(panels) > len(studies):
        handles.append(line_handle("trace with Softplus", color=BLUE, marker="s", ms=2.5))
    legend_below(figure, handles, 4)
    return figure


def _draw_differences(ax: Axes, study: xr.Dataset) -> None:
    ratio = study["difference"] / study["exact"].mean("direction")
    mean = ratio.mean("direction")
    if "n_images" in ratio.dims:
        ratio = ratio.isel(n_images=-1)
        for index, count in enumerate(mean["n_images"].values):
            shade = 0.35 + 0.65 * (index + 1) / mean.sizes["n_images"]
            ax.plot(
                mean["step"],
                mean.isel(n_images=index),
                color=VERMILION,
                alpha=shade,
                marker="o",
                ms=2.5,
                label=f"{count:,} images",
            )
        ax.legend(loc="best", fontsize=6)
        settled = mean.isel(n_images=-1)
    else:
        ax.plot(mean["step"], mean, color=VERMILION, marker="o", ms=2.5, zorder=3)
        settled = mean
    directions = ratio.transpose("step", "direction")
    ax.plot(directions["step"], directions, color=ORANGE, alpha=0.5, linewidth=0.5, zorder=2)
    # The noise at tiny steps and the far field at large ones may be thousands of times larger.
    middle = float(settled.quantile(0.5))
    reach = 3 * max(abs(middle - 1), 0.35)
    ax.set_ylim(1 - reach, 1 + reach)
    ax.set_xlabel(r"step $\varepsilon$")


def _draw_softplus(ax: Axes, study: xr.Dataset) -> None:
    exact = float(study["relu_trace"])
    ax.errorbar(
        study["sharpness"],
        study["softplus_trace"] / exact,
        study["softplus_trace_standard_error"] / abs(exact),
        color=BLUE,
        marker="s",
        ms=2.5,
    )
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.8), max(high, 1.2))
    ax.set_xlabel("sharpness of the Softplus")
