"""Data sets by kind."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hessian_directions.data.cifar10 import cifar10
from hessian_directions.data.dataset import Dataset
from hessian_directions.data.digits import digits
from hessian_directions.data.function import function
from hessian_directions.data.image_folder import image_folder
from hessian_directions.errors import ConfigurationError

KINDS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "function": function,
    "cifar10": cifar10,
    "image_folder": image_folder,
}


def load(settings: Mapping[str, Any], cache: Path) -> Dataset:
    """The data set that `settings` describe: a `kind` and keywords of the function of that name.

    Raises ConfigurationError for an unknown kind or key, DataError where the data cannot be had or
    are others.
    """
    options = dict(settings)
    kind = options.pop("kind", None)
    if kind not in KINDS:
        raise ConfigurationError(f"data.kind: {kind!r} is unknown, it can be {', '.join(KINDS)}")
    parameters = inspect.signature(KINDS[kind]).parameters
    allowed = sorted(parameters.keys() - {"cache"})
    for key in options:
        if key not in allowed:
            raise ConfigurationError(
                f"data of kind {kind} has no key {key}, it has {', '.join(allowed)}"
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options and key != "cache":
            raise ConfigurationError(f"data of kind {kind} needs the key {key}")
    try:
        return KINDS[kind](cache=cache, **options)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"data of kind {kind} cannot be made from {options}: {reason}"
        ) from error
