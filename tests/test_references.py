"""Objects of a user's own code, by module and by file."""

import itertools
from pathlib import Path

import pytest
from miniature import write_files

from hessian_directions import references
from hessian_directions.errors import ConfigurationError

numbers = itertools.count()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a configuration. Python keeps modules by name: every test has its own."""
    n = next(numbers)
    modules = {
        f"models{n}/net.py": f"import common{n}.util\nfrom common{n} import util\nNet = util.Net\n",
        f"models{n}/packed/__init__.py": "",
        f"models{n}/packed/net.py": f"from .near import Net\nimport common{n}.util\n",
        f"models{n}/packed/near.py": "class Net: pass\n",
        f"models{n}/beside.py": f"from neighbour{n} import Net",
        f"models{n}/neighbour{n}.py": "class Net: pass\n",
        f"neighbour{n}.py": "",
        f"common{n}/util.py": f"import top{n}\nclass Net: pass\n",
        f"top{n}.py": "",
    }
    write_files(tmp_path / "mine", modules)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    return tmp_path / "mine"


@pytest.mark.parametrize(
    "name",
    [
        "models{}.net:Net",
        "models{}/net.py:Net",
        "models{}.packed.net:Net",
        "models{}/packed/net.py:Net",
        "models{}/beside.py:Net",
        "~/mine/models{}/net.py:Net",
    ],
)
def test_files_and_modules_import_what_lies_beside_the_configuration(
    folder: Path, name: str
) -> None:
    (models,) = folder.glob("models*")
    name = name.format(models.name.removeprefix("models"))
    assert references.resolve(name, folder).__name__ == "Net"


def test_files_are_found_in_the_working_folder_and_by_their_whole_path(folder: Path) -> None:
    (folder.parent / "elsewhere/here.py").write_text("x = 1")
    assert references.resolve("here.py:x", folder) == 1
    assert references.resolve(f"{folder.parent}/elsewhere/here.py:x", folder) == 1
    with pytest.raises(ConfigurationError, match=r"there is no file no\.py in .*mine$"):
        references.resolve("no.py:x", folder)
