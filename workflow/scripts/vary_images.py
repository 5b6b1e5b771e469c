"""Measure both ends of the spectrum and the trace over one number of images."""

import dataclasses
from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import image_counts, problem
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = dataclasses.replace(
        problem.from_params(job.params, job.cache, job.input.checkpoint),
        n_images=int(job.wildcards.n_images),
    )
    dataset = image_counts.study(
        studied.objective(),
        job.params.settings,
        seeds.derive(job.params.seed, "image counts"),
        state_path=job.state_path(job.output.counted),
        progress=job.progress,
    )
    artifacts.write_dataset(job.output.counted, dataset, job.provenance(studied.identity()))
