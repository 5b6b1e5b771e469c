"""Bring in a checkpoint made elsewhere, checked key by key against the model."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import checkpoints
from hessian_directions.studies import problem

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params)
    checkpoints.import_into(studied.model, job.params.checkpoint, job.params.cache)
    checkpoints.save(job.output.checkpoint, studied.model, job.provenance(studied.identity()))
