"""Splits and data sets: tensors in memory, with what identifies them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hessian_directions.data.keys import Statistics
from hessian_directions.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    Attributes:
        inputs: (n, …) float32, or int64 for token ids.
        targets: (n,) int64 classes, or (n, m) float32 for regression.
        indices: (n,) int64, each sample's place in the original data set.
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def inputs_on(self, device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """The inputs on a device: real numbers in this precision, token ids as they are."""
        return self.inputs.to(device, dtype if self.inputs.is_floating_point() else None)

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

    Attributes:
        name: For messages.
        n_classes: None for regression.
        identity: What the numbers are and where they come from, as JSON can hold it: kind, counts,
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

    def describe(self) -> str:
        """How the data were understood, in one line."""
        shape = self.input_shape
        tokens = not self.train.inputs.is_floating_point()
        sides = "×".join(map(str, shape))
        if len(shape) == 3:
            samples = f"images, {sides} (channels×height×width)"
        else:
            samples = f"{'sequences of token ids' if tokens else 'samples'} of shape {sides}"
        said = [f"{len(self.train)} training and {len(self.test)} test {samples}"]
        if self.n_classes is None:
            n = self.n_outputs
            said.append(f"{n} number{'s' * (n > 1)} to predict")
        else:
            names = self.identity.get("classes")
            said.append(f"{self.n_classes} classes" + (f" ({listed(names)})" if names else ""))
        units, transform = (self.identity.get(key) for key in ("normalisation", "transform"))
        if transform is not None:
            said.append(f"transformed by {transform}")
        if units is not None:
            mean, deviation = (_rounded(units[part]) for part in ("mean", "deviation"))
            said.append(f"normalised by mean {mean} and deviation {deviation}")
        elif transform is None and not tokens:
            said.append("not normalised")
        if note := self.identity.get("note"):
            said.append(note)
        return ", ".join(said)

    @property
    def n_outputs(self) -> int:
        """What a network gives per sample: one score a class, or one number a target."""
        return self.n_classes or self.train.targets[0].numel()


@dataclass(frozen=True)
class Normalisation:
    """Per channel, or per feature of a vector, (value − mean) / deviation in the stored units."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def from_setting(cls, setting: Statistics | None, train: np.ndarray) -> "Normalisation | None":
        """What a configuration asks for; None leaves the numbers as they are.

        Args:
            setting: {mean, deviation}, each one number or one a channel (a feature, for vectors).
                Statistics of pixels are in units of 0 … 255, or, where neither a mean nor a
                deviation is above 1, in fractions of 255; those of other numbers are in the
                numbers' own units. "train" takes the statistics of the training samples. "none"
                leaves numbers as they are, and divides pixels by 255 as torchvision's ToTensor
                does. None is "train" for pixels and "none" for other numbers.
            train: The training inputs, pixels (n, h, w, c) as uint8, or other numbers (n, c, …).

        Raises:
            ConfigurationError: The setting has another form, or a wrong count of numbers.
            DataError: Pixels are constant in one channel, so that no deviation can be had.
        """
        pixels = train.dtype == np.uint8
        n_channels = train.shape[-1 if pixels else 1]
        if setting is None:
            setting = "train" if pixels else "none"
        if setting == "none":
            return cls((0.0,) * n_channels, (255.0,) * n_channels) if pixels else None
        if setting == "train":
            return cls.of(train)
        if not isinstance(setting, Mapping) or set(setting) != {"mean", "deviation"}:
            raise ConfigurationError(
                "data.normalisation holds exactly the keys mean and deviation, or is none or train"
            )
        mean, deviation = (
            (float(v),) * n_channels if isinstance(v, int | float) else tuple(map(float, v))
            for v in (setting["mean"], setting["deviation"])
        )
        if not len(mean) == len(deviation) == n_channels:
            raise ConfigurationError(
                f"data.normalisation: mean and deviation need {n_channels} numbers each, one a "
                "channel"
            )
        if not min(deviation) > 0:
            raise ConfigurationError("data.normalisation: deviations are positive")
        if pixels and max(*mean, *deviation) <= 1:
            mean, deviation = (tuple(255 * x for x in values) for values in (mean, deviation))
        return cls(mean, deviation)

    @classmethod
    def of(cls, train: np.ndarray) -> "Normalisation":
        """Mean and standard deviation of every channel: of pixels (n, h, w, c) exact, else in float64.

        A constant feature of other numbers than pixels keeps its units.
        """
        if train.dtype != np.uint8:
            axes = tuple(axis for axis in range(train.ndim) if axis != 1)
            mean, deviation = train.mean(axes, np.float64), train.std(axes, np.float64)
            deviation[~(deviation > 0)] = 1.0
            return cls(tuple(mean.tolist()), tuple(deviation.tolist()))
        channels = np.moveaxis(train, -1, 0)
        counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])
        values = np.arange(256)
        mean = counts @ values / counts.sum(1)
        variance = counts @ values**2 / counts.sum(1) - mean**2
        if variance.min() <= 0:
            raise DataError(
                "the training images are constant in one channel: state data.normalisation"
            )
        return cls(tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()))

    def __call__(self, values: np.ndarray) -> Tensor:
        """Pixels (n, h, w, c) to (n, c, h, w) float32, other numbers (n, c, …) in their shape."""
        tensor = torch.from_numpy(values)
        if values.dtype == np.uint8:
            tensor = tensor.permute(0, 3, 1, 2)
        shape = (1, -1, *(1,) * (tensor.ndim - 2))
        return (
            # A copy: the array may be the user's own.
            tensor.to(torch.float32, copy=True)
            .contiguous()
            .sub_(torch.tensor(self.mean, dtype=torch.float32).view(shape))
            .div_(torch.tensor(self.deviation, dtype=torch.float32).view(shape))
        )


