"""Running estimates of the trace against the number of samples."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessian_directions.reporting.figures import drawing
from hessian_directions.reporting.figures.drawing import ESTIMATORS, Array

FIGURES = {
    "trace_convergence": {
        "title": "Running estimates of the trace",
        "category": "4. Traces",
        "reads": {"traces": "trace_estimators", "synthetic": "saddle_traces"},
        "caption": r"""
Running mean ± standard error of every estimator of t = tr H against the number of samples, for
synthetic saddles of known trace and for networks. Loss differences, quadratic fit, directional
derivative and Hutchinson (Gaussian) use the same directions, so on smooth losses their curves
coincide. Black: reference (exact, or deflated with directions of its own); grey: ± its standard
error. On ReLU networks loss differences also see the kinks and estimate another quantity.""",
    },
}


@drawing.styled
def draw(traces: drawing.Datasets, labels: drawing.Labels, synthetic: xr.Dataset) -> Figure:
    """Running mean ± standard error of every estimator, one panel a subject.

    Args:
        traces: Per network, samples (estimator, sample) padded with NaN, reference,
            reference_standard_error.
        synthetic: The same with a dimension `saddle` in front; its saddles come first.
    """
    subjects = {}
    for n in synthetic["saddle"].values:
        saddle = synthetic.sel(saddle=n)
        t = drawing.signed(float(saddle["reference"]))
        subjects[rf"saddle, $\tilde{{n}}={n}$, $t={t}$"] = saddle
    subjects |= {labels.get(name, name): dataset for name, dataset in traces.items()}
    figure, axes = drawing.panel_grid(len(subjects), 3, 1.9)
    present: set[str] = set()
    for ax, dataset in zip(axes, subjects.values(), strict=True):
        present |= draw_subject(ax, dataset)
        ax.set_xlabel("number of samples")
    drawing.label_left(axes, r"estimate of $t=\mathrm{tr}\,H$")
    drawing.title_panels(axes, list(subjects))
    handles = [
        drawing.line_handle(name, color=colour, linewidth=width)
        for key, (name, colour, _, width) in ESTIMATORS.items()
        if key in present
    ]
    drawing.legend_below(figure, [*handles, drawing.line_handle("reference", color="black")], 4)
    return figure


def running(samples: Array) -> tuple[Array, Array]:
    """Mean and standard error of the first 2, 3, … S samples, two arrays (S − 1,)."""
    of_first = pd.Series(samples).expanding(2)
    error = of_first.std() / np.sqrt(of_first.count())
    return of_first.mean().to_numpy()[1:], error.to_numpy()[1:]


def draw_subject(ax: Axes, dataset: xr.Dataset) -> set[str]:
    """Draw the running estimates of one subject and return the estimators met."""
    reference = float(dataset["reference"])
    error = float(dataset["reference_standard_error"])
    present = set()
    ends = [reference - error, reference + error]
    largest = 2
    for key, (_, colour, _, width) in ESTIMATORS.items():
        if key not in dataset["estimator"].values:
            continue
        samples = dataset["samples"].sel(estimator=key).values
        samples = samples[np.isfinite(samples)]
        if samples.size < 2:
            continue
        present.add(key)
        mean, standard_error = running(samples)
        count = np.arange(2, samples.size + 1)
        low, high = mean - standard_error, mean + standard_error
        ax.fill_between(count, low, high, color=colour, alpha=0.12, lw=0)
        ax.plot(count, mean, color=colour, linewidth=width)
        settled = slice(min(6, mean.size - 1), None)
        ends += [low[settled].min(), high[settled].max()]
        largest = max(largest, samples.size)
    ax.axhspan(reference - error, reference + error, color="0.6", alpha=0.4, lw=0)
    ax.axhline(reference, color="black", linewidth=0.8)
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    ax.set(ylim=(min(ends) - margin, max(ends) + margin), xlim=(2, max(largest, 3)))
    drawing.log_axis(ax, "x")
    return present
