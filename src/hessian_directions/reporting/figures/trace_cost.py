"""Error of the trace estimators against what they cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import ESTIMATORS, Array

FIGURES = {
    "trace_cost": {
        "title": "Error of trace estimates against cost",
        "category": "4. Traces",
        "reads": {"traces": "trace_estimators", "seconds": "trace_estimators_record"},
        "caption": r"""
Root-mean-square error of block means relative to the reference trace, against cost in forward
passes over the same images and in measured seconds. Blocks hold 1, 2, 4, … samples. A bias shows as
a line that stops falling; dotted: standard error of the reference itself.""",
    },
}

# Estimators that multiply directions with the Hessian before they sample.
PREPARED = ("deflated", "hutch_plus_plus")


@drawing.styled
def draw(
    traces: drawing.Datasets,
    labels: drawing.Labels,
    seconds: Mapping[str, Mapping[str, Any]],
) -> Figure:
    """Relative root-mean-square error against passes (first) and, where known, against seconds.

    A point is the root of the mean square of (block mean − reference)/|reference| over at least
    four disjoint blocks; where the reference is zero the error is absolute. The cost of a block is
    its samples' and, once, that of the preparation: deflated estimators multiply their directions
    first, which is what they spend beyond Hutchinson's estimator on as many samples. Finding
    eigenvectors is not charged: others need them, too.

    Args:
        traces: Per network, samples (estimator, sample), n_samples and passes (estimator),
            reference, reference_standard_error.
        seconds: Per network, a record with the seconds that each estimator took for all its
            samples.
    """
    panels: list[tuple[str, Mapping[str, float] | None]] = [(name, None) for name in traces]
    panels += [(name, record["seconds"]) for name, record in seconds.items()]
    figure, axes = drawing.panel_grid(len(panels), 3, 1.9)
    present: set[str] = set()
    for ax, (network, times) in zip(axes, panels, strict=True):
        dataset = traces[network]
        reference = float(dataset["reference"])
        scale = abs(reference) or 1.0
        for key, (_, colour, marker, _) in ESTIMATORS.items():
            if key not in dataset["estimator"].values:
                continue
            estimator = dataset.sel(estimator=key)
            sizes, error = block_errors(estimator["samples"].values, reference)
            fixed, each = cost_parts(dataset, key, times)
            ax.plot(fixed + sizes * each, error / scale, color=colour, marker=marker, ms=3, lw=0.9)
            present.add(key)
        own = float(dataset["reference_standard_error"]) / scale
        if own > 0:
            ax.axhline(own, color="black", linestyle=":", linewidth=0.8)
        drawing.log_axis(ax, "xy")
        ax.set_xlabel("cost (forward passes)" if times is None else "cost (seconds)")
        ax.set_ylabel("relative error (r.m.s.)" if reference else "error (absolute, $t=0$)")
    drawing.title_panels(axes, [labels.get(name, name) for name, _ in panels])
    handles = [
        drawing.line_handle(name, color=colour, marker=marker, ms=3)
        for key, (name, colour, marker, _) in ESTIMATORS.items()
        if key in present
    ]
    reference_handle = drawing.line_handle("error of the reference", color="black", ls=":", lw=0.8)
    drawing.legend_below(figure, [*handles, reference_handle], 4)
    return figure


def cost_parts(
    dataset: xr.Dataset, estimator: str, seconds: Mapping[str, float] | None
) -> tuple[float, float]:
    """Cost of an estimator's preparation and of one of its samples, in passes or in seconds.

    Both parts are products, so seconds are shared out as passes are: a difference of measured
    seconds would be the noise of the machine where the preparation is short.
    """

    def passes_and_samples(key: str) -> tuple[float, float]:
        chosen = dataset.sel(estimator=key)
        return float(chosen["passes"]), float(chosen["n_samples"])

    passes, n_samples = passes_and_samples(estimator)
    total = passes if seconds is None else seconds[estimator]
    if estimator not in PREPARED or "hutchinson" not in dataset["estimator"].values:
        return 0.0, total / n_samples
    plain, n_plain = passes_and_samples("hutchinson")
    fixed = total * max(1 - n_samples * plain / n_plain / passes, 0.0)
    return fixed, (total - fixed) / n_samples


def block_errors(samples: Array, reference: float) -> tuple[Array, Array]:
    """Root-mean-square error of means of m samples, m = 1, 2, 4, …, over at least four blocks."""
    samples = samples[np.isfinite(samples)]
    sizes = 2 ** np.arange(max(samples.size // 4, 1).bit_length())
    errors = []
    for m in sizes:
        blocks = samples[: samples.size // m * m].reshape(-1, m).mean(axis=1)
        errors.append(np.sqrt(np.mean((blocks - reference) ** 2)) if blocks.size else np.nan)
    return sizes.astype(float), np.array(errors)
