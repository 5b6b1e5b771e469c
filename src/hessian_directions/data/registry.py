"""Data sets by kind."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
from hessian_directions.settings import Settings, checked, of_signatures

KINDS: dict[str, Callable[..., Dataset]] = {
    kind.__name__: kind
    for kind in (digits, function, cifar10, image_folder, arrays, torchvision, python)
}
# What a kind is given beside its keys, where its signature names it.
SURROUNDINGS = ("cache", "folder")


def settings_of(kind: str) -> type[Settings]:
    """What a configuration can say of data of a kind; its `**choice` stands for the keys of `Choice`."""
    function = KINDS[kind]
    more = [Choice] if "choice" in inspect.signature(function).parameters else []
    return of_signatures(function, *more, without=SURROUNDINGS)


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
    checked(settings_of(kind), options, *filter(None, ("data", name)))
    if (library := options.get("transform")) in ("timm", "torchvision"):
        if published is None or published.partition(":")[0] != library:
            raise ConfigurationError(
                f"data.transform: the network's weights are not {library}'s, name them as in "
                f"{library}:<model>"
            )
        options["transform"] = published
    made = f"data of kind {kind} cannot be made from {options}"
    ours = (HessianDirectionsError, MemoryError)
    with references.failing(ConfigurationError, made, passed=ours):
        return KINDS[kind](**given, **options)
