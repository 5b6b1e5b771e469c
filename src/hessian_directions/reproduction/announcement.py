"""Say what a run will compute and how long it may take.

`python -m hessian_directions.reproduction.announcement <config>`. Where an archive of the profile
exists, the estimate is the sum of the wall times in its run records; else each network's passes are
timed on a few images and counted. Either is spread over the cores of this machine.
"""

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hessian_directions.analyses import registry
from hessian_directions.errors import HessianDirectionsError
from hessian_directions.reproduction import artifacts, configuration

# Images that passes are timed on.
FEW = 64


def announce(settings: Mapping[str, Any], archive: Path, cores: int, folder: Path) -> str:
    """A few lines: networks, analyses, and the time that it all takes.

    Args:
        settings: A complete configuration.
        archive: The profile's archive, which may be missing.
        cores: Of this machine.
        folder: Of the configuration.
    """
    networks = settings["networks"]
    trained = sum(network["training"] is not None for network in networks.values())
    shown = [name for name in registry.OF_PROFILES if name in settings["analyses"]]
    lines = [
        f"Profile {settings['profile']}: {len(networks)} networks ({trained} trained here), "
        f"{len(settings['analyses'])} analyses"
        + (f", with {settings['companion']} beside them" if settings["companion"] else "")
        + (f" ({', '.join(shown)} among them)" if shown else "")
        + "."
    ]
    records = [artifacts.read_json(path) for path in sorted(archive.rglob("*.run.json"))]
    seconds: Counter[str] = Counter()
    if records:
        for record in records:
            seconds[record["rule"]] += record["wall_seconds"] * record["threads"]
        minutes = math.ceil(seconds.total() / 60)
        lines.append(
            f"Where the archive was made its {len(records)} jobs took {minutes} core minutes: "
            f"about {math.ceil(seconds.total() / cores / 60)} on {cores} cores like those."
        )
    else:
        for name in networks:
            seconds.update(_predicted(settings, name, folder))
        # Every job imports its libraries and tests itself.
        n_jobs = sum(len(network["analyses"]) for network in networks.values())
        total = seconds.total() + 5.0 * n_jobs
        lines.append(
            f"Predicted from a few passes: {_duration(total)} of one core, about "
            f"{_duration(total / cores)} on {cores}. A smaller 'n_images' makes it shorter in "
            "proportion."
        )
    lines += [f"  {rule:<24} {spent:7.0f} s" for rule, spent in seconds.most_common(6)]
    return "\n".join(lines)


def _predicted(settings: Mapping[str, Any], name: str, folder: Path) -> Counter[str]:
    """Seconds of each analysis of a network, from passes over a few of its images."""
    from hessian_directions.analyses import problem
    from hessian_directions.geometry.directions import gaussian

    network = settings["networks"][name]
    studied = problem.load(
        {**network, "data_settings": settings["data"][network["data"]]},
        seed=settings["seed"],
        device=settings["device"],
        precision=settings["precision"],
        cache=settings["cache"],
        folder=folder,
    )
    whole = studied.objective("train")
    few = whole.subset(range(min(FEW, whole.n_samples)))
    v = gaussian(few.n_parameters, 1, 0, few.dtype, few.device)[:, 0]
    kinds: dict[str, Callable[[], Any]] = {
        "value": few.value,
        "gradient": few.gradient,
        "product": lambda: few.hessian_vector_product(v),
        "derivative": lambda: few.second_directional_derivative(v),
    }
    share = whole.n_samples / few.n_samples
    each = {kind: share * _seconds(compute) for kind, compute in kinds.items()}
    seconds = Counter(
        {
            analysis: sum(
                count * each[kind]
                for kind, count in registry.analysis(analysis).passes(own).items()
            )
            for analysis, own in network["analyses"].items()
        }
    )
    if training := network["training"]:
        per_image = each["gradient"] / whole.n_samples
        n_images = len(studied.dataset.train)
        seconds["train_network"] += per_image * n_images * training.get("epochs", 1)
    return seconds


def _seconds(compute: Callable[[], Any]) -> float:
    compute()
    started = time.perf_counter()
    compute().sum().item()  # a GPU is waited for
    return time.perf_counter() - started


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main() -> int:
    parser = argparse.ArgumentParser(description="Say what a run will compute.")
    parser.add_argument("config", help="the configuration of a profile")
    path = parser.parse_args().config
    try:
        settings = configuration.read(path)
        archive = Path("results/archive") / settings["profile"]
        cores = os.cpu_count() or 1
        print(announce(settings, archive, cores, Path(path).parent), flush=True)
    except HessianDirectionsError as error:
        print(f"announce: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
