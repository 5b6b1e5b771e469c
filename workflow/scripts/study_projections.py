"""Gather the projected Hessians of random planes: how visible is the saddle?"""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import sampled_projections
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    dataset = sampled_projections.study(
        [artifacts.read_dataset(path) for path in job.input.shards],
        artifacts.read_dataset(job.input.reference),
        artifacts.read_dataset(job.input.eigenpairs),
        job.params.settings["n_spectrum_samples"],
        seeds.derive(job.params.seed, "projections"),
    )
    data = artifacts.read_provenance(job.input.reference)["data"]
    artifacts.write_dataset(job.output.projections, dataset, job.provenance(data))
