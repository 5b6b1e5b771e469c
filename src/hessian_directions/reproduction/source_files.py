"""Which source files a script uses: the script and, through its imports, the modules of a package.

The workflow names them as inputs, so that editing a module re-runs the stages that use it and no others.
Nothing is imported: the files are parsed.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any


def source_files(script: str | Path, root: str | Path, without: Iterable[str] = ()) -> list[str]:
    """The script and every file below `root` that it imports, directly or through other such files.

    `root` is the folder that holds the packages (`src`); modules beside the script count too. What
    the script imports inside the functions named in `without` is left out: they are not called.
    Paths come back sorted, as given.
    """
    script, root, without = Path(script), Path(root), frozenset(without)
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        left_out = without if path == script else frozenset()
        waiting.extend(_imported_files(path, (root, script.parent), left_out))
    return sorted(str(path) for path in found)


@cache
def _imported_files(
    path: Path, roots: tuple[Path, ...], without: frozenset[str]
) -> tuple[Path, ...]:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    called = [node for node in tree.body if getattr(node, "name", None) not in without]
    names = (name for node in called for name in _imported_names(node))
    return tuple(file for name in names for root in roots for file in _module_files(name, root))


def _imported_names(tree: ast.AST) -> Iterator[str]:
    for node in executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from package import module` and `from module import name` look alike: both are tried.
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which no program runs."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _module_files(name: str, root: Path) -> Iterator[Path]:
    """The module's own file and the `__init__` files that Python runs on the way to it."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        if (package := root.joinpath(*parts[:depth], "__init__.py")).is_file():
            yield package
    module = root.joinpath(*parts)
    for candidate in (module.with_suffix(".py"), module / "__init__.py"):
        if candidate.is_file():
            yield candidate


def declared(path: str | Path, name: str) -> Any:
    """The value of a module's top-level name that is written as a literal; None where it is not."""
    for node in ast.parse(Path(path).read_bytes(), filename=str(path)).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=assigned)]) if assigned == name:
                return ast.literal_eval(node.value)
    return None
