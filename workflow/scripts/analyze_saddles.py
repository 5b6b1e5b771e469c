"""Analyze synthetic saddles, whose curvature is known in closed form."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import saddles
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    dataset = saddles.analyze(
        job.params.synthetic, seeds.derive(job.params.seed, "saddles"), job.progress
    )
    artifacts.write_dataset(job.output.saddles, dataset, job.provenance())
