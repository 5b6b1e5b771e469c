"""What a configuration names of a user's own: files, modules, folders of data.

A job that reads them is made again when they change. Nothing is imported, and of data nothing is
read but names, sizes and dates.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hessian_directions import references
from hessian_directions.data import cache
from hessian_directions.errors import ConfigurationError
from hessian_directions.reproduction import source_files

# Kinds of data whose `path` is the user's own; what torchvision downloads comes with checksums.
WITH_PATHS = ("image_folder", "arrays")


def files(
    data: Mapping[str, Any],
    folder: Path,
    cache_folder: Path,
    model: str = "",
    checkpoint: Mapping[str, Any] | None = None,
) -> list[str]:
    """Those that a job reads: of data, weights and lists of classes, and the modules that it runs.

    Args:
        data: Settings of a data set.
        folder: Of the configuration, where they are looked for first.
        cache_folder: Where files are looked for last.
        model: Its name, where the job builds one.
        checkpoint: Settings of weights, where the job reads them.
    """
    weights, classes = checkpoint or {}, data.get("classes")
    named = [None if weights.get("url") else weights.get("file")]
    named.append(classes if isinstance(classes, str) else None)
    places = _paths(data, folder, cache_folder)
    places += [cache.find(path, folder, cache_folder) for path in named if path]
    found = [str(path) for path in places if path.is_file()]
    modules = [file for name in (model, *_functions(data)) for file in _modules(name, folder)]
    return list(dict.fromkeys([*found, *modules]))


def fingerprints(data: Mapping[str, Any], folder: Path, cache_folder: Path) -> list[str]:
    """Of the folders that hold data: other ones when a file comes, goes or changes."""
    places = _paths(data, folder, cache_folder)
    return [_fingerprint(path) for path in places if path.is_dir()]


def _paths(data: Mapping[str, Any], folder: Path, cache_folder: Path) -> list[Path]:
    """Files and folders of data, but for those that have a checksum."""
    if data.get("kind") not in WITH_PATHS or data.get("url"):
        return []
    named = [data.get("path"), data.get("test_path")]
    return [cache.find(path, folder, cache_folder) for path in named if isinstance(path, str)]


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path, size, date in sorted(_entries(folder)):
        digest.update(f"{path}\n{size} {date}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _entries(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Names in the folder, sizes and dates of all files and folders below; hidden ones are no data."""
    for place, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        within = os.path.relpath(place, folder)
        # A folder's own date changes with hidden files, too.
        yield from ((os.path.join(within, name, ""), 0, 0) for name in below)
        for name in names:
            with contextlib.suppress(OSError):  # a link to nothing
                if not name.startswith("."):
                    about = os.stat(os.path.join(place, name))
                    yield os.path.join(within, name), about.st_size, about.st_mtime_ns


def _functions(data: Mapping[str, Any]) -> Iterator[str]:
    """Names of the user's functions that make data."""
    transform = data.get("transform")
    if isinstance(transform, Mapping):
        transform = transform.get("name")
    for name in (data.get("name"), transform):
        if isinstance(name, str):
            yield name


def _modules(name: str, folder: Path) -> list[str]:
    """The file of "package.module:name" or "path/to/file.py:name", and what it imports beside it."""
    place = name.rpartition(":")[0]
    if not place or place.partition(":")[0] in ("timm", "torchvision"):
        return []
    try:
        folders, module = references.located(place, folder)
    except ConfigurationError:  # who imports it says so
        return []
    # A package that is installed from where it is written often lies in src/.
    return source_files.module_files(module, [*folders, *(place / "src" for place in folders)])
