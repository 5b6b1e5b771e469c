"""One analysis that studies no network of the profile: `analyses.<params.analysis>`."""

from typing import TYPE_CHECKING

from analysis_files import job_of, write
from stage import stage

from hessian_directions.analyses import registry

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    analysis = registry.analysis(job.params.analysis)
    settings = analysis.settings.model_validate(job.params.settings)
    told = job_of(job)
    write(job, analysis, analysis.module.run(settings, told), told.identity)
