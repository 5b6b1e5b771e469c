"""Synthetic saddles: projected Hessians, visibility against theory, slices, traces."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr

from hessian_directions import seeds
from hessian_directions.analyses import trace_comparison
from hessian_directions.analyses.announcing import Announce
from hessian_directions.geometry import slices, synthetic, visibility
from hessian_directions.geometry.directions import gaussian
from hessian_directions.geometry.principal_curvatures import critical_dimension
from hessian_directions.geometry.principal_curvatures import visibility as visibility_formula
from hessian_directions.objectives.objective import Objective


def analyze(settings: Mapping[str, Any], seed: int, announce: Announce) -> xr.Dataset:
    """Everything that is drawn of the saddles, for every configured ñ."""
    return xr.merge(
        [
            _projections(settings, seed, announce),
            _dimensions(settings, seed, announce),
            _slices(settings, seed, announce),
        ]
    ).assign_attrs(n=settings["n"], n_parameters=2 * settings["n"] + 1)


def _projections(settings: Mapping[str, Any], seed: int, announce: Announce) -> xr.Dataset:
    n, saddles = settings["n"], []
    for n_positive in settings["n_positive"]:
        announce(f"projections of the saddle with {n_positive} positive eigenvalues")
        # The spectrum is known eigenvalue by eigenvalue, so slices are drawn from it without directions.
        matrices = visibility.sample_from_spectrum(
            synthetic.eigenvalues(n, n_positive).numpy(),
            0.0,
            0.0,
            settings["n_visibility_samples"],
            seeds.generator(seed, "planes", n_positive),
        )
        share = visibility.share_of_saddles(matrices)
        t, f = synthetic.trace(n, n_positive), synthetic.frobenius_norm(n)
        saddles.append(
            {
                "projected_hessian": (
                    ("sample", "row", "column"),
                    matrices[: settings["n_samples"]],
                ),
                "trace": t,
                "frobenius_norm": f,
                "visibility_sampled": share.probability,
                "visibility_low": share.low,
                "visibility_high": share.high,
                "visibility_formula": float(visibility_formula(t / f)),
            }
        )
    datasets = [xr.Dataset(saddle) for saddle in saddles]
    return xr.concat(datasets, "saddle").assign_coords(saddle=list(settings["n_positive"]))


def _dimensions(settings: Mapping[str, Any], seed: int, announce: Announce) -> xr.Dataset:
    n, dimensions = settings["n"], settings["dimensions"]
    largest = max(dimensions)
    saddles = []
    for n_positive in settings["dimension_saddles"]:
        announce(f"subspaces of the saddle with {n_positive} positive eigenvalues")
        first = visibility.first_negative_dimension(
            synthetic.hessian(n, n_positive),
            largest,
            settings["n_subspaces"],
            seeds.generator(seed, "subspaces", n_positive),
        )
        shares = [visibility.share_seeing_negative(first, d) for d in dimensions]
        r = synthetic.trace(n, n_positive) / synthetic.frobenius_norm(n)
        saddles.append(
            xr.Dataset(
                {
                    "negative_seen": ("dimension", [s.probability for s in shares]),
                    "negative_seen_low": ("dimension", [s.low for s in shares]),
                    "negative_seen_high": ("dimension", [s.high for s in shares]),
                    "critical_dimension": critical_dimension(
                        synthetic.eigenvalues(n, n_positive).numpy()
                    ),
                    "quarter_r_squared": r**2 / 4,
                }
            )
        )
    return xr.concat(saddles, "dimension_saddle").assign_coords(
        dimension_saddle=list(settings["dimension_saddles"]), dimension=list(dimensions)
    )


def _slices(settings: Mapping[str, Any], seed: int, announce: Announce) -> xr.Dataset:
    """Losses of the network that is the saddle, on planes of equal width in parameter space."""
    n, points = settings["n"], slices.grid(settings["radius"], settings["n_points"])
    surfaces = []
    for n_positive in settings["shown"]:
        announce(f"slices of the saddle with {n_positive} positive eigenvalues")
        objective = objective_of(n, n_positive)
        unit_vectors = torch.zeros(objective.n_parameters, 2, dtype=objective.dtype)
        unit_vectors[0, 0] = unit_vectors[2 * n - 1, 1] = 1.0  # λ = +1 and λ = −1
        random = gaussian(
            objective.n_parameters, 2, seeds.generator(seed, "slices", n_positive), objective.dtype
        )
        random = random / random.norm(dim=0)
        surfaces.append(
            [
                slices.surface(objective, directions, points, points, "unit").values
                for directions in (random, unit_vectors)
            ]
        )
    return xr.Dataset(
        {"surface": (("shown", "plane", "alpha", "beta"), np.array(surfaces))},
        coords={
            "shown": list(settings["shown"]),
            "plane": ["random", "hessian"],
            "alpha": points,
            "beta": points,
        },
    )


def objective_of(n: int, n_positive: int) -> Objective:
    """The saddle as an objective like any network's."""
    model = synthetic.SaddleModel(n, n_positive).double()
    inputs = synthetic.inputs()
    return Objective(model, synthetic.mean_of_outputs, inputs, inputs)


def compare_traces(
    settings: Mapping[str, Any], fit_points: int, seed: int, announce: Announce
) -> tuple[xr.Dataset, dict[str, dict[str, float]]]:
    """The trace of each configured saddle by every estimator, beside the known one."""
    n_samples = settings["n_trace_samples"]
    comparison = {"n_samples": n_samples, "n_paired": n_samples, "fit_points": fit_points}
    datasets, seconds = [], {}
    for n_positive in settings["trace_saddles"]:
        dataset, spent = trace_comparison.compare(
            objective_of(settings["n"], n_positive),
            None,
            comparison,
            int(seeds.derive(seed, n_positive)),
            announce,
        )
        datasets.append(
            dataset.assign(
                reference=synthetic.trace(settings["n"], n_positive),
                reference_standard_error=0.0,
            )
        )
        seconds[str(n_positive)] = spent
    merged = xr.concat(datasets, "saddle").assign_coords(saddle=list(settings["trace_saddles"]))
    return merged.assign_attrs(reference_kind="exact", activation="smooth"), seconds
