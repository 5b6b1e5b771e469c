"""Say what a run will compute and about how long: `python -m hessian_directions.announcement <config>`.

The estimate is the sum of the wall times that the archive's run records hold, over the cores of this machine.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import yaml

from hessian_directions import artifacts


def announce(configuration: dict, archive: Path, cores: int) -> str:
    """A few lines: networks, analyses, population, and the time it took where the archive was made."""
    networks = configuration["networks"]
    trained = sum("training" in settings for settings in networks.values())
    lines = [
        f"Profile {configuration['profile']}: {len(networks)} networks ({trained} trained here), "
        f"{len(configuration['analyses'])} analyses, synthetic saddles, a population."
    ]
    records = [artifacts.read_json(path) for path in sorted(archive.rglob("*.run.json"))]
    if not records:
        return "\n".join([*lines, "No earlier run is archived, so there is no estimate of the time."])
    by_rule: Counter[str] = Counter()
    for record in records:
        by_rule[record["rule"]] += record["wall_seconds"] * record["threads"]
    total = sum(by_rule.values())
    lines.append(
        f"Where the archive was made its {len(records)} jobs took {total / 60:.0f} core minutes: "
        f"about {total / cores / 60:.0f} minutes on {cores} cores like those."
    )
    lines += [f"  {rule:<24} {seconds:7.0f} s" for rule, seconds in by_rule.most_common(6)]
    return "\n".join(lines)


def main() -> int:
    configuration = yaml.safe_load(Path(sys.argv[1]).read_text())
    archive = Path("results/archive") / configuration["profile"]
    print(announce(configuration, archive, os.cpu_count() or 1), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
