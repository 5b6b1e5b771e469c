"""Evaluate the loss along lines through the network."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import problem, slices
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    vectors = studied.vectors(artifacts.read_tensors(job.input.eigenvectors)["vectors"])
    dataset = slices.profiles(
        studied.objective(),
        vectors,
        job.params.settings,
        seeds.derive(job.params.seed, "profiles"),
        job.progress,
    )
    artifacts.write_dataset(job.output.profiles, dataset, job.provenance(studied.identity()))
