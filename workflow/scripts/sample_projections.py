"""Sample projected Hessians of random planes: one file of them."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import problem, sampled_projections
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    objective = studied.objective()
    objective.self_test()
    dataset = sampled_projections.sample(
        objective,
        job.params.settings,
        seeds.derive(job.params.seed, "projections", job.wildcards.shard),
        job.progress,
    )
    artifacts.write_dataset(job.output.shard, dataset, job.provenance(studied.identity()))
