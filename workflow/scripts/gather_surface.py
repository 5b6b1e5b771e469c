"""Put the rows of a slice together."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions.analyses import slices
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    dataset = slices.gather_surface([artifacts.read_dataset(path) for path in job.input.shards])
    artifacts.write_dataset(
        job.output.surface, dataset, artifacts.read_provenance(job.input.shards[0])
    )
