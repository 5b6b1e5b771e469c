"""A problem: one network, its loss and its data, put together from configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from hessian_directions.autodiff.precision import use_full_precision
from hessian_directions.data import registry as data
from hessian_directions.data.cache import folder as cache_folder
from hessian_directions.data.dataset import Dataset, Split, index_ranges
from hessian_directions.data.identity import differing
from hessian_directions.errors import ConfigurationError, DataError, DeviceError, about
from hessian_directions.learning import checkpoints
from hessian_directions.models import registry as models
from hessian_directions.objectives.losses import Loss, mean_squared_error
from hessian_directions.objectives.objective import Objective
from hessian_directions.seeds import derive

LOSSES: dict[str, Loss] = {
    "cross_entropy": nn.functional.cross_entropy,
    "mean_squared_error": mean_squared_error,
}


@dataclass(frozen=True)
class Problem:
    """A network and what it is evaluated on."""

    model: nn.Module
    loss: Loss
    dataset: Dataset
    device: torch.device
    dtype: torch.dtype
    batch_size: int
    n_images: int | None

    def split(self, name: str) -> Split:
        """The images that curvature is taken over: all, or a balanced choice of `n_images` from the front."""
        split: Split = getattr(self.dataset, name)
        n = self.n_images
        if n is None or n >= len(split):
            return split
        if not self.dataset.n_classes:
            return split.take(range(n))
        if name == "test":  # a class may have fewer of them than n asks for
            n = min(n, split.n_balanced)
        with about(f"key 'n_images' of the {name} split"):
            return split.balanced(n)

    def over(self, n_images: int | None) -> "Problem":
        """The same, its curvature over another choice of images; None: over the same ones."""
        return self if n_images is None else replace(self, n_images=n_images)

    def objective(self, split: str = "train") -> Objective:
        """L(θ) over the images of a split, in the precision of the curvature analyses.

        In one of several processes, which `torch.distributed` has joined, each has a share of them.
        """
        images, group = self.split(split), None
        inputs, targets = images.inputs, images.targets
        if dist.is_initialized():
            group, count, rank = dist.group.WORLD, dist.get_world_size(), dist.get_rank()
            if len(images) < count:
                raise DataError(
                    f"{len(images)} {split} images cannot be shared out over {count} processes; "
                    "lower key 'processes'"
                )
            inputs, targets = (part.tensor_split(count)[rank] for part in (inputs, targets))
        model = self.model.to(device=self.device, dtype=self.dtype)
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        return Objective(model, self.loss, inputs, targets, batch_size=self.batch_size, group=group)

    def vectors(self, array: np.ndarray) -> Tensor:
        """Directions read from an artifact, on the device and in the precision of the objective."""
        return torch.from_numpy(array).to(self.device, self.dtype)

    def identity(self) -> dict[str, Any]:
        """The data's identity with the number of images used; belongs to every artifact."""
        studied = index_ranges(self.split("train").indices)
        return dict(self.dataset.identity) | {"studied_indices": studied}


def choose_loss(name: str | None, dataset: Dataset) -> Loss:
    """The loss of that name, or the one that fits; ConfigurationError for one that does not fit."""
    if dataset.n_classes is not None:
        if name == "mean_squared_error":
            raise ConfigurationError(
                f"key 'loss' is {name}, but the targets of {dataset.name} are classes, which need "
                "cross_entropy: store numbers to predict as floats, y.astype(float)"
            )
        return LOSSES["cross_entropy"]
    remedy = "store classes as integers, y.astype(int), or y.argmax(1) of one-hot rows"
    if name == "cross_entropy":
        raise ConfigurationError(
            f"key 'loss' is {name}, but the targets of {dataset.name} are floats, numbers to "
            f"predict: {remedy}"
        )
    if name is None and _look_like_classes(dataset.train.targets):
        raise ConfigurationError(
            f"the targets of {dataset.name} are floats, but look like classes: {remedy}; or state "
            "key 'loss': mean_squared_error to predict them as numbers"
        )
    return LOSSES["mean_squared_error"]


