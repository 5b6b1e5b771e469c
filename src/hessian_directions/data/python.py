"""Data that a function of the user's gives."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils import data as torch_data

from hessian_directions import references
from hessian_directions.data import arrays, images
from hessian_directions.data.dataset import Dataset, assemble
from hessian_directions.data.keys import ChannelAxis, Classes, Named, Options, Statistics
from hessian_directions.data.source import TEST_PARTS, Choice, Source, from_torch
from hessian_directions.errors import ConfigurationError, DataError, about
from hessian_directions.settings import Flag


def python(
    *,
    cache: Path,
    folder: Path | None = None,
    name: Named,
    options: Options | None = None,
    channels: ChannelAxis | None = None,
    tokens: Flag | None = None,
    n_classes: Classes | None = None,
    normalisation: Statistics | None = None,
    **choice: Any,
) -> Dataset:
    """What a function of the user's returns, of which only the chosen samples are read and kept.

    It returns a `torch.utils.data.Dataset` of pairs (input, target), or a pair of arrays or tensors
    (inputs, targets); or the training and the test part of that kind, as a pair (train, test) or as
    {train, test}. DataLoaders stand for their data sets. Inputs are images (PIL or uint8), tensors
    or arrays; targets of an integer type are classes, numbered from 0, those of a floating-point
    type are numbers that are predicted.

    Args:
        name: "package.module:function" or "path/to/file.py:function", found in the folder of the
            configuration, in the working folder or on Python's path.
        options: Keyword arguments of the function; it gets `cache`, the folder of downloads, where
            its signature names it.
        channels: As for arrays, where the function returns arrays or tensors.
        tokens: As for arrays, where the function returns arrays or tensors.
        n_classes: Outputs of the network, where some of the classes have no samples; None: counted.
        normalisation: As for arrays.
        **choice: Of the samples, see `Choice`.
    """
    with about("data.name"):
        function = references.resolve(name, folder)
    if not callable(function):
        raise ConfigurationError(f"data.name: {name} is a {type(function).__name__}, no function")
    options = dict(options or {})
    given = {"cache": cache} if "cache" in references.parameters(function) else {}
    with references.failing(DataError, f"data.name: {name} fails with options {options}"):
        returned = function(**given | options)
    first, second = _parts(returned, name)
    make = partial(_source, channels=channels, tokens=tokens)
    train = make(first, f"{name} (train)")
    test = None if second is None else make(second, f"{name} (test)")
    stored, classes, more = Choice(**choice).of(train, test, n_classes)
    more |= {"name": name, "options": options}
    return assemble(name.rpartition(":")[2], "python", stored, classes, normalisation, more=more)


def _parts(returned: Any, name: str) -> tuple[Any, Any]:
    """The training part and the test part, None where there is none."""
    if isinstance(returned, Mapping):
        if "train" not in returned:
            raise DataError(
                f"{name} returns a dictionary with the keys {', '.join(map(str, returned))}, not "
                "with train and test"
            )
        tests = [returned[key] for key in TEST_PARTS if key in returned]
        return returned["train"], tests[0] if tests else None
    if isinstance(returned, tuple | list) and not isinstance(returned, torch_data.Dataset):
        if len(returned) != 2:
            raise DataError(
                f"{name} returns {len(returned)} things, not a pair (train, test) or (inputs, targets)"
            )
        if not _is_array(returned[0]):
            return returned[0], returned[1]
    return returned, None


def _source(part: Any, name: str, channels: str | None, tokens: bool | None) -> Source:
    if isinstance(part, torch_data.DataLoader):
        part = part.dataset
    if isinstance(part, tuple | list) and len(part) == 2 and _is_array(part[0]):
        inputs, targets = (images.as_array(values) for values in part)
        return arrays.source_of(inputs, targets, name, channels=channels, tokens=tokens)
    if channels is not None or tokens is not None:
        key = "tokens" if channels is None else "channels"
        raise ConfigurationError(f"data.{key}: {name} returns samples, not arrays or tensors")
    if not hasattr(part, "__getitem__"):
        raise DataError(
            f"{name} is a {type(part).__name__}: it should be a torch.utils.data.Dataset with "
            "__len__ and __getitem__, or a pair of arrays (inputs, targets)"
        )
    return from_torch(part, name)


def _is_array(thing: Any) -> bool:
    return isinstance(thing, np.ndarray | Tensor)
