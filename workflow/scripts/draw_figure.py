"""Draw one figure from its artifacts, as PDF and PNG, or one animation, as GIF."""

import importlib
import inspect

import artifact_inputs
from stage import stage

from hessian_directions.reporting.figures import drawing

with stage(snakemake) as job:
    module = importlib.import_module(f"hessian_directions.reporting.figures.{job.params.module}")
    animation = job.output.get("gif")
    draw = module.animate if animation else module.draw
    arguments = artifact_inputs.load(job.input) | job.params.arguments
    if "labels" in inspect.signature(draw).parameters:
        arguments["labels"] = job.params.labels
    sentence = artifact_inputs.nothing_left(job.input)
    if animation and sentence:
        drawing.save_animation(animation, drawing.sentence(sentence), lambda i: None, 1)
    elif animation:
        draw(**arguments, path=animation)
    else:
        figure = drawing.sentence(sentence) if sentence else draw(**arguments)
        drawing.save(figure, job.output.pdf, job.output.png)
