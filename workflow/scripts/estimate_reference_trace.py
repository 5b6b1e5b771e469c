"""Estimate the trace of the Hessian that samples and estimators are compared with."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import problem, reference_trace
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    vectors = studied.vectors(artifacts.read_tensors(job.input.eigenvectors)["vectors"])
    objective = studied.objective()
    objective.self_test()
    dataset = reference_trace.estimate(
        objective,
        artifacts.read_dataset(job.input.eigenpairs),
        vectors,
        job.params.settings,
        seeds.derive(job.params.seed, "projections"),
        job.progress,
    )
    artifacts.write_dataset(job.output.reference, dataset, job.provenance(studied.identity()))
