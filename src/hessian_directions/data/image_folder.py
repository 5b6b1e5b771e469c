"""Images in folders, one a class, or in one archive of that layout."""

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hessian_directions.data import cache as cache_folder
from hessian_directions.data import images
from hessian_directions.data.dataset import Dataset, assemble, listed
from hessian_directions.data.keys import (
    Classes,
    ClassNames,
    Colours,
    Named,
    Names,
    Size,
    Statistics,
    Transform,
)
from hessian_directions.data.source import TEST_PARTS, TRAINING_PARTS, Choice, Source, stack
from hessian_directions.errors import ConfigurationError, DataError, about

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

Parts = tuple[str, ...]


def image_folder(
    *,
    cache: Path,
    folder: Path | None = None,
    path: Named,
    train: Named | None = None,
    test: Named | None = None,
    url: Named | None = None,
    archive_sha256: Named | None = None,
    size: Size | None = None,
    channels: Colours = 3,
    transform: Transform | None = None,
    classes: ClassNames | None = None,
    n_classes: Classes | None = None,
    normalisation: Statistics | None = None,
    sha256: Names | None = None,
    **choice: Any,
) -> Dataset:
    """Images (n, channels, h, w) of train/<class>/<name> and test/<class>/<name>, or of <class>/<name>.

    Classes are numbered by alphabet. The images of a split are ordered by their names, then by
    class. So `train/<class>/<batch>_<index>.png` gives the order of batches and indices, whatever
    the classes. Only the images that are chosen are decoded and kept.

    Args:
        path: A folder, or an archive (zip, tar, tar.gz, tar.xz …), read without unpacking. It is
            looked for in the folder of the configuration, the working folder and the cache folder.
            With `url` and `archive_sha256` it is the archive's name in the cache folder, fetched
            where it is missing.
        train: Name of the folder of training images, in capitals or not; None: train or training.
            Where there is none, the folders are the classes themselves, and there is no test part.
        test: Name of the folder of test images, in capitals or not; None: the first one there is of
            test, testing, val, validation and valid. Without a test part, see `n_test`.
        url: Of the archive.
        archive_sha256: Checksum of the archive.
        size: Height and width in pixels that images are scaled to (bilinear), one number or
            [height, width]; None keeps them, and they must agree. For a published transform the
            size that comes out.
        channels: 3 for colour, 1 for grey.
        transform: Of evaluation, in place of scaling and normalisation: "timm" or "torchvision" for
            the one that belongs to the network's published weights, "timm:<model>",
            "torchvision:<model or weights>", a function "package.module:name" from a PIL image to a
            tensor (channels, h, w), or {name, options} for what a function gives when called with
            these options.
        classes: Names of the class folders in the order of the network's outputs, as a list or a
            text file of one name a line, or {name: number}. Some may have no images. None: the
            folders by alphabet; none may be empty, hold nothing but folders or be called as parts
            of the data are.
        n_classes: Outputs of the network, where they are more than there are classes in `classes`.
        normalisation: {mean, deviation} per channel in units of 0 … 255, or in fractions of that if
            all are at most 1; "none" divides pixels by 255; None or "train" takes mean and deviation
            of the training images.
        sha256: {train, test}: checksums of images and labels (see `assemble`) that must be met.
        **choice: Of the images, see `Choice`.
    """
    if (url is None) != (archive_sha256 is None):
        raise ConfigurationError("data.url and data.archive_sha256 are stated together")
    convert = images.converter(size, channels, transform, folder, normalisation)
    if url is not None and archive_sha256 is not None:
        source = cache_folder.fetch(url, archive_sha256, path, cache)
    else:
        source = cache_folder.find(path, folder, cache)
    order = _class_order(classes, n_classes, folder, cache)
    sources, names = sources_of(source, convert, train, test, order)
    stored, _, more = Choice(**choice).of(sources["train"], sources.get("test"), len(names))
    if transform is not None:
        more |= {"transform": transform, "size": size}
    return assemble(source.name, "image_folder", stored, names, normalisation, sha256, more)


