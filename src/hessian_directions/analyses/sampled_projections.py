"""Directly sampled projected Hessians of a network, and how visible its saddle is in random slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from hessian_directions import seeds
from hessian_directions.analyses.announcing import Announce, counted
from hessian_directions.geometry import visibility
from hessian_directions.geometry.principal_curvatures import principal_curvatures
from hessian_directions.objectives.objective import Objective

# Shares of slices at which the κ₋ that the spectrum predicts is kept: what a figure of its distribution needs, close
# enough for straight lines between them in its lower tail as well as in its body.
LEVELS = np.concatenate([np.geomspace(1e-4, 0.1, 61), np.linspace(0.11, 1.0, 90)])


def sample(
    objective: Objective, settings: Mapping[str, Any], seed: int, announce: Announce
) -> xr.Dataset:
    """Some samples of M = [η δ]'H[η δ]: a file of them; others have other seeds."""
    matrices = visibility.sample_projections(
        objective.hessian(),
        settings["n_samples"],
        seeds.generator(seed, "planes"),
        progress=counted(announce, "planes"),
    )
    return xr.Dataset({"projected_hessian": (("sample", "row", "column"), matrices)})


def study(
    samples: Sequence[xr.Dataset],
    reference: xr.Dataset,
    eigenpairs: xr.Dataset,
    n_spectrum_samples: int,
    seed: int,
) -> xr.Dataset:
    """All samples of M beside the reference trace, and the visibility of the saddle in three ways.

    The spectrum that visibility is drawn from is that of the eigenpairs and of the reference's Ritz values, each once,
    and the rest by its trace t_b and Frobenius norm f_b. `lowest_twentieth` tests it: the share of the samples whose κ₋
    lies below the 5 % quantile that this spectrum predicts; `spectrum_quantile` holds its quantiles at many levels.
    """
    matrices = np.concatenate([part["projected_hessian"].values for part in samples])
    values = np.concatenate([eigenpairs["value"].values, reference["ritz_value"].values])
    rest = float(reference["rest_trace"]), float(reference["rest_frobenius_norm"])
    from_spectrum = visibility.sample_from_spectrum(
        values, *rest, n_spectrum_samples, seeds.generator(seed, "spectrum")
    )
    formula = visibility.formula(values, *rest)
    # The lower tail of κ₋ in more samples than those few, or none, that show a saddle.
    predicted = principal_curvatures(from_spectrum)[0]
    below = visibility.share_below(matrices, float(np.quantile(predicted, 0.05)))
    scalars: dict[str, float] = {
        "r": float(reference["trace"] / reference["frobenius_norm"]),
        "visibility_formula": formula.probability,
        "third_moment": formula.third_moment,
        "tail": formula.tail,
        "lowest_twentieth": below.probability,
        "lowest_twentieth_low": below.low,
        "lowest_twentieth_high": below.high,
    }
    for name, sampled in (("direct", matrices), ("spectrum", from_spectrum)):
        share = visibility.share_of_saddles(sampled)
        scalars[f"visibility_{name}"] = share.probability
        scalars[f"visibility_{name}_low"] = share.low
        scalars[f"visibility_{name}_high"] = share.high
    return reference.assign(
        {
            "projected_hessian": (("sample", "row", "column"), matrices),
            "spectrum_quantile": ("level", np.quantile(predicted, LEVELS)),
        }
        | {name: ((), value) for name, value in scalars.items()}
    ).assign_coords(level=LEVELS)
