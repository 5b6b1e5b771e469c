"""CIFAR-10 (Krizhevsky 2009), read by torchvision: whole, or an exact subset by index."""

import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hessian_directions.data import cache as cache_folder
from hessian_directions.data import image_folder
from hessian_directions.data.dataset import Dataset, Normalisation, Stored, assemble, positions
from hessian_directions.data.keys import Named, Names, Ranges, Statistics
from hessian_directions.errors import ConfigurationError, DataError
from hessian_directions.models import vision

ARCHIVE = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"

# The one that Li et al. 2018 trained with, in units of a pixel's 0 … 255.
NORMALISATION = Normalisation(mean=(125.3, 123.0, 113.9), deviation=(63.0, 62.1, 66.7))


def cifar10(
    *,
    cache: Path,
    train_indices: Ranges | None = None,
    test_indices: Ranges | None = None,
    normalisation: Statistics | None = None,
    sha256: Names | None = None,
    archive: Names | None = None,
    subset: Named | None = None,
) -> Dataset:
    """(n, 3, 32, 32) images in the order of their indices in torchvision's data set.

    `cache` holds the archive, or torchvision's unpacked `cifar-10-batches-py`; else the archive is
    fetched into it.

    Args:
        train_indices: Half-open ranges [[start, stop], …]; None takes all 50,000 images.
        test_indices: The same of the 10,000 test images.
        normalisation: As for an image folder; None is that of Li et al. 2018.
        sha256: {train, test}: checksums of the chosen images and labels (see `assemble`) that must
            be met.
        archive: {url, sha256} of the archive where it is another than the published one.
        subset: Name in the cache folder of a folder or archive of just the chosen images, as
            train/<class>/<batch>_<index>.png and test/<class>/<index>.png. Where it is there it is
            read in place of CIFAR-10; `sha256` proves that its images are the same.
    """
    if subset is not None and (sha256 is None or {"train", "test"} - sha256.keys()):
        raise ConfigurationError("data.subset needs data.sha256 of train and test")
    indices = {
        split: None if ranges is None else positions(ranges, f"{split}_indices")
        for split, ranges in (("train", train_indices), ("test", test_indices))
    }
    if subset is not None and (cache / subset).exists():
        sources, classes = image_folder.sources_of(cache / subset, test="test")
        images = {split: source.read(np.arange(len(source))) for split, source in sources.items()}
        labels = {split: source.targets for split, source in sources.items()}
    else:
        images, labels, classes = read(cache, archive)
        for split, chosen in indices.items():
            if chosen is not None:
                n = len(labels[split])
                if chosen[-1] >= n:
                    raise ConfigurationError(
                        f"data.{split}_indices: index {chosen[-1]} is outside CIFAR-10's {n} "
                        f"{split} images"
                    )
                images[split], labels[split] = images[split][chosen], labels[split][chosen]
    stored = {}
    for split, chosen in indices.items():
        places = np.arange(len(labels[split])) if chosen is None else chosen
        stored[split] = Stored(images[split], labels[split], places)
    return assemble("cifar10", "cifar10", stored, classes, normalisation or NORMALISATION, sha256)


def read(
    cache: Path, archive: Mapping[str, str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """uint8 images (n, 32, 32, 3) and labels (n,) of "train" and "test", and the classes' names."""
    published = {"url": URL, "sha256": SHA256}
    archive = dict(archive or published)
    if archive.keys() != published.keys():
        raise ConfigurationError("data.archive holds exactly the keys url and sha256")
    reader = vision.torchvision().datasets.CIFAR10
    if archive["sha256"] == SHA256:
        try:
            # Unpacked before, by torchvision or by hand: torchvision checks every file of it.
            return _arrays(reader, cache)
        except RuntimeError:
            pass
    else:
        reader = _without_checksums(reader)
    path = cache_folder.fetch(archive["url"], archive["sha256"], ARCHIVE, cache)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(path) as file:
                # Python before 3.11.4 has no filter; the archive's checksum has been verified.
                file.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
                file.extractall(folder)
            return _arrays(reader, Path(folder))
        except (RuntimeError, KeyError, OSError, tarfile.TarError) as error:
            raise DataError(f"{path} is not an archive of CIFAR-10's Python version") from error


def _arrays(
    reader: Any, folder: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    splits = {name: reader(folder, train=name == "train") for name in ("train", "test")}
    images = {name: split.data for name, split in splits.items()}
    labels = {name: np.asarray(split.targets) for name, split in splits.items()}
    return images, labels, list(splits["train"].classes)


def _without_checksums(reader: Any) -> Any:
    """torchvision's reader for an archive whose own checksum has already been verified."""
    unchecked: dict[str, Any] = {"meta": reader.meta | {"md5": None}}
    for key in ("train_list", "test_list"):
        unchecked[key] = [(name, None) for name, _ in getattr(reader, key)]
    return type("CIFAR10", (reader,), unchecked)
