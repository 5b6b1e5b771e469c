"""The density of a network's Hessian eigenvalues."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
import xarray as xr

from hessian_directions.analyses.announcing import Announce, counted
from hessian_directions.objectives.objective import Objective
from hessian_directions.spectral.density import moments
from hessian_directions.spectral.spectrum import spectral_density


def estimate(
    objective: Objective,
    settings: Mapping[str, Any],
    generator: torch.Generator,
    announce: Announce,
) -> xr.Dataset:
    """Nodes and weights of Lanczos quadrature, probe by probe, and the trace and norm that they imply.

    The weights of a probe sum to one.
    """
    density = spectral_density(
        objective.hessian(),
        settings["n_probes"],
        settings["n_steps"],
        generator,
        progress=counted(announce, "probes"),
    )
    nodes, weights, n = density.nodes, density.weights, objective.n_parameters
    return xr.Dataset(
        {
            "nodes": (("probe", "node"), nodes),
            "weights": (("probe", "node"), weights),
            "n_parameters": ((), n),
        }
        | {name: ((), value) for name, value in asdict(moments(nodes, weights, n)).items()}
    )
