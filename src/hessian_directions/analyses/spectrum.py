"""The density of a network's Hessian eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem


class Settings(typed.Settings):
    n_probes: Several = setting(3, "random vectors")
    n_steps: Several = setting(50, "products of each")


def passes(settings: Settings) -> dict[str, int]:
    return {"product": settings.n_probes * settings.n_steps}


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Nodes and weights of the quadrature, probe by probe, and the moments that they imply.

    The weights of a probe sum to one.
    """
    from hessian_directions import seeds
    from hessian_directions.spectral.density import moments
    from hessian_directions.spectral.spectrum import spectral_density

    objective = problem.objective("train")
    objective.self_test()
    density = spectral_density(
        objective.hessian(),
        settings.n_probes,
        settings.n_steps,
        seeds.generator(job.seed, "spectrum"),
        progress=job.counted("probes"),
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
