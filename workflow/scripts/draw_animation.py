"""Draw one animation from its artifacts."""

import importlib

import artifact_inputs
from stage import stage

from hessian_directions.reporting.figures import drawing

with stage(snakemake) as job:
    module = importlib.import_module(f"hessian_directions.reporting.figures.{job.params.module}")
    if sentence := artifact_inputs.nothing_left(job.input):
        drawing.save_animation(job.output.gif, drawing.sentence(sentence), lambda i: None, 1)
    else:
        arguments = artifact_inputs.load(job.input)
        module.animate(**arguments, labels=job.params.labels, path=job.output.gif)
