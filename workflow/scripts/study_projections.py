"""Gather the projected Hessians of random planes: how visible is the saddle?"""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import artifacts, seeds
from hessian_directions.studies import problem, sampled_projections

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.input.checkpoint)
    vectors = studied.vectors(artifacts.read_tensors(job.input.eigenvectors)["vectors"])
    objective = studied.objective()
    objective.self_test()
    dataset = sampled_projections.study(
        objective,
        [artifacts.read_dataset(path) for path in job.input.shards],
        artifacts.read_dataset(job.input.eigenpairs),
        vectors,
        job.params.settings,
        seeds.derive(job.params.seed, "projections"),
        job.progress,
    )
    artifacts.write_dataset(job.output.projections, dataset, job.provenance(studied.identity()))
