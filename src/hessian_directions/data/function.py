"""The function that small networks approximate: f(x) = log(sin(10x) + 2) + sin(x) on [−1, 1)."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from hessian_directions import seeds
from hessian_directions.data.dataset import Dataset, Split
from hessian_directions.settings import Count, Natural


def f(x: Tensor) -> Tensor:
    """log(sin(10x) + 2) + sin(x), entry by entry."""
    return torch.log(torch.sin(10 * x) + 2) + torch.sin(x)


def function(
    *, cache: Path, n_train: Count = 50, n_test: Count = 1000, seed: Natural = 0
) -> Dataset:
    """Pairs (x, f(x)) of shape (n, 1), x drawn uniformly from [−1, 1); the test points are sorted.

    Both splits are drawn and evaluated in float64 and rounded once, to float32.

    Args:
        n_train: Training points.
        n_test: Test points.
        seed: Of the points.
    """
    splits = {}
    for name, n in (("train", n_train), ("test", n_test)):
        generator = torch.Generator().manual_seed(seeds.derive(seed, "function", name))
        x = 2 * torch.rand(n, 1, generator=generator, dtype=torch.float64) - 1
        if name == "test":
            x = x.sort(dim=0).values
        splits[name] = Split(x.float(), f(x).float(), torch.arange(n))
    identity = {
        "kind": "function",
        "formula": "log(sin(10 x) + 2) + sin(x), x uniform on [-1, 1)",
        "n_train": n_train,
        "n_test": n_test,
        "seed": seed,
        "train_sha256": _sha256(splits["train"]),
        "test_sha256": _sha256(splits["test"]),
        "normalisation": None,
    }
    return Dataset("function", splits["train"], splits["test"], None, identity)


def _sha256(split: Split) -> str:
    """Of the inputs: the targets follow from them, up to the last bit of another logarithm."""
    return hashlib.sha256(split.inputs.numpy().tobytes()).hexdigest()
