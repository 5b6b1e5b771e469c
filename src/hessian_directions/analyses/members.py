"""Members of a population: one network trained in many ways, stopped at one training loss.

`settings` are those of the analysis `population`.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from hessian_directions import seeds
from hessian_directions.analyses.curvature import summarize
from hessian_directions.analyses.job import Job
from hessian_directions.analyses.problem import LOSSES, choose_device, choose_loss
from hessian_directions.data import registry as data
from hessian_directions.data.cache import folder as cache_folder
from hessian_directions.data.dataset import Dataset, Split
from hessian_directions.geometry import flatness
from hessian_directions.learning.training import evaluate, train
from hessian_directions.models import registry as models
from hessian_directions.objectives.objective import Objective
from hessian_directions.spectral.eigenpairs import extreme_eigenpairs
from hessian_directions.traces import estimators

# Factors that are options of the model; `seed` is a factor of both, the others are training settings.
MODEL_FACTORS = ("width",)
INTEGERS = ("batch_size", "width", "seed")


def members(factors: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """Every combination of the factors, in a fixed order."""
    combinations = itertools.product(*factors.values())
    return [
        {
            name: int(value) if name in INTEGERS else float(value)
            for name, value in zip(factors, values)
        }
        for values in combinations
    ]


def train_members(settings: Any, job: Job) -> xr.Dataset:
    """Every n_shards-th member, trained and measured; with shard 0 the rescaled one."""
    dataset = data.load(job.data, cache_folder(job.cache), job.folder)
    job.identity.update(dataset.identity)
    mine = list(enumerate(members(settings.factors)))[job.shard :: settings.n_shards]
    rows = []
    for number, factors in mine:
        member_seed = seeds.derive(job.seed, "member", factors.get("seed", 0))
        model, row, images = _train_member(settings, factors, dataset, member_seed, job.device)
        objective = Objective(
            model.to(dtype=getattr(torch, job.precision)),
            LOSSES[settings.loss],
            images.inputs.to(job.device),
            images.targets.to(job.device),
        )
        row |= measure(objective, settings, seeds.derive(job.seed, "member", number, "curvature"))
        rows.append({"number": number} | factors | row)
        job.announce(f"member {len(rows)} of {len(mine)}")
    result = xr.Dataset({name: ("member", [row[name] for row in rows]) for name in rows[0]})
    if job.shard == 0:  # its last model is the counter-example: one function, many curvatures
        seed = seeds.derive(job.seed, "rescaling")
        result = result.merge(rescale(objective, model, images, settings, seed))
    return result


def _train_member(
    settings: Any,
    factors: Mapping[str, Any],
    dataset: Dataset,
    seed: int,
    device: str,
) -> tuple[nn.Module, dict[str, Any], Split]:
    options = dict(settings.model.options)
    training = dict(settings.training)
    for name, value in factors.items():
        if name in MODEL_FACTORS:
            options[name] = value
        elif name != "seed":
            training[name] = value
    loss = choose_loss(settings.loss, dataset)
    model = models.build(
        settings.model.name,
        options,
        input_shape=dataset.input_shape,
        n_outputs=dataset.n_outputs,
        seed=seeds.derive(seed, "initialisation"),
    )
    chosen_device = choose_device(device)
    result = train(model, loss, dataset.train, None, training, seed=seed, device=chosen_device)
    # Training loss and gap are on the labels that were trained on, noise included; test labels are clean.
    train_loss, train_accuracy = evaluate(model, loss, result.train)
    test_loss, test_accuracy = evaluate(model, loss, dataset.test)
    scores = {
        "reached": result.reached,
        "epochs": result.epochs,
        "train_loss": train_loss,
        "test_loss": test_loss,
        "gap_loss": test_loss - train_loss,
        "train_accuracy": train_accuracy,
        "test_accuracy": test_accuracy,
        "gap_accuracy": train_accuracy - test_accuracy,
    }
    return model, scores, result.train


def measure(objective: Objective, settings: Any, seed: int) -> dict[str, float]:
    """Every measure of flatness of one network."""
    summary = summarize(objective, settings.tolerance, settings.n_samples, seed)
    del summary["n_products"]
    return summary | flatness.normalised_measures(
        summary["trace"], summary["largest"], summary["theta_norm"], objective.n_parameters
    )


def rescale(
    objective: Objective, model: nn.Module, images: Split, settings: Any, seed: int
) -> xr.Dataset:
    """The same function with its first layer times s and the next over s: other curvatures (Dinh et al. 2017)."""
    rows = []
    for scale in settings.rescaling:
        rescaled = Objective(
            flatness.rescale(model, scale), LOSSES[settings.loss], *_tensors(objective, images)
        )
        pairs = extreme_eigenpairs(
            rescaled.hessian(),
            tolerance=settings.tolerance,
            seed=seeds.generator(seed, "start"),
        )
        estimate = estimators.hutchinson(
            rescaled.hessian(), settings.n_samples, seeds.generator(seed, "trace")
        )
        rows.append((float(rescaled.value()), estimate.mean, float(pairs.values[-1])))
    losses, traces, largest = zip(*rows)
    return xr.Dataset(
        {
            "rescaled_loss": ("scale", list(losses)),
            "rescaled_trace": ("scale", list(traces)),
            "rescaled_largest": ("scale", list(largest)),
        },
        coords={"scale": list(settings.rescaling)},
    )


def _tensors(objective: Objective, images: Split) -> tuple[Tensor, Tensor]:
    return images.inputs.to(objective.device), images.targets.to(objective.device)
