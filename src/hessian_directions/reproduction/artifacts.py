"""Artifacts: files that carry what made them, written whole or not at all, and verified by checksum.

Arrays are netCDF (read by xarray, R, Julia, Panoply …), weights and vectors are safetensors. Both hold one
attribute, `provenance`, a sorted JSON object: configuration, seeds, data identity, precision, BatchNorm mode,
threads, code and library versions, device kind. What varies from run to run (wall time, memory, host) lies
beside the artifact in `<name>.run.json`, so that equal computations give equal bytes.
"""

import hashlib
import importlib.metadata
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy
import xarray as xr

from hessian_directions.errors import ArtifactError
from hessian_directions.files import AnyPath, atomic_path, sha256, to_json

MANIFEST = "manifest.sha256"
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "xarray", "scikit-learn")


def provenance(
    *,
    configuration: Mapping[str, Any],
    seed: int,
    threads: int,
    device: str,
    precision: str,
    code: Sequence[AnyPath],
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What made an artifact, as an object that JSON can hold.

    `code` lists the source files of the stage; the sha256 over theirs, whatever their order and folder, is the
    code's version, so that a commit elsewhere in the repository does not change the artifact.
    """
    checksums = sorted(sha256(path) for path in code)
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "absent"
    return {
        "configuration": dict(configuration),
        "seed": seed,
        "data": dict(data or {}),
        "precision": precision,
        "batch_norm": "evaluation mode",
        "threads": threads,
        "device": device,
        "code_sha256": hashlib.sha256("".join(checksums).encode()).hexdigest(),
        "libraries": versions,
    }


def write_dataset(path: AnyPath, dataset: xr.Dataset, provenance: Mapping[str, Any]) -> None:
    """Write a dataset as netCDF with its provenance, whole or not at all."""
    with atomic_path(path) as temporary:
        described = dataset.assign_attrs(provenance=to_json(provenance))
        # By way of memory: HDF5 crashes where the disk is full.
        temporary.write_bytes(described.to_netcdf(engine="h5netcdf"))


def read_dataset(path: AnyPath) -> xr.Dataset:
    """Read a dataset into memory and close the file; a file that cannot be read is named."""
    with _reading(path):
        return xr.load_dataset(path, engine="h5netcdf")


def write_tensors(
    path: AnyPath, arrays: Mapping[str, np.ndarray], provenance: Mapping[str, Any]
) -> None:
    """Write named arrays as safetensors with their provenance, whole or not at all."""
    with atomic_path(path) as temporary:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # The header of safetensors has no stable order: more than one metadata key would change the bytes.
        metadata = {"provenance": to_json(provenance)}
        temporary.write_bytes(safetensors.numpy.save(contiguous, metadata))


def read_tensors(path: AnyPath) -> dict[str, np.ndarray]:
    """Read named arrays; a file that cannot be read is named."""
    with _reading(path):
        return safetensors.numpy.load_file(path)


def read_provenance(path: AnyPath) -> dict[str, Any]:
    """The provenance that an artifact carries; a file without it counts as corrupt."""
    with _reading(path):
        if Path(path).suffix == ".nc":
            return json.loads(xr.load_dataset(path, engine="h5netcdf").attrs["provenance"])
        with safetensors.safe_open(path, "numpy") as file:
            return json.loads(file.metadata()["provenance"])


def write_failure(path: AnyPath, sentence: str, provenance: Mapping[str, Any]) -> None:
    """Write what stands in the place of an artifact whose numbers are not finite."""
    said = dict(provenance) | {"failed": sentence}
    if Path(path).suffix == ".nc":
        write_dataset(path, xr.Dataset(), said)
    else:
        write_tensors(path, {}, said)


def failure(path: AnyPath) -> str | None:
    """Why there are no numbers in an artifact or run record; None where there are."""
    if Path(path).suffix == ".json":
        return read_json(path).get("failed")
    return read_provenance(path).get("failed")


def write_table(path: AnyPath, table: pd.DataFrame) -> None:
    """Write a table as CSV, ten significant digits, whole or not at all."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")


def write_json(path: AnyPath, value: Any) -> None:
    """Write a JSON file for people and machines, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(value, indent=1) + "\n")


def read_json(path: AnyPath) -> Any:
    """Read a JSON file; a file that cannot be read is named."""
    with _reading(path):
        return json.loads(Path(path).read_text())


READERS = {".nc": read_dataset, ".safetensors": read_tensors, ".json": read_json}


def read(path: AnyPath) -> Any:
    """What a file holds, by its suffix: a dataset, named arrays, or a run record."""
    return READERS[Path(path).suffix](path)


def write_manifest(root: AnyPath) -> None:
    """List every file under `root` with its sha256, in the format of `sha256sum --check`.

    Hidden files are no artifacts: file managers and interrupted writes leave them behind.
    """
    root = Path(root)
    lines = [f"{sha256(root / name)}  {name}\n" for name in _files(root)]
    with atomic_path(root / MANIFEST) as temporary:
        temporary.write_text("".join(lines))


def verify_manifest(root: AnyPath) -> list[str]:
    """The files that the manifest of `root` lists, after checking each of them.

    Raises ArtifactError naming the first file that is missing, changed, or not listed; hidden files do not count.
    """
    root = Path(root)
    if not (root / MANIFEST).is_file():
        raise ArtifactError(
            f"{root / MANIFEST} is missing: there is no archive of this profile, "
            "compute it with source=compute"
        )
    lines = (root / MANIFEST).read_text().splitlines()
    listed = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    for name, checksum in listed.items():
        path = root / name
        remedy = f"restore it with: git checkout -- {shlex.quote(str(path))}"
        if not path.is_file():
            raise ArtifactError(f"{path} is missing, though {root / MANIFEST} lists it; {remedy}")
        if sha256(path) != checksum:
            # While the file is there, git may take it for unchanged and leave it alone.
            raise ArtifactError(
                f"{path} is corrupt: its sha256 is not the one in {root / MANIFEST}; "
                f"delete it, then {remedy}"
            )
    for name in _files(root):
        if name not in listed:
            raise ArtifactError(f"{root / name} is not listed in {root / MANIFEST}")
    return list(listed)


def _files(root: Path) -> list[str]:
    names = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    shown = (name for name in names if not any(part.startswith(".") for part in name.parts))
    return sorted(name.as_posix() for name in shown if name != Path(MANIFEST))


@contextmanager
def _reading(path: AnyPath) -> Iterator[None]:
    """Name a file that is missing or cannot be read."""
    if not Path(path).is_file():
        raise ArtifactError(f"{path} is missing")
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{path} is corrupt ({reason}); delete it and run again") from error
