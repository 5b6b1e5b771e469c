"""Gather the population and rank its measures against generalization."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import population_statistics
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    dataset = population_statistics.gather(
        [artifacts.read_dataset(path) for path in job.input.members],
        job.params.population,
        seeds.derive(job.params.seed, "bootstrap"),
    )
    provenance = artifacts.read_provenance(job.input.members[0])
    artifacts.write_dataset(
        job.output.population, dataset, provenance | {"configuration": job.configuration}
    )
