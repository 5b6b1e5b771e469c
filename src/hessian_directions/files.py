"""Files that are written whole or not at all, and what identifies them."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

AnyPath = str | os.PathLike[str]


@contextmanager
def atomic_path(path: AnyPath) -> Iterator[Path]:
    """A hidden path beside `path` that takes its name on success and vanishes on error.

    A reader, or a run that starts after a kill, therefore never meets half a file. What a kill by
    force leaves behind has the same hidden name each time, so that the next write replaces it: a
    path has one writer at a time.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    temporary.unlink(missing_ok=True)
    temporary.touch()
    mode = temporary.stat().st_mode
    try:
        yield temporary
        # As readable as any new file here: safetensors makes its files private.
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: AnyPath) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON with sorted keys: equal objects give equal text. Arrays become lists.

    Raises:
        TypeError: The value holds something that JSON has no form for.
    """
    return json.dumps(value, sort_keys=True, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
