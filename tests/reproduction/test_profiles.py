"""The committed profiles: they agree on the rules, and `paper` runs, shrunken, on a miniature of its data."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from miniature import cifar10_pixels, lietal_state, write_cifar10, write_lietal
from project import ROOT, Project

from hessian_directions.data import cifar10
from hessian_directions.models.registry import build
from hessian_directions.reporting.claims import CLAIMS
from hessian_directions.reproduction import configuration

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
    "apparent_curvature": {"n_planes": 2, "n_radii": 2, "n_images": 20},
    "lowest_losses": {"n_planes": 2, "n_radii": 2, "n_angles": 4, "n_images": 20},
    "kinks": {"steps": [0.1], "n_directions": 2},
    "gauss_newton": {"tolerance": 0.3, "max_products": 60, "n_samples": 4},
    "image_counts": {"n_images": [20], "tolerance": 0.3, "n_samples": 2},
    "passes": {"n_images": [10, 20], "n_repeats": 1},
}
MODELS = {
    "resnet56": {"name": "resnet", "options": {"depth": 8, "width": 4}},
    "densenet121": {"name": "densenet", "options": {"growth_rate": 4, "blocks": [1, 1, 1, 1]}},
}


def test_no_profile_has_rules_of_its_own() -> None:
    assert len(PROFILES) == 4
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
    """A clone with the demo's archive, which the profiles for CIFAR-10 read; theirs is in every clone."""
    made = Project.clone(tmp_path_factory.mktemp("profiles") / "project")
    shutil.copytree(ROOT / "results/archive/demo", made.path / "results/archive/demo")
    return made


@pytest.mark.workflow
@pytest.mark.long
def test_paper_runs_on_a_miniature(project: Project, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    checksum = write_cifar10(cache / cifar10.ARCHIVE, cifar10_pixels())
    settings = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    (project.path / "config/miniature.yaml").write_text(
        yaml.safe_dump(shrunken(settings, checksum, cache), sort_keys=False)
    )
    # Without the manuscript, which is about the archives' networks.
    results = "results/computed/paper"
    project.snakemake(
        *(
            f"{results}/{path}"
            for path in ("claims.csv", "tables/networks.csv", "figures/kinks.pdf")
        ),
        configfile="config/miniature.yaml",
        config="source=compute",
        HESSIAN_DIRECTIONS_CACHE=str(cache),
    )
    made = project.path / results
    networks = pd.read_csv(made / "tables/networks.csv").set_index("network")
    assert list(networks.index) == list(settings["networks"])
    assert (networks["n_images"] == 20).all()
    assert networks["trace"].notna().all()
    claims = pd.read_csv(made / "claims.csv").set_index("claim")
    assert list(claims.index) == list(CLAIMS)
    # Saddles and population are the companion's: what rests on them alone is decided alike.
    rows = [
        pd.read_csv(path / "claim_rows.csv").query("rule == 'random_flatness'")["estimate"].tolist()
        for path in (made, project.path / "results/archive/demo")
    ]
    assert rows[0] == rows[1]
    assert (made / "figures/kinks.pdf").stat().st_size > 5_000


@pytest.mark.workflow
@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_from_scratch_everything_is_planned(project: Project, path: Path) -> None:
    planned = project.planned_rules(
        "reproduce", configfile=f"config/{path.name}", config="source=compute"
    )
    assert planned > {"train_network", "eigenpairs", "visibility_shard", "compare_with_archive"}
    assert ("import_checkpoint" in planned) == (path.stem in ("cifar10-subset", "paper"))
    assert ("population_shard" in planned) == (path.stem == "demo")


def test_architectures_are_many_small_and_build() -> None:
    """Of all kinds that the profile promises; none normalises a single number, and so refuses a single image."""
    networks = configuration.read(ROOT / "config/architectures.yaml", ROOT)["networks"]
    assert len(networks) >= 10
    libraries = Counter(network["model"]["name"].partition(":")[0] for network in networks.values())
    assert libraries["timm"] >= 6
    assert libraries["torchvision"] >= 1
    sizes = {}
    for name, network in networks.items():
        model = network["model"]
        built = build(
            model["name"], model["options"], input_shape=(3, 16, 16), n_outputs=10, seed=0
        ).eval()
        assert built(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
        sizes[name] = sum(parameter.numel() for parameter in built.parameters())
    assert all(10_000 <= size <= 300_000 for size in sizes.values())
