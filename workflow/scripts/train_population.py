"""Train some members of the population and measure their flatness."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions.analyses import population
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    dataset, identity = population.train_members(
        job.params.population,
        job.params.data_settings,
        job.cache,
        int(job.wildcards.job),
        job.params.seed,
        job.params.device,
        job.params.precision,
        job.progress,
    )
    artifacts.write_dataset(job.output.members, dataset, job.provenance(identity))