def sources_of(
    path: Path,
    convert: Any = None,
    train: str | None = None,
    test: str | None = None,
    order: Mapping[str, int] | None = None,
) -> tuple[dict[str, Source], list[str]]:
    """The images of "train" and, where there is one, "test" in a folder or archive; the classes' names.

    Args:
        convert: What to make of an image, see `images.converter`; None: colour in its own size.
        train, test: Names of their folders, see `image_folder`.
        order: Number of each class; None: by alphabet, and every folder holds images.
    """
    convert = convert or images.converter(None, 3)
    files, folders = _members(path)
    roots = _roots(path, files, folders, train, test)
    found: dict[str, list[tuple[str, str, Parts]]] = {}
    labels: set[str] = set()
    for split, root in roots.items():
        depth = len(root)
        labels |= _below(root, folders) | _below(root, files, 2)
        found[split] = sorted(
            ("/".join(parts[depth + 1 :]), parts[depth], parts)
            for parts in files
            if parts[:depth] == root
            and len(parts) > depth + 1
            and parts[-1].lower().endswith(SUFFIXES)
        )
    if not labels:
        raise DataError(f"{path} holds no class folders train/<class>/ and test/<class>/")
    if order is None:
        _require_classes(path, labels, roots, found)
        for split, entries in found.items():
            filled = {label for _, label, _ in entries}
            for label in sorted(labels - filled):
                place = "/".join((*roots[split], label))
                raise DataError(f"{path}: the class folder {place} is missing or empty")
        order = {label: number for number, label in enumerate(sorted(labels))}
    elif unknown := labels - order.keys():
        raise DataError(f"{path}: the class folder {min(unknown)} is not among data.classes")
    label_of = {number: label for label, number in order.items()}
    names = [label_of.get(number, str(number)) for number in range(max(label_of) + 1)]
    sources = {}
    for split, entries in found.items():
        if not entries:
            raise DataError(f"{path}: there are no {split} images")
        targets = np.array([order[label] for _, label, _ in entries], dtype=np.int64)
        members = [parts for _, _, parts in entries]
        sources[split] = Source(
            str(path), targets, partial(_read, path, members, convert), classes=tuple(names)
        )
    return sources, names


def _read(path: Path, members: list[Parts], convert: Any, places: np.ndarray) -> np.ndarray:
    """The images at these places of the list, and no other, as arrays."""
    wanted = {"/".join(members[place]) for place in places}
    contents: dict[str, bytes] = {}
    if not path.is_dir():
        for parts, read in _entries(path):
            if read is not None and (name := "/".join(parts)) in wanted:
                contents[name] = read()

    def one(place: int) -> np.ndarray:
        name = "/".join(members[place])
        try:
            content = (path / name).read_bytes() if path.is_dir() else contents[name]
        except OSError as error:
            raise DataError(f"{path}: {name} cannot be read") from error
        image = images.decode(content, f"{path}: {name}")
        with about(f"{path}: {name}"):
            return convert(image)

    return stack(one, places, str(path))


def _members(path: Path) -> tuple[list[Parts], list[Parts]]:
    """Parts of the paths of all files and of all folders; hidden ones are passed over."""
    files: list[Parts] = []
    folders: list[Parts] = []
    if path.is_dir():
        for place, below, names in os.walk(path, followlinks=True):
            parts = Path(place).relative_to(path).parts
            files += [(*parts, name) for name in names]
            folders += [(*parts, name) for name in below]
    elif not path.is_file():
        raise DataError(f"{path} is missing: it should hold train/<class>/ and test/<class>/")
    else:
        for parts, read in _entries(path):
            (folders if read is None else files).append(parts)

    def shown(parts: Parts) -> bool:
        return bool(parts) and not any(p[0] == "." or p == "__MACOSX" for p in parts)

    return list(filter(shown, files)), list(filter(shown, folders))


