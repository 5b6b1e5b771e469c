"""The artifact of an analysis from its shards."""

from typing import TYPE_CHECKING

from analysis_files import job_of
from stage import stage

from hessian_directions.analyses import registry
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    analysis = registry.analysis(job.params.analysis)
    settings = analysis.settings.model_validate(job.params.settings)
    shards = [artifacts.read_dataset(path) for path in job.input.shards]
    dataset = analysis.module.gather(shards, settings, job_of(job))
    made = artifacts.read_provenance(job.input.shards[0])
    provenance = job.provenance(made["data"])
    # What the shards were computed with, and what was said to the gathering beside that.
    provenance["configuration"] = made["configuration"] | provenance["configuration"]
    artifacts.write_dataset(job.output.artifact, dataset, provenance)
