"""Time one pass of each kind. Times vary from run to run, so they are all in the run record."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import passes, problem

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    job.record = passes.measure(
        studied.objective(),
        job.params.settings,
        seeds.generator(job.params.seed, "passes"),
        job.progress,
    )
