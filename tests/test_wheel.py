"""The wheel in an environment of its own, from another folder, without what the extras bring."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from project import ROOT, Project

pytestmark = pytest.mark.long

# What the extras bring. (pandas is not among them: xarray itself needs it.)
EXTRAS = {
    *("matplotlib", "seaborn", "PIL", "torchvision", "timm", "sklearn", "pooch", "snakemake"),
    *("h5netcdf", "h5py", "jsonschema", "plotly", "pydantic", "pygments", "yaml", "typst"),
}

# Nothing of this project but what is installed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

# What torchrun tells the only process of a program: the README shows how several share out the samples.
ONE_PROCESS = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}

# As if they were not installed: nobody finds them.
WITHOUT_EXTRAS = f"""
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in {sorted(EXTRAS)!r}:
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""

REFUSED = """
import contextlib
from hessian_directions.errors import DependencyError

@contextlib.contextmanager
def refused():
    try:
        yield
    except DependencyError as error:
        print(error)
    else:
        raise AssertionError("nothing is refused")

"""

CODE = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without the network from the files that git tracks."""
    folder = tmp_path_factory.mktemp("wheel")
    project = Project.clone(folder / "project")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    run = [sys.executable, "-m", "pip", "wheel", "--quiet", *options, str(project.path)]
    subprocess.run(run, check=True, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel alone; the packages of this one are to be seen in it."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin/python"
    run = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    run += ["--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run(run, check=True, env=ENVIRONMENT)
    (packages,) = folder.glob("lib/python3*/site-packages")
    # A path in such a file is searched for modules, not for further such files: not for this project.
    (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run_readme(
    environment: Path, folder: Path, code: str, before: str = ""
) -> subprocess.CompletedProcess:
    (folder / "readme.py").write_text(f"{before}{code}\nprint(hd.__file__)\n")
    return subprocess.run(
        [environment / "bin/python", "readme.py"],
        cwd=folder,
        env=ENVIRONMENT | ONE_PROCESS,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = ROOT / "src"
    modules = {str(path.relative_to(sources)) for path in sources.glob("**/*.py")}
    assert modules <= names
    assert "hessian_directions/py.typed" in names
    for data in ("figures/style.mplstyle", "report/report.css", "report/report.js"):
        assert f"hessian_directions/reporting/{data}" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hessian_directions"}


def test_the_readme_from_another_folder(environment: Path, tmp_path: Path) -> None:
    run = run_readme(environment, tmp_path, CODE)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].startswith(str(environment))
    for name in ("hessian.png", "overview.png", "mine.html"):
        assert (tmp_path / name).stat().st_size > 1000


def test_the_readme_without_any_extra(environment: Path, tmp_path: Path) -> None:
    """All but the figures; these say in one sentence what is missing."""
    drawing = re.compile(r"^(report\..*(?:plot\(\)|save\().*)$", re.MULTILINE)
    assert len(drawing.findall(CODE)) == 3
    code = drawing.sub(r"with refused(): \1", CODE)
    run = run_readme(environment, tmp_path, code, WITHOUT_EXTRAS + REFUSED)
    assert run.returncode == 0, run.stderr
    assert "tensor" in run.stdout
    said = [line for line in run.stdout.splitlines() if "hessian-directions[" in line]
    assert len(said) == 3
    assert (
        "The plot of a slice needs matplotlib: pip install 'hessian-directions[figures]'." in said
    )
    assert {path.name for path in tmp_path.iterdir()} == {"readme.py"}