def _look_like_classes(targets: Tensor) -> bool:
    """Whether targets (n, m) are whole numbers of few values, or rows of shares that add up to 1."""
    if bool((targets == targets.round()).all()):
        return 2 * len(targets.unique()) <= len(targets)
    sums = targets.sum(1)
    are_shares = targets.shape[1] > 1 and bool((targets >= 0).all())
    return are_shares and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


def choose_device(name: str) -> torch.device:
    """The device of that name; DeviceError where it is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "key 'device' is 'cuda', but this machine has no GPU that PyTorch can use; set it to 'cpu'"
        )
    if name == "cuda":
        use_full_precision()
    return torch.device(name)


def load(
    network: Mapping[str, Any],
    *,
    seed: int,
    device: str,
    precision: str,
    cache: str | None,
    folder: Path | None = None,
    checkpoint: str | Path | None = None,
) -> Problem:
    """The problem a configuration describes, with the weights of a checkpoint or initial ones.

    Args:
        network: Its settings, with those of its data under `data_settings`.
        seed: Of the initial weights.
        precision: That of curvature.
        folder: Of the configuration, where its files and modules are looked for first.
        checkpoint: A file of weights that the workflow wrote.

    Raises:
        DataError: The checkpoint was made with other data of this name.
    """
    chosen_device = choose_device(device)
    read_data = partial(load_data, network, cache=cache, folder=folder)
    dataset = read_data()
    model = models.build(
        network["model"]["name"],
        network["model"]["options"],
        input_shape=dataset.input_shape,
        n_outputs=dataset.n_outputs,
        seed=seed,
        input_dtype=dataset.train.inputs.dtype,
        folder=folder,
    )
    if checkpoint is not None:
        made_with = checkpoints.load(checkpoint, model).get("data", {})
        if others := differing(dataset.identity, made_with):
            is_random = bool(differing(dataset.identity, read_data().identity))
            raise DataError(_other_data(network["data"], others, checkpoint, is_random))
    return Problem(
        model=model,
        loss=choose_loss(network["loss"], dataset),
        dataset=dataset,
        device=chosen_device,
        dtype=getattr(torch, precision),
        batch_size=network.get("batch_size", 256),
        n_images=network.get("n_images"),
    )


def load_data(
    network: Mapping[str, Any], *, cache: str | None, folder: Path | None = None
) -> Dataset:
    """The data set alone, see `load`."""
    # The published model whose own transform is meant where a transform names none.
    published = network["model"]["name"]
    library = published.partition(":")[0]
    if weights := (network.get("checkpoint") or {}).get("name"):
        published = f"{library}:{weights}"
    if library not in ("timm", "torchvision"):
        published = None
    settings, name = network["data_settings"], network.get("data")
    return data.load(settings, cache_folder(cache), folder, published=published, name=name)


def _other_data(name: str, splits: list[str], checkpoint: str | Path, is_random: bool) -> str:
    """Every job reads the data anew: weights and curvature would be those of different losses."""
    if is_random:
        return f"data.{name} is another one in every job: give what is random in it a seed"
    return (
        f"data.{name}: its {' and '.join(splits)} samples are not those that {checkpoint} was made "
        "with: they have changed since, or are others in every job (give what is random a seed)"
    )


def from_params(
    params: Any, cache: str | None, folder: Path | None = None, checkpoint: str | Path | None = None
) -> Problem:
    """The problem of a job, whose parameters are seed, device, precision and network."""
    return load(
        params.network,
        seed=derive(training_seed(params), "initialisation"),
        device=params.device,
        precision=params.precision,
        cache=cache,
        folder=folder,
        checkpoint=checkpoint,
    )


def training_seed(params: Any) -> int:
    """The seed of a network's initial weights and training: the profile's, or one of its own."""
    own = params.network["seed"]
    return params.seed if own is None else derive(params.seed, "network", own)
