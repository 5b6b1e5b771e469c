"""Make computed artifacts the archive: `python -m hessian_directions.reproduction.promotion <profile>`.

With `--drawings`, replace the archive's figures, tables, verdicts and paper by those redrawn from it.

Copies results/computed/<profile> to results/archive/<profile>, with what the archive keeps of the
replicates in results/replicates/<profile>, and writes its manifest. Refused on a tree with
uncommitted changes, because the artifacts' code would then be in no commit. With `--replicates`,
replicates alone are added to the archive.

Each artifact names the code that made it. Where an edit re-made some of them and left others, as a
run does that does not start from scratch, all are taken as they are.
"""

import argparse
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from hessian_directions.analyses import registry
from hessian_directions.errors import ArtifactError, as_program
from hessian_directions.reproduction import artifacts
from hessian_directions.reproduction.configuration import Configuration, numerical, read_record

# Directions and weights along training that are larger than this stay on the machine; the archive
# holds their checksums. [bytes]
LARGEST_TENSORS = 2_000_000
TENSORS = {"eigenvectors.safetensors", "snapshots.safetensors"}
CHECKSUMS = "left_out.json"

# Paths below the profile's folder that do not belong in its archive.
LEFT_OUT = (
    "comparison*",  # with the archive that is about to be replaced
    "*.html",  # made anew from the rest
    "shards/*.nc",  # which their analyses' artifacts hold again
    "networks/*/shards/*.nc",
    "*.state",  # of interrupted runs
    ".*",
    "*/.*",
)


# What is kept of a replicate.
OF_REPLICATES = ("tables/*.csv", "claims.csv", "settings.yaml", "checkpoints.json")
# Of the archive's own, which no computation makes.
HISTORY = "history.md"


