"""The sizes that rounding is relative to, of everything that a profile's tables are about."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from hessian_directions.reproduction.quantities import POPULATION
from hessian_directions.reproduction.rounding import Scale, turned, turned_at_most

Tables = Mapping[str, pd.DataFrame]
Arrays = Mapping[str, NDArray[Any]]

# Of the synthetic saddles, whose N is 2n + 1.
SADDLES = ("saddles", "saddle_traces")


def of_subjects(
    configuration: Mapping[str, Any],
    archived: Tables,
    computed: Tables,
    archived_vectors: Arrays,
    computed_vectors: Arrays,
    population: xr.Dataset | None = None,
) -> dict[str, Scale]:
    """A scale for each network, for the population, and under "" for the synthetic saddles.

    Args:
        configuration: The complete one.
        archived, computed: Tables by name.
        archived_vectors, computed_vectors: Eigenvectors (N, k) by network; the archive leaves large
            ones out, and then their residuals bound how far they are turned.
        population: The archive's.
    """
    settings, precision = configuration["analyses"], configuration["precision"]
    n_synthetic = 2 * max(settings.get(name, {}).get("n", 0) for name in SADDLES) + 1
    scales = {"": Scale(n_synthetic, settings=settings)}
    for row in archived["networks"].to_dict("records"):
        network = row["network"]
        values, residuals = _pairs(network, archived)
        _, others = _pairs(network, computed)
        if network in archived_vectors and network in computed_vectors:
            turn = turned(archived_vectors[network], computed_vectors[network])
        elif residuals.shape == others.shape:
            turn = turned_at_most(values, residuals + others)
        else:
            turn = np.ones_like(values)
        size = {key: float(np.nan_to_num(value)) for key, value in row.items() if key in SIZES}
        scales[network] = Scale(
            int(row["n_parameters"]),
            precision,
            norm=max(abs(size["smallest"]), abs(size["largest"])),
            frobenius=size["frobenius_norm"],
            trace=size["trace"],
            loss=size["loss"],
            gradient=size["gradient_norm"],
            turned=tuple(turn),
            eigenvalues=tuple(values),
            settings=configuration["networks"][network]["analyses"],
        )
    if population is not None:
        most = {name: float(abs(population[name]).max()) for name in POPULATION_SIZES}
        scales[POPULATION] = Scale(
            int(most["n_parameters"]),
            precision,
            norm=most["largest"],
            frobenius=most["frobenius_norm"],
            settings=settings,
        )
    return scales


SIZES = {"smallest", "largest", "frobenius_norm", "trace", "loss", "gradient_norm"}
POPULATION_SIZES = ("n_parameters", "largest", "frobenius_norm")


def _pairs(network: str, tables: Tables) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues and residuals of a network, in ascending order; empty where there are none."""
    checks = tables.get("surface_checks", pd.DataFrame(columns=["network"]))
    own = checks[checks["network"] == network]
    if own.empty:
        return np.empty(0), np.empty(0)
    return own["value"].to_numpy(float), own["residual"].to_numpy(float)
