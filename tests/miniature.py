"""Small files in the formats of the real ones: CIFAR-10's archive, Li et al.'s checkpoints, folders."""

import hashlib
import io
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
N_BATCH = 20


def write_files(folder: Path, contents: dict[str, Any]) -> Path:
    """Texts, bytes, and arrays as images, in files of these names below a folder, which is returned."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            Image.fromarray(content).save(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def plain_images(n: int, **tones: int) -> dict[str, np.ndarray]:
    """For `write_files`: n images of one tone each, in a folder for each class and split."""
    return {
        f"{split}/{label}/{number}.png": np.full((8, 8, 3), tone + number, np.uint8)
        for split in ("train", "test")
        for label, tone in tones.items()
        for number in range(n)
    }


def cifar10_pixels():
    """Six batches (the last for tests) of random images and labels, every class in each."""
    rng = np.random.default_rng(0)
    batches = {}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        images = rng.integers(0, 256, (N_BATCH, 32, 32, 3), dtype=np.uint8)
        batches[name] = images, np.concatenate([rng.permutation(10), rng.permutation(10)])
    return batches


def write_cifar10(path, pixels):
    """A miniature of cifar-10-python.tar.gz; returns its sha256."""
    with tarfile.open(path, "w:gz") as file:

        def add(name, content):
            data = pickle.dumps(content, protocol=2)
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))

        add("batches.meta", {"label_names": CLASSES, "num_cases_per_batch": N_BATCH})
        for name, (images, labels) in pixels.items():
            rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            add(name, {"data": rows, "labels": labels.tolist(), "batch_label": name})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lietal_state(model):
    """Our state under the names of Li et al.'s files, written by a PyTorch without batch counts."""
    state = OrderedDict()
    for key, tensor in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        parts = key.split(".")
        if parts[0] == "stages":
            parts = [f"layer{int(parts[1]) + 1}", *parts[2:]]
            parts = [part.replace("norm", "bn") for part in parts]
        else:
            parts[0] = {"stem": "conv1", "norm": "bn1", "classifier": "linear"}[parts[0]]
        state[".".join(parts)] = tensor
    return state


def write_lietal(path, state, prefix=""):
    content = {
        "acc": 93.66,
        "epoch": 300,
        "state_dict": OrderedDict((prefix + key, tensor) for key, tensor in state.items()),
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)
