"""Computed artifacts become the archive: whole, readable, and of committed code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    (COMPUTED / "report.html").unlink()
    with pytest.raises(ArtifactError, match=r"report.html is missing: run the profile with"):
        promotion.promote("tiny")
    with pytest.raises(ArtifactError, match=r"computed/other/report.html is missing"):
        promotion.promote("other")
    assert not Path("results/archive").exists()


def test_a_run_whose_paper_failed_replaces_none(tree: Path) -> None:
    promotion.promote("tiny")
    (COMPUTED / "paper.pdf").unlink()
    with pytest.raises(ArtifactError, match=r"computed/tiny/paper.pdf is missing: run the profile"):
        promotion.promote("tiny")
    redrawn = Path("results/redrawn/tiny")
    redrawn.mkdir(parents=True)
    (redrawn / "report.html").touch()
    with pytest.raises(ArtifactError, match=r"redrawn/tiny/paper.pdf is missing: run make figures"):
        promotion.promote_drawings("tiny")
    artifacts.verify_manifest(ARCHIVE)


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


# Replicates and what no computation makes.

REPLICATES = Path("results/replicates/tiny")
SEEDED = CONFIGURATION | {"seed": 1}


def with_replicates(**settings: Any) -> None:
    """The computed profile with seed 1, and two replicates of it."""
    (COMPUTED / "configuration.yaml").write_text(yaml.safe_dump(SEEDED))
    for seed in (2, 3):
        for name in ("tables/networks.csv", "claims.csv", "checkpoints.json", "networks/a/b.nc"):
            write(REPLICATES / str(seed) / name)
        own = SEEDED | {"seed": seed, "cache": "elsewhere"} | settings
        (REPLICATES / str(seed) / "settings.yaml").write_text(yaml.safe_dump(own))


OF_REPLICATES = {
    f"replicates/{seed}/{name}"
    for seed in (2, 3)
    for name in ("tables/networks.csv", "claims.csv", "checkpoints.json", "settings.yaml")
}


@pytest.mark.parametrize("alone", [True, False])
def test_replicates_are_taken_in(tree: Path, alone: bool) -> None:
    (COMPUTED / "configuration.yaml").write_text(yaml.safe_dump(SEEDED))
    promotion.promote("tiny")
    before = files(ARCHIVE)
    with_replicates()
    if alone:
        (COMPUTED / "claims.csv").write_text("other numbers")
        promotion.promote_replicates("tiny")
        assert (ARCHIVE / "claims.csv").read_text() == "claims.csv"
    else:
        promotion.promote("tiny")
    assert files(ARCHIVE) == before | OF_REPLICATES
    artifacts.verify_manifest(ARCHIVE)


@pytest.mark.parametrize("alone", [True, False])
def test_replicates_are_added_to_those_of_other_seeds(tree: Path, alone: bool) -> None:
    with_replicates()
    promotion.promote("tiny")
    shutil.rmtree(REPLICATES / "2")
    (REPLICATES / "3/claims.csv").write_text("computed again")
    (promotion.promote_replicates if alone else promotion.promote)("tiny")
    assert files(ARCHIVE) > OF_REPLICATES
    assert (ARCHIVE / "replicates/2/claims.csv").read_text() == "claims.csv"
    assert (ARCHIVE / "replicates/3/claims.csv").read_text() == "computed again"
    artifacts.verify_manifest(ARCHIVE)


def test_replicates_and_history_outlive_a_promotion(tree: Path) -> None:
    with_replicates()
    promotion.promote("tiny")
    (ARCHIVE / promotion.HISTORY).write_text("what changed")
    shutil.rmtree(REPLICATES)
    promotion.promote("tiny")
    assert files(ARCHIVE) > OF_REPLICATES
    assert (ARCHIVE / promotion.HISTORY).read_text() == "what changed"
    artifacts.verify_manifest(ARCHIVE)
    # Not where they are replicates of something else.
    (COMPUTED / "configuration.yaml").write_text(yaml.safe_dump(SEEDED | {"precision": "float32"}))
    promotion.promote("tiny")
    assert not files(ARCHIVE) & OF_REPLICATES


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"precision": "float32"}, {"analyses": {}}, None]
)
def test_what_is_no_replicate_is_refused(tree: Path, settings: dict[str, Any] | None) -> None:
    (COMPUTED / "configuration.yaml").write_text(yaml.safe_dump(SEEDED))
    promotion.promote("tiny")
    with_replicates(**(settings or {}))
    if settings is None:
        (REPLICATES / "2/settings.yaml").unlink()
    for promote in (promotion.promote, promotion.promote_replicates):
        with pytest.raises(ArtifactError, match=r"^results/replicates/tiny/2 is no complete rep"):
            promote("tiny")
    artifacts.verify_manifest(ARCHIVE)


def test_no_replicates(tree: Path) -> None:
    promotion.promote("tiny")
    with pytest.raises(ArtifactError, match=r"^results/replicates/tiny is missing: run make repl"):
        promotion.promote_replicates("tiny")


def test_artifacts_of_other_code_keep_what_they_say_of_it(tree: Path) -> None:
    """As a run leaves them that did not start from scratch."""
    for name, code in (("eigenpairs", "old"), ("report", "new")):
        path = COMPUTED / f"networks/resnet/{name}.nc"
        artifacts.write_dataset(path, xr.Dataset(), {"code_sha256": code})
    promotion.promote("tiny")
    for name, code in (("eigenpairs", "old"), ("report", "new")):
        made = artifacts.read_provenance(ARCHIVE / f"networks/resnet/{name}.nc")
        assert made["code_sha256"] == code


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
