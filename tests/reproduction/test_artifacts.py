"""Artifacts: equal bytes for equal content, whole or not at all, verified by checksum."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hessian_directions.errors import ArtifactError
from hessian_directions.files import to_json
from hessian_directions.reproduction import artifacts

PROVENANCE = {"seed": 1, "configuration": {"b": [1, 2.5], "a": None}, "data": {"name": "digits"}}


def dataset() -> xr.Dataset:
    return xr.Dataset(
        {
            "loss": (("alpha", "beta"), np.arange(6.0).reshape(2, 3)),
            "count": ("beta", np.arange(3)),
            "reached": ("beta", np.array([True, False, True])),
            "trace": ((), 2.5),
        },
        coords={"alpha": [0.0, 0.5], "beta": ["x", "ñ", "long name"]},
        attrs={"activation": "relu", "n_products": 12},
    )


def tensors() -> dict[str, np.ndarray]:
    return {
        "vectors": np.arange(12.0, dtype=np.float32).reshape(3, 4).T,
        "epoch": np.arange(3),
        "a": np.float64([1.5]),
    }


def write_both(folder: Path) -> None:
    artifacts.write_dataset(folder / "d.nc", dataset(), PROVENANCE)
    artifacts.write_tensors(folder / "t.safetensors", tensors(), PROVENANCE)


WRITERS: dict[str, Callable[[Path], None]] = {
    "d.nc": lambda path: artifacts.write_dataset(path, dataset(), PROVENANCE),
    "t.safetensors": lambda path: artifacts.write_tensors(path, tensors(), PROVENANCE),
    "r.json": lambda path: artifacts.write_json(path, PROVENANCE),
    "t.csv": lambda path: artifacts.write_table(path, pd.DataFrame({"x": [1.0]})),
}


# Reading what was written.


def test_dataset_comes_back(tmp_path: Path) -> None:
    write_both(tmp_path)
    read = artifacts.read_dataset(tmp_path / "d.nc")
    xr.testing.assert_equal(read, dataset())
    assert {name: read.attrs[name] for name in dataset().attrs} == dataset().attrs
    assert read["reached"].dtype == bool
    assert artifacts.read_provenance(tmp_path / "d.nc") == PROVENANCE
    # The file is closed: it may be replaced or removed on every system.
    artifacts.write_dataset(tmp_path / "d.nc", read.drop_attrs(), PROVENANCE)


def test_tensors_come_back(tmp_path: Path) -> None:
    write_both(tmp_path)
    read = artifacts.read_tensors(tmp_path / "t.safetensors")
    assert set(read) == set(tensors())
    for name, array in tensors().items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    assert artifacts.read_provenance(tmp_path / "t.safetensors") == PROVENANCE
    artifacts.write_tensors(tmp_path / "none.safetensors", {}, PROVENANCE)
    assert artifacts.read_tensors(tmp_path / "none.safetensors") == {}


def test_table_has_ten_digits(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": ["ñ, a"], "x": [1 / 3], "large": [1e20 / 3], "none": [np.nan]})
    artifacts.write_table(tmp_path / "t.csv", table)
    assert (tmp_path / "t.csv").read_text() == (
        'name,x,large,none\n"ñ, a",0.3333333333,3.333333333e+19,\n'
    )


# Equal bytes.


def test_equal_bytes_in_two_processes(tmp_path: Path) -> None:
    """Whatever the folder, the moment and the hash seed of the process."""
    program = textwrap.dedent(
        """
        import pathlib, sys, test_artifacts
        test_artifacts.write_both(pathlib.Path(sys.argv[1]))
        """
    )
    write_both(tmp_path / "first")
    for seed in ("1", "2"):
        paths = [str(Path(artifacts.__file__).parents[2]), str(Path(__file__).parent)]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(paths)}
        folder = tmp_path / f"process with seed {seed}"
        subprocess.run([sys.executable, "-c", program, str(folder)], env=environment, check=True)
        for name in ("d.nc", "t.safetensors"):
            assert (folder / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), name


def test_equal_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    write_both(tmp_path)
    turned = dict(reversed(PROVENANCE.items()))
    artifacts.write_dataset(tmp_path / "again.nc", dataset(), turned)
    artifacts.write_tensors(
        tmp_path / "again.safetensors", dict(reversed(tensors().items())), turned
    )
    assert (tmp_path / "again.nc").read_bytes() == (tmp_path / "d.nc").read_bytes()
    again = (tmp_path / "again.safetensors").read_bytes()
    assert again == (tmp_path / "t.safetensors").read_bytes()


def test_other_provenance_other_bytes(tmp_path: Path) -> None:
    write_both(tmp_path)
    artifacts.write_dataset(tmp_path / "other.nc", dataset(), PROVENANCE | {"seed": 2})
    assert (tmp_path / "other.nc").read_bytes() != (tmp_path / "d.nc").read_bytes()


# Whole or not at all.


@pytest.mark.parametrize("name", WRITERS)
def test_written_into_new_folders_and_over_old_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / "folder" / name
    for _ in range(2):
        WRITERS[name](path)
        assert [file.name for file in path.parent.iterdir()] == [name]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "d.nc"
    path.write_text("old")

    class Unwritable:
        pass

    for spoiled in (dataset().assign_attrs(bad=Unwritable()), dataset().assign(x=Unwritable())):
        with pytest.raises((TypeError, ValueError)):
            artifacts.write_dataset(path, spoiled, PROVENANCE)
    with pytest.raises(TypeError):
        artifacts.write_json(path, {"bad": Unwritable()})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".nc", ".safetensors"])
def test_full_disk_is_an_error_of_the_user(tmp_path: Path, suffix: str) -> None:
    """A file may grow to 20 kB here: what the system then says is what it says of a full disk."""
    path = tmp_path / f"large{suffix}"
    code = f"""
        import resource, signal, sys
        import numpy as np, xarray as xr
        from hessian_directions.reproduction import artifacts
        from hessian_directions.errors import HessianDirectionsError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        large = np.random.default_rng(0).random(100_000)
        try:
            if "{suffix}" == ".nc":
                artifacts.write_dataset("{path}", xr.Dataset({{"x": ("i", large)}}), {{}})
            else:
                artifacts.write_tensors("{path}", {{"x": large}}, {{}})
        except (HessianDirectionsError, OSError):
            sys.exit(7)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert done.returncode == 7, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_kill_leaves_the_old_file_and_the_next_write_no_debris(
    tmp_path: Path, kill: signal.Signals
) -> None:
    path = tmp_path / "d.nc"
    write_both(tmp_path)
    before = path.read_bytes()
    program = textwrap.dedent(
        """
        import sys, time
        from hessian_directions.files import atomic_path
        with atomic_path(sys.argv[1]) as path:
            path.write_bytes(b"half")
            print("writing", flush=True)
            time.sleep(60)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        env=os.environ | {"PYTHONPATH": str(Path(artifacts.__file__).parents[2])},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(kill)
    process.wait()
    process.stdout.close()
    assert path.read_bytes() == before
    # Nothing that a workflow or an archive would take for an artifact.
    visible = {file.name for file in tmp_path.iterdir() if not file.name.startswith(".")}
    assert visible == {"d.nc", "t.safetensors"}
    write_both(tmp_path)
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"d.nc", "t.safetensors"}


# Files that cannot be read are named.

READERS = {
    "d.nc": [artifacts.read_dataset, artifacts.read_provenance],
    "t.safetensors": [artifacts.read_tensors, artifacts.read_provenance],
    "r.json": [artifacts.read_json],
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "other"])
def test_corrupt_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    content = {
        "truncated": path.read_bytes()[: path.stat().st_size // 2],
        "garbage": bytes(range(256)) * 8,
        "empty": b"",
        "other": b"\x89PNG\r\n\x1a\n",
    }
    path.write_bytes(content[damage])
    for read in READERS[name]:
        with pytest.raises(ArtifactError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path} is corrupt (")
        assert message.endswith("delete it and run again")
        assert "\n" not in message


@pytest.mark.parametrize("name", READERS)
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    for read in READERS[name]:
        with pytest.raises(ArtifactError, match=rf"^{tmp_path / name} is missing$"):
            read(tmp_path / name)


def test_file_without_provenance_is_named(tmp_path: Path) -> None:
    import safetensors.numpy

    dataset().to_netcdf(tmp_path / "d.nc", engine="h5netcdf")
    safetensors.numpy.save_file(tensors(), tmp_path / "t.safetensors")
    for name in ("d.nc", "t.safetensors"):
        with pytest.raises(ArtifactError, match=f"{name} is corrupt"):
            artifacts.read_provenance(tmp_path / name)


# What made an artifact.


def made_by(*code: Path) -> dict:
    return artifacts.provenance(
        configuration={"network": "resnet"},
        seed=1,
        threads=2,
        device="cpu",
        precision="float64",
        code=code,
        data={"sha256": "abc"},
    )


def test_provenance_holds_what_made_it(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a")
    made = made_by(tmp_path / "a.py")
    assert json.loads(to_json(made)) == made
    assert made["libraries"]["numpy"] == np.__version__
    expected = {
        "configuration": {"network": "resnet"},
        "seed": 1,
        "data": {"sha256": "abc"},
        "precision": "float64",
        "batch_norm": "evaluation mode",
        "threads": 2,
        "device": "cpu",
    }
    assert expected.items() <= made.items()


def test_absent_library_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "LIBRARIES", ("numpy", "no-such-library"))
    assert made_by()["libraries"] == {"numpy": np.__version__, "no-such-library": "absent"}


def test_code_version_is_that_of_the_content(tmp_path: Path) -> None:
    """Not of folder, order or time stamp; files of one name in two folders are two files."""
    for folder in ("one", "two"):
        for package in ("a", "b"):
            (tmp_path / folder / package).mkdir(parents=True)
            (tmp_path / folder / package / "registry.py").write_text(package)
    one, two = (
        [tmp_path / folder / package / "registry.py" for package in ("a", "b")]
        for folder in ("one", "two")
    )
    version = made_by(*one)["code_sha256"]
    assert made_by(*two)["code_sha256"] == version
    assert made_by(*reversed(one))["code_sha256"] == version
    assert made_by(one[0])["code_sha256"] != version
    one[1].write_text("b, edited")
    assert made_by(*one)["code_sha256"] != version
    # Text that moves from one file to another is a change.
    two[0].write_text("ab")
    two[1].write_text("")
    assert made_by(*two)["code_sha256"] != version


# The manifest.


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    write_both(root / "networks" / "resnet")
    artifacts.write_json(root / "a name with spaces.run.json", {})
    artifacts.write_manifest(root)
    return root


def test_manifest_lists_everything(archive: Path) -> None:
    assert artifacts.verify_manifest(archive) == [
        "a name with spaces.run.json",
        "networks/resnet/d.nc",
        "networks/resnet/t.safetensors",
    ]
    before = (archive / artifacts.MANIFEST).read_bytes()
    artifacts.write_manifest(archive)
    assert (archive / artifacts.MANIFEST).read_bytes() == before


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_manifest_is_read_by_sha256sum(archive: Path) -> None:
    command = ["sha256sum", "--check", "--strict", "--quiet", artifacts.MANIFEST]
    subprocess.run(command, cwd=archive, check=True)
    (archive / "networks/resnet/d.nc").write_text("changed")
    assert subprocess.run(command, cwd=archive, capture_output=True).returncode != 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: path.unlink(), "d.nc is missing, though .*manifest.sha256 lists it"),
        (lambda path: path.write_text("x"), "d.nc is corrupt: its sha256 is not the one in"),
        (lambda path: (path.parent / "new.nc").write_text("x"), "new.nc is not listed in"),
        (
            lambda path: (path.parent / artifacts.MANIFEST).write_text("x"),
            "resnet/manifest.sha256 is not listed in",
        ),
    ],
)
def test_difference_is_named(archive: Path, change: Callable, sentence: str) -> None:
    change(archive / "networks" / "resnet" / "d.nc")
    with pytest.raises(ArtifactError, match=f"^{archive}/networks/resnet/.*{sentence[-20:]}"):
        artifacts.verify_manifest(archive)
    with pytest.raises(ArtifactError, match=sentence):
        artifacts.verify_manifest(archive)


def test_one_flipped_bit_is_seen(archive: Path) -> None:
    path = archive / "networks" / "resnet" / "t.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="; delete it, then restore it with: git checkout -- "):
        artifacts.verify_manifest(archive)


def test_hidden_files_are_no_artifacts(archive: Path) -> None:
    """File managers leave them behind, and so do interrupted writes."""
    (archive / "networks" / ".DS_Store").write_text("x")
    (archive / ".d.part.nc").write_text("x")
    assert len(artifacts.verify_manifest(archive)) == 3
    artifacts.write_manifest(archive)
    assert len(artifacts.verify_manifest(archive)) == 3


def test_missing_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest.sha256 is missing: .*source=compute"):
        artifacts.verify_manifest(tmp_path / "nowhere")
