"""Weights are analysed on the data they were made with, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniature import plain_images, write_files
from PIL import Image

from hessian_directions.analyses import problem
from hessian_directions.errors import DataError
from hessian_directions.learning import checkpoints
from hessian_directions.reproduction import configuration

ROOT = Path(__file__).parents[2]
COMMON: dict[str, Any] = {"seed": 0, "device": "cpu", "precision": "float32"}

NETS = """
import random

import numpy as np
import torch

RNG = np.random.default_rng(0)


def seeded():
    return of(np.random.default_rng(0).permutation(60))


def numpy_order():
    return of(np.random.permutation(60))


def python_order():
    return of(np.array(random.sample(range(60), 60)))


def torch_order():
    return of(torch.randperm(60).numpy())


def forgotten_state():
    return of(RNG.permutation(60))


def noisy_targets():
    (x, y), test = seeded()
    return (x, np.random.permutation(y)), test


def noisy_test():
    train, (x, y) = seeded()
    return train, (x + np.random.normal(size=x.shape).astype(np.float32), y)


def of(order):
    x = np.arange(120, dtype=np.float32).reshape(60, 2)[order]
    y = (np.arange(60) % 2)[order]
    return (x[:40], y[:40]), (x[40:], y[40:])
"""


def network(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": "d",
        "data_settings": data,
        "model": {"name": "mlp", "options": {"width": 3, "hidden_layers": 1, "activation": "relu"}},
        "loss": None,
    }


def load(data: dict[str, Any], folder: Path, checkpoint: Path | None = None) -> problem.Problem:
    cache = str(folder / "cache")
    return problem.load(network(data), **COMMON, cache=cache, folder=folder, checkpoint=checkpoint)


def made(data: dict[str, Any], folder: Path) -> Path:
    """A checkpoint as the workflow's jobs write it."""
    studied = load(data, folder)
    path = folder / "checkpoint.safetensors"
    checkpoints.save(path, studied.model, {"data": studied.identity()})
    return path


@pytest.mark.parametrize(
    "name",
    [
        *("numpy_order", "python_order", "torch_order"),
        *("forgotten_state", "noisy_targets", "noisy_test"),
    ],
)
def test_data_without_a_seed_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    data = {"kind": "python", "name": f"nets.py:{name}"}
    checkpoint = made(data, tmp_path)
    with pytest.raises(DataError, match=r"^data\.d is another one in every job: give .* a seed$"):
        load(data, tmp_path, checkpoint)


def test_the_same_data_are_taken(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    write_files(tmp_path / "images", plain_images(3, cat=40, dog=200))
    for data in (
        {"kind": "python", "name": "nets.py:seeded"},
        {"kind": "image_folder", "path": "images"},
        {"kind": "digits"},
        {"kind": "function"},
    ):
        load(data, tmp_path, made(data, tmp_path))
    # Weights that no job of ours wrote say nothing of data.
    checkpoint = tmp_path / "elsewhere.safetensors"
    checkpoints.save(checkpoint, load({"kind": "digits"}, tmp_path).model, {})
    load({"kind": "digits"}, tmp_path, checkpoint)


def test_files_that_changed_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path / "images", plain_images(3, cat=40, dog=200))
    rng = np.random.default_rng(0)

    def write_arrays() -> None:
        inputs = rng.normal(size=(2, 30, 4)).astype(np.float32)
        for name, x in zip(("a", "b"), inputs):
            np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(30) % 2)

    write_arrays()
    images = {"kind": "image_folder", "path": "images"}
    arrays = {"kind": "arrays", "path": "a.npz", "test_path": "b.npz"}
    checkpoint = made(images, tmp_path)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "images/train/cat/9.png")
    said = r"data\.d: its train samples are not those that .*checkpoint.safetensors was made with"
    with pytest.raises(DataError, match=said):
        load(images, tmp_path, checkpoint)
    checkpoint = made(arrays, tmp_path)
    write_arrays()
    with pytest.raises(DataError, match=said.replace("train samples", "train and test samples")):
        load(arrays, tmp_path, checkpoint)


@pytest.mark.parametrize("profile", ["demo", "architectures"])
def test_networks_of_the_archives_are_on_their_data(profile: str) -> None:
    """`source=recompute` reads them."""
    settings = configuration.read(ROOT / f"config/{profile}.yaml", ROOT)
    for name, own in settings["networks"].items():
        path = ROOT / f"results/archive/{profile}/networks/{name}/checkpoint.safetensors"
        described = own | {"data_settings": settings["data"][own["data"]]}
        folder = ROOT / "config"
        problem.load(described, **COMMON, cache=None, folder=folder, checkpoint=path)
