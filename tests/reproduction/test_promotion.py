"""Computed artifacts become the archive: whole, readable, and of committed code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

from hessian_directions.errors import ArtifactError
from hessian_directions.reproduction import artifacts, promotion

COMPUTED = Path("results/computed/tiny")
ARCHIVE = Path("results/archive/tiny")
ANALYSES = {
    "slices": {"n_shards": 1, "planes": ["random"]},
    "visibility": {"n_shards": 3},
    "image_counts": {"n_images": [10, 20]},
    "eigenpairs": {},
}
CONFIGURATION = {
    "networks": {
        "comparison_net": {"analyses": {}},
        "resnet": {"analyses": ANALYSES | {"slices": {"n_shards": 2, "planes": ["random"]}}},
        "shards": {"analyses": ANALYSES},
    },
    "analyses": {"population": {"n_shards": 1}},
}
RECORD = {"rule": "r", "wall_seconds": 1.0, "threads": 1}

KEPT = [
    "claim_rows.csv",
    "claims.csv",
    "configuration.yaml",
    "figures/spectra.pdf",
    "figures/spectra.png",
    "networks/comparison_net/checkpoint.safetensors",
    "networks/comparison_net/report.nc",
    "networks/resnet/checkpoint.safetensors",
    "networks/resnet/checkpoint.run.json",
    "networks/resnet/eigenpairs.nc",
    "networks/resnet/eigenpairs.run.json",
    "networks/resnet/eigenvectors.safetensors",
    "networks/resnet/image_counts/20.nc",
    "networks/resnet/image_counts/20.run.json",
    "networks/resnet/shards/visibility/2.run.json",
    "networks/resnet/shards/slices/random_0.run.json",
    "networks/resnet/shards/slices/random_1.run.json",
    "networks/resnet/snapshots.safetensors",
    "networks/resnet/slices/random.nc",
    "networks/shards/checkpoint.safetensors",
    "networks/shards/slices/random.nc",
    "paper.pdf",
    "population.nc",
    "shards/population/0.run.json",
    "tables/networks.csv",
]
LEFT_OUT = [
    "comparison.csv",
    "comparison_verdicts.csv",
    "comparison.txt",
    "report.html",
    "networks/resnet/shards/slices/random_0.nc",
    "networks/shards/shards/slices/random_0.nc",
    "networks/resnet/checkpoint.safetensors.state",
    "networks/resnet/.eigenpairs.part.nc",
    "networks/resnet/image_counts/.20.part.nc",
    # of an earlier configuration
    "networks/resnet/slices/hessian.nc",
    "networks/resnet/lines.nc",
    "shards/population/1.run.json",
    "networks/replaced/eigenpairs.nc",
    "networks/resnet/image_counts/30.nc",
    "networks/resnet/image_counts/30.run.json",
    "networks/resnet/shards/visibility/3.run.json",
    "networks/resnet/shards/slices/random_2.run.json",
    "networks/shards/shards/slices/random_1.run.json",
    ".DS_Store",
]


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def write(path: Path, size: int = 10) -> None:
    """An artifact of the kind that the name says, with about `size` bytes of content."""
    if path.suffix == ".nc":
        artifacts.write_dataset(path, xr.Dataset({"x": ("i", np.zeros(size // 8))}), {})
    elif path.suffix == ".safetensors":
        artifacts.write_tensors(path, {"x": np.zeros(size, dtype=np.uint8)}, {})
    elif path.suffix == ".json":
        artifacts.write_json(path, RECORD)
    elif path.name == "configuration.yaml":
        path.write_text(yaml.safe_dump(CONFIGURATION))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with committed code, this project's .gitignore, and a computed profile."""
    monkeypatch.chdir(tmp_path)
    ignored = (Path(__file__).parents[2] / ".gitignore").read_text()
    Path(".gitignore").write_text(ignored)
    Path("src").mkdir()
    Path("src/code.py").write_text("code\n")
    git("init", "--quiet", "--initial-branch=main")
    git("add", "--all")
    git("commit", "--quiet", "-m", "code")
    for name in [*KEPT, *LEFT_OUT]:
        write(COMPUTED / name)
    return tmp_path


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_archive_holds_what_the_grammar_says(tree: Path) -> None:
    count = promotion.promote("tiny")
    assert files(ARCHIVE) == {*KEPT, "left_out.json", artifacts.MANIFEST}
    assert artifacts.verify_manifest(ARCHIVE) == sorted([*KEPT, "left_out.json"])
    assert count == len(KEPT) + 1
    assert artifacts.read_json(ARCHIVE / "left_out.json") == {}
    for name in KEPT:
        assert (ARCHIVE / name).read_bytes() == (COMPUTED / name).read_bytes()
    # Nothing else was touched, and nothing left behind.
    assert files(COMPUTED) == {*KEPT, *LEFT_OUT}
    assert [path.name for path in ARCHIVE.parent.iterdir()] == ["tiny"]
    assert {line[3:] for line in git("status", "--porcelain").splitlines()} == {"results/"}


