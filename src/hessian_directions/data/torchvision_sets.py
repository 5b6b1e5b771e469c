"""torchvision's data sets, by name."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hessian_directions.data import images
from hessian_directions.data.dataset import Dataset, assemble
from hessian_directions.data.keys import (
    Classes,
    Colours,
    Named,
    Options,
    Size,
    Statistics,
    Transform,
)
from hessian_directions.data.source import Choice, from_torch
from hessian_directions.errors import ConfigurationError, DataError
from hessian_directions.models import vision

# What the parts are called, in the order in which the names are tried.
SPLITS = {"train": ("train", "trainval"), "test": ("test", "val", "valid")}


def torchvision(
    *,
    cache: Path,
    folder: Path | None = None,
    name: Named,
    options: Options | None = None,
    train: Options | None = None,
    test: Options | None = None,
    path: Named | None = None,
    size: Size | None = None,
    channels: Colours | None = None,
    transform: Transform | None = None,
    n_classes: Classes | None = None,
    normalisation: Statistics | None = None,
    **choice: Any,
) -> Dataset:
    """Images (n, channels, h, w) of one of torchvision's data sets for classification or regression.

    Only the images that are chosen are read and kept.

    Args:
        name: Of the class in torchvision.datasets: CIFAR100, SVHN, FashionMNIST, FakeData ….
        options: Keyword arguments of that class, for both parts.
        train: Those of the training part alone; None: train=True or the split "train", whichever
            the class knows.
        test: Those of the test part alone; None: train=False or the split "test", "val" or "valid".
            A class that knows neither has no test part, see `n_test`.
        path: Folder of the files, in place of the cache folder; what is missing is downloaded.
        size: As for an image folder.
        channels: 3 for colour, 1 for grey; None: as the images are.
        transform: As for an image folder.
        n_classes: Outputs of the network, where some of the classes have no images; None: counted.
        normalisation: As for an image folder.
        **choice: Of the images, see `Choice`.
    """
    convert = images.converter(size, channels, transform, folder, normalisation)
    package = vision.torchvision().datasets
    kind = getattr(package, name, None)
    if name not in package.__all__ or kind is None:
        raise ConfigurationError(
            f"data.name: torchvision has no data set {name!r}{vision.similar(name, package.__all__)}"
        )
    given = dict(options or {})
    known = _parameters(kind)
    root = Path(path).expanduser() if path is not None else cache
    if path is not None and folder is not None and (folder / root).exists():
        root = folder / root
    if "root" in known:
        given.setdefault("root", str(root))
    make = partial(_make, kind, known, root)
    if train is not None or test is not None:
        parts = {"train": make(given | dict(train or {}))}
        if test is not None:
            parts["test"] = make(given | dict(test))
    elif "train" in known - given.keys():
        parts = {split: make({**given, "train": split == "train"}) for split in SPLITS}
    elif "split" in known - given.keys():
        parts = {split: _first(make, kind, given, names) for split, names in SPLITS.items()}
    else:
        parts = {"train": make(given)}
    names = tuple(getattr(parts["train"], "classes", None) or ())
    names = names if all(isinstance(label, str) for label in names) else ()
    sources = {
        split: from_torch(part, f"torchvision's {name} ({split})", convert, names)
        for split, part in parts.items()
    }
    chosen = Choice(**choice)
    stored, classes, more = chosen.of(sources["train"], sources.get("test"), n_classes)
    more |= {"name": name, "options": dict(options or {})}
    if transform is not None or size is not None:
        more |= {"transform": transform, "size": size}
    return assemble(name, "torchvision", stored, classes, normalisation, more=more)


def _make(kind: Any, known: set[str], root: Path, arguments: Mapping[str, Any]) -> Any:
    """The data set from files that are there, else after a download."""
    if unknown := arguments.keys() - known:
        raise ConfigurationError(
            f"data.options: {kind.__name__} has no argument {min(unknown)}, it has "
            f"{', '.join(sorted(known))}"
        )
    for more in ({}, {"download": True}) if "download" in known - arguments.keys() else ({},):
        try:
            return kind(**arguments, **more)
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigurationError(
                f"data.options: {kind.__name__} cannot be made from {dict(arguments)}: {reason}"
            ) from error
        except Exception as error:
            last = error
    reason = " ".join(str(last).split())
    raise DataError(
        f"torchvision's {kind.__name__} is not in {root} and cannot be fetched "
        f"({type(last).__name__}: {reason}): put its files there, or set data.path to their folder"
    ) from last


def _first(
    make: Callable[[Mapping[str, Any]], Any],
    kind: Any,
    given: Mapping[str, Any],
    splits: Sequence[str],
) -> Any:
    """The first of these splits that the class knows."""
    for split in splits:
        try:
            return make({**given, "split": split})
        except ConfigurationError as error:
            if "split" not in str(error.__cause__):
                raise
    raise ConfigurationError(
        f"data.train and data.test: {kind.__name__} knows none of the splits {', '.join(splits)}, "
        "state its arguments"
    )


def _parameters(kind: type) -> set[str]:
    """What a class takes by keyword; with **kwargs also what its bases take."""
    found: set[str] = set()
    for base in kind.__mro__:
        if "__init__" in vars(base) and base is not object:
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            found |= {p.name for p in parameters if p.kind != p.VAR_KEYWORD} - {"self"}
            if not any(p.kind == p.VAR_KEYWORD for p in parameters):
                break
    return found - {"transform", "transforms", "target_transform"}
