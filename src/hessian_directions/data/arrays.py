"""Arrays in NumPy's files: inputs and targets of any shape."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hessian_directions.data import cache as cache_folder
from hessian_directions.data import images
from hessian_directions.data.dataset import Dataset, assemble
from hessian_directions.data.keys import ChannelAxis, Classes, Named, Names, Statistics
from hessian_directions.data.source import TEST_PARTS, TRAINING_PARTS, Choice, Source, targets_of
from hessian_directions.errors import ConfigurationError, DataError
from hessian_directions.settings import Flag

INPUTS = ("x", "images", "inputs", "data", "features", "tokens", "input_ids")
TARGETS = ("y", "labels", "targets", "label", "target", "classes")


def arrays(
    *,
    cache: Path,
    folder: Path | None = None,
    path: Named,
    test_path: Named | None = None,
    names: Names | None = None,
    channels: ChannelAxis | None = None,
    tokens: Flag | None = None,
    n_classes: Classes | None = None,
    normalisation: Statistics | None = None,
    **choice: Any,
) -> Dataset:
    """Inputs of any shape, with classes or with numbers to predict, from an .npz or .npy files.

    Targets of an integer type are classes, numbered from 0; those of a floating-point type are
    numbers that are predicted.

    Args:
        path: An ``.npz`` file, or a folder of ``.npy`` files, of which only the chosen samples are
            read. It is looked for in the folder of the configuration, the working folder and the
            cache folder.
        test_path: Another one with the test samples; None: they are in `path`, if anywhere.
        names: Names of the arrays, {x_train, y_train, x_test, y_test}; those that are not stated
            are found among usual ones: x_train, train_images, X, inputs, images …; y_train,
            train_labels, y, targets, labels …; test samples also as x_val, val_images ….
        channels: Of images (n, ·, ·, ·): "last" (n, h, w, c) or "first" (n, c, h, w); either says of
            (n, ·, ·) that they are grey images. None: the axis beside two of equal length, the
            sides of a square; else that of 1, 3 or 4 entries; where both have so many, the last of
            uint8 images and the first of others. Of three axes uint8 are grey images.
        tokens: Whether integers are token ids, which a network embeds; None: those of another type
            than uint8 are, except in images (n, ·, ·, ·), and has to be stated for (n, ·, ·).
        n_classes: Outputs of the network, where some of the classes have no samples; None: counted.
        normalisation: {mean, deviation}, each one number or one a channel, of uint8 images in units
            of 0 … 255 (in fractions of that if all are at most 1), of others in their own units;
            "train" takes those of the training samples; "none" divides uint8 images by 255 and
            leaves others as they are. None: "train" for uint8 images, else "none".
        **choice: Of the samples, see `Choice`.
    """
    known = {"x_train", "y_train", "x_test", "y_test"}
    if unknown := set(names or {}) - known:
        raise ConfigurationError(
            f"data.names has no key {min(unknown)}, it has {', '.join(sorted(known))}"
        )
    source = cache_folder.find(path, folder, cache)
    content = _read(source)
    make = partial(_source, names=names, channels=channels, tokens=tokens)
    train, test = make(source, content, "train"), None
    if test_path is not None:
        other = cache_folder.find(test_path, folder, cache)
        test = make(other, _read(other), "test")
    elif _find(content, "test", names, INPUTS, alone=False):
        test = make(source, content, "test")
    stored, classes, more = Choice(**choice).of(train, test, n_classes)
    return assemble(source.stem, "arrays", stored, classes, normalisation, more=more)


def source_of(
    inputs: Any,
    targets: Any,
    name: str,
    input_name: str = "inputs",
    target_name: str = "targets",
    channels: str | None = None,
    tokens: bool | None = None,
) -> Source:
    """Samples of two arrays, of which only the chosen ones are copied.

    Args:
        inputs: (n, …).
        targets: (n,) or (n, m).
        name, input_name, target_name: Of the file or function and of the arrays, for messages.
        channels, tokens: See `arrays`.

    Raises:
        DataError: There are not as many inputs as targets, or none, or they are not numbers.
    """
    what = f"{name}: {input_name}"
    inputs = np.asanyarray(inputs)  # mapped into memory they stay there
    if inputs.ndim == 0 or inputs.dtype.kind not in "fiub":
        raise DataError(
            f"{what} has type {inputs.dtype} and shape {inputs.shape}: no array of numbers"
        )
    wanted = targets_of(targets, f"{name}: {target_name}")
    if len(inputs) != len(wanted):
        raise DataError(
            f"{name}: there are {len(inputs)} samples in {input_name}, {len(wanted)} in {target_name}"
        )
    integers = inputs.dtype.kind in "iu" and inputs.dtype != np.uint8
    _require_axes(what, inputs, channels, tokens)
    as_tokens = integers and inputs.ndim not in (3, 4) if tokens is None else tokens

    def read(places: np.ndarray) -> np.ndarray:
        chosen = np.asarray(inputs[places])
        if chosen.ndim == 1:
            chosen = chosen[:, None]
        if as_tokens:
            return chosen.astype(np.int64)
        is_grey = chosen.ndim == 3 and (chosen.dtype == np.uint8 or channels is not None)
        if chosen.ndim != 4 and not is_grey:
            return chosen.astype(np.float32)
        pixels = chosen.dtype == np.uint8 or (integers and 0 <= chosen.min() <= chosen.max() < 256)
        if is_grey:
            chosen, last = chosen[..., None], True
        elif channels is not None:
            last = channels == "last"
        else:
            last = bool(images.channels_last(chosen.shape[1:], otherwise=pixels))
        if last != pixels:
            chosen = np.moveaxis(chosen, *((-1, 1) if last else (1, -1)))
        return np.ascontiguousarray(chosen, dtype=np.uint8 if pixels else np.float32)

    return Source(name, wanted, read)


def _require_axes(what: str, inputs: np.ndarray, channels: str | None, tokens: bool | None) -> None:
    """Refuse what the settings do not fit, and what could be understood in several ways."""
    kind, is_pixels = inputs.dtype.kind, inputs.dtype == np.uint8
    having = f"{what} has type {inputs.dtype} and shape {inputs.shape}"
    if tokens and kind not in "iu":
        raise ConfigurationError(f"data.tokens: {having}, which no token ids have")
    if channels is not None and tokens:
        raise ConfigurationError("data.channels: token ids have none, state it or data.tokens")
    if channels is not None and inputs.ndim not in (3, 4):
        raise ConfigurationError(f"data.channels: {having}, which no images have")
    if channels is not None or tokens:
        return
    if inputs.ndim == 3 and kind in "iu" and not is_pixels and tokens is None:
        raise ConfigurationError(
            f"{having}: state data.channels: first for grey images, data.tokens: true for token ids "
            "or data.tokens: false for other numbers"
        )
    if inputs.ndim == 4 and images.channels_last(inputs.shape[1:], otherwise=True) is None:
        raise ConfigurationError(
            f"{having}, which does not tell the axis of the channels: state data.channels, first or "
            "last"
        )


def _source(
    path: Path,
    content: Mapping[str, Any],
    split: str,
    names: Mapping[str, str] | None,
    channels: str | None,
    tokens: bool | None,
) -> Source:
    found, held = [], ", ".join(sorted(content))
    for stems in (INPUTS, TARGETS):
        name, key = _find(content, split, names, stems), f"data.names.{stems[0]}_{split}"
        if name is None:
            raise DataError(f"{path} holds the arrays {held}: state which is {key}")
        if name not in content:
            raise DataError(f"{path} has no array {name} ({key}), it holds {held}")
        try:
            found.append((name, content[name]))
        except Exception as error:
            raise DataError(
                f"{path}: array {name} cannot be read: {' '.join(str(error).split())}"
            ) from error
    (input_name, inputs), (target_name, targets) = found
    return source_of(inputs, targets, str(path), input_name, target_name, channels, tokens)


def _find(
    content: Mapping[str, Any],
    split: str,
    names: Mapping[str, str] | None,
    stems: tuple[str, ...],
    alone: bool = True,
) -> str | None:
    """The stated name of an array, or the usual one that is there; `alone` allows names without a split."""
    if (stated := (names or {}).get(f"{stems[0]}_{split}")) is not None:
        return stated
    parts = TRAINING_PARTS if split == "train" else TEST_PARTS
    usual = [
        name for part in parts for stem in stems for name in (f"{stem}_{part}", f"{part}_{stem}")
    ]
    lower = {name.lower(): name for name in content}
    return next((lower[name] for name in (*usual, *stems * alone) if name in lower), None)


def _read(path: Path) -> Mapping[str, Any]:
    """Arrays by name, each read when it is asked for."""
    if path.is_dir():
        if not (found := _Folder(path)):
            raise DataError(f"{path} is a folder without .npy files (data.path)")
        return found
    if not path.is_file():
        raise DataError(f"{path} is missing: data.path is an .npz file or a folder of .npy files")
    try:
        content = np.load(path, allow_pickle=False)
    except Exception as error:
        raise DataError(f"{path} is not an .npz file of arrays: {type(error).__name__}") from error
    if isinstance(content, np.ndarray):
        raise DataError(
            f"{path} holds one array: data.path is an .npz file or a folder of .npy files"
        )
    return content


class _Folder(Mapping[str, Any]):
    """The ``.npy`` files of a folder by stem, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._files = {file.stem: file for file in path.glob("*.npy")}

    def __getitem__(self, name: str) -> np.ndarray:
        return np.load(self._files[name], mmap_mode="r", allow_pickle=False)

    def __iter__(self) -> Any:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
