"""What the archives' stages were predicted to take, and took: `python benchmarks/predictions.py`.

Writes <folder>/predictions.csv, a row for every stage of every network that was computed on a CPU.
Passes of the demo (passes/demo.json) were measured by `cost_model.measure` on a busy machine of the same
kind, the shortest of three measurements. Those of cifar10-subset are the archive's own
(passes.run.json, as far as they had the processor), with the ratios that the archive's estimators and
benchmarks give to passes that are made together or in float64, and the images of a pass that the
library takes now. Archives were computed while other
programs ran: what is compared is the time that jobs had the processor for, not the time that passed.
Computes nothing, and needs no other tools.
"""

import argparse
import json
from pathlib import Path
from unittest import mock

import pandas as pd
import yaml
from machine import ROOT

from hessian_directions.reproduction import artifacts, configuration, cost_model

PASSES = Path(__file__).parent / "passes"
# Jobs of the archives imported their libraries each for itself: seconds and bytes beside their work.
IMPORTING = (3.0, cost_model.COMPUTING[1])


def table(profile: str) -> pd.DataFrame:
    """Seconds and bytes of an archive's stages, as predicted and as they were."""
    archive = ROOT / "results/archive" / profile
    archived = yaml.safe_load((archive / "configuration.yaml").read_text())
    settings = configuration.complete(archived, profile, ROOT)
    content = json.loads((PASSES / f"{profile}.json").read_text())
    known = {name: cost_model.Passes(**of) for name, of in content.items()}
    for name, network in settings["networks"].items():
        # Those of an earlier edition of the archive would predict its jobs for other images.
        if name in known and network["n_images"] is not None:
            assert known[name].n_images == network["n_images"], name
    took: dict[tuple[str, str], cost_model.Estimate] = {}
    for path in sorted(archive.rglob("*.run.json")):
        record = json.loads(path.read_text())
        stage = record["wildcards"].get("network", ""), record["rule"]
        if record.get("device", "cpu") != "cpu" or stage[0] not in ("", *known):
            continue  # the passes are those of a CPU, and of networks that were computed on one
        assert record["threads"] == 1, path
        job = cost_model.Estimate(record["cpu_seconds"], record["peak_memory_bytes"])
        took[stage] = took.get(stage, cost_model.Estimate()) + job
    with mock.patch.object(cost_model, "COMPUTING", IMPORTING):
        predicted = cost_model.stages(settings, known)
    rows = [
        {
            "profile": profile,
            "network": stage[0],
            "stage": stage[1],
            "predicted_seconds": predicted[stage].seconds,
            "seconds": job.seconds,
            "predicted_bytes": predicted[stage].bytes,
            "bytes": job.bytes,
        }
        for stage, job in sorted(took.items())
    ]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted and measured costs of the archives.")
    parser.add_argument("--folder", type=Path, default=ROOT / "results/archive/benchmarks")
    arguments = parser.parse_args()
    found = pd.concat(
        [table(path.stem) for path in sorted(PASSES.glob("*.json"))], ignore_index=True
    )
    artifacts.write_table(arguments.folder / "predictions.csv", found)
    ratios = pd.DataFrame(
        {
            "time": found["predicted_seconds"] / found["seconds"],
            "memory": found["predicted_bytes"] / found["bytes"],
        }
    )
    print(pd.concat([found.iloc[:, :3], ratios], axis=1).to_string(index=False))


if __name__ == "__main__":
    main()
