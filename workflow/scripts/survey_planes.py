"""Survey the lowest loss over random planes and over the Hessian plane."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import problem, slices
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    vectors = studied.vectors(artifacts.read_tensors(job.input.eigenvectors)["vectors"])
    dataset = slices.survey(
        studied.objective(),
        vectors,
        job.params.settings,
        seeds.derive(job.params.seed, "planes"),
        job.progress,
    )
    artifacts.write_dataset(job.output.planes, dataset, job.provenance(studied.identity()))
