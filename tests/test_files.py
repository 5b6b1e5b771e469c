"""Files appear whole or not at all; equal objects give equal text."""

from pathlib import Path

import numpy as np
import pytest

from hessian_directions.files import atomic_path, sha256, to_json


def interrupted(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "folder" / "new.json"
    if before:
        with atomic_path(path) as temporary:
            temporary.write_text(before)
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert [file.read_text() for file in path.parent.iterdir()] == ([before] if before else [])


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea")


def test_json_of_numpy_is_sorted(tmp_path: Path) -> None:
    value = {"b": np.float64(0.5), "a": np.arange(2), "c": np.bool_(True)}
    assert to_json(value) == to_json(dict(reversed(value.items())))
    assert to_json(value) == '{"a": [0, 1], "b": 0.5, "c": true}'
    with pytest.raises(TypeError, match="Path cannot be written as JSON"):
        to_json({"path": tmp_path})
