"""Score a network: losses, accuracies, the gradient that is left."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions.analyses import measurements, problem
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    dataset = measurements.measure(studied)
    artifacts.write_dataset(job.output.measurements, dataset, job.provenance(studied.identity()))
