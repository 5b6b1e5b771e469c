"""Estimate the traces of synthetic saddles by every estimator."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import saddles
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    dataset, seconds = saddles.compare_traces(
        job.params.synthetic,
        job.params.fit_points,
        seeds.derive(job.params.seed, "saddle traces"),
        job.progress,
    )
    job.record["seconds"] = seconds
    artifacts.write_dataset(job.output.traces, dataset, job.provenance())
