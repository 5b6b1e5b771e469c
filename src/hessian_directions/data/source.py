"""What can be read sample by sample: which samples are chosen, and only those are read and kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from hessian_directions import references
from hessian_directions.arrays import memory
from hessian_directions.data import images
from hessian_directions.data.dataset import Stored, balanced_positions, listed, stratified
from hessian_directions.data.keys import Seed
from hessian_directions.errors import ConfigurationError, DataError, about
from hessian_directions.settings import Count, Natural, Share

# What parts of data are called, in capitals or not; the first one that is there counts.
TRAINING_PARTS = ("train", "training")
TEST_PARTS = ("test", "testing", "val", "validation", "valid")


@dataclass(frozen=True)
class Source:
    """Samples of which only the targets have been read so far.

    Attributes:
        name: For messages.
        targets: (n,) int64 classes, or (n, m) float32 numbers; see `targets_of`.
        read: The inputs at places (m,), as `Stored` has them.
        classes: Their names, where they have some; else they are called by their numbers.
    """

    name: str
    targets: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of the samples are used: the keys of all kinds of data that are read sample by sample.

    Args:
        n_train: Training samples that are used: a choice from the front, balanced over the classes;
            None: all.
        n_test: Test samples that are used, chosen alike. Without a test part so many of the training
            samples become test samples, in a stratified split; 0 lets the training samples double
            as test samples.
        test_share: In place of `n_test` without a test part: share of the samples, between 0 and 1.
        seed: Of the stratified split.
    """

    n_train: Count | None = None
    n_test: Natural | None = None
    test_share: Share | None = None
    seed: Seed = 0

    def of(
        self, train: Source, test: Source | None, n_classes: int | None
    ) -> tuple[dict[str, Stored], list[str] | None, dict[str, Any]]:
        """The chosen samples of "train" and "test", the names of the classes, and what to add to the identity.

        Args:
            train: All samples that may be training samples, test samples too where `test` is None.
            test: The test samples.
            n_classes: Stated by the user, which allows for classes without samples; None: counted.

        Raises:
            ConfigurationError: The numbers are not to be had.
            DataError: A class has no samples, or a target is none of the classes.
        """
        n_test, test_share = self.n_test, self.test_share
        sources = {"train": train} | ({} if test is None else {"test": test})
        kinds = {source.targets.dtype.kind for source in sources.values()}
        shapes = {source.targets.shape[1:] for source in sources.values()}
        if len(kinds) > 1 or len(shapes) > 1:
            raise DataError(f"{train.name}: training and test targets are of different kinds")
        classes: list[str] | None = None
        if kinds == {"i"}:
            n_classes = _count(sources, n_classes)
            has_names = len(train.classes) == n_classes
            classes = [*train.classes] if has_names else [str(k) for k in range(n_classes)]
        elif n_classes is not None:
            raise ConfigurationError(
                f"data.n_classes: the targets of {train.name} are real numbers"
            )
        chosen = {split: np.arange(len(source)) for split, source in sources.items()}
        more: dict[str, Any] = {}
        if test is None and n_test != 0:
            if (n_test is None) == (test_share is None):
                having = f" (its classes are {listed(train.classes)})" if train.classes else ""
                raise ConfigurationError(
                    f"{train.name} has no test part{having}: state either data.n_test or data.test_share, or "
                    "data.n_test: 0 to let the training samples double as test samples"
                )
            if test_share is not None:
                n_test = round(test_share * len(train))
            assert n_test is not None
            chosen["train"], chosen["test"] = stratified(train.targets, n_test, self.seed)
            # It is named by its seed; hundreds of ranges say less.
            more = {"train_indices": None, "test_indices": None, "split_seed": self.seed}
            n_test = None
        elif test_share is not None:
            raise ConfigurationError(
                "data.test_share: "
                + ("n_test is stated" if test is None else f"{train.name} has a test part")
            )
        for split, n in (("train", self.n_train), ("test", n_test)):
            if n is not None and (places := chosen.get(split)) is not None:
                chosen[split] = places[_front(sources.get(split, train).targets[places], n, split)]
        stored = {
            split: _stored(sources.get(split, train), places) for split, places in chosen.items()
        }
        if "test" not in stored:
            stored["test"] = stored["train"]
            more = {"note": "the training samples double as test samples"}
        ours, theirs = (stored[split].inputs for split in ("train", "test"))
        if (ours.dtype, ours.shape[1:]) != (theirs.dtype, theirs.shape[1:]):
            raise DataError(
                f"{train.name}: training inputs have shape {ours.shape[1:]} and type {ours.dtype}, "
                f"test inputs {theirs.shape[1:]} and {theirs.dtype}"
            )
        return stored, classes, more