@dataclass(frozen=True)
class Stored:
    """The chosen samples of a split as they are stored, before any normalisation.

    Attributes:
        inputs: uint8 pixels (n, h, w, c), float32 numbers (n, …) or int64 token ids (n, …).
        targets: (n,) classes, or (n, m) real numbers.
        indices: (n,), each sample's place in the original data set.
    """

    inputs: np.ndarray
    targets: np.ndarray
    indices: np.ndarray


def assemble(
    name: str,
    kind: str,
    stored: Mapping[str, Stored],
    classes: Sequence[str] | None,
    normalisation: Statistics | Normalisation | None,
    expected: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Dataset:
    """A data set of what is stored of "train" and "test", normalised, with its identity.

    Args:
        name: For messages.
        kind: See `registry`.
        classes: Names of the classes; None for regression.
        normalisation: See `Normalisation.from_setting`.
        expected: {train, test}, checksums that the splits must have. The checksum of a split of
            pixels is the sha256 of its uint8 images in index order, followed by the labels: equal
            for the same images from whatever source.
        more: Further entries of the identity; None removes an entry.
    """
    checksums = {
        split: checksum(part.inputs, part.targets, len(classes or ()))
        for split, part in stored.items()
    }
    for split, wanted in (expected or {}).items():
        if split not in checksums:
            raise ConfigurationError(f"data.sha256 has a key {split}, it holds train and test")
        if checksums[split] != wanted:
            raise DataError(
                f"the {len(stored[split].targets)} {split} images of {name} have sha256 "
                f"{checksums[split]}, not {wanted}: they are others, or in another order"
            )
    inputs = stored["train"].inputs
    if not isinstance(normalisation, Normalisation):
        if inputs.dtype == np.int64 and normalisation not in (None, "none"):
            raise ConfigurationError("data.normalisation: token ids are not normalised")
        normalisation = Normalisation.from_setting(normalisation, inputs)
    splits = {
        split: Split(
            torch.from_numpy(part.inputs) if normalisation is None else normalisation(part.inputs),
            torch.from_numpy(part.targets.astype(np.float32 if classes is None else np.int64)),
            torch.from_numpy(part.indices.astype(np.int64)),
        )
        for split, part in stored.items()
    }
    identity: dict[str, Any] = {
        "kind": kind,
        "classes": None if classes is None else list(classes),
        "normalisation": None
        if normalisation is None
        else {"mean": list(normalisation.mean), "deviation": list(normalisation.deviation)},
    }
    for split, samples in splits.items():
        identity[f"n_{split}"] = len(samples)
        identity[f"{split}_sha256"] = checksums[split]
        identity[f"{split}_indices"] = index_ranges(samples.indices)
        if not samples.inputs.isfinite().all():
            raise DataError(
                f"data.normalisation: {split} inputs of {name} become NaN or infinite, divided by "
                f"{_rounded(identity['normalisation']['deviation'])}"
            )
    for key, value in (more or {}).items():
        identity[key] = value
        if value is None:
            del identity[key]
    n_classes = None if classes is None else len(classes)
    return Dataset(name, splits["train"], splits["test"], n_classes, identity)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in a sentence, cut after some."""
    return ", ".join([*names[:most], *["…"] * (len(names) > most)])


def _rounded(numbers: Sequence[float]) -> str:
    """One number a channel; where all are the same, that one."""
    shown = [f"{number:.4g}" for number in numbers]
    return shown[0] if len({*shown}) == 1 else f"({listed(shown, 4)})"


def checksum(inputs: np.ndarray, targets: np.ndarray, n_classes: int = 0) -> str:
    """sha256 of inputs followed by targets, in the order of the samples.

    Classes are taken as uint8 as long as there are no more than 256. What are not pixels are
    preceded by their type and shape.
    """
    digest = hashlib.sha256()
    if inputs.dtype != np.uint8:
        digest.update(f"{inputs.dtype} {inputs.shape}".encode())
    digest.update(np.ascontiguousarray(inputs).tobytes())
    real = targets.dtype.kind == "f"
    digest.update(
        targets.astype(np.float32 if real else np.uint8 if n_classes <= 256 else np.int64).tobytes()
    )
    return digest.hexdigest()


def stratified(targets: np.ndarray, n_test: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of a training and a test part, ascending; classes (n,) have equal shares in both.

    Raises ConfigurationError where there are too few samples, of a class or in all.
    """
    # Half a second, which stages on other data need not spend.
    from sklearn.model_selection import train_test_split

    if targets.dtype.kind != "f" and 1 in (counts := np.bincount(targets)):
        raise ConfigurationError(
            f"data.n_test: class {int((counts == 1).argmax())}, numbered from 0, has one sample, but "
            "training and test part need one each: add samples, or leave the class out"
        )
    try:
        train, test = train_test_split(
            np.arange(len(targets)),
            test_size=n_test,
            stratify=targets if targets.dtype.kind != "f" else None,
            random_state=seed,
        )
    except ValueError as error:
        raise ConfigurationError(
            f"data.n_test: {n_test} of {len(targets)} samples cannot be test samples: {error}"
        ) from error
    return np.sort(train), np.sort(test)


def balanced_positions(labels: Tensor, n: int) -> Tensor:
    """Where the first n / (number of classes) samples of every class stand, in ascending order.

    Raises DataError where n is no multiple of the number of classes, or a class has too few
    samples.
    """
    classes, counts = labels.unique(return_counts=True)
    each, rest = divmod(n, len(classes))
    if rest or each < 1:
        raise DataError(
            f"{n} samples cannot be balanced over {len(classes)} classes, multiples of "
            f"{len(classes)} can"
        )
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
