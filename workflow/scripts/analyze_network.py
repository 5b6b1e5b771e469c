"""One analysis of one network: `analyses.<params.analysis>`."""

from analysis_files import job_of, write
from processes import run_in_processes
from stage import stage

from hessian_directions.analyses import problem, registry

run_in_processes(snakemake, __file__)

with stage(snakemake) as job:
    analysis = registry.analysis(job.params.analysis)
    studied = problem.from_params(job.params, job.cache, job.folder, job.input.checkpoint)
    settings = analysis.settings.model_validate(job.params.settings)
    result = analysis.module.run(studied, settings, job_of(job))
    write(job, analysis, result, studied.identity())