def _count(sources: Mapping[str, Source], stated: int | None) -> int:
    n_classes = stated or 1 + max(int(source.targets.max()) for source in sources.values())
    for split, source in sources.items():
        counts = np.bincount(source.targets, minlength=n_classes)
        if len(counts) > n_classes:
            raise DataError(
                f"{source.name}: {split} target {len(counts) - 1} is outside the {n_classes} classes "
                "(data.n_classes), which are numbered from 0"
            )
        if stated is None and not counts.all():
            raise DataError(
                f"{source.name}: class {int(counts.argmin())} of 0 … {n_classes - 1} has no {split} "
                "sample: classes are numbered from 0; state data.n_classes if that is meant"
            )
    if n_classes < 2:
        raise DataError(f"{sources['train'].name} holds one class alone")
    return n_classes


def _front(targets: np.ndarray, n: int, split: str) -> np.ndarray:
    key = f"data.n_{split}"
    if n < 1:
        raise ConfigurationError(f"{key}: {n} is not a number of samples")
    if targets.dtype.kind == "f":
        if n > len(targets):
            raise ConfigurationError(f"{key}: there are {len(targets)} samples, not {n}")
        return np.arange(n)
    with about(key):
        return balanced_positions(torch.from_numpy(targets), n).numpy()


def _stored(source: Source, places: np.ndarray) -> Stored:
    inputs = source.read(places)
    if inputs.dtype == np.uint8 and inputs.ndim != 4:
        inputs = inputs.astype(np.float32)
    if inputs.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(inputs.reshape(len(inputs), -1)).all(1))
        if len(wrong):
            raise DataError(
                f"{source.name}: the inputs of {len(wrong)} samples, first of number "
                f"{places[wrong[0]]}, are NaN or infinite"
            )
    return Stored(inputs, source.targets[places], places)


def targets_of(values: Any, name: str) -> np.ndarray:
    """Targets as (n,) int64 classes or (n, m) float32 numbers, by the kind of number they are.

    Raises:
        DataError: They are neither; the message names them as `name`.
    """
    try:
        array = images.as_array(values)
    except ValueError as error:
        raise DataError(f"{name} differ in shape") from error
    if len(array) == 0:
        raise DataError(f"{name}: there are no samples")
    if array.dtype.kind == "f":
        array = array.astype(np.float32).reshape(len(array), -1)
        if not np.isfinite(array).all():
            wrong = int(np.flatnonzero(~np.isfinite(array).all(1))[0])
            raise DataError(f"{name} are NaN or infinite, first of sample {wrong}")
        return array
    if array.dtype.kind not in "iub":
        raise DataError(
            f"{name} are of type {array.dtype}: neither integers nor real numbers; number classes "
            "from 0, as np.unique(y, return_inverse=True)[1] does"
        )
    if array.size != len(array):
        raise DataError(
            f"{name} have shape {array.shape}: classes are integers, one a sample, as y.argmax(1) "
            "makes them of one-hot rows, and numbers to predict are of a floating-point type"
        )
    array = array.reshape(-1).astype(np.int64)
    if array.min() < 0:
        raise DataError(f"{name}: class {array.min()} of sample {array.argmin()} is negative")
    return array