def _entries(path: Path) -> Iterator[tuple[Parts, Callable[[], bytes] | None]]:
    """Parts of the path of each member of an archive, and what reads it; None for what is no file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                read = None if entry.is_dir() else partial(archive.read, entry)
                yield PurePosixPath(entry.filename).parts, read
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as packed:
            for member in packed:
                file = packed.extractfile(member) if member.isfile() else None
                yield PurePosixPath(member.name).parts, None if file is None else file.read
    else:
        raise DataError(f"{path} is neither a folder nor a zip or tar archive")


def _roots(
    path: Path, files: list[Parts], folders: list[Parts], train: str | None, test: str | None
) -> dict[str, Parts]:
    """Where the class folders of "train" and "test" lie; a single folder around them is passed over."""
    root: Parts = ()
    everything = [*files, *folders]
    while True:
        here = _below(root, folders) | _below(root, everything, 2)
        training = _called(path, here, TRAINING_PARTS if train is None else (train,))
        if training is not None:
            break
        if len(here) != 1 or not _below(root, everything, 3) or _called(path, here, TEST_PARTS):
            if test is not None or train is not None:
                raise DataError(
                    f"{path} has no folder {train or TRAINING_PARTS[0]} (data.train), but "
                    f"{listed(sorted(here)) or 'no folders'}"
                )
            return {"train": root}
        root = (*root, *here)
    # A folder without class folders holds no labels: ImageNet's test images are of that kind.
    labelled = _below(root, everything, 3) | _below(root, folders, 2)
    testing = _called(path, labelled, TEST_PARTS if test is None else (test,))
    if test is not None and testing is None:
        raise DataError(f"{path} has no folder {test} with class folders (data.test)")
    return {"train": (*root, training)} | ({} if testing is None else {"test": (*root, testing)})


def _below(root: Parts, paths: list[Parts], levels: int = 1) -> set[str]:
    """What lies in a folder, of paths that go at least so many levels below it."""
    depth = len(root)
    return {path[depth] for path in paths if path[:depth] == root and len(path) >= depth + levels}


def _called(path: Path, folders: set[str], names: Sequence[str]) -> str | None:
    """The folder that has the first of these names that there is, in capitals or not."""
    for name in names:
        found = sorted(folder for folder in folders if folder.lower() == name.lower())
        if len(found) > 1:
            raise DataError(f"{path} has the folders {' and '.join(found)}: rename one of them")
        if found:
            return found[0]
    return None


def _require_classes(
    path: Path,
    labels: set[str],
    roots: Mapping[str, Parts],
    found: Mapping[str, Sequence[tuple[str, str, Parts]]],
) -> None:
    """Refuse folders that look like parts of the data: a network would learn to tell parts apart."""
    parts = sorted(label for label in labels if label.lower() in (*TRAINING_PARTS, *TEST_PARTS))
    if parts:
        raise DataError(
            f"{path}: the folders {listed(parts)} would be classes: name those of training and test "
            "images in data.train and data.test or, if they are classes, state data.classes"
        )
    for split, entries in found.items():
        direct = {label for name, label, _ in entries if "/" not in name}
        below: dict[str, set[str]] = {}
        for name, label, _ in entries:
            if label not in direct:
                below.setdefault(label, set()).add(name.partition("/")[0])
        for label, folders in sorted(below.items()):
            # One folder inside, as of Tiny ImageNet, is none of several classes.
            if len(folders) > 1:
                raise DataError(
                    f"{path}: the folder {'/'.join((*roots[split], label))} would be a class, but "
                    f"holds only the folders {listed(sorted(folders))}: name those of training and "
                    "test images in data.train and data.test or, if it is a class, state "
                    "data.classes"
                )


def _class_order(
    classes: Sequence[str | int] | Mapping[str | int, int] | str | None,
    n_classes: int | None,
    folder: Path | None,
    cache: Path,
) -> dict[str, int] | None:
    """Number of each class that `classes` names, filled up to `n_classes`."""
    if classes is None:
        if n_classes is not None:
            raise ConfigurationError(
                "data.n_classes needs data.classes, which names them all; without either the classes "
                "are the folders"
            )
        return None
    if isinstance(classes, str):
        file = cache_folder.find(classes, folder, cache)
        if not file.is_file():
            raise DataError(f"{file} is missing: data.classes names a text file of class names")
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        classes = [line.strip() for line in lines if line.strip()]
        if not classes:
            raise DataError(f"{file} holds no names (data.classes)")
    if isinstance(classes, Mapping):
        order = {str(label): int(number) for label, number in classes.items()}
    else:
        order = {str(label): number for number, label in enumerate(classes)}
    numbers = sorted(order.values())
    if len(set(numbers)) < len(classes):
        raise ConfigurationError("data.classes: names or numbers repeat")
    if n_classes is not None:
        if numbers[-1] >= n_classes:
            raise ConfigurationError(
                f"data.classes: class {numbers[-1]} is outside the {n_classes} of data.n_classes"
            )
        order |= {f"class {n}": n for n in range(n_classes) if n not in numbers}
    return order
