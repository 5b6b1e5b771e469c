"""Re-encode CIFAR-10 as a folder of JPEG images (quality 75, 4:2:0).

    python -m hessian_directions.data.reencode           # cifar10-jpeg.tar.xz in the cache folder
    python -m hessian_directions.data.reencode FOLDER

The folder has the layout of `image_folder`: train/<class>/<number>.jpg and
test/<class>/<number>.jpg, numbered within the class in the order of CIFAR-10. Compressed, it takes
a tenth of the space. It is good for training, but the pixels are not the original ones: it shows
how far results carry over to slightly other images.
"""

import argparse
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

from PIL import Image

from hessian_directions.data import cache as cache_folder
from hessian_directions.data import cifar10
from hessian_directions.errors import DataError, as_program
from hessian_directions.files import atomic_path

QUALITY = 75
SUBSAMPLING = "4:2:0"
ARCHIVE = "cifar10-jpeg.tar.xz"


def reencode(cache: Path, folder: Path, archive: dict[str, str] | None = None) -> int:
    """Write the images of CIFAR-10 into a new folder and return their number."""
    if folder.exists():
        raise DataError(f"{folder} is there already: name a folder that can be made")
    images, labels, classes = cifar10.read(cache, archive)
    written: Counter[tuple[str, str]] = Counter()
    for split in ("train", "test"):
        for pixels, label in zip(images[split], labels[split], strict=True):
            name = classes[label]
            path = folder / split / name / f"{written[split, name]:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=QUALITY, subsampling=SUBSAMPLING)
            written[split, name] += 1
    return written.total()


def reencode_into(cache: Path, archive: dict[str, str] | None = None) -> int:
    """Write the images as one archive into the cache folder, whole or not at all."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "jpeg"
        n_images = reencode(cache, folder, archive)
        with atomic_path(cache / ARCHIVE) as partial, tarfile.open(partial, "w:xz") as packed:
            for split in ("train", "test"):
                packed.add(folder / split, split)
    return n_images


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="to be made in place of the archive")
    parser.add_argument("--cache", help="folder that holds CIFAR-10's archive, or receives it")
    options = parser.parse_args(arguments)

    def work() -> str:
        cache = cache_folder.folder(options.cache)
        folder = options.folder
        n_images = reencode_into(cache) if folder is None else reencode(cache, folder)
        return f"{n_images} images in {folder or cache / ARCHIVE}"

    return as_program("reencode", work)


if __name__ == "__main__":
    sys.exit(main())
