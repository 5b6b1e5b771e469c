"""Bring in a checkpoint made elsewhere, checked key by key against the model, and by what it scores."""

from stage import stage

from hessian_directions.analyses import problem
from hessian_directions.learning import checkpoints
from hessian_directions.learning.training import evaluate

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.folder)
    settings = job.params.checkpoint
    beside = checkpoints.import_into(studied.model, settings, job.cache, job.folder)
    for note in beside.get("notes", []):
        job.log.info(note)
    loss, accuracy = evaluate(studied.model, studied.loss, studied.dataset.test)
    scores = {"test_loss": loss, "test_accuracy": accuracy}
    job.log.info(f"test loss {loss:.5f}, test accuracy {accuracy:.5f}")
    checkpoints.require_scores(settings, scores)
    checkpoints.save(job.output.checkpoint, studied.model, job.provenance(studied.identity()))
