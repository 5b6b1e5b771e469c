"""Evaluate some rows of a two-dimensional slice of the loss."""

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
    objectives = {split: studied.objective(split) for split in ("train", "test")}
    plane = job.wildcards.plane
    directions, normalisation = slices.plane(
        objectives["train"], plane, vectors, seeds.derive(job.params.seed, "surface")
    )
    dataset = slices.surface_shard(
        objectives,
        directions,
        normalisation,
        job.params.settings,
        job.params.settings[f"{plane}_radius"],
        int(job.wildcards.shard),
        job.progress,
    )
    artifacts.write_dataset(job.output.shard, dataset, job.provenance(studied.identity()))
