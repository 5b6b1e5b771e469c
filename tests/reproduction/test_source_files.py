"""Which files a script uses: on small trees, and on the real one against what Python imports."""

import ast
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from miniature import write_files

from hessian_directions.reproduction.source_files import declared, source_files

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/hessian_directions"
DRAWING = [
    "draw_figure",
    "make_tables",
    "decide_claims",
    "compile_paper",
    "compare_with_archive",
    "record_replicate",
]
HEAVY = {"torch", "torchvision", "timm"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package `own` below src, and a script; every module would fail if it were imported."""
    modules = {
        "src/own/__init__.py": "",
        "src/own/direct.py": "from own.indirect import something\n",
        "src/own/indirect.py": "import own.deep.deepest\n",
        "src/own/deep/__init__.py": "from own import of_package\n",
        "src/own/deep/deepest.py": "def late():\n    from own.inside_a_function import x\n",
        "src/own/inside_a_function.py": "",
        "src/own/of_package.py": "",
        "src/own/module.py": "",
        "src/own/circular.py": "from own import round_about\n",
        "src/own/round_about.py": "import own.circular as circular, own.module\n",
        "src/own/unused.py": "import own.direct\n",
        "src/own/namespace/inner.py": "",
        "scripts/beside.py": "from own.module import θ\n",
        "scripts/unused.py": "",
        "elsewhere/numpy.py": "",
    }
    fails = "raise AssertionError('imported')\n"
    return write_files(tmp_path, {name: text + fails for name, text in modules.items()})


def used(tree: Path, text: str) -> set[str]:
    """What a script with this text uses, without the script and `own/__init__`."""
    # Results are kept by path: each text is another script.
    script = tree / "scripts" / f"script{len(list(tree.glob('scripts/*')))}.py"
    script.write_text(text + "\nraise AssertionError('imported')\n")
    found = source_files(script, tree / "src")
    assert found == sorted(found)
    assert str(script) in found
    names = {str(Path(path).relative_to(tree)) for path in found if path != str(script)}
    if names - {"scripts/beside.py"}:
        assert "src/own/__init__.py" in names
    return {name.removeprefix("src/own/") for name in names} - {"__init__.py"}


def test_nothing_of_its_own(tree: Path) -> None:
    assert used(tree, "import os, numpy\nfrom pathlib import Path\nimport own_too") == set()


def test_imports_for_type_checkers_are_not_used(tree: Path) -> None:
    block = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import own.direct\n"
    assert used(tree, block) == set()
    assert used(tree, block + "else:\n    import own.module") == {"module.py"}


def test_transitive_imports(tree: Path) -> None:
    """A chain, the `__init__` of every package on it, and imports inside functions."""
    chain = {
        "direct.py",
        "indirect.py",
        "deep/__init__.py",
        "deep/deepest.py",
        "inside_a_function.py",
        "of_package.py",
    }
    assert used(tree, "import own.direct") == chain
    assert used(tree, "from own.indirect import something") == chain - {"direct.py"}


@pytest.mark.parametrize(
    "text",
    [
        "import own.module",
        "import own.module as m",
        "from own import module",
        "from own import nothing, module as m",
        "from own.module import name",
        "from own.module import *",
        "if False:\n    from own import module",
    ],
)
def test_forms_of_import(tree: Path, text: str) -> None:
    assert used(tree, text) == {"module.py"}


def test_package_alone(tree: Path) -> None:
    assert used(tree, "import own.deep") == {"deep/__init__.py", "of_package.py"}
    assert used(tree, "from own.namespace import inner") == {"namespace/inner.py"}


def test_cycle(tree: Path) -> None:
    assert used(tree, "import own.circular") == {"circular.py", "round_about.py", "module.py"}


def test_module_beside_the_script(tree: Path) -> None:
    """And what it imports in turn; text that is not ASCII is no obstacle."""
    assert used(tree, "from beside import θ") == {"scripts/beside.py", "module.py"}


def test_paths_come_back_as_given(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    (tree / "scripts/relative.py").write_text("import own.module\nimport beside\n")
    assert source_files("scripts/relative.py", "src") == [
        "scripts/beside.py",
        "scripts/relative.py",
        "src/own/__init__.py",
        "src/own/module.py",
    ]


def test_functions_that_are_not_called_are_left_out(tree: Path) -> None:
    """Of the script alone: what it imports is used whole."""
    script = tree / "scripts/apart.py"
    text = """
        import beside
        def run():
            from own import direct
        def gather():
            from own import of_package
        """
    script.write_text(textwrap.dedent(text))

    def names(*without: str) -> set[str]:
        return {Path(path).name for path in source_files(script, tree / "src", without)}

    both = names()
    assert {"apart.py", "beside.py", "direct.py", "of_package.py"} <= both
    assert both - names("gather", "run") == both - {
        "apart.py",
        "beside.py",
        "module.py",
        "__init__.py",
    }
    assert "direct.py" not in names("run")
    assert "of_package.py" in names("run")
    assert "direct.py" in names("gather")


def test_declared_literals(tmp_path: Path) -> None:
    """Read from the text: the module is not imported."""
    path = tmp_path / "module.py"
    path.write_text("FIGURES = {'θ': [1, None]}\nother = 3\nraise AssertionError('imported')\n")
    assert declared(path, "FIGURES") == {"θ": [1, None]}
    assert declared(path, "other") == 3
    assert declared(path, "nothing") is None


# The real tree.


def files_of(script: str, *modules: str) -> set[Path]:
    """The files of a stage, with modules that it imports by name, as the rules name them."""
    paths = [ROOT / f"workflow/scripts/{script}.py", *(SOURCE / module for module in modules)]
    return {Path(name) for path in paths for name in source_files(path, ROOT / "src")}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import, which is not followed"
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("script", DRAWING)
def test_drawing_reaches_no_torch(script: str) -> None:
    """The paper builds on a laptop without PyTorch."""
    drawing = script == "draw_figure"
    files = files_of(script, *(SOURCE / "reporting/figures").glob("*.py") if drawing else ())
    assert ROOT / "workflow/scripts/stage.py" in files
    heavy = {str(path) for path in files if HEAVY & set(imports(path))}
    assert heavy == set()


def test_other_stages_do_reach_torch() -> None:
    """The walk above is able to find it."""
    assert any("torch" in imports(path) for path in files_of("analyze", "analyses/eigenpairs.py"))


def test_no_relative_imports() -> None:
    """They are not followed; `imports` refuses them."""
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("workflow/scripts/*.py")]:
        list(imports(path))


def test_what_python_imports_is_among_the_files() -> None:
    """The modules loaded for one light and one heavy stage, against the parsed ones."""
    for script, heavy in (("make_tables", False), ("analyze_network", True)):
        text = (ROOT / f"workflow/scripts/{script}.py").read_text()
        # What stands above the work: imports.
        body = text.partition("with stage")[0].partition("run_in_processes(snakemake")[0]
        report = (
            "\nimport json, sys\nprint(json.dumps([getattr(m, '__file__', None)"
            " for m in list(sys.modules.values())] + ['torch' in sys.modules]))"
        )
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "workflow/scripts")])
        done = subprocess.run(
            [sys.executable, "-c", body + report],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        *files, torch_loaded = json.loads(done.stdout)
        ours = {Path(file) for file in files if file and Path(file).is_relative_to(ROOT / "src")}
        assert ours
        assert ours <= files_of(script)
        assert torch_loaded is heavy
