"""Bad input ends with one clear sentence, a non-zero exit status, and nothing half written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from miniature import plain_images, write_files
from project import ROOT, TINY, Project

pytestmark = pytest.mark.workflow

NETWORK = "results/computed/tiny/networks/classifier"


def attempt(project: Project, change: Callable[[dict[str, Any]], None], target: str) -> str:
    """The output of a run with a changed configuration, which has to fail."""
    configuration = yaml.safe_load((ROOT / TINY).read_text())
    change(configuration)
    (project.path / "bad.yaml").write_text(yaml.safe_dump(configuration))
    shutil.rmtree(project.path / "results/computed", ignore_errors=True)
    done = project.snakemake(target, configfile="bad.yaml", config="source=compute", check=False)
    assert done.returncode != 0
    computed = project.path / "results/computed"
    left = [path for path in computed.rglob("*") if path.is_file()] if computed.exists() else []
    assert not left, left
    return done.stdout + done.stderr


CHECKPOINT = f"{NETWORK}/checkpoint.safetensors"


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("", {"trainig": {}}, ["bad.yaml: unknown key 'networks.classifier.trainig'; allowed h"]),
        (
            "model",
            {"name": "resnext"},
            ["train_network (network=classifier): ", "resnext", "densenet"],
        ),
    ],
)
def test_entry_of_a_network(
    bare: Project, part: str, changes: dict[str, Any], said: list[str]
) -> None:
    def change(configuration: dict[str, Any]) -> None:
        entry = configuration["networks"]["classifier"]
        (entry[part] if part else entry).update(changes)

    output = attempt(bare, change, CHECKPOINT)
    assert all(text in output for text in said), output
    assert "Traceback" not in output or part


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(bare: Project) -> None:
    output = attempt(bare, lambda c: c.update(device="cuda"), CHECKPOINT)
    assert "key 'device' is 'cuda', but this machine has no GPU" in output


def checkpoint_entry(file: Path) -> Callable[[dict[str, Any]], None]:
    def change(configuration: dict[str, Any]) -> None:
        entry = configuration["networks"]["classifier"]
        del entry["training"]
        entry["checkpoint"] = {"format": "safetensors", "file": str(file)}
        entry["analyses"] = ["scores"]

    return change


def test_checkpoint_of_another_network(bare: Project, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"stem.weight": torch.zeros(2, 1, 3, 3)}, path)
    output = attempt(bare, checkpoint_entry(path), CHECKPOINT)
    assert "import_checkpoint (network=classifier): " in output
    assert "other.safetensors" in output


def test_no_checkpoint(bare: Project, tmp_path: Path) -> None:
    output = attempt(bare, checkpoint_entry(tmp_path / "none.safetensors"), CHECKPOINT)
    assert "none.safetensors" in output


def test_no_network_and_an_empty_cache(bare: Project, tmp_path: Path) -> None:
    """The sentence names the file, the address, the checksum and the folder."""
    url, checksum = "http://127.0.0.1:9/cifar-10-python.tar.gz", "0" * 64
    data = {"kind": "cifar10", "archive": {"url": url, "sha256": checksum}}

    def change(configuration: dict[str, Any]) -> None:
        configuration["data"]["digits"] = data
        configuration["cache"] = str(tmp_path)

    output = attempt(bare, change, CHECKPOINT)
    (sentence,) = {line for line in output.splitlines() if "is needed from" in line}
    for part in ("cifar-10-python.tar.gz", url, checksum, str(tmp_path)):
        assert part in sentence
    assert not list(tmp_path.iterdir())


def test_companion_without_archive(bare: Project) -> None:
    def change(configuration: dict[str, Any]) -> None:
        for name in ("saddles", "saddle_traces", "population", "critical_points"):
            del configuration["analyses"][name]
        configuration["companion"] = "nobody"

    output = attempt(bare, change, CHECKPOINT)
    assert "results/archive/nobody/manifest.sha256 is missing" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("spoil", ["missing", "empty"])
def test_class_folder(bare: Project, tmp_path: Path, spoil: str) -> None:
    write_files(tmp_path / "images", plain_images(1, cat=0, dog=0))
    folder = tmp_path / "images" / "test" / "dog"
    (folder / "0.png").unlink()
    if spoil == "missing":
        folder.rmdir()
    images = {"kind": "image_folder", "path": str(tmp_path / "images")}
    output = attempt(bare, lambda c: c["data"].update(digits=images), CHECKPOINT)
    assert "train_network (network=classifier): " in output
    assert "dog" in output
