"""The density of a network's Hessian eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr
from pydantic import model_validator

from hessian_directions import settings as typed
from hessian_directions.settings import Count, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem


# Probes that share passes: of one shard.
TOGETHER = 4


class Settings(typed.Settings):
    n_probes: Several = setting(3, "random vectors")
    n_steps: Several = setting(50, "products of each")
    n_shards: Count | None = setting(
        None, f"shards that groups of {TOGETHER} probes are shared out over; null: one job"
    )

    @model_validator(mode="after")
    def _fit(self) -> Settings:
        typed.require_shards(self.n_shards, self.n_probes, TOGETHER)
        return self


def passes(settings: Settings) -> dict[str, float]:
    """Of the first shard, which has most probes."""
    probes = typed.largest_shard(settings.n_shards, settings.n_probes, TOGETHER)
    return {"products": probes * settings.n_steps}


def vectors(settings: Settings) -> float:
    """Of as many probes at once, each keeps its basis."""
    return min(settings.n_probes, TOGETHER) * settings.n_steps


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Nodes and weights of a shard's probes; all that they imply where there are no shards."""
    from hessian_directions import seeds
    from hessian_directions.geometry.directions import gaussian
    from hessian_directions.spectral.spectrum import spectral_density

    objective = problem.objective("train")
    generator, groups = seeds.generator(job.seed, "spectrum"), []
    for number, first in enumerate(range(0, settings.n_probes, TOGETHER)):
        k = min(TOGETHER, settings.n_probes - first)
        if number % (settings.n_shards or 1) != job.shard:
            gaussian(objective.n_parameters, k, generator)  # so that the next are the same
            continue
        H, progress = objective.hessian(), job.counted(f"probes from {first + 1} on")
        density = spectral_density(
            H, k, settings.n_steps, generator, probes_at_once=TOGETHER, progress=progress
        )
        quadrature = {"nodes": density.nodes, "weights": density.weights}
        groups.append(
            xr.Dataset(
                {name: (("probe", "node"), values) for name, values in quadrature.items()},
                coords={"probe": range(first, first + k)},
                attrs={"n_parameters": density.n_parameters},
            )
        )
    shard = xr.concat(groups, "probe")
    return shard if settings.n_shards else gather([shard], settings, job)


def gather(shards: Sequence[xr.Dataset], settings: Settings, job: Job) -> xr.Dataset:
    """Nodes and weights of the quadrature, probe by probe, and what they imply.

    The weights of a probe sum to one. `dimensions_needed` is d*, the dimension above which a random
    subspace sees a negative direction, with its standard error over the probes.
    """
    from hessian_directions.geometry.principal_curvatures import critical_dimension_of_density
    from hessian_directions.spectral.spectrum import SpectralDensity

    probes = xr.concat(shards, "probe").sortby("probe")
    nodes, weights = probes["nodes"].values, probes["weights"].values
    n_parameters = int(shards[0].attrs["n_parameters"])
    needed = critical_dimension_of_density(nodes, weights, n_parameters)
    dataset = SpectralDensity(nodes, weights, n_parameters).dataset()
    return dataset.assign(
        dimensions_needed=needed.dimension, dimensions_needed_standard_error=needed.standard_error
    )
