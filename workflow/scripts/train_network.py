"""Train a network: its checkpoint, its history and the weights along the way."""

import torch
import xarray as xr
from stage import stage

from hessian_directions import seeds
from hessian_directions.analyses import problem
from hessian_directions.learning import checkpoints
from hessian_directions.learning.training import train
from hessian_directions.reproduction import artifacts

with stage(snakemake) as job:
    studied = problem.from_params(job.params, job.cache, job.folder)
    result = train(
        studied.model,
        studied.loss,
        studied.dataset.train,
        studied.dataset.test,
        job.params.training,
        seed=seeds.derive(problem.training_seed(job.params), "training"),
        device=studied.device,
        state_path=job.state_path(job.output.checkpoint),
        progress=job.progress,
    )
    history = xr.Dataset(
        {name: ("epoch", values) for name, values in result.history.items() if name != "epoch"},
        coords={"epoch": result.history["epoch"]},
        attrs={name: getattr(result, name) for name in ("kept_epoch", "epochs", "precision")},
    )
    provenance = job.provenance(studied.identity())
    artifacts.write_dataset(job.output.history, history, provenance)
    artifacts.write_tensors(job.output.snapshots, result.snapshots, provenance)
    precision = getattr(torch, job.params.checkpoint_precision)
    checkpoints.save(job.output.checkpoint, studied.model, provenance, precision)
