"""Draw one figure from its artifacts, as PDF and PNG."""

import importlib
import inspect

import artifact_inputs
from stage import stage

from hessian_directions.reporting.figures import drawing

with stage(snakemake) as job:
    module = importlib.import_module(f"hessian_directions.reporting.figures.{job.params.module}")
    arguments = artifact_inputs.load(job.input) | job.params.arguments
    if "labels" in inspect.signature(module.draw).parameters:
        arguments["labels"] = job.params.labels
    if sentence := artifact_inputs.nothing_left(job.input):
        figure = drawing.sentence(sentence)
    else:
        figure = module.draw(**arguments)
    drawing.save(figure, job.output.pdf, job.output.png)
