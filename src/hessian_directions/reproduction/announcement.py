"""Say what a run will compute and how long it may take.

`python -m hessian_directions.reproduction.announcement <config>`. The estimate is the sum of the wall times in
the archive's run records, spread over the cores of this machine.
"""

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hessian_directions.errors import HessianDirectionsError
from hessian_directions.reproduction import artifacts, configuration


def announce(settings: Mapping[str, Any], archive: Path, cores: int) -> str:
    """A few lines: networks, analyses, and the time it all took where the archive was made."""
    networks = settings["networks"]
    companion = settings["companion"]
    trained = sum(network["training"] is not None for network in networks.values())
    lines = [
        f"Profile {settings['profile']}: {len(networks)} networks ({trained} trained here), "
        f"{len(settings['analyses'])} analyses, "
        + (f"the rest from {companion}." if companion else "synthetic saddles, a population.")
    ]
    records = [artifacts.read_json(path) for path in sorted(archive.rglob("*.run.json"))]
    if not records:
        lines.append("No earlier run is archived, so there is no estimate of the time.")
        return "\n".join(lines)
    core_seconds: Counter[str] = Counter()
    for record in records:
        core_seconds[record["rule"]] += record["wall_seconds"] * record["threads"]
    total = core_seconds.total()
    lines.append(
        f"Where the archive was made its {len(records)} jobs took {math.ceil(total / 60)} core minutes: "
        f"about {math.ceil(total / cores / 60)} on {cores} cores like those."
    )
    lines += [f"  {rule:<24} {seconds:7.0f} s" for rule, seconds in core_seconds.most_common(6)]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Say what a run will compute.")
    parser.add_argument("config", help="the configuration of a profile")
    try:
        settings = configuration.read(parser.parse_args().config)
        archive = Path("results/archive") / settings["profile"]
        print(announce(settings, archive, os.cpu_count() or 1), flush=True)
    except HessianDirectionsError as error:
        print(f"announce: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
