"""Draw one animation from its artifacts."""

import importlib
from typing import TYPE_CHECKING

import artifact_inputs
from stage import stage

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    module = importlib.import_module(f"hessian_directions.reporting.figures.{job.params.module}")
    module.animate(**artifact_inputs.load(job.input), labels=job.params.labels, path=job.output.gif)
