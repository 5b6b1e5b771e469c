"""What thousands of networks take: `python benchmarks/population.py`.

Writes <folder>/population.csv. One row is measured: a population of small classifiers of digits,
computed by the workflow in a clone of its own, shared out over a few jobs and gathered. The others
are extrapolated by the cost model: the demo's population with as many members, on this machine's
cores and on a cluster's. Seconds of a cluster are those of its longest job, of the jobs of a
core one after the other, and of gathering; its queue is not in them. Needs no other tools.
"""

import argparse
import json
import math
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from machine import ROOT, cloned, processor

from hessian_directions.reproduction import artifacts, configuration, cost_model

PROFILE = "thousands"
# Two rates of learning and two levels of noise: four members a seed.
POPULATION = {
    "data": "digits",
    "model": {"name": "mlp", "options": {"hidden_layers": 2, "activation": "relu"}},
    "training": {"epochs": 30, "momentum": 0.9, "target_loss": 1.5, "history_every": 1},
    "factors": {
        "batch_size": [25],
        "learning_rate": [0.05, 0.1],
        "label_noise": [0.0, 0.1],
        "width": [8],
    },
    # Every measure, as cheaply as it can be had.
    "n_images": 100,
    "tolerance": 0.3,
    "n_samples": 2,
    "average_radii": [1.0],
    "worst_radii": [0.1],
    "n_ascent_steps": 1,
    "m": 50,
}
PER_SEED = 4
CLUSTER = 100  # cores


def thousands(members: int, shards: int) -> dict[str, Any]:
    """A configuration of a population and nothing else."""
    factors = POPULATION["factors"] | {"seed": list(range(members // PER_SEED))}
    return {
        "profile": PROFILE,
        "data": {"digits": {"kind": "digits", "n_test": 1297, "seed": 0}},
        # A profile has a network; nothing of it is computed here.
        "networks": {
            "unused": {
                "data": "digits",
                "model": {"name": "mlp", "options": {"width": 8}},
                "training": {"epochs": 1, "batch_size": 25},
            }
        },
        "analyses": {"population": POPULATION | {"factors": factors, "n_shards": shards}},
    }


def enlarged(given: dict[str, Any], members: int, shards: int) -> dict[str, Any]:
    """The same profile with more seeds in its population."""
    factors = dict(given["analyses"]["population"]["factors"])
    of_others = math.prod(len(levels) for name, levels in factors.items() if name != "seed")
    factors["seed"] = list(range(math.ceil(members / of_others)))
    changed = {"factors": factors, "n_shards": shards}
    analyses = {"population": given["analyses"]["population"] | changed}
    return given | {"analyses": given["analyses"] | analyses}


def computed(
    configfile: str, clone: Path, environment: dict[str, str], cores: int
) -> dict[str, Any]:
    """What the population of a configuration takes in a clone."""
    results = clone / f"results/computed/{PROFILE}"
    subprocess.run(
        [
            *("snakemake", "--quiet", "--configfile", configfile, "--config", "source=compute"),
            *("--cores", str(cores), "--", str(results.relative_to(clone) / "population.nc")),
        ],
        cwd=clone,
        env=environment,
        check=True,
    )
    records = [json.loads(path.read_text()) for path in results.rglob("*.run.json")]
    shards = [record for record in records if record["rule"] == "population_shard"]
    (gather,) = (record for record in records if record["rule"] == "population")
    files = results.glob("shards/population/*.nc")
    return {
        "cpu_seconds": sum(record["cpu_seconds"] for record in (*shards, gather)),
        "job_memory_mb": max(record["peak_memory_bytes"] for record in shards) / 1e6,
        "gather_cpu_seconds": gather["cpu_seconds"],
        "gather_memory_mb": gather["peak_memory_bytes"] / 1e6,
        "largest_file_kb": max(path.stat().st_size for path in files) / 1e3,
        "gathered_kb": (results / "population.nc").stat().st_size / 1e3,
    }


def predicted(given: dict[str, Any], cores: int) -> dict[str, float]:
    """What the cost model says of it."""
    settings = configuration.complete(given, given["profile"], ROOT)
    known = cost_model.measure(settings, ROOT)
    stages = {rule: stage for (_, rule), stage in cost_model.stages(settings, known).items()}
    shards, gather = stages["population_shard"], stages["population"]
    jobs = settings["analyses"]["population"]["n_shards"]
    turns = math.ceil(jobs / cores)
    return {
        "predicted_cpu_seconds": shards.seconds + gather.seconds,
        "predicted_seconds": shards.seconds / jobs * turns + gather.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A population of thousands of networks.")
    parser.add_argument("--folder", type=Path, default=ROOT / "results/archive/benchmarks")
    parser.add_argument("--members", type=int, default=10_000, help="no fewer than 100")
    parser.add_argument("--shards", type=int, default=20, help="jobs that train")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone, environment = cloned(Path(folder))
        os.chdir(clone)  # where passes are kept
        given = thousands(arguments.members, arguments.shards)
        Path("thousands.yaml").write_text(yaml.safe_dump(given))
        small = {"population": "small", "members": arguments.members, "jobs": arguments.shards}
        row = small | {"cores": arguments.cores, **predicted(given, arguments.cores)}
        rows = [row | computed("thousands.yaml", clone, environment, arguments.cores)]
        demo = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
        for cores in (arguments.cores, CLUSTER):
            given = enlarged(demo, arguments.members, jobs := max(arguments.shards, cores))
            large = {"population": "demo", "members": arguments.members, "jobs": jobs}
            rows.append(large | {"cores": cores, **predicted(given, cores)})
    table = pd.DataFrame(rows)
    table.insert(0, "processor", processor("cpu"))
    artifacts.write_table(arguments.folder / "population.csv", table)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
