"""Where the curvature lives: the share of each layer in the extreme eigenvectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from hessian_directions import settings as typed

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("eigenpairs", "eigenvectors")


class Settings(typed.Settings):
    """Has no settings."""


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Shares of the squared entries of each eigenvector, by layer and by kind of parameter.

    A vector's shares sum to one. The participation ratio Σv⁴/(Σv²)² is 1/N for a vector that is
    spread evenly and 1 for one that has a single entry; beside the shares stand those of the
    parameters, which a vector without preference would have.
    """
    from hessian_directions.geometry import localisation

    vectors = np.asarray(job.read["eigenvectors"]["vectors"], dtype=float)
    blocks = localisation.blocks(problem.model)
    layers = localisation.shares(vectors, [block.size for block in blocks])
    dataset = xr.Dataset(
        {
            "value": ("pair", job.read["eigenpairs"]["value"].values),
            "share": (("layer", "pair"), layers),
            "size": ("layer", [block.size for block in blocks]),
            "kind": ("layer", [block.kind for block in blocks]),
            "participation_ratio": ("pair", localisation.participation_ratio(vectors)),
        },
        coords={"layer": [block.name for block in blocks]},
    )
    return dataset
