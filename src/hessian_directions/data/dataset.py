"""Splits and data sets: tensors in memory, with what identifies them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessian_directions.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    Attributes
    ----------
    inputs
        (n, …) float32.
    targets
        (n,) int64 classes, or (n, m) float32 for regression.
    indices
        (n,) int64, each sample's place in the original data set.
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device | str) -> "Split":
        """The same samples with inputs and targets on a device."""
        return Split(self.inputs.to(device), self.targets.to(device), self.indices)

    def take(self, positions: Tensor | Sequence[int] | slice) -> "Split":
        """The samples at these positions of the split, in this order."""
        if not isinstance(positions, slice):
            positions = torch.as_tensor(positions, dtype=torch.int64)
        return Split(self.inputs[positions], self.targets[positions], self.indices[positions])

    @property
    def n_balanced(self) -> int:
        """The size of the largest balanced choice: as many of every class as the rarest one has."""
        counts = self.targets.unique(return_counts=True)[1]
        return int(counts.min()) * len(counts)

    def balanced(self, n: int) -> "Split":
        """The first n / (number of classes) samples of every class, in the split's order.

        Errors as in `balanced_positions`.
        """
        if self.targets.is_floating_point():
            raise DataError("a balanced choice needs classes, these targets are real numbers")
        return self.take(balanced_positions(self.targets, n))


@dataclass(frozen=True)
class Dataset:
    """A training and a test split on the CPU.

    Attributes
    ----------
    n_classes
        None for regression.
    identity
        What the numbers are and where they come from, as JSON can hold it: kind, counts,
        normalisation, and a sha256 of each split that does not depend on the source or the
        normalisation.
    """

    name: str
    train: Split
    test: Split
    n_classes: int | None
    identity: dict[str, Any]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def n_outputs(self) -> int:
        """What a network gives per sample: one score a class, or one number a target."""
        return self.n_classes or self.train.targets[0].numel()

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data with inputs and targets on a device."""
        return Dataset(
            self.name, self.train.to(device), self.test.to(device), self.n_classes, self.identity
        )