def stack(read: Callable[[int], np.ndarray], places: np.ndarray, name: str) -> np.ndarray:
    """The inputs at these places, which have one shape and are the same when they are read again.

    Raises:
        DataError: They have several shapes, or change, or would not fit into memory.
    """
    first = read(int(places[0]))
    # Twice: as they are stored, and normalised as float32.
    n_bytes = len(places) * first.size * (first.itemsize + 4)
    if n_bytes > memory():
        raise DataError(
            f"{name}: {len(places)} samples of shape {first.shape} need {n_bytes / 1e9:.0f} GB of "
            "memory: state data.n_train and data.n_test"
        )
    inputs = np.empty((len(places), *first.shape), first.dtype)
    for row, place in enumerate(places):
        sample = first if row == 0 else read(int(place))
        if sample.shape != first.shape or sample.dtype != first.dtype:
            if first.dtype == sample.dtype == np.uint8:
                raise DataError(f"{name}: the images have several sizes, state data.size")
            raise DataError(
                f"{name}: sample {places[0]} has shape {first.shape} and type {first.dtype}, sample "
                f"{place} {sample.shape} and {sample.dtype}"
            )
        inputs[row] = sample
    for row in np.unique(np.linspace(0, len(places) - 1, 16).astype(int)):
        if not np.array_equal(read(int(places[row])), inputs[row], equal_nan=True):
            raise DataError(
                f"{name}: sample {places[row]} is another one when it is read again, as random "
                "augmentation makes it: transforms have to be those of evaluation"
            )
    return inputs


def from_torch(
    samples: Any,
    name: str,
    convert: Callable[[Any], np.ndarray] = images.numbers,
    classes: tuple[str, ...] = (),
) -> Source:
    """The samples (input, target) of a map-style `torch.utils.data.Dataset`.

    Targets are taken from where data sets keep them, so that inputs which are not chosen are not
    read; where there is no such place every sample is read once.

    Raises:
        DataError: It has no length, a sample is no pair, or reading one fails; for an error in the
            user's code the message ends with its file and line.
    """

    def read(place: int) -> tuple[Any, Any]:
        with references.failing(DataError, f"{name}: sample {place} cannot be read"):
            sample = samples[place]
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise DataError(
                f"{name}: a sample is a {type(sample).__name__}, not a pair of input and target"
            )
        return sample[0], sample[1]

    try:
        n = len(samples)
    except TypeError as error:
        raise DataError(
            f"{name} has no length: samples are read by their number, from a data set with "
            "__len__ and __getitem__"
        ) from error
    if n == 0:
        raise DataError(f"{name}: there are no samples")
    kept = _kept_targets(samples, n)
    if kept is None or not all(_same(kept[i], read(i)[1]) for i in {0, n // 2, n - 1}):
        kept = [read(place)[1] for place in range(n)]
    if not isinstance(kept, Tensor) and isinstance(kept[0], Tensor):
        kept = torch.stack(list(kept))
    targets = targets_of(kept, f"{name}: targets")

    def inputs(places: np.ndarray) -> np.ndarray:
        def one(place: int) -> np.ndarray:
            sample, target = read(place)
            if not _same(targets[place], target):
                raise DataError(
                    f"{name}: sample {place} has target {target}, but {targets[place]} was listed"
                )
            return convert(sample)

        return stack(one, places, name)

    return Source(name, targets, inputs, classes)


def _kept_targets(samples: Any, n: int) -> Sequence[Any] | np.ndarray | Tensor | None:
    """Where a data set keeps its targets, if it does."""
    if isinstance(samples, torch_data.Subset):
        kept = _kept_targets(samples.dataset, len(samples.dataset))  # type: ignore[arg-type]
        return None if kept is None else [kept[place] for place in samples.indices]
    if isinstance(samples, torch_data.TensorDataset) and len(samples.tensors) == 2:
        return samples.tensors[1]
    for attribute in ("targets", "labels", "_labels", "y"):
        kept = getattr(samples, attribute, None)
        if isinstance(kept, list | tuple | np.ndarray | Tensor) and len(kept) == n:
            return kept
    for attribute in ("samples", "_samples"):
        pairs = getattr(samples, attribute, None)
        if isinstance(pairs, list) and len(pairs) == n and len(pairs[0]) == 2:
            return [target for _, target in pairs]
    return None


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(np.allclose(np.ravel(one), np.ravel(other), rtol=1e-6))
    except (TypeError, ValueError):
        return False
