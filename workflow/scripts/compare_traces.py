"""Estimate the trace by every estimator, beside a reference."""

from typing import TYPE_CHECKING

from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import problem, step_study, trace_comparison
from hessian_directions.reproduction import artifacts

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.input.checkpoint)
    vectors = studied.vectors(artifacts.read_tensors(job.input.eigenvectors)["vectors"])
    objective = studied.objective()
    objective.self_test()
    dataset, seconds = trace_comparison.compare(
        objective,
        vectors,
        job.params.settings,
        seeds.derive(job.params.seed, "traces"),
        job.progress,
    )
    reference = artifacts.read_dataset(job.input.reference)
    dataset = dataset.assign(
        reference=reference["trace"],
        reference_standard_error=reference["trace_standard_error"],
    ).assign_attrs(
        reference_kind=reference.attrs["reference_kind"],
        activation=step_study.activation_kind(studied),
    )
    job.record["seconds"] = seconds
    artifacts.write_dataset(job.output.traces, dataset, job.provenance(studied.identity()))
