"""Members of a population: one network trained in many ways, stopped at one training loss.

`settings` are those of the analysis `population`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from hessian_directions import seeds
from hessian_directions.analyses.curvature import summarize
from hessian_directions.analyses.job import Job
from hessian_directions.analyses.problem import LOSSES, choose_device, choose_loss
from hessian_directions.data import registry as data
from hessian_directions.data.cache import folder as cache_folder
from hessian_directions.data.dataset import Dataset, Split
from hessian_directions.errors import about
from hessian_directions.geometry import flatness
from hessian_directions.learning.training import evaluate, train
from hessian_directions.models import registry as models
from hessian_directions.objectives.objective import Objective
from hessian_directions.spectral.eigenpairs import extreme_eigenpairs
from hessian_directions.traces.deflation import deflated_rest


def train_members(settings: Any, job: Job) -> xr.Dataset:
    """Every n_shards-th member, trained and measured; beside its own the rescaled one."""
    dataset = data.load(job.data, cache_folder(job.cache), job.folder)
    job.identity.update(dataset.identity)
    if settings.n_images is not None:
        with about("key 'analyses.population.n_images'"):
            dataset = replace(dataset, train=dataset.train.balanced(settings.n_images))
    numbered = list(enumerate(settings.members()))
    mine = numbered[job.shard :: settings.n_shards]
    # The counter-example, one function of many curvatures, is the last member of the first seed.
    first_seed = settings.factors["seed"][0]
    example = max(number for number, factors in numbered if factors["seed"] == first_seed)
    rows, rescaled = [], xr.Dataset()
    for number, factors in mine:
        member_seed = seeds.derive(job.seed, "member", factors.get("seed", 0))
        member = _train_member(settings, factors, dataset, member_seed, job.device)
        measured = partial(
            measure,
            member=member,
            settings=settings,
            precision=getattr(torch, job.precision),
            seed=seeds.derive(job.seed, "member", number, "curvature"),
        )
        rows.append({"number": number} | factors | member.scores | measured(member.model))
        if number == example:
            rescaled = rescale(member.model, measured, settings)
        job.announce(f"member {len(rows)} of {len(mine)}")
    result = xr.Dataset({name: ("member", [row[name] for row in rows]) for name in rows[0]})
    return result.merge(rescaled)


@dataclass(frozen=True)
class Member:
    """A trained network, and what its measures need beside its weights.

    Attributes:
        model: The network.
        initial: θ before training.
        images: The training images with the labels that were trained on, noise included.
        scores: How training ended, and losses and accuracies.
    """

    model: nn.Module
    initial: Tensor
    images: Split
    scores: dict[str, Any]


def _train_member(
    settings: Any, factors: Mapping[str, Any], dataset: Dataset, seed: int, device: str
) -> Member:
    options, training = settings.of_member(factors)
    loss = choose_loss(settings.loss, dataset)
    model = models.build(
        settings.model.name,
        options,
        input_shape=dataset.input_shape,
        n_outputs=dataset.n_outputs,
        seed=seeds.derive(seed, "initialisation"),
    )
    chosen_device = choose_device(device)
    initial = parameters_to_vector(model.to(chosen_device).parameters()).detach().clone()
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
    return Member(model, initial, result.train, scores)


def measure(
    model: nn.Module, member: Member, settings: Any, precision: torch.dtype, seed: int
) -> dict[str, float]:
    """Every measure of flatness of a network, the member's own or one with its function."""
    model = copy.deepcopy(model).to(precision)
    device = next(model.parameters()).device
    images, targets = member.images.inputs.to(device), member.images.targets.to(device)
    objective = Objective(model, LOSSES[settings.loss], images, targets)
    theta, n_samples, random = objective.theta, settings.n_samples, partial(seeds.generator, seed)
    row = summarize(objective, settings.tolerance, n_samples, seed)
    del row["n_products"]
    row["loss"] = float(objective.value())
    row["smallest_magnitude"] = abs(row["smallest"])
    sizes = row["trace"], row["largest"], row["theta_norm"]
    row |= flatness.normalised_measures(*sizes, objective.n_parameters)
    row |= _adaptive(objective, settings, seed)
    kappa = flatness.relative_flatness(objective, n_samples, random("relative flatness"))
    row["relative_flatness"] = sum(layer.mean for layer in kappa.values())
    row["relative_flatness_output"] = list(kappa.values())[-1].mean
    row["distance"] = float((theta - member.initial.to(theta)).double().norm())
    for radius in settings.average_radii:
        increase = flatness.average_increase(
            objective, radius, n_samples, random("average increase")
        )
        row[f"average_increase_{radius:g}"] = increase.mean
    for radius in settings.worst_radii:
        worst = flatness.worst_increase(objective, radius, settings.n_ascent_steps)
        row[f"worst_increase_{radius:g}"] = worst
    sharpness = flatness.m_sharpness(
        objective, settings.m_radius, settings.m, random("m-sharpness")
    )
    row["m_sharpness"] = sharpness.mean
    return row


def _adaptive(objective: Objective, settings: Any, seed: int) -> dict[str, float]:
    """Trace and largest eigenvalue of DHD, D = diag|θ|."""
    operator = flatness.ScaledOperator(objective.hessian(), objective.theta.abs())
    start = seeds.generator(seed, "adaptive start")
    pairs = extreme_eigenpairs(
        operator, k_smallest=0, tolerance=settings.tolerance, missed_probability=1.0, seed=start
    )
    generator = seeds.generator(seed, "adaptive trace")
    rest = deflated_rest(operator, pairs.vectors, settings.n_samples, generator)
    largest = float(pairs.values[-1])
    return {
        "adaptive_trace": largest + rest.trace,
        "adaptive_trace_standard_error": rest.trace_standard_error,
        "adaptive_largest": largest,
    }


def rescale(
    model: nn.Module, measured: Callable[[nn.Module], dict[str, float]], settings: Any
) -> xr.Dataset:
    """Every measure of one function, its first layer times s and the next over s (Dinh et al. 2017).

    The point where training began is not rescaled, as it is no part of the function.
    """
    rows = [measured(flatness.rescale(model, scale)) for scale in settings.rescaling]
    return xr.Dataset(
        {f"rescaled_{name}": ("scale", [row[name] for row in rows]) for name in rows[0]},
        coords={"scale": list(settings.rescaling)},
    )
