"""Where the curvature lives: the share of each layer in the extreme eigenvectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from hessian_directions.settings import Settings

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("eigenpairs", "eigenvectors")


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Shares of the squared entries of each eigenvector, by parameter with its layer and kind.

    A vector's shares sum to one. The inverse participation ratio Σv⁴/(Σv²)² is 1/N for a vector
    that is spread evenly and 1 for one that has a single entry.
    """
    from hessian_directions.geometry.localisation import localise

    parameters = {name: p for name, p in problem.model.named_parameters() if p.requires_grad}
    found = localise(job.read["eigenvectors"]["vectors"], parameters, problem.model)
    return found.assign(value=("pair", job.read["eigenpairs"]["value"].values))
