"""A clone works where it lies: whatever git does to line ends there, whatever its folder is called."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from miniature import write_files
from project import ROOT, TINY, Project

from hessian_directions.errors import ArtifactError
from hessian_directions.reproduction import artifacts

ARCHIVE = "results/archive/demo"
# Of git's settings, those that change line ends.
LINE_ENDS = (["core.autocrlf=true"], ["core.autocrlf=false", "core.eol=crlf"])

# Every kind of character that a shell, a format string or Snakemake might take for its own.
STRANGE = '-it\'s "a" (b) & c; $HOME `d` #e %f ~ * \\ ñ θ'
REFUSED = ("{braces}", "line\nbreak")


# Line ends.


def with_archive(path: Path) -> Project:
    """This repository with a small archive of each kind of text, one with line ends of its own."""
    project = Project.clone(path)
    archive = path / ARCHIVE
    artifacts.write_json(archive / "networks/resnet/passes.run.json", {"seconds": [1, 2]})
    texts = {
        "claims.csv": "claim,verdict\nC1,reproduced\n",
        "configuration.yaml": "profile: demo\nseed: 1\n",
        "tables/foreign.csv": "a,b\r\n1,2\r\n",
        "figures/drawn.pdf": "%PDF-1.7\nstream\r\n\0\r\nendstream\n",
    }
    write_files(archive, texts)
    artifacts.write_manifest(archive)
    project.run("git", "config", "core.autocrlf", "true")
    project.commit("archive")
    return project


def tracked(project: Project) -> list[str]:
    names = project.run("git", "ls-files", "-z").stdout.split("\0")
    return [name for name in names if name and not (project.path / name).is_symlink()]


@pytest.mark.parametrize("settings", LINE_ENDS, ids=" ".join)
def test_bytes_are_the_same_whatever_git_does_to_line_ends(
    tmp_path: Path, settings: list[str]
) -> None:
    original = with_archive(tmp_path / "original")
    options = [word for setting in settings for word in ("-c", setting)]
    clone = Project(tmp_path / "clone")
    original.run("git", "clone", "--quiet", *options, ".", str(clone.path))
    names = tracked(clone)
    kinds = {".sha256", ".csv", ".yaml", ".json", ".typ", ".smk", ".py", ".pdf", ".toml", ".rst"}
    assert kinds <= {Path(name).suffix for name in names}
    assert {"Makefile", "Snakefile", ".ci/run"} <= set(names)
    for name in names:
        assert (clone.path / name).read_bytes() == (original.path / name).read_bytes(), name
    assert artifacts.verify_manifest(clone.path / ARCHIVE)
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_remedy_restores_what_git_takes_for_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone that converted its line ends, and only then learnt not to."""
    original = with_archive(tmp_path / "original")
    attributes = (original.path / ".gitattributes").read_text()
    (original.path / ".gitattributes").unlink()
    original.commit("nothing about line ends")
    clone = Project(tmp_path / "a clone")
    original.run("git", "clone", "--quiet", "-c", "core.autocrlf=true", ".", str(clone.path))
    (original.path / ".gitattributes").write_text(attributes)
    original.commit("line ends stay")
    clone.run("git", "pull", "--quiet")
    monkeypatch.chdir(clone.path)
    mended = []
    while len(mended) < 10:
        try:
            artifacts.verify_manifest(ARCHIVE)
            break
        except ArtifactError as error:
            name, _, rest = str(error).partition(" is corrupt: ")
            remedy = rest.partition("; delete it, then restore it with: ")[2]
        # Git takes the file for unchanged (unless it was written in the second of its index), so that
        # git checkout alone leaves it as it is.
        Path(name).unlink()
        clone.run(*shlex.split(remedy))
        mended.append(Path(name).name)
    assert {"claims.csv", "configuration.yaml", "passes.run.json"} <= set(mended)
    artifacts.verify_manifest(ARCHIVE)


# Folders.


def give_environment(project: Project) -> str:
    """An environment below the clone, as make sets one up, with the packages of this one; its Python."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", project.path / ".venv"], check=True
    )
    (packages,) = project.path.glob(".venv/lib/python*/site-packages")
    (packages / "these.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (project.path / ".venv/ready").touch()
    return ".venv/bin/python"


def clone_into(computed: Project, folder: Path) -> Project:
    folder.mkdir()
    shutil.copytree(computed.path, folder / "clone", symlinks=True)
    shutil.rmtree(folder / "clone/results/computed")
    return Project(folder / "clone")


@pytest.mark.workflow
def test_folder_of_any_name(computed: Project, tmp_path: Path) -> None:
    """`make figures`, and a stage that computes, in an environment below the folder."""
    project = clone_into(computed, tmp_path / STRANGE)
    python = give_environment(project)
    snakemake = f"{python} -m snakemake --configfile {TINY} --config source="
    project.run("make", "figures", "PROFILE=tiny", f"SNAKEMAKE={snakemake}archive")
    drawn = project.path / "results/redrawn/tiny"
    assert (drawn / "report.html").is_file()
    claims = (project.path / "results/archive/tiny/claims.csv").read_bytes()
    assert (drawn / "claims.csv").read_bytes() == claims
    saddles = "results/computed/tiny/saddles.nc"
    project.run(*f"{snakemake}compute".split(), "--", saddles)
    assert (project.path / saddles).is_file()


@pytest.mark.workflow
def test_clone_behind_a_link(computed: Project, tmp_path: Path) -> None:
    project = clone_into(computed, tmp_path / "a folder")
    (tmp_path / "a link").symlink_to(project.path)
    linked = Project(tmp_path / "a link")
    linked.snakemake("results/redrawn/tiny/claims.csv", PWD=str(linked.path))
    assert (linked.path / "results/redrawn/tiny/claims.csv").is_file()


@pytest.mark.workflow
@pytest.mark.parametrize("name", REFUSED)
def test_folder_that_cannot_work_is_refused(computed: Project, tmp_path: Path, name: str) -> None:
    project = clone_into(computed, tmp_path / name)
    for config in ("source=archive", "source=compute"):
        done = project.snakemake("figures", config=config, check=False)
        assert done.returncode != 0
        assert "in its path, which Snakemake cannot handle; rename or move it" in done.stderr
        assert "Traceback" not in done.stderr
    assert {path.name for path in (project.path / "results").iterdir()} == {"archive"}


def test_make_refuses_braces_before_it_installs_anything(tmp_path: Path) -> None:
    folder = tmp_path / "{braces}"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    done = subprocess.run(["make", "figures"], cwd=folder, capture_output=True, text=True)
    assert done.returncode != 0
    assert "has a brace in its path" in done.stderr
    assert os.listdir(folder) == ["Makefile"]
