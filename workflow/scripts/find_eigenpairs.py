"""Find the extreme eigenpairs of the Hessian, at both ends of the spectrum."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import extreme_curvature, problem
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    dataset, vectors = extreme_curvature.analyze(
        studied.objective(),
        job.params.settings,
        seeds.generator(job.params.seed, "eigenpairs"),
        state_path=job.state_path(job.output.eigenpairs),
        progress=job.progress,
    )
    provenance = job.provenance(studied.identity())
    artifacts.write_tensors(job.output.eigenvectors, {"vectors": vectors.cpu().numpy()}, provenance)
    artifacts.write_dataset(job.output.eigenpairs, dataset, provenance)
