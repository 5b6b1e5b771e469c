"""Second differences of the loss against their step, and what kinks do to them."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import BLUE, ORANGE, VERMILION

FIGURES = {
    "step_sizes": {
        "title": "What second differences of the loss measure",
        "category": "4. Traces",
        "reads": {"studies": "step_sizes"},
        "caption": r"""
Second differences (L(θ+εv) − 2L(θ) + L(θ−εv))/ε² along Gaussian directions v, divided by the mean
of the exact curvature v'Hv, against the step ε (in units of a direction). Thick: mean over
directions; thin: single directions; pale: fewer images. Bars: standard error of the difference from
the exact values, direction by direction. 1 is right. Small steps drown in rounding, large ones in
truncation. On ReLU networks every kink crossed adds at most its jump divided by ε, and the mean of
that does not vanish with ε. Last panel of a ReLU network: exact curvature of the same weights with
Softplus of growing sharpness in place of ReLU, an independent check.""",
    },
}


@drawing.styled
def draw(studies: drawing.Datasets, labels: drawing.Labels) -> Figure:
    """Second differences against ε; for ReLU networks also exact curvatures with Softplus instead.

    Args:
        studies: Per network, difference (n_images, step, direction) and exact (n_images,
            direction), coordinate step in units of the Gaussian directions; for ReLU networks
            softplus (sharpness, direction), along the same directions on the most images.
    """
    panels = [(name, "step") for name in studies]
    panels += [(name, "sharpness") for name in studies if "softplus" in studies[name]]
    figure, axes = drawing.panel_grid(len(panels), 3, 1.6)
    for ax, (name, kind) in zip(axes, panels, strict=True):
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_xscale("log")
        (_draw_differences if kind == "step" else _draw_softplus)(ax, studies[name])
    drawing.label_left(axes, "divided by exact value")
    said = {"step": "", "sharpness": ": Softplus"}
    drawing.title_panels(axes, [labels.get(name, name) + said[kind] for name, kind in panels])
    handles = [
        drawing.line_handle("mean over directions", color=VERMILION, marker="o", ms=2.5),
        drawing.line_handle("one direction", color=ORANGE, alpha=0.6, lw=0.6),
        drawing.line_handle(r"exact $v^{\mathrm{T}}Hv$", color="black", lw=0.8),
    ]
    if len(panels) > len(studies):
        softplus = r"exact $v^{\mathrm{T}}Hv$ with Softplus"
        handles.append(drawing.line_handle(softplus, color=BLUE, marker="s", ms=2.5))
    drawing.legend_below(figure, handles, 4)
    return figure


def _draw_differences(ax: Axes, study: xr.Dataset) -> None:
    study = study.sortby("n_images").transpose("n_images", "step", "direction", ...)
    exact = study["exact"].mean("direction")
    ratio = (study["difference"] / exact).transpose("n_images", "step", "direction")
    gap = (study["difference"] - study["exact"]) / exact
    errors = _standard_error(gap).transpose("n_images", "step").values
    step, n_images = ratio["step"].values, ratio["n_images"].values
    ax.plot(step, ratio[-1], color=ORANGE, alpha=0.5, linewidth=0.5, zorder=2)
    look: dict[str, Any] = {"color": VERMILION, "elinewidth": 0.7, "ms": 2.5, "zorder": 3}
    for index, count in enumerate(n_images):
        mean, marker = ratio[index].mean("direction"), "os^Dv"[index % 5]
        pale = 0.3 + 0.7 * (index + 1) / n_images.size
        label = f"{count:,} images"
        ax.errorbar(step, mean, errors[index], marker=marker, alpha=pale, label=label, **look)
    ax.legend(loc="best")
    # The noise at tiny steps and the far field at large ones may be thousands of times larger.
    off = np.abs(np.nanmedian(ratio.mean("direction").values, axis=1) - 1).max()
    reach = 3 * max(float(off), 0.35)
    ax.set(ylim=(1 - reach, 1 + reach), xlabel=r"step $\varepsilon$")


def _draw_softplus(ax: Axes, study: xr.Dataset) -> None:
    exact = study.sortby("n_images")["exact"].isel(n_images=-1)
    mean = (study["softplus"] / exact.mean("direction")).mean("direction")
    error = _standard_error((study["softplus"] - exact) / exact.mean("direction"))
    ax.errorbar(study["sharpness"], mean, error, color=BLUE, marker="s", ms=2.5)
    # Not the bars: a very soft Softplus makes another network, whose mean may be uncertain by itself.
    low, high = min(float(mean.min()), 0.8), max(float(mean.max()), 1.2)
    margin = 0.15 * (high - low)
    ax.set_ylim(low - margin, high + margin)
    ax.set_xlabel("sharpness $b$ of the Softplus in place of ReLU")


def _standard_error(values: xr.DataArray) -> xr.DataArray:
    return values.std("direction", ddof=1) / np.sqrt(values.sizes["direction"])
