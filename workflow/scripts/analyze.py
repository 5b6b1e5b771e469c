"""One analysis that studies no network of the profile: `analyses.<params.analysis>`."""

from analysis_files import job_of, write
from stage import stage

from hessian_directions.analyses import registry

with stage(snakemake) as job:
    analysis = registry.analysis(job.params.analysis)
    settings = analysis.settings.model_validate(job.params.settings)
    told = job_of(job)
    write(job, analysis, analysis.module.run(settings, told), told.identity)
