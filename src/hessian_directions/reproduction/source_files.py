"""Which source files a script or module uses: its own and, through its imports, those of other modules.

The workflow names them as inputs, so that editing a module re-runs the stages that use it and no others.
Nothing is imported: the files are parsed.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

# Where statements hold others. Expressions hold none, and are most of a tree.
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def source_files(script: str | Path, root: str | Path, without: Iterable[str] = ()) -> list[str]:
    """The script and every file below `root` that it imports, directly or through other such files.

    `root` is the folder that holds the packages (`src`); modules beside the script count too. What
    the script imports inside the functions named in `without` is left out: they are not called.
    Paths come back sorted, as given.
    """
    script, root = Path(script), Path(root)
    return _reached([script], (root, script.parent), frozenset(without))


def module_files(name: str, roots: Iterable[Path]) -> list[str]:
    """The file of a module in these folders, and every file below them that it imports, likewise."""
    roots = tuple(roots)
    return _reached([file for root in roots for file in _module_files(name, root)], roots)


def _reached(
    start: list[Path], roots: tuple[Path, ...], without: frozenset[str] = frozenset()
) -> list[str]:
    """These files and all that they import; `without` names functions of theirs."""
    found: set[Path] = set()
    waiting = list(start)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            left_out = without if path in start else frozenset()
            waiting.extend(_imported_files(path, roots, left_out))
    return sorted(str(path) for path in found)


@cache
def _imported_files(
    path: Path, roots: tuple[Path, ...], without: frozenset[str]
) -> tuple[Path, ...]:
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError):  # who runs it hears what is wrong
        return ()
    called = [node for node in tree.body if getattr(node, "name", None) not in without]
    return tuple(
        file
        for node in called
        for name, level in _imported_names(node)
        # Relative ones are looked for in a package around the file.
        for root in (path.parents[level - 1 : level] if level else roots)
        for file in _module_files(name, root)
    )


def _imported_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names of modules, and how many dots stand before them."""
    for node in executed(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from package import module` and `from module import name` look alike: both are tried.
            above = [node.module] if node.module else []
            names = [".".join([*above, alias.name]) for alias in node.names]
            yield from ((name, node.level) for name in (*above, *names))


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements but those under `if TYPE_CHECKING:`, which no program runs."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        only_checked = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for field in BLOCKS[only_checked:]:
            waiting.extend(getattr(node, field, ()))


@cache
def _module_files(name: str, root: Path) -> tuple[Path, ...]:
    """The module's own file and the `__init__` files that Python runs on the way to it."""
    parts = name.split(".")
    packages = [root.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts))]
    module = root.joinpath(*parts)
    candidates = (*packages, module.with_suffix(".py"), module / "__init__.py")
    return tuple(path for path in candidates if path.is_file())


def declared(path: str | Path, name: str) -> Any:
    """The value of a module's top-level name that is written as a literal; None where it is not."""
    for node in ast.parse(Path(path).read_bytes(), filename=str(path)).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=assigned)]) if assigned == name:
                return ast.literal_eval(node.value)
    return None
