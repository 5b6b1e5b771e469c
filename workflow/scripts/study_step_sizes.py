"""Study what second differences of the loss measure, against their step."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import problem, step_study
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    dataset = step_study.study(
        studied, job.params.settings, seeds.generator(job.params.seed, "step sizes")
    )
    artifacts.write_dataset(job.output.step_sizes, dataset, job.provenance(studied.identity()))
