"""Estimate the density of the Hessian's eigenvalues."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import problem, spectra
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    objective = studied.objective()
    objective.self_test()
    dataset = spectra.estimate(
        objective,
        job.params.settings,
        seeds.generator(job.params.seed, "spectrum"),
        job.progress,
    )
    artifacts.write_dataset(job.output.spectrum, dataset, job.provenance(studied.identity()))
