"""Make computed artifacts the archive: `python -m hessian_directions.promotion <profile>`.

Copies results/computed/<profile> to results/archive/<profile> and rewrites its manifest. Refused on a tree with
uncommitted changes, because the artifacts' code would then be in no commit.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hessian_directions import artifacts
from hessian_directions.errors import ArtifactError, HessianDirectionsError

# Above this size directions and weights along training stay on the machine; their checksums are archived.
LARGEST_TENSORS = 2_000_000  # [bytes]
TENSORS = ("eigenvectors.safetensors", "snapshots.safetensors")
# Made anew from the rest, or only parts of what is kept.
LEFT_OUT = ("comparison", "shards", "report.html")


def promote(profile: str, results: Path = Path("results")) -> int:
    """Replace the archive of a profile; returns the number of files it holds.

    Raises ArtifactError if the tree is dirty, nothing is computed, or an artifact cannot be read.
    """
    if changes := _uncommitted(results / "archive" / profile):
        raise ArtifactError(
            f"the working tree has uncommitted changes ({changes[0]}, …): commit them first, "
            "so that the archive's code is known"
        )
    source, archive = results / "computed" / profile, results / "archive" / profile
    if not (source / "claims.csv").is_file():
        raise ArtifactError(f"{source / 'claims.csv'} is missing: run the profile with source=compute first")
    files = list(_archived_files(source))
    for path in files:
        _check(path)
    fresh = archive.with_name(f".{profile}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    left_out = {}
    for path in files:
        name = path.relative_to(source)
        if path.name in TENSORS and path.stat().st_size > LARGEST_TENSORS:
            left_out[str(name)] = artifacts.sha256(path)
            continue
        target = fresh / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    artifacts.write_json(fresh / "left_out.json", left_out)
    artifacts.write_manifest(fresh)
    shutil.rmtree(archive, ignore_errors=True)
    fresh.rename(archive)
    return len(artifacts.verify_manifest(archive))


def _archived_files(source: Path) -> Iterator[Path]:
    for path in sorted(source.rglob("*")):
        parts = path.relative_to(source).parts
        hidden = any(part.startswith(".") for part in parts)
        left_out = any(part.split(".")[0].startswith(name.split(".")[0]) for part in parts for name in LEFT_OUT)
        if path.is_file() and not hidden and not left_out:
            yield path


def _check(path: Path) -> None:
    if path.suffix == ".nc":
        artifacts.read_dataset(path)
    elif path.suffix == ".safetensors":
        artifacts.read_tensors(path)
    elif path.suffix == ".json":
        artifacts.read_json(path)


def _uncommitted(archive: Path) -> list[str]:
    """Changed files outside the archive itself, which is about to be replaced."""
    status = subprocess.run(
        ["git", "status", "--porcelain"], capture_output=True, text=True, check=True
    )
    paths = [line[3:] for line in status.stdout.splitlines()]
    return [path for path in paths if not path.startswith(str(archive))]


def main() -> int:
    try:
        count = promote(sys.argv[1])
    except HessianDirectionsError as error:
        print(f"promote: {error}", file=sys.stderr)
        return 1
    print(f"results/archive/{sys.argv[1]} now holds {count} files and their manifest; commit it.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
