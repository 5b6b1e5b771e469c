"""A deposit holds the last commit and its checksums, or is refused."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest
from miniature import write_files

from hessian_directions.errors import ArtifactError
from hessian_directions.reproduction import artifacts
from hessian_directions.reproduction.deposit import MANIFEST, NAME, pack


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With a licence, a file in Latin-1, and an archive."""
    files = {
        ".gitignore": b"/build/\n",
        "LICENSE": b"MIT",
        "src/module.py": "é".encode("latin-1"),
        "results/archive/demo/claims.csv": b"claim,verdict\n",
    }
    write_files(tmp_path, files)
    artifacts.write_manifest(tmp_path / "results/archive/demo")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_it_holds_every_file_of_the_commit_with_its_checksum(repository: Path) -> None:
    (repository / "build").mkdir()
    (repository / "build/ignored").write_text("not part of it")
    target = pack(repository)
    assert target == repository / f"build/{NAME}.zip"
    with zipfile.ZipFile(target) as packed:
        held = {
            n.removeprefix(f"{NAME}/"): packed.read(n) for n in packed.namelist() if n[-1] != "/"
        }
    listed = dict(reversed(line.split("  ")) for line in held.pop(MANIFEST).decode().splitlines())
    assert sorted(held) == sorted(listed) == sorted(git(repository, "ls-files").splitlines())
    for name, content in held.items():
        assert content == (repository / name).read_bytes()
        assert listed[name] == hashlib.sha256(content).hexdigest()


def test_two_are_the_same_to_the_byte(repository: Path) -> None:
    first = pack(repository).read_bytes()
    assert pack(repository).read_bytes() == first


def test_what_is_not_committed_is_refused(repository: Path) -> None:
    (repository / "LICENSE").write_text("mine")
    with pytest.raises(ArtifactError, match="LICENSE is not committed"):
        pack(repository)
    assert not (repository / "build").exists()


def test_an_archive_that_its_manifest_does_not_list_is_refused(repository: Path) -> None:
    (repository / "results/archive/demo/claims.csv").write_text("claim,verdict\nC1,proved\n")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-am", "edit")
    with pytest.raises(ArtifactError, match=r"claims\.csv is corrupt"):
        pack(repository)


def test_a_folder_without_a_commit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no git repository with a commit"):
        pack(tmp_path)
