"""Rank correlations of flatness and generalization over a gathered population."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from hessian_directions.statistics.rank_correlation import (
    granulated_interval,
    granulated_tau,
    kendall_interval,
    kendall_tau,
)

MEASURES = (
    "trace",
    "mean_curvature",
    "largest",
    "smallest",
    "frobenius_norm",
    "trace_scaled",
    "largest_scaled",
    "gradient_norm",
)
GENERALIZATION = ("gap_loss", "gap_accuracy")


def gather(parts: Sequence[xr.Dataset], settings: Mapping[str, Any], seed: int) -> xr.Dataset:
    """The members of all jobs in their order, and for each measure and gap the rank correlations.

    τ is Kendall's over all members that reached the target loss; the granulated τ is its mean over groups that
    differ in one factor only (Jiang et al. 2020). Intervals are bootstrap percentiles over members.
    """
    shared = [name for name, variable in parts[0].items() if "scale" in variable.dims]
    members = xr.concat(
        [part.drop_dims("scale", errors="ignore") for part in parts], "member"
    ).sortby("number")
    reached = members.isel(member=members["reached"].values.astype(bool))
    factors = {
        name: reached[name].values
        for name, values in settings["factors"].items()
        if len(values) > 1
    }
    shape = (len(MEASURES), len(GENERALIZATION))
    names = [kind + end for kind in ("kendall", "granulated") for end in ("", "_low", "_high")]
    tables = {name: np.full(shape, np.nan) for name in names}
    options = {"confidence": 0.95, "n_bootstrap": settings["n_bootstrap"]}
    for i, measure in enumerate(MEASURES):
        for j, gap in enumerate(GENERALIZATION):
            x, y = reached[measure].values, reached[gap].values
            random = np.random.default_rng(seed)
            tables["kendall"][i, j] = kendall_tau(x, y)
            low, high = kendall_interval(x, y, generator=random, **options)
            tables["kendall_low"][i, j], tables["kendall_high"][i, j] = low, high
            tables["granulated"][i, j] = granulated_tau(x, y, factors)
            low, high = granulated_interval(x, y, factors, generator=random, **options)
            tables["granulated_low"][i, j], tables["granulated_high"][i, j] = low, high
    return members.merge(parts[0][shared]).merge(
        xr.Dataset(
            {name: (("measure", "generalization"), table) for name, table in tables.items()},
            coords={"measure": list(MEASURES), "generalization": list(GENERALIZATION)},
        )
    )
