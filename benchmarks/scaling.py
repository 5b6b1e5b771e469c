"""What several processes that share out the images gain: `python benchmarks/scaling.py`.

Writes <folder>/scaling.csv: passes over a ResNet-20 by 1, 2, … processes of one thread each, over
equally many images in all (strong scaling) and over equally many for each (weak scaling), numbers
of processes by turns. `seconds` is the median of the rounds' wall times, from the slowest process'
start to its end, with the fastest and the slowest round beside it; `cpu_seconds` is the median of
the busiest process' processor time, which other programs on the machine disturb less. Efficiency is
the time of one process over that of many, for strong scaling by their number. Needs no other tools.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from machine import ROOT, processor
from subjects import INPUT_SHAPE, N_CLASSES, SEED
from torch import nn

from hessian_directions.geometry.directions import gaussian
from hessian_directions.models.registry import build
from hessian_directions.objectives.objective import Objective
from hessian_directions.reproduction import artifacts

VECTORS = 16
CASE = ["scaling", "work"]


def works(objective: Objective) -> dict[str, Callable[[], object]]:
    """Passes by name."""
    V = gaussian(objective.n_parameters, VECTORS, SEED, objective.dtype)
    points = objective.theta[:, None] + 1e-3 * V
    return {
        f"{VECTORS} values": lambda: objective.values(points),
        "gradient": objective.gradient,
        f"{VECTORS} Hessian-vector products": lambda: objective.hessian_vector_product(V),
        f"{VECTORS} second directional derivatives": lambda: (
            objective.second_directional_derivative(V)
        ),
    }


def objective_of(n_images: int, group: Any) -> Objective:
    """The loss over random images, of which this process has its share."""
    generator = torch.Generator().manual_seed(SEED)
    inputs = torch.randn(n_images, *INPUT_SHAPE, generator=generator)
    targets = torch.randint(N_CLASSES, (n_images,), generator=generator)
    model = build("resnet", {"depth": 20}, input_shape=INPUT_SHAPE, n_outputs=N_CLASSES, seed=SEED)
    rank, count = dist.get_rank(group), dist.get_world_size(group)
    shares = [part.tensor_split(count)[rank] for part in (inputs, targets)]
    objective = Objective(model, nn.functional.cross_entropy, *shares, group=group)
    objective.self_test()
    return objective


def measure(rank: int, count: int, folder: str, n_images: int, rounds: int) -> None:
    """One of the processes; the first writes the rows."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count
    )
    tasks: dict[tuple[str, int, int], dict[str, Callable[[], object]]] = {}
    groups = {size: dist.new_group(range(size)) for size in range(1, count + 1)}
    for size, group in groups.items():
        for scaling, n in (("strong", n_images), ("weak", n_images // count * size)):
            tasks[scaling, size, n] = works(objective_of(n, group)) if rank < size else {}
    rows = []
    for number in range(-1, rounds):  # the first warms up
        for (scaling, size, n), of_case in tasks.items():
            for work, compute in of_case.items():
                dist.barrier(groups[size])
                wall, own = time.perf_counter(), time.process_time()
                compute()
                spent = torch.tensor([time.perf_counter() - wall, time.process_time() - own])
                dist.all_reduce(spent, dist.ReduceOp.MAX, group=groups[size])
                if number >= 0:
                    rows.append((scaling, work, size, n, *spent.tolist()))
            dist.barrier()  # those that had nothing to do wait
    if rank == 0:
        columns = [*CASE, "processes", "n_images", "seconds", "cpu_seconds"]
        pd.DataFrame(rows, columns=columns).to_csv(f"{folder}/rows.csv", index=False)
    dist.barrier()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each work and number of processes, with the efficiency against one process."""
    rounds = rows.groupby([*CASE, "processes", "n_images"], sort=False)
    table = rounds.agg(
        seconds=("seconds", statistics.median),
        seconds_fastest=("seconds", "min"),
        seconds_slowest=("seconds", "max"),
        cpu_seconds=("cpu_seconds", statistics.median),
        n_rounds=("seconds", "size"),
    ).reset_index()
    alone = table[table["processes"] == 1].set_index(CASE)
    for kind in ("seconds", "cpu_seconds"):
        first = alone[kind].reindex(pd.MultiIndex.from_frame(table[CASE])).to_numpy()
        shared = table["processes"].where(table["scaling"] == "strong", 1)
        table[f"efficiency_{kind}"] = first / (table[kind] * shared)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Scaling over processes.")
    parser.add_argument("--folder", type=Path, default=ROOT / "results/archive/benchmarks")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at most")
    parser.add_argument("--images", type=int, default=64, help="of strong scaling")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = arguments.processes
        told = (count, folder, arguments.images, arguments.rounds)
        torch.multiprocessing.spawn(measure, told, nprocs=count)
        table = summary(pd.read_csv(f"{folder}/rows.csv"))
    table.insert(0, "network", "ResNet-20")
    table.insert(1, "processor", processor("cpu"))
    artifacts.write_table(arguments.folder / "scaling.csv", table)
    print(table.drop(columns=["network", "processor"]).to_string(index=False))


if __name__ == "__main__":
    main()
