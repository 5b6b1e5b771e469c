"""The committed profiles: they agree on the rules, and `paper` runs, shrunken, on a miniature of its data."""

import hashlib
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from miniature import cifar10_pixels, lietal_state, write_cifar10, write_lietal
from project import ROOT, Project

from hessian_directions.data import cifar10
from hessian_directions.models.registry import build
from hessian_directions.reproduction import artifacts

PROFILES = [path for path in sorted(ROOT.glob("config/*.yaml")) if path.name != "claims.yaml"]
SIZES = {
    "eigenpairs": {"tolerance": 0.3, "max_products": 60, "steps": [0.1]},
    "trace": {"n_sketch": 2, "n_samples": 4},
    "visibility": {"n_planes": 2, "n_shards": 2, "n_spectrum_samples": 100},
    "trace_estimators": {"n_samples": 6, "n_paired": 7, "fit_points": 3},
    "step_sizes": {"steps": [0.1], "n_directions": 2, "n_images": [20], "sharpness": [10]},
    "spectrum": {"n_probes": 2, "n_steps": 3},
    "slices": {"n_points": 3, "n_shards": 1},
    "lines": {"n_points": 3},
    "lowest_points": {"n_planes": 3, "n_points": 3},
    "image_counts": {"n_images": [20], "tolerance": 0.3, "n_samples": 2},
    "passes": {"n_images": [10, 20], "n_repeats": 1},
}
MODELS = {
    "resnet56": {"name": "resnet", "options": {"depth": 8, "width": 4}},
    "densenet121": {"name": "densenet", "options": {"growth_rate": 4, "blocks": [1, 1, 1, 1]}},
}


def test_no_profile_has_rules_of_its_own() -> None:
    assert len(PROFILES) == 3
    assert not [path for path in PROFILES if "claims" in yaml.safe_load(path.read_text())]


def shrunken(settings: dict[str, Any], archive_sha256: str, cache: Path) -> dict[str, Any]:
    """The profile with small networks and few samples; its data and checkpoints lie in the cache."""
    settings["device"] = "cpu"
    nowhere = "http://127.0.0.1:9/cifar-10-python.tar.gz"
    settings["data"]["cifar10"]["archive"] = {"url": nowhere, "sha256": archive_sha256}
    # One of each kind: published, and trained on the spot.
    settings["networks"] = {name: settings["networks"][name] for name in MODELS}
    for name, network in settings["networks"].items():
        network |= {"model": MODELS[name], "n_images": 20, "batch_size": 10}
        if "training" in network:
            network["training"] |= {"epochs": 1, "batch_size": 50, "mixed_precision": False}
            continue
        model = build(
            "resnet", MODELS[name]["options"], input_shape=(3, 32, 32), n_outputs=10, seed=0
        )
        path = cache / network["checkpoint"]["file"]
        write_lietal(path, lietal_state(model))
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        network["checkpoint"] |= {"url": "http://127.0.0.1:9/model.t7", "sha256": checksum}
    settings["analyses"] |= SIZES
    return settings


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone with the companion's archive, which the profiles for CIFAR-10 read."""
    made = Project.clone(tmp_path_factory.mktemp("profiles") / "project")
    shutil.copytree(ROOT / "results/archive/demo", made.path / "results/archive/demo")
    return made


@pytest.mark.workflow
def test_paper_runs_on_a_miniature(project: Project, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    checksum = write_cifar10(cache / cifar10.ARCHIVE, cifar10_pixels())
    settings = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    (project.path / "config/miniature.yaml").write_text(
        yaml.safe_dump(shrunken(settings, checksum, cache), sort_keys=False)
    )
    project.snakemake(
        "figures",
        configfile="config/miniature.yaml",
        config="source=compute",
        HESSIAN_DIRECTIONS_CACHE=str(cache),
    )
    made = project.path / "results/computed/paper"
    networks = pd.read_csv(made / "tables/networks.csv").set_index("network")
    assert list(networks.index) == list(settings["networks"])
    assert (networks["n_images"] == 20).all()
    assert networks["trace"].notna().all()
    claims = pd.read_csv(made / "claims.csv").set_index("claim")
    assert list(claims.index) == [f"C{number}" for number in range(1, 9)]
    # Saddles and population are the companion's: what rests on them alone is decided alike.
    rows = [
        pd.read_csv(path / "claim_rows.csv").query("rule == 'random_flatness'")["estimate"].tolist()
        for path in (made, project.path / "results/archive/demo")
    ]
    assert rows[0] == rows[1]
    assert (made / "paper.pdf").stat().st_size > 100_000


@pytest.mark.workflow
@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_from_scratch_everything_is_planned(project: Project, path: Path) -> None:
    planned = project.planned_rules(
        "figures", configfile=f"config/{path.name}", config="source=compute"
    )
    assert planned > {"train_network", "eigenpairs", "visibility_shard"}
    assert ("import_checkpoint" in planned) == (path.stem != "demo")
    assert ("population_shard" in planned) == (path.stem == "demo")


def test_stated_minutes_are_those_of_the_archived_run() -> None:
    """Whoever computes the profile anew reads beside each stage how long it took."""
    text = (ROOT / "config/cifar10-subset.yaml").read_text()
    stated = dict(re.findall(r"^ +(\w+):[^\n]*(?:\n +#[^\n]*)*?; (\d+) min", text, flags=re.M))
    taken: Counter[str] = Counter()
    for path in (ROOT / "results/archive/cifar10-subset").rglob("*.run.json"):
        record = artifacts.read_json(path)
        stage = record["rule"].removesuffix("_shard")
        stage = {"train_network": "training", "trace": "visibility"}.get(stage, stage)
        taken[stage] += record["cpu_seconds"] / 60
    assert stated == {stage: str(round(taken[stage])) for stage in stated}
    assert stated.keys() == taken.keys() - {"import_checkpoint", "scores"}
