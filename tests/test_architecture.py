"""Which part of the package may import which. Files are parsed, not imported.

Imports for type checkers alone count too. The package's own `__init__` is left out: Python runs it
on the way to every module, and it loads what it offers when that is asked for.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAME = "hessian_directions"
SOURCE = ROOT / "src"
CORE = ("spectral", "traces", "geometry", "autodiff", "statistics")


def module_of(path: Path, root: Path = SOURCE) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in (SOURCE / NAME).rglob("*.py")}
del MODULES[NAME]


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def longest_module(name: str) -> str | None:
    """The module of ours that a dotted name is, or is a part of."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of ours that a module names."""
    found = {longest_module(name) for name in imported_names(MODULES[module])}
    return frozenset(name for name in found if name and name != module)


@cache
def reachable(module: str) -> frozenset[str]:
    """A module and all that its import brings with it."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(imports(name))
    return frozenset(seen)


def inside(package: str) -> list[str]:
    prefix = f"{NAME}.{package}"
    return [name for name in MODULES if name == prefix or name.startswith(f"{prefix}.")]


def packages_of(modules: frozenset[str]) -> set[str]:
    return {name.partition(".")[2].partition(".")[0] for name in modules}


@pytest.mark.parametrize("package", CORE)
def test_the_core_knows_no_network_data_set_or_workflow(package: str) -> None:
    for module in inside(package):
        forbidden = {"reproduction", "analyses", "learning", "data", "models", "reporting"}
        assert not packages_of(reachable(module)) & forbidden, module


def test_differentiation_stands_alone() -> None:
    for module in inside("autodiff"):
        assert packages_of(imports(module)) <= {"autodiff", "errors", "cost"}, module


@pytest.mark.parametrize("package", ["learning", "data", "models", "objectives"])
def test_what_is_studied_knows_no_study(package: str) -> None:
    for module in inside(package):
        assert not packages_of(reachable(module)) & {"reproduction", "analyses"}, module


def test_reporting_needs_no_torch() -> None:
    for module in inside("reporting"):
        for name in reachable(module):
            modules = {imported.split(".")[0] for imported in imported_names(MODULES[name])}
            assert not modules & {"torch", "torchvision", "timm"}, (module, name)


def test_reproduction_is_the_workflow_s_alone() -> None:
    others = [name for name in MODULES if name not in inside("reproduction")]
    for module in others:
        assert "reproduction" not in packages_of(imports(module)), module


def test_no_circle_of_imports() -> None:
    for module in MODULES:
        for name in imports(module):
            assert module not in reachable(name), f"{module} and {name}"
