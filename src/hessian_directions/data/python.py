"""Data that a function of the user's gives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from hessian_directions import references
from hessian_directions.data import arrays
from hessian_directions.data.dataset import Dataset, assemble
from hessian_directions.data.source import Source, from_torch, select
from hessian_directions.errors import ConfigurationError, DataError


def python(
    *,
    cache: Path,
    folder: Path | None = None,
    name: str,
    options: Mapping[str, Any] | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    test_share: float | None = None,
    seed: int = 0,
    n_classes: int | None = None,
    normalisation: Mapping[str, Any] | str | None = None,
) -> Dataset:
    """What a function of the user's returns, of which only the chosen samples are read and kept.

    It returns a `torch.utils.data.Dataset` of pairs (input, target), or a pair of arrays or tensors
    (inputs, targets); or the training and the test part of that kind, as a pair (train, test) or as
    {train, test}. DataLoaders stand for their data sets. Inputs are images (PIL or uint8), tensors
    or arrays; targets of an integer type are classes, numbered from 0, those of a floating-point
    type are numbers that are predicted.

    Args:
        cache: Folder of downloads.
        folder: Of the configuration.
        name: "package.module:function" or "path/to/file.py:function", found in the folder of the
            configuration, in the working folder or on Python's path.
        options: Keyword arguments of the function; it gets `cache`, the folder of downloads, where
            its signature names it.
        n_train: Training samples that are used: a choice from the front, balanced over the classes;
            None: all.
        n_test: Test samples that are used, chosen alike. Without a test part so many of the training
            samples become test samples, in a stratified split; 0 lets the training samples double
            as test samples.
        test_share: In place of `n_test` without a test part: share of the samples, between 0 and 1.
        seed: Of the stratified split.
        n_classes: Outputs of the network, where some of the classes have no samples; None: counted.
        normalisation: {mean, deviation}, each one number or one a channel, of uint8 images in units
            of 0 … 255 (in fractions of that if all are at most 1), of others in their own units;
            "train" takes those of the training samples; "none" divides uint8 images by 255 and
            leaves others as they are. None: "train" for uint8 images, else "none".
    """
    try:
        function = references.resolve(name, folder)
    except ConfigurationError as error:
        raise ConfigurationError(f"data.name: {error}") from error
    if not callable(function):
        raise ConfigurationError(f"data.name: {name} is a {type(function).__name__}, no function")
    given = dict(options or {})
    if "cache" in references.parameters(function):
        given.setdefault("cache", cache)
    try:
        returned = function(**given)
    except Exception as error:
        raise DataError(
            f"data.name: {name} fails with options {dict(options or {})}: {references.describe(error)}"
        ) from error
    train, test = _parts(returned, name)
    stored, n_classes, more = select(
        _source(train, f"{name} (train)"),
        None if test is None else _source(test, f"{name} (test)"),
        n_classes,
        n_train=n_train,
        n_test=n_test,
        test_share=test_share,
        seed=seed,
    )
    classes = None if n_classes is None else [str(number) for number in range(n_classes)]
    more |= {"name": name, "options": dict(options or {})}
    return assemble(name.rpartition(":")[2], "python", stored, classes, normalisation, more=more)


def _parts(returned: Any, name: str) -> tuple[Any, Any]:
    """The training part and the test part, None where there is none."""
    if isinstance(returned, Mapping):
        if "train" not in returned:
            raise DataError(
                f"{name} returns a dictionary with the keys {', '.join(map(str, returned))}, not "
                "with train and test"
            )
        tests = [returned[key] for key in ("test", "val", "validation") if key in returned]
        return returned["train"], tests[0] if tests else None
    if isinstance(returned, tuple | list) and not isinstance(returned, torch_data.Dataset):
        if len(returned) != 2:
            raise DataError(
                f"{name} returns {len(returned)} things, not a pair (train, test) or (inputs, targets)"
            )
        if not _is_array(returned[0]):
            return returned[0], returned[1]
    return returned, None


def _source(part: Any, name: str) -> Source:
    if isinstance(part, torch_data.DataLoader):
        part = part.dataset
    if isinstance(part, tuple | list) and len(part) == 2 and _is_array(part[0]):
        return arrays.source_of(_array(part[0]), _array(part[1]), name)
    if not hasattr(part, "__getitem__"):
        raise DataError(
            f"{name} is a {type(part).__name__}: it should be a torch.utils.data.Dataset with "
            "__len__ and __getitem__, or a pair of arrays (inputs, targets)"
        )
    return from_torch(part, name)


def _array(values: Any) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    # NumPy has no bfloat16.
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _is_array(thing: Any) -> bool:
    return isinstance(thing, np.ndarray | Tensor)
