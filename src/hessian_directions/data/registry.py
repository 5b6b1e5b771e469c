"""Data sets by kind."""

import inspect
import reprlib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hessian_directions import references
from hessian_directions.data.arrays import arrays
from hessian_directions.data.cifar10 import cifar10
from hessian_directions.data.dataset import Dataset
from hessian_directions.data.digits import digits
from hessian_directions.data.function import function
from hessian_directions.data.image_folder import image_folder
from hessian_directions.data.python import python
from hessian_directions.data.source import Choice
from hessian_directions.data.torchvision_sets import torchvision
from hessian_directions.errors import ConfigurationError, HessianDirectionsError
from hessian_directions.settings import described

KINDS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "function": function,
    "cifar10": cifar10,
    "image_folder": image_folder,
    "arrays": arrays,
    "torchvision": torchvision,
    "python": python,
}
# What a kind is given beside its keys, where its signature names it.
SURROUNDINGS = ("cache", "folder")


def keys(kind: Callable[..., Dataset]) -> dict[str, inspect.Parameter]:
    """What a configuration can say of data of a kind; its `**choice` stands for the keys of `Choice`."""
    parameters = dict(inspect.signature(kind).parameters)
    for key in SURROUNDINGS:
        parameters.pop(key, None)
    if parameters.pop("choice", None) is not None:
        parameters |= inspect.signature(Choice).parameters
    return parameters


def load(
    settings: Mapping[str, Any],
    cache: Path,
    folder: Path | None = None,
    published: str | None = None,
    name: str | None = None,
) -> Dataset:
    """The data set that `settings` describe: a `kind` and keywords of the function of that name.

    Args:
        settings: From the configuration.
        cache: Folder of downloads.
        folder: Of the configuration, where paths and modules are looked for before the working
            folder; None: the working folder.
        published: The network's model or published weights, "timm:<name>" or "torchvision:<name>",
            which `transform: timm` and `transform: torchvision` stand for.
        name: Of the data set in the configuration, for messages.

    Raises:
        ConfigurationError: A kind or a key is unknown, or a key is missing or has a wrong value.
        DataError: The data cannot be had, or are others.
    """
    options = dict(settings)
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigurationError(f"data.kind: {kind!r} is unknown, it can be {', '.join(KINDS)}")
    taken = inspect.signature(KINDS[kind]).parameters
    given = {key: value for key, value in zip(SURROUNDINGS, (cache, folder)) if key in taken}
    parameters = keys(KINDS[kind])
    for key in options:
        if key not in parameters:
            raise ConfigurationError(
                f"data of kind {kind} has no key {key}, it has {', '.join(sorted(parameters))}"
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise ConfigurationError(f"data of kind {kind} needs the key {key}")
    _require_types(KINDS[kind], options, name)
    if (library := options.get("transform")) in ("timm", "torchvision"):
        if published is None or published.partition(":")[0] != library:
            raise ConfigurationError(
                f"data.transform: the network's weights are not {library}'s, name them as in "
                f"{library}:<model>"
            )
        options["transform"] = published
    try:
        return KINDS[kind](**given, **options)
    except (HessianDirectionsError, MemoryError):
        raise
    except Exception as error:
        raise ConfigurationError(
            f"data of kind {kind} cannot be made from {options}: {references.describe(error)}"
        ) from error


def _require_types(
    kind: Callable[..., Dataset], options: Mapping[str, Any], name: str | None
) -> None:
    """Refuse a value that is not of the type that the kind's signature names; nothing is cast."""
    types = typing.get_type_hints(Choice, include_extras=True)
    types |= typing.get_type_hints(kind, include_extras=True)
    place = "data" if name is None else f"data.{name}"
    for key, value in options.items():
        try:
            TypeAdapter(types[key]).validate_python(value, strict=True)
        except ValidationError:
            raise ConfigurationError(
                f"key '{place}.{key}' is {reprlib.repr(value)}; allowed: {described(types[key])}"
            ) from None