@dataclass(frozen=True)
class Normalisation:
    """Per channel, (value − mean) / deviation, in the units of the stored pixels."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def from_setting(cls, setting: Mapping[str, Any], n_channels: int) -> "Normalisation":
        """Read {mean: […], deviation: […]}, one number a channel."""
        if set(setting) != {"mean", "deviation"}:
            raise ConfigurationError("data.normalisation holds exactly the keys mean and deviation")
        mean, deviation = (tuple(map(float, setting[key])) for key in ("mean", "deviation"))
        if not len(mean) == len(deviation) == n_channels:
            raise ConfigurationError(
                f"data.normalisation: mean and deviation need {n_channels} numbers each, one a "
                "channel"
            )
        if min(deviation) <= 0:
            raise ConfigurationError("data.normalisation: deviations are positive")
        return cls(mean, deviation)

    @classmethod
    def of(cls, images: np.ndarray) -> "Normalisation":
        """Mean and standard deviation of every channel of images (n, h, w, c), computed exactly."""
        counts = np.stack(
            [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)]
        )
        values = np.arange(counts.shape[1])
        mean = counts @ values / counts.sum(1)
        variance = counts @ values**2 / counts.sum(1) - mean**2
        if variance.min() <= 0:
            raise DataError(
                "the training images are constant in one channel: state data.normalisation"
            )
        return cls(tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()))

    def __call__(self, images: np.ndarray) -> Tensor:
        """(n, h, w, c) uint8 to (n, c, h, w) float32."""
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32)
        shape = (1, -1, 1, 1)
        return (
            tensor.contiguous()
            .sub_(torch.tensor(self.mean, dtype=torch.float32).view(shape))
            .div_(torch.tensor(self.deviation, dtype=torch.float32).view(shape))
        )


def image_dataset(
    name: str,
    kind: str,
    images: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    indices: Mapping[str, np.ndarray],
    classes: Sequence[str],
    normalisation: Mapping[str, Any] | Normalisation | None,
    expected: Mapping[str, str] | None = None,
) -> Dataset:
    """A data set of uint8 images (n, h, w, c), labels (n,) and indices (n,), of "train" and "test".

    `normalisation` None takes mean and deviation of the training images. `expected` holds checksums
    that the splits must have. The checksum of a split is the sha256 of its uint8 images in index
    order, followed by the uint8 labels: equal for the same images from whatever source.
    """
    checksums = {split: pixel_sha256(images[split], labels[split]) for split in ("train", "test")}
    for split, checksum in (expected or {}).items():
        if split not in checksums:
            raise ConfigurationError(f"data.sha256 has a key {split}, it holds train and test")
        if checksums[split] != checksum:
            raise DataError(
                f"the {len(labels[split])} {split} images of {name} have sha256 "
                f"{checksums[split]}, not {checksum}: they are others, or in another order"
            )
    n_channels = images["train"].shape[-1]
    if normalisation is None:
        normalisation = Normalisation.of(images["train"])
    elif not isinstance(normalisation, Normalisation):
        normalisation = Normalisation.from_setting(normalisation, n_channels)
    train, test = (
        Split(
            normalisation(images[split]),
            torch.from_numpy(labels[split].astype(np.int64)),
            torch.from_numpy(indices[split].astype(np.int64)),
        )
        for split in ("train", "test")
    )
    identity = {
        "kind": kind,
        "n_train": len(train),
        "n_test": len(test),
        "classes": list(classes),
        "train_sha256": checksums["train"],
        "test_sha256": checksums["test"],
        "train_indices": index_ranges(train.indices),
        "test_indices": index_ranges(test.indices),
        "normalisation": {
            "mean": list(normalisation.mean),
            "deviation": list(normalisation.deviation),
        },
    }
    return Dataset(name, train, test, len(classes), identity)


def pixel_sha256(images: np.ndarray, labels: np.ndarray) -> str:
    """sha256 of uint8 images (n, h, w, c) followed by the labels as uint8."""
    digest = hashlib.sha256(np.ascontiguousarray(images, dtype=np.uint8).tobytes())
    digest.update(labels.astype(np.uint8).tobytes())
    return digest.hexdigest()


def balanced_positions(labels: Tensor, n: int) -> Tensor:
    """Where the first n / (number of classes) samples of every class stand, in ascending order.

    Raises DataError where n is no multiple of the number of classes, or a class has too few
    samples.
    """
    classes, counts = labels.unique(return_counts=True)
    each, rest = divmod(n, len(classes))
    if rest or each < 1:
        raise DataError(f"{n} samples cannot be balanced over {len(classes)} classes")
    if each > counts.min():
        scarce = classes[counts.argmin()].item()
        raise DataError(
            f"{n} balanced samples need {each} of each class, class {scarce} has "
            f"{counts.min().item()}"
        )
    chosen = [(labels == label).nonzero()[:each, 0] for label in classes]
    return torch.cat(chosen).sort().values


def positions(ranges: Sequence[Sequence[int]], key: str) -> np.ndarray:
    """The indices that half-open ranges [[start, stop], …] name, in ascending order.

    Raises ConfigurationError naming the key where a range is empty or meets an earlier one.
    """
    end = 0
    for pair in ranges:
        if len(pair) != 2 or not end <= pair[0] < pair[1]:
            raise ConfigurationError(
                f"data.{key}: {list(pair)} is not [start, stop] (stop excluded) after the ranges "
                "before it"
            )
        end = pair[1]
    return np.concatenate([np.arange(start, stop) for start, stop in ranges])


def index_ranges(indices: Tensor) -> list[list[int]]:
    """Indices in order as half-open ranges [[start, stop], …]: the inverse of `positions`."""
    breaks = ((indices[1:] - indices[:-1]) != 1).nonzero()[:, 0] + 1
    parts = torch.tensor_split(indices, breaks.tolist())
    return [[int(part[0]), int(part[-1]) + 1] for part in parts if len(part)]
