"""The density of a network's Hessian eigenvalues."""

from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr

from hessian_directions.objective import Objective
from hessian_directions.spectrum import spectral_density


def estimate(
    objective: Objective, settings: Mapping[str, Any], generator: torch.Generator
) -> xr.Dataset:
    """Nodes and weights of Lanczos quadrature, probe by probe; the weights of a probe sum to one."""
    nodes, weights = spectral_density(
        objective.hessian(), settings["n_probes"], settings["n_steps"], generator
    )
    return xr.Dataset(
        {
            "nodes": (("probe", "node"), nodes),
            "weights": (("probe", "node"), weights),
            "n_parameters": ((), objective.n_parameters),
        }
    )
