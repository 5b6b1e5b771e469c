"""Images in folders, split/class/name, or in one archive of that layout."""

import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from hessian_directions.data import cache as cache_folder
from hessian_directions.data.dataset import (
    Dataset,
    balanced_positions,
    image_dataset,
)
from hessian_directions.errors import ConfigurationError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
SPLITS = ("train", "test")


def image_folder(
    *,
    cache: Path,
    path: str,
    url: str | None = None,
    archive_sha256: str | None = None,
    size: int | None = None,
    channels: int = 3,
    n_train: int | None = None,
    normalisation: Mapping[str, Any] | None = None,
    sha256: Mapping[str, str] | None = None,
) -> Dataset:
    """Images (n, channels, h, w) of train/<class>/<name> and test/<class>/<name>.

    Classes are numbered by alphabet. The images of a split are ordered by their names, then by
    class. So `train/<class>/<batch>_<index>.png` gives the order of batches and indices, whatever
    the classes.

    Parameters
    ----------
    path
        A folder, or an archive (zip, tar, tar.gz, tar.xz …), read into memory without unpacking.
        What is not in the working folder is looked for in the cache folder. With `url` and
        `archive_sha256` it is the archive's name in the cache folder, fetched where it is missing.
    size
        Height and width in pixels that images are scaled to (bilinear); None keeps them, and they
        must agree.
    channels
        3 for colour, 1 for grey.
    n_train
        Training images that are used: a balanced choice from the front; None: all.
    normalisation
        {mean, deviation} per channel in units of 0 … 255; None takes those of the training images.
    sha256
        {train, test}: checksums of images and labels (see `image_dataset`) that must be met.
    """
    if channels not in (1, 3):
        raise ConfigurationError(f"data.channels: {channels} is neither 3 (colour) nor 1 (grey)")
    if (url is None) != (archive_sha256 is None):
        raise ConfigurationError("data.url and data.archive_sha256 are stated together")
    source = Path(path).expanduser()
    if not source.exists() and (cache / source).exists():
        source = cache / source
    if url is not None and archive_sha256 is not None:
        source = cache_folder.fetch(url, archive_sha256, path, cache)

    images, labels, classes = read(source, size, channels)
    indices = {split: np.arange(len(labels[split])) for split in SPLITS}
    if n_train is not None:
        chosen = balanced_positions(torch.from_numpy(labels["train"]), n_train).numpy()
        images["train"], labels["train"] = images["train"][chosen], labels["train"][chosen]
        indices["train"] = indices["train"][chosen]
    return image_dataset(
        source.name, "image_folder", images, labels, indices, classes, normalisation, sha256
    )


def read(
    source: Path, size: int | None = None, channels: int = 3
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """uint8 images (n, h, w, c) and labels (n,) of "train" and "test", and the classes' names."""
    names: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    pixels: dict[tuple[str, str, str], np.ndarray] = {}
    folders: set[tuple[str, str]] = set()
    for parts, content in _members(source):
        if not parts or parts[0] not in SPLITS or any(part.startswith(".") for part in parts):
            continue
        if len(parts) > 2 or (len(parts) == 2 and content is None):
            folders.add((parts[0], parts[1]))
        if len(parts) == 3 and content is not None and parts[2].lower().endswith(SUFFIXES):
            split, label, name = parts
            names[split].append((name, label))
            pixels[split, label, name] = _decode(
                content, f"{source}: {'/'.join(parts)}", size, channels
            )
    classes = sorted({label for _, label in folders})
    _check_classes(source, classes, names)

    if len({array.shape for array in pixels.values()}) > 1:
        raise DataError(f"{source}: the images have several sizes, state data.size")

    images, labels = {}, {}
    for split in SPLITS:
        order = sorted(names[split])
        images[split] = np.stack([pixels.pop((split, label, name)) for name, label in order])
        labels[split] = np.array([classes.index(label) for _, label in order])
    return images, labels, classes


def _members(source: Path) -> Iterator[tuple[tuple[str, ...], bytes | None]]:
    """Parts of the path and content of everything in a folder or archive; None for folders."""
    if source.is_dir():
        for path in source.rglob("*"):
            parts = path.relative_to(source).parts
            yield parts, path.read_bytes() if path.is_file() else None
    elif not source.is_file():
        raise DataError(f"{source} is missing: it should hold train/<class>/ and test/<class>/")
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for entry in archive.infolist():
                content = None if entry.is_dir() else archive.read(entry)
                yield PurePosixPath(entry.filename).parts, content
    elif tarfile.is_tarfile(source):
        with tarfile.open(source) as archive:
            for member in archive:
                file = archive.extractfile(member)
                yield PurePosixPath(member.name).parts, file.read() if file else None
    else:
        raise DataError(f"{source} is neither a folder nor a zip or tar archive")


def _decode(content: bytes, name: str, size: int | None, channels: int) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{name} cannot be read as an image") from error
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array if channels == 3 else array[..., None]


def _check_classes(
    source: Path, classes: Sequence[str], names: Mapping[str, Sequence[tuple[str, str]]]
) -> None:
    if not classes:
        raise DataError(f"{source} holds no class folders train/<class>/ and test/<class>/")
    for split in SPLITS:
        filled = {label for _, label in names[split]}
        for label in classes:
            if label not in filled:
                raise DataError(f"{source}: the class folder {split}/{label} is missing or empty")