def promote(profile: str, results: Path = Path("results")) -> int:
    """Replace the archive of a profile as a whole; returns the number of files it now holds.

    Raises ArtifactError, and changes nothing, if the tree has uncommitted changes outside the
    archives, if the profile is not computed, or if an artifact cannot be read.
    """
    source, archive = results / "computed" / profile, results / "archive" / profile
    _require_committed(results / "archive")
    _require_whole(source, archive, "run the profile with source=compute first")
    fresh = archive.with_name(f".{profile}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    left_out = {}
    configuration = read_record(source / "configuration.yaml")
    for name in _kept(source):
        path = source / name
        if _is_outdated(name, configuration):
            continue
        if path.suffix in artifacts.READERS:  # they refuse what cannot be read
            artifacts.read(path)
        if path.name in TENSORS and path.stat().st_size > LARGEST_TENSORS:
            left_out[name.as_posix()] = artifacts.sha256(path)
        else:
            _copy(path, fresh / name)
    artifacts.write_json(fresh / CHECKSUMS, left_out)
    if (archive / HISTORY).is_file():
        _copy(archive / HISTORY, fresh / HISTORY)
    replicates = results / "replicates" / profile
    _require_same_settings(replicates, fresh)
    for folder in (archive / "replicates", replicates):
        _copy_replicates(folder, fresh)
    artifacts.write_manifest(fresh)
    shutil.rmtree(archive, ignore_errors=True)
    fresh.rename(archive)
    return len(artifacts.verify_manifest(archive))


def promote_drawings(profile: str, results: Path = Path("results")) -> int:
    """Replace what the archive's own artifacts were drawn as; returns the number of its files.

    Artifacts stay as they are. Raises ArtifactError, and changes nothing, if the tree has
    uncommitted changes outside the archives or the archive was not redrawn.
    """
    redrawn, archive = results / "redrawn" / profile, results / "archive" / profile
    _require_committed(results / "archive")
    _require_whole(redrawn, archive, "run make figures first")
    for folder in ("figures", "animations", "tables"):
        shutil.rmtree(archive / folder, ignore_errors=True)
    for name in _kept(redrawn):
        _copy(redrawn / name, archive / name)
    artifacts.write_manifest(archive)
    return len(artifacts.verify_manifest(archive))


def promote_replicates(profile: str, results: Path = Path("results")) -> int:
    """Add replicates to the archive, in place of those of the same seed; returns the number of its files.

    Raises ArtifactError, and changes nothing, if the tree has uncommitted changes outside the
    archives, or there are no replicates, or they have other settings than the archive.
    """
    replicates, archive = results / "replicates" / profile, results / "archive" / profile
    _require_committed(results / "archive")
    if not replicates.is_dir():
        raise ArtifactError(f"{replicates} is missing: run make replicates first")
    _require_same_settings(replicates, archive)
    _copy_replicates(replicates, archive)
    artifacts.write_manifest(archive)
    return len(artifacts.verify_manifest(archive))


def _require_whole(drawn: Path, archive: Path, advice: str) -> None:
    """Refuse a run that did not make its documents, which it does last."""
    for name in ("report.html", "paper.pdf"):
        is_wanted = name == "report.html" or (archive / name).is_file()
        if is_wanted and not (drawn / name).is_file():
            raise ArtifactError(f"{drawn / name} is missing: {advice}")


def _copy_replicates(replicates: Path, archive: Path) -> None:
    """Those that are the archive's profile with another seed, in place of those of the same seed."""
    misfits = set(_misfits(replicates, archive))
    for folder in sorted({*replicates.glob("*/")} - misfits):
        target = archive / "replicates" / folder.name
        shutil.rmtree(target, ignore_errors=True)
        for path in (path for pattern in OF_REPLICATES for path in folder.glob(pattern)):
            _copy(path, target / path.relative_to(folder))


def _require_same_settings(replicates: Path, archive: Path) -> None:
    """Refuse replicates that are not the archive's profile with another seed."""
    for folder in _misfits(replicates, archive):
        raise ArtifactError(
            f"{folder} is no complete replicate of {archive}: its settings.yaml is missing, or "
            "differs by more than the seed, or not at all; delete it and run make replicates"
        )


def _misfits(replicates: Path, archive: Path) -> Iterator[Path]:
    """The folders of replicates that are not complete, or not the archive's with another seed."""
    own = numerical(read_record(archive / "configuration.yaml"))
    for folder in sorted(replicates.glob("*/")):
        settings = folder / "settings.yaml"
        theirs = numerical(read_record(settings)) if settings.is_file() else {}
        if theirs == own or theirs | {"seed": own.get("seed")} != own:
            yield folder


def _kept(source: Path) -> Iterator[Path]:
    """The files of a profile that belong in its archive, relative to its folder."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and not any(fnmatch(name.as_posix(), pattern) for pattern in LEFT_OUT):
            yield name


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def _is_outdated(name: Path, configuration: Configuration) -> bool:
    """Whether a file is that of an earlier configuration: of a network, analysis, part or shard
    that it no longer has.
    """
    settings, parts = configuration["analyses"], name.parts
    if parts[0] == "networks":
        if parts[1] not in configuration["networks"]:
            return True
        settings, parts = configuration["networks"][parts[1]]["analyses"], parts[2:]
    match parts:
        case ("shards", analysis, file):
            shard = int(file.split(".")[0].rpartition("_")[2])
            return analysis not in settings or shard >= (settings[analysis].get("n_shards") or 1)
        case (analysis, file) if analysis in registry.OF_NETWORKS:
            part = file.split(".")[0]
            return analysis not in settings or part not in registry.analysis(analysis).parts(
                settings[analysis]
            )
        case (file,) if (analysis := file.split(".")[0]) in registry.OF_NETWORKS:
            return analysis not in settings
    return False


def _require_committed(archives: Path) -> None:
    """Refuse uncommitted changes, except in the archives themselves, which are no code."""
    command = ["git", "status", "--porcelain", "--", ":/", f":(exclude){archives}"]
    status = subprocess.run(command, capture_output=True, text=True)
    if status.returncode != 0:
        raise ArtifactError(
            f"git cannot tell whether all code is committed: {status.stderr.strip()}"
        )
    if changes := status.stdout.splitlines():
        raise ArtifactError(
            f"the working tree has uncommitted changes ({changes[0][3:]}, …): commit them first, "
            "so that the archive's code is known"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Make computed artifacts the archive.")
    parser.add_argument("profile", help="the profile whose results/computed/<profile> is promoted")
    parts = parser.add_mutually_exclusive_group()
    for option, function, said in (
        ("--drawings", promote_drawings, "keep the artifacts, replace what is drawn of them"),
        ("--replicates", promote_replicates, "keep all but the replicates"),
    ):
        parts.add_argument(option, dest="promote", action="store_const", const=function, help=said)
    parser.set_defaults(promote=promote)
    arguments = parser.parse_args()
    profile = arguments.profile

    def work() -> str:
        count = arguments.promote(profile)
        return f"results/archive/{profile} now holds {count} files and their manifest; commit it."

    return as_program("promote", work)


if __name__ == "__main__":
    raise SystemExit(main())
