"""One analysis of one network: `analyses.<params.analysis>`."""

from typing import TYPE_CHECKING

from analysis_files import job_of, write
from stage import stage

from hessian_directions.analyses import problem, registry

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    analysis = registry.analysis(job.params.analysis)
    studied = problem.from_params(job.params, job.cache, job.folder, job.input.checkpoint)
    settings = analysis.settings.model_validate(job.params.settings)
    result = analysis.module.run(studied, settings, job_of(job))
    write(job, analysis, result, studied.identity())
