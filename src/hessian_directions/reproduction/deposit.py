"""Pack what a repository of research data takes: `python -m hessian_directions.reproduction.deposit`.

Writes build/hessian-directions-<version>.zip: every file of the last commit (code, configurations,
archives, licence and CITATION.cff) and MANIFEST.sha256, which `sha256sum --check` reads. Two packs
of one commit are the same to the byte.
"""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

from hessian_directions import __version__
from hessian_directions.errors import ArtifactError, as_program
from hessian_directions.reproduction import artifacts

NAME = f"hessian-directions-{__version__}"
MANIFEST = "MANIFEST.sha256"


def pack(root: Path = Path()) -> Path:
    """Pack the last commit of the repository in `root`; returns the file.

    Raises ArtifactError, and writes nothing, if there are changes that are not committed, or if an
    archive is not what its manifest lists.
    """
    if changed := _git(root, "status", "--porcelain").decode().splitlines():
        raise ArtifactError(
            f"{changed[0][3:]} is not committed: a deposit is the last commit, commit or discard it"
        )
    for archive in sorted((root / "results/archive").glob(f"*/{artifacts.MANIFEST}")):
        artifacts.verify_manifest(archive.parent)
    target = root / "build" / f"{NAME}.zip"
    target.parent.mkdir(exist_ok=True)
    with artifacts.atomic_path(target) as temporary:
        temporary.write_bytes(_git(root, "archive", "--format=zip", f"--prefix={NAME}/", "HEAD"))
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as packed:
            files = [entry for entry in packed.infolist() if not entry.is_dir()]
            checksums = [hashlib.sha256(packed.read(entry)).hexdigest() for entry in files]
            names = [entry.filename.removeprefix(f"{NAME}/") for entry in files]
            lines = [f"{checksum}  {name}\n" for checksum, name in zip(checksums, names)]
            manifest = zipfile.ZipInfo(f"{NAME}/{MANIFEST}", files[0].date_time)
            manifest.external_attr = 0o644 << 16
            packed.writestr(manifest, "".join(lines), zipfile.ZIP_DEFLATED)
    return target


def _git(root: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ArtifactError(f"{root.resolve()} is no git repository with a commit") from error


def main() -> int:
    def work() -> str:
        target = pack()
        return f"{target} ({target.stat().st_size / 1e6:.0f} MB)"

    return as_program("deposit", work)


if __name__ == "__main__":
    sys.exit(main())
