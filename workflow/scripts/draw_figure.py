"""Draw one figure from its artifacts, as PDF and PNG."""

import importlib
import inspect
from typing import TYPE_CHECKING

import artifact_inputs
from stage import stage

from hessian_directions.reporting.figures import drawing

if TYPE_CHECKING:
    from snakemake.script import snakemake

with stage(snakemake) as job:
    module = importlib.import_module(f"hessian_directions.reporting.figures.{job.params.module}")
    arguments = artifact_inputs.load(job.input)
    if "labels" in inspect.signature(module.draw).parameters:
        arguments["labels"] = job.params.labels
    drawing.save(module.draw(**arguments), job.output.pdf, job.output.png)
