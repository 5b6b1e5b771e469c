"""One set of pinned versions, whether pip or conda installs it."""

import ast
import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from hessian_directions.reproduction.source_files import executed

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12")


def lines(name: str) -> list[str]:
    text = [line.strip() for line in (ROOT / name).read_text().splitlines()]
    return [line for line in text if line and not line.startswith("#")]


def pins() -> list[Requirement]:
    return [Requirement(line) for line in lines("constraints.txt")]


def installed_version(package: str, python: str) -> Version | None:
    """The version that the constraints allow on Linux with this Python."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }
    found = [
        pin
        for pin in pins()
        if canonicalize_name(pin.name) == canonicalize_name(package)
        and (pin.marker is None or pin.marker.evaluate(environment))
    ]
    assert len(found) <= 1, f"{package} is pinned twice for Python {python}"
    return Version(next(iter(found[0].specifier)).version) if found else None


def dependencies() -> list[Requirement]:
    """Of the project and of all its extras, which may name one another."""
    extras = chain.from_iterable(PROJECT["optional-dependencies"].values())
    found = [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def installed_with(extra: str) -> set[str]:
    """The packages that an extra brings along, directly or through other extras; "" for none."""
    texts = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    names: set[str] = set()
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["name"]:
            names = names.union(*map(installed_with, requirement.extras))
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def test_conda_installs_what_pip_installs() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.txt"]}]
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_requirements_name_the_constraints_and_the_project() -> None:
    assert sorted(lines("requirements.txt")) == ["-c constraints.txt", "-e .[develop]"]


def test_constraints_are_versions_and_nothing_else() -> None:
    """No address, no option, no hash: pip chooses the CPU or the CUDA build."""
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    for line in lines("constraints.txt"):
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*( ; [^;]+)?", line), line
        assert Requirement(line).url is None


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("dependency", dependencies(), ids=str)
def test_every_dependency_is_pinned_within_its_range(dependency: Requirement, python: str) -> None:
    version = installed_version(dependency.name, python)
    assert version is not None, f"{dependency.name} is not pinned for Python {python}"
    assert dependency.specifier.contains(version)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("torch", "2.13.0"),
        ("torchvision", "0.28.0"),
        ("timm", "1.0.31"),
        ("snakemake", "9.27.1"),
        ("typst", "0.15.0"),
    ],
)
def test_versions_that_are_known_to_work_together(package: str, version: str, python: str) -> None:
    assert installed_version(package, python) == Version(version)


def test_pythons_are_those_of_the_project() -> None:
    supported = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert all(supported.contains(f"{python}.0") for python in PYTHONS)
    assert not any(supported.contains(version) for version in ("3.10.9", "3.13.0"))


def imported_packages(path: Path) -> set[str]:
    """The distributions of other people that a file imports."""
    names = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow"}
    names["pydantic_core"] = "pydantic"  # whose documentation imports from there
    ours = {"hessian_directions", *(script.stem for script in ROOT.glob("workflow/scripts/*.py"))}
    found: set[str] = set()
    for node in executed(ast.parse(path.read_bytes())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [str(node.module)]
        found |= {name.split(".")[0] for name in modules}
    return {names.get(name, name) for name in found - sys.stdlib_module_names - ours}


def test_every_imported_package_is_a_dependency() -> None:
    """Nothing is used that only some other package happens to bring along."""
    required = installed_with("") | installed_with("workflow")
    for path in [*ROOT.glob("workflow/scripts/*.py"), *ROOT.glob("src/**/*.py")]:
        assert imported_packages(path) <= required, path


def test_the_library_needs_no_extra() -> None:
    package = ROOT / "src/hessian_directions"
    rooms = ("autodiff", "geometry", "objectives", "spectral", "statistics", "traces")
    files = [*package.glob("*.py"), *(path for room in rooms for path in package.glob(f"{room}/*"))]
    files.remove(package / "settings.py")  # of configurations, which are the workflow's
    for path in files:
        if path.suffix == ".py":
            assert imported_packages(path) <= installed_with(""), path
    for path in package.glob("reporting/figures/*.py"):
        assert imported_packages(path) <= installed_with("") | installed_with("figures"), path
