"""Files from elsewhere: found in a folder or fetched into it, by checksum."""

import os
from collections.abc import Mapping
from pathlib import Path

import pooch

from hessian_directions.errors import DataError
from hessian_directions.files import AnyPath
from hessian_directions.files import sha256 as file_sha256

VARIABLE = "HESSIAN_DIRECTIONS_CACHE"


def folder(configured: AnyPath | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """The configured folder, else $HESSIAN_DIRECTIONS_CACHE, else the user's cache folder."""
    return Path(
        configured or environment.get(VARIABLE) or pooch.os_cache("hessian-directions")
    ).expanduser()


def find(path: str, folder: Path | None, cache: Path) -> Path:
    """The first there is of `path` in the folder of the configuration, here, and in the cache folder.

    Where it is nowhere, the path that it should have beside the configuration.
    """
    places = [place / Path(path).expanduser() for place in (folder or Path(), Path(), cache)]
    return next((place for place in places if place.exists()), places[0])


def fetch(url: str, sha256: str, name: str, cache: AnyPath) -> Path:
    """The path of a file in the cache folder, fetched unless it is there with this checksum.

    A file that is there is enough: the network is not touched. What is fetched appears under its
    name only when its checksum is right. Raises DataError naming file, URL, folder and checksum
    where it cannot be had.
    """
    path = Path(cache) / name
    found = file_sha256(path) if path.is_file() else None
    if found == sha256:
        return path
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        pooch.retrieve(url, f"sha256:{sha256}", name, cache)
    except Exception as error:
        reason = f"it could not be fetched ({type(error).__name__})"
        if isinstance(error, ValueError) and "hash" in str(error):
            reason = "what the address gave has another checksum"
        if found is not None:
            reason += f", and the file in the folder has sha256 {found}"
        raise DataError(
            f"{name} is needed from {url}, but {reason}; put a file of that name with sha256 "
            f"{sha256} into {Path(cache).resolve()}, or set {VARIABLE} to the folder that holds it"
        ) from error
    finally:
        logger.setLevel(level)
    return path
