"""What is the user's own, and when it counts as changed."""

import os
from pathlib import Path
from typing import Any

import pytest
from miniature import write_files

from hessian_directions.reproduction import own_files

MODULES = {
    "netze/mein.py": "from .tief import Block\nimport common.util\n",
    "netze/__init__.py": "",
    "netze/tief/__init__.py": "from ..teile import x\nfrom .. import more\n",
    "netze/teile.py": "from deep import deeper\n",
    "netze/more.py": "def late():\n    import late_one\n",
    "common/util.py": "import torch, netze.mein",
    "deep/__init__.py": "from deep.inner import y",
    "deep/inner.py": "",
    "deep/deeper.py": "import broken\n",
    "late_one.py": "",
    "broken.py": "def (",
    "unused.py": "import netze.mein",
    "src/laid/out.py": "from laid import near",
    "src/laid/near.py": "",
}
ALL = {name for name in MODULES if not name.startswith(("src/", "unused"))}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a configuration; beside it the working folder, the cache and the home."""
    write_files(tmp_path / "mine", MODULES)
    for name in ("here", "cache", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "mine"


def files(folder: Path, data: dict[str, Any] | None = None, **more: Any) -> set[str]:
    found = own_files.files(data or {"kind": "digits"}, folder, folder.parent / "cache", **more)
    assert len(found) == len(set(found))
    return {os.path.relpath(Path(path).resolve(), folder) for path in found}


@pytest.mark.parametrize("name", ["netze/mein.py:Net", "netze.mein:Net", "netze.mein:Net.make"])
def test_modules_are_those_that_the_named_one_imports(folder: Path, name: str) -> None:
    """Relative ones, beside it, inside functions; those that are no Python themselves."""
    assert files(folder, model=name) == ALL
    assert files(folder, {"kind": "python", "name": name}) == ALL
    for transform in (name, {"name": name, "options": {}}):
        assert files(folder, {"kind": "torchvision", "transform": transform}) == ALL


def test_modules_elsewhere(folder: Path) -> None:
    assert files(folder, model="laid.out:Net") == {"src/laid/out.py", "src/laid/near.py"}
    (folder.parent / "home/at_home.py").write_text("import beside")
    (folder.parent / "home/beside.py").touch()
    assert files(folder, model="~/at_home.py:Net") == {"../home/at_home.py", "../home/beside.py"}
    for name in ("timm:unused", "torchvision:unused", "timm:hf_hub:unused", "mlp", "no.py:Net"):
        assert files(folder, model=name) == set()


def test_files_of_data_and_weights_are_where_jobs_find_them(folder: Path) -> None:
    for name in ("mine/a.npz", "here/a.npz", "cache/b.npz", "home/c.pt", "here/names.txt"):
        (folder.parent / name).touch()
    (folder / "images").mkdir()
    arrays = {"kind": "arrays", "path": "a.npz", "test_path": "b.npz"}
    assert files(folder, arrays) == {"a.npz", "../cache/b.npz"}
    images = {"kind": "image_folder", "path": "images", "classes": "names.txt"}
    assert files(folder, images) == {"../here/names.txt"}
    assert files(folder, checkpoint={"file": "~/c.pt"}) == {"../home/c.pt"}
    # What has a checksum needs no date.
    assert files(folder, checkpoint={"file": "a.npz", "url": "http://"}) == set()
    assert files(folder, {"kind": "image_folder", "path": "a.npz", "url": "http://"}) == set()


@pytest.mark.parametrize("kind", ["image_folder", "arrays"])
def test_a_folder_of_data_is_another_one_when_anything_in_it_changes(
    folder: Path, kind: str
) -> None:
    cat = folder / "images/train/cat"
    cat.mkdir(parents=True)
    (cat / "0.png").write_text("a")

    def fingerprint(path: str = "images") -> list[str]:
        return own_files.fingerprints({"kind": kind, "path": path}, folder, folder / "cache")

    seen = [fingerprint()]
    assert len(seen[0]) == 1
    for change in (
        lambda: (cat / "1.png").write_text("b"),
        lambda: (cat / "1.png").write_text("longer"),
        lambda: os.utime(cat / "1.png", (1, 1)),
        lambda: (cat / "1.png").rename(cat.parent / "1.png"),
        lambda: (cat / "0.png").unlink(),
        lambda: (cat.parent / "dog").mkdir(),
    ):
        change()
        assert fingerprint() not in seen
        seen.append(fingerprint())
    # What no job reads, and where the folder lies.
    (cat / ".DS_Store").touch()
    (folder / "images/.hidden").mkdir()
    (folder / "images/.hidden/x.png").touch()
    (cat / "broken.png").symlink_to("nowhere")
    assert fingerprint() == seen[-1]
    (folder / "images").rename(folder / "moved")
    assert fingerprint("moved") == seen[-1]
    assert fingerprint() == []


def test_what_is_downloaded_has_no_fingerprint(folder: Path) -> None:
    (folder / "images").mkdir()
    for data in (
        {"kind": "torchvision", "name": "CIFAR10", "path": "images"},
        {"kind": "image_folder", "path": "images", "url": "http://a.zip"},
        {"kind": "digits"},
    ):
        assert own_files.fingerprints(data, folder, folder / "cache") == []
