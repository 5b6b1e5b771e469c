"""How fast the training stage trains DenseNet-121: `python benchmarks/training.py`.

Writes <folder>/training_<device>.csv, training_cpu_avx2.csv where AVX-512 was left out: images per
second in float32 and in mixed precision, and the share of the device's measured peak of matrix
products that the network's own operations reach. One epoch of random images by `training.train`
itself, precisions by turns. Needs no other tools.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from alternation import alternate
from machine import ROOT, processor, table_name
from subjects import INPUT_SHAPE, N_CLASSES, SEED
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hessian_directions.data.dataset import Split
from hessian_directions.learning.training import has_bfloat16, train
from hessian_directions.models.registry import build
from hessian_directions.reproduction import artifacts

BATCH_SIZE = 64
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def operations_per_image(model: nn.Module) -> int:
    """Floating-point operations of convolutions and matrix products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, *INPUT_SHAPE)).sum().backward()
    return counter.get_total_flops() // 2


def epochs(count: int, split: Split, device: str, mixed: bool) -> None:
    """Epochs from initial weights, and the two evaluations that every history has."""
    model = build("densenet", {}, input_shape=INPUT_SHAPE, n_outputs=N_CLASSES, seed=SEED)
    settings = {"batch_size": BATCH_SIZE, "mixed_precision": mixed, "epochs": count}
    settings["history_every"] = count
    train(model, nn.functional.cross_entropy, split, None, settings, seed=SEED, device=device)


def peak(dtype: torch.dtype, device: str, side: int = 4096) -> Callable[[], object]:
    """One square matrix product of 2·side³ operations."""
    a = torch.randn(side, side, device=device).to(dtype)
    return partial(torch.matmul, a, a)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of training.")
    parser.add_argument("--folder", type=Path, default=ROOT / "results/archive/benchmarks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, n = arguments.device, arguments.images
    generator = torch.Generator().manual_seed(SEED)
    split = Split(
        torch.randn(n, *INPUT_SHAPE, generator=generator),
        torch.randint(N_CLASSES, (n,), generator=generator),
        torch.arange(n),
    )
    model = build("densenet", {}, input_shape=INPUT_SHAPE, n_outputs=N_CLASSES, seed=SEED)
    operations = operations_per_image(model)
    # Without instructions for bfloat16 training falls back to float32.
    precisions = dict(PRECISIONS)
    if not has_bfloat16(torch.device(device)):
        del precisions["bfloat16"]
    # The difference of two epochs and one leaves out building and evaluating.
    tasks: dict[str, Callable[[], object]] = {}
    for name, dtype in precisions.items():
        mixed = dtype == torch.bfloat16
        tasks[f"two {name}"] = partial(epochs, 2, split, device, mixed)
        tasks[f"one {name}"] = partial(epochs, 1, split, device, mixed)
        tasks[f"peak {name}"] = peak(dtype, device)
    for task in tasks.values():
        task()
    settle = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    seconds = alternate(tasks, arguments.rounds, settle=settle)
    rows = []
    for name in precisions:
        spent = [a - b for a, b in zip(seconds[f"two {name}"], seconds[f"one {name}"])]
        rate = n / statistics.median(spent)
        best = 2 * 4096**3 / min(seconds[f"peak {name}"])
        rows.append(
            {
                "network": "DenseNet-121",
                "precision": name,
                "processor": processor(device),
                "threads": arguments.threads,
                "batch_size": BATCH_SIZE,
                "images_per_second": rate,
                "operations_per_image": operations,
                "operations_per_second": rate * operations,
                "peak_operations_per_second": best,
                "share_of_peak": rate * operations / best,
            }
        )
    table = pd.DataFrame(rows)
    artifacts.write_table(arguments.folder / f"training_{table_name(device)}.csv", table)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
