"""What is known about a network, and what of it has to agree.

Whoever made the numbers, the workflow or `overview.analyze`, hands over data sets; what is missing is
left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from hessian_directions.reporting.report.panels import Links

# Exact curvature along a direction differs from its eigenvalue by the square of the residual over a
# gap, and by rounding, which the noise floor measures.
ROUNDINGS = 4.0

SPLITS = {"train": "training", "test": "test"}


@dataclass(frozen=True)
class Results:
    """What is known about one network; every part may be missing.

    Attributes:
        label: Printed name.
        scores: Scalars loss, gradient_norm, theta_norm, n_parameters, n_images; train_… and
            test_loss and _accuracy; attributes self_test and, where known, data: how they were
            understood.
        eigenpairs: value, residual, converged, exact_curvature (pair), ascending; attributes
            n_products, n_check_products, missed_probability, noise_floor.
        trace: Scalars trace, trace_standard_error; where known n_samples, frobenius_norm,
            frobenius_standard_error.
        spectrum: nodes, weights (probe, node), n_parameters.
        slices: "{plane}_{split}" → loss (alpha, beta), plane random, hessian or filter, split
            train or test.
        turning: loss (angle, alpha, beta), half_width (angle, axis), projected_hessian (angle, row,
            column).
        lines: loss (direction, distance), slope, curvature (direction).
        visibility: projected_hessian (sample, row, column), trace, frobenius_norm, r,
            visibility_direct with _low and _high, visibility_formula; where it was predicted,
            spectrum_quantile (level), visibility_spectrum.
        localisation: share (pair, parameter), inverse_participation_ratio (pair).
        settings: What made these numbers: name → value.
        failed: Why some of them are missing: a sentence.
        files: Of each of these parts that was read from files: where they and their figures lie.
    """

    label: str
    scores: xr.Dataset | None = None
    eigenpairs: xr.Dataset | None = None
    trace: xr.Dataset | None = None
    spectrum: xr.Dataset | None = None
    slices: Mapping[str, xr.Dataset] = field(default_factory=dict)
    turning: xr.Dataset | None = None
    lines: xr.Dataset | None = None
    visibility: xr.Dataset | None = None
    localisation: xr.Dataset | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""
    files: Mapping[str, Links] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One comparison of the sanity panel.

    Attributes:
        what: What is compared.
        found, expected: Two numbers that should agree.
        tolerance: The largest difference that rounding and residuals explain.
    """

    what: str
    found: float
    expected: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return abs(self.found - self.expected) <= self.tolerance


def checks(results: Results) -> list[Check]:
    """What has to agree if the pictures are right.

    The loss at the origin of every training slice is the loss of the network (those of test slices
    are each other's); the exact curvature along each eigenvector is its eigenvalue.
    """
    found = []
    for split, said in SPLITS.items():
        losses = {}
        if split == "train" and results.scores is not None:
            losses["the network"] = float(results.scores["loss"])
        for key, surface in results.slices.items():
            plane, _, of = key.rpartition("_")
            if of == split:
                origin = surface["loss"].sel(alpha=0.0, beta=0.0)
                losses[f"the {cased(plane)} slice"] = float(origin)
        if losses:
            (name, expected), *others = losses.items()
            # Many points at once share their products, so that float32 rounds otherwise.
            tolerance = 1e-5 * abs(expected) + 1e-7
            for what, loss in others:
                compared = f"{said} loss at the origin of {what}, against {name}"
                found.append(Check(compared, loss, expected, tolerance))
    if (pairs := results.eigenpairs) is not None:
        columns = (pairs[name].values.tolist() for name in ("value", "residual", "exact_curvature"))
        for number, (value, residual, exact) in enumerate(zip(*columns), 1):
            compared = f"exact curvature v'Hv along eigenvector {number}, against its eigenvalue"
            tolerance = residual + ROUNDINGS * float(pairs.attrs["noise_floor"])
            found.append(Check(compared, exact, value, tolerance))
    return found


def cased(plane: str) -> str:
    """The name of a plane as a sentence has it."""
    return {"hessian": "Hessian", "filter": "filter-normalised"}.get(plane, plane)
