"""All benchmarks: `python benchmarks/run.py`, or `make benchmarks`, which makes the environment too.

Writes <folder>/<device>.csv, a row as soon as it is there, with <device>.json (what made it) and a
figure; cpu_avx2 in place of cpu where the processor's AVX-512 was left out. A run that was
interrupted is started again and keeps its rows, unless the code, the libraries, the processor or a
setting is another one.
"""

import argparse
import importlib.metadata
import os
import time
from pathlib import Path
from typing import Any

import benchmark_ratios
import pandas as pd
import torch
from goals import (
    COLUMNS,
    DERIVATIVE,
    DERIVATIVES,
    EIGENPAIRS,
    GOALS,
    PROBES,
    PRODUCT,
    SURFACE,
    TRACE,
    missing,
    readme_cells,
    summary,
)
from machine import ROOT, instructions, processor, table_name
from measure_eigenpairs import measure_eigenpairs
from measure_surface import measure_surface
from measure_trace import measure_trace
from measure_vectors import measure_several, measure_single
from peers import PACKAGES
from subjects import SEED, Subject, trained, untrained

from hessian_directions.reporting.figures import drawing
from hessian_directions.reproduction import artifacts
from hessian_directions.reproduction.source_files import source_files

# Few images, so that all of it takes a quarter of an hour on two cores.
NETWORKS: dict[str, dict[str, Any]] = {
    "ResNet-20": {"model": "resnet", "options": {"depth": 20}, "n_images": 64},
    "ResNet-56": {"model": "resnet", "options": {"depth": 56}, "n_images": 32},
    "DenseNet-121": {"model": "densenet", "options": {}, "n_images": 6},
}
# Eigenpairs and traces say something about trained networks only.
TRAINED: dict[str, dict[str, Any]] = {
    "ResNet-20, trained": {
        "model": "resnet",
        "options": {"depth": 20},
        "n_images": 40,
        "n_train": 640,
        "settings": {
            "epochs": 10,
            "batch_size": 64,
            "learning_rate": 0.1,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "one_cycle",
            "history_every": 10,
        },
    }
}
ROUNDS = 5

TIMED = (PRODUCT, DERIVATIVE, PROBES, DERIVATIVES, SURFACE)


class Table:
    """The rows so far, in a file."""

    def __init__(self, path: Path, kept: bool) -> None:
        self.path = path
        self.rows = pd.DataFrame(columns=list(COLUMNS))
        if kept and path.is_file():
            self.rows = pd.read_csv(path)

    def lacks(self, network: str, works: tuple[str, ...]) -> bool:
        return bool(missing(self.rows, {network: works}))

    def add(self, rows: list[dict[str, Any]]) -> None:
        new = pd.DataFrame(rows)
        joined = pd.concat([self.rows, new]) if len(self.rows) else new
        order = joined["work"].map(list(GOALS).index)
        self.rows = joined.iloc[order.argsort(kind="stable")].reset_index(drop=True)
        artifacts.write_table(self.path, self.rows)
        print(summary(new), flush=True)

    def layouts(self, network: str, work: str) -> dict[str, str]:
        """The layout in which each peer is fastest at some work."""
        rows = self.rows[(self.rows["network"] == network) & (self.rows["work"] == work)]
        fastest = rows.loc[rows.groupby("peer")["peer_seconds"].idxmin()]
        return dict(zip(fastest["peer"], fastest["peer_layout"]))


def measure_timed(table: Table, subject: Subject, rounds: int) -> None:
    """What is timed round by round, whatever the weights."""
    name = subject.name
    if table.lacks(name, (PRODUCT, DERIVATIVE)):
        for rows in measure_single(subject, rounds).values():
            table.add(rows)
    if table.lacks(name, (SURFACE,)):
        table.add(measure_surface(subject, rounds))
    if table.lacks(name, (PROBES, DERIVATIVES)):
        for rows in measure_several(subject, table.layouts(name, PRODUCT), rounds).values():
            table.add(rows)


def provenance(arguments: argparse.Namespace, networks: dict[str, Any]) -> dict[str, Any]:
    """What made the table; a run that would have another one starts afresh."""
    folder = Path(__file__).parent
    made_by = artifacts.provenance(
        configuration={"networks": networks, "rounds": arguments.rounds},
        seed=SEED,
        threads=arguments.threads,
        device=arguments.device,
        precision="float32",
        code=source_files(folder / "run.py", ROOT / "src"),
    )
    made_by["peers"] = {package: importlib.metadata.version(package) for package in PACKAGES}
    made_by["processor"] = processor(arguments.device)
    if arguments.device == "cpu":
        made_by["instructions"] = instructions()
    return made_by


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks side by side with other tools.")
    parser.add_argument("--folder", type=Path, default=ROOT / "results/archive/benchmarks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, for everybody")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--networks", nargs="+", choices=(*NETWORKS, *TRAINED))
    parser.add_argument("--images", type=int, help="for each network, to try things out")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    chosen = {
        name: settings | ({"n_images": arguments.images} if arguments.images else {})
        for name, settings in (NETWORKS | TRAINED).items()
        if not arguments.networks or name in arguments.networks
    }
    name = table_name(arguments.device)
    made_by, beside = provenance(arguments, chosen), arguments.folder / f"{name}.json"
    same = beside.is_file() and artifacts.read_json(beside) == made_by
    table = Table(arguments.folder / f"{name}.csv", same and not arguments.fresh)
    artifacts.write_json(beside, made_by)
    busy = os.getloadavg()[0]
    if arguments.device == "cpu" and busy > 0.3:
        print(f"other programs are running (load {busy:.1f}): the times will scatter", flush=True)

    start = time.perf_counter()
    for name, settings in chosen.items():
        if name in NETWORKS and table.lacks(name, TIMED):
            subject = untrained(name, device=arguments.device, **settings)
            measure_timed(table, subject, arguments.rounds)
        if name in TRAINED and table.lacks(name, (EIGENPAIRS, TRACE)):
            subject = trained(name, device=arguments.device, **settings)
            if table.lacks(name, (EIGENPAIRS,)):
                table.add(measure_eigenpairs(subject))
            if table.lacks(name, (TRACE,)):
                table.add(measure_trace(subject))
    figure = benchmark_ratios.draw(table.rows)
    drawing.save(figure, table.path.with_suffix(".pdf"), table.path.with_suffix(".png"))
    print("\nCells of the README's table:")
    for work, (ratios, forwards) in readme_cells(table.rows).items():
        print(f"  {work:34} | {ratios} | {forwards} |")
    print(f"\n{summary(table.rows)}\n{table.path} after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