def test_large_vectors_leave_their_checksums(tree: Path) -> None:
    large = promotion.LARGEST_TENSORS + 1
    vectors = "networks/resnet/eigenvectors.safetensors"
    snapshots = "networks/resnet/snapshots.safetensors"
    checkpoint = "networks/resnet/checkpoint.safetensors"
    for name in (vectors, snapshots, checkpoint):
        write(COMPUTED / name, large)
    promotion.promote("tiny")
    # A network's own weights are what its artifacts are about: they stay, whatever their size.
    assert files(ARCHIVE) == {*KEPT, "left_out.json", artifacts.MANIFEST} - {vectors, snapshots}
    assert artifacts.read_json(ARCHIVE / "left_out.json") == {
        name: artifacts.sha256(COMPUTED / name) for name in (vectors, snapshots)
    }
    assert "left_out.json" in artifacts.verify_manifest(ARCHIVE)
    assert (ARCHIVE / checkpoint).stat().st_size > large


def test_vectors_of_the_largest_size_are_kept(tree: Path) -> None:
    write(COMPUTED / "networks/resnet/eigenvectors.safetensors", promotion.LARGEST_TENSORS - 1000)
    promotion.promote("tiny")
    assert artifacts.read_json(ARCHIVE / "left_out.json") == {}


def test_archive_is_replaced_as_a_whole(tree: Path) -> None:
    promotion.promote("tiny")
    git("add", "--all")
    git("commit", "--quiet", "-m", "archive")
    (COMPUTED / "figures/spectra.pdf").unlink()
    (COMPUTED / "networks/resnet/eigenpairs.nc").rename(COMPUTED / "networks/resnet/history.nc")
    shutil.copytree(ARCHIVE, ARCHIVE.with_name(".tiny.new"))  # of an interrupted promotion
    promotion.promote("tiny")
    expected = {*KEPT, "networks/resnet/history.nc", "left_out.json", artifacts.MANIFEST}
    assert files(ARCHIVE) == expected - {"figures/spectra.pdf", "networks/resnet/eigenpairs.nc"}
    artifacts.verify_manifest(ARCHIVE)
    assert not ARCHIVE.with_name(".tiny.new").exists()


def test_other_archives_stay(tree: Path) -> None:
    """And may be uncommitted: archives are no code. Their names may begin alike."""
    shutil.copytree(COMPUTED, "results/computed/tiny2")
    promotion.promote("tiny2")
    before = artifacts.sha256("results/archive/tiny2/manifest.sha256")
    promotion.promote("tiny")
    promotion.promote("tiny")
    assert artifacts.sha256("results/archive/tiny2/manifest.sha256") == before
    git("add", "--all")
    git("commit", "--quiet", "-m", "archives")
    (ARCHIVE / "claims.csv").write_text("spoiled")
    promotion.promote("tiny2")


@pytest.mark.parametrize("change", ["edited", "staged", "untracked", "deleted"])
def test_uncommitted_changes_are_refused(tree: Path, change: str) -> None:
    promotion.promote("tiny")
    before = artifacts.sha256(ARCHIVE / artifacts.MANIFEST)
    (COMPUTED / "claims.csv").write_text("new numbers")
    name = "src/new.py" if change == "untracked" else "src/code.py"
    if change == "deleted":
        Path(name).unlink()
    else:
        Path(name).write_text("changed\n")
    if change == "staged":
        git("add", "--all", "src")
    with pytest.raises(ArtifactError, match=rf"^the working tree has .*changes \({name}, …\)"):
        promotion.promote("tiny")
    assert artifacts.sha256(ARCHIVE / artifacts.MANIFEST) == before


def test_changes_above_the_working_directory_count(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("src/code.py").write_text("changed\n")
    monkeypatch.chdir("results")
    with pytest.raises(ArtifactError, match=r"src/code.py"):
        promotion.promote("tiny", results=Path())


def test_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ArtifactError, match=r"^git cannot tell whether all code is committed: "):
        promotion.promote("tiny")


def test_nothing_computed(tree: Path) -> None:
    (COMPUTED / "claims.csv").unlink()
    with pytest.raises(ArtifactError, match=r"claims.csv is missing: run the profile with"):
        promotion.promote("tiny")
    with pytest.raises(ArtifactError, match=r"computed/other/claims.csv is missing"):
        promotion.promote("other")
    assert not Path("results/archive").exists()


@pytest.mark.parametrize(
    "name", ["eigenpairs.nc", "eigenvectors.safetensors", "eigenpairs.run.json"]
)
def test_corrupt_artifact_is_named_and_the_archive_kept(tree: Path, name: str) -> None:
    promotion.promote("tiny")
    before = files(ARCHIVE)
    (COMPUTED / "networks/resnet" / name).write_bytes(b"{")
    (COMPUTED / "claims.csv").write_text("new numbers")
    with pytest.raises(ArtifactError, match=rf"networks/resnet/{name} is corrupt"):
        promotion.promote("tiny")
    artifacts.verify_manifest(ARCHIVE)
    assert files(ARCHIVE) == before
    assert (ARCHIVE / "claims.csv").read_text() == "claims.csv"


def test_command(tree: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        source = str(Path(promotion.__file__).parents[2])
        return subprocess.run(
            [sys.executable, "-m", "hessian_directions.reproduction.promotion", "tiny"],
            env=os.environ | {"PYTHONPATH": source},
            capture_output=True,
            text=True,
        )

    done = run()
    assert done.returncode == 0
    assert done.stdout == (
        f"results/archive/tiny now holds {len(KEPT) + 1} files and their manifest; commit it.\n"
    )
    Path("src/code.py").write_text("changed\n")
    done = run()
    assert done.returncode == 1
    assert done.stderr.startswith("promote: the working tree has uncommitted changes")
