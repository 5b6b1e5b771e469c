"""What jobs are predicted to take."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from hessian_directions.analyses import registry
from hessian_directions.data.dataset import Split
from hessian_directions.reproduction import artifacts, configuration, cost_model
from hessian_directions.reproduction.cost_model import Passes

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import predictions  # noqa: E402

GIVEN = yaml.safe_load((ROOT / "tests/config/tiny.yaml").read_text())
SETTINGS = configuration.complete(GIVEN, "tiny", ROOT)


def passes(**changes: Any) -> Passes:
    """A network of a thousand parameters whose every pass takes 1 ms a batch and 2 ms an image."""
    seconds = dict.fromkeys(
        (*cost_model.KINDS, "precise_values", "precise_derivatives"), (1e-3, 2e-3)
    )
    given = {
        "measured": "",
        "n_parameters": 1000,
        "activations": 5000,
        "image": 64,
        "n_images": 100,
        "n_test_images": 70,
        "n_train": 500,
        "n_test": 1297,
        "batch": 40,
        "precise_batch": 10,
        "vectorised": False,
        "seconds": seconds | {"start": (0.5, 0.0), "epoch": (2.0, 0.0), "record": (3.0, 0.0)},
    }
    return Passes(**(given | changes))


def predicted(rule: str, settings: dict = SETTINGS, **wildcards: str) -> cost_model.Estimate:
    known = {"classifier": passes()}
    found = cost_model.predicted(
        settings, known, rule, {"network": "classifier"} | wildcards if rule else {}
    )
    assert found is not None
    return found


START = cost_model.COMPUTING[0]


def test_cost_of_training() -> None:
    """Three epochs, and a record before and after each."""
    assert predicted("train_network").seconds == pytest.approx(START + 3 * 2.0 + 4 * 3.0)


def test_cost_of_shards_and_of_gathering() -> None:
    """Ten planes of two products over 100 images, in three batches, and of a thousand numbers."""
    shard = predicted("visibility_shard", shard="1")
    assert shard.seconds == pytest.approx(START + 0.5 + 20 * (3e-3 + 0.2 + 1e-5))
    assert predicted("visibility").seconds == cost_model.DRAWING[0]


def test_cost_of_test_images_and_float64() -> None:
    """15 points over 100 and over 70 images; of step sizes, float64 has batches of its own."""
    both = 15 * (3e-3 + 0.2) + 15 * (2e-3 + 0.14)
    assert predicted("slices_shard", part="random").seconds == pytest.approx(
        START + 0.5 + both, abs=1e-3
    )
    precise = 2 * 3 * 2 * 2 * (10e-3 + 0.2) + 3 * (2 + 2) * (3e-3 + 0.2)
    assert predicted("step_sizes").seconds == pytest.approx(START + 0.5 + precise, abs=1e-3)


def test_cost_follows_the_number_of_images() -> None:
    """A count of images is a part, and another number than that of the network's curvature."""
    few, many = (predicted("image_counts", part=n).seconds - START - 0.5 for n in ("40", "400"))
    assert many == pytest.approx(10 * few, rel=1e-3)


def test_memory() -> None:
    """Products: 40 images at once with 5,000 numbers each, and vectors of 1,000 numbers."""
    beyond = predicted("visibility_shard").bytes - cost_model.COMPUTING[1]
    vectors = 2.5 * 16 + 6 + 2 + 32
    data = 4 * 64 * (500 + 1297)
    assert beyond == pytest.approx(8 * (2.2 * 40 * 5000 + vectors * 1000) + data, rel=1e-6)


def test_memory_of_vectorised_passes() -> None:
    side_by_side = passes(vectorised=True).numbers_of("products", 20, 100)
    alone = passes().numbers_of("products", 20, 100)
    assert side_by_side - alone == pytest.approx(15 * 2.2 * 40 * 5000)


def test_unknown_passes_predict_nothing_and_drawing_needs_none() -> None:
    assert cost_model.predicted(SETTINGS, {}, "spectrum", {"network": "classifier"}) is None
    drawing = cost_model.predicted(SETTINGS, {}, "draw_figure", {"figure": "spectra"})
    assert drawing == cost_model.Estimate(cost_model.DRAWING[0], int(cost_model.DRAWING[1]))


def test_every_analysis_has_a_prediction() -> None:
    """In the smallest configuration all of them appear."""
    networks = {name: passes() for name in [*SETTINGS["networks"], "population"]}
    jobs = list(cost_model.jobs(SETTINGS))
    assert {rule.removesuffix("_shard") for rule, _ in jobs} - {"train_network"} == {
        *registry.OF_NETWORKS,
        *registry.OF_PROFILES,
    }
    for rule, wildcards in jobs:
        job = cost_model.predicted(SETTINGS, networks, rule, wildcards)
        assert job is not None
        assert START - 1 < job.seconds < 1e4
        assert 1e8 < job.bytes < 1e10


def test_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run reads what was measured, but for a network that has changed since."""
    monkeypatch.chdir(tmp_path)
    given = GIVEN | {"networks": dict(GIVEN["networks"]), "analyses": {}}
    given["networks"].pop("classifier")
    settings = configuration.complete(given, "tiny", ROOT)
    measured = cost_model.measure(settings, ROOT)
    assert measured["approximator"].n_parameters == 8 * 2 + 8 * 9 + 9
    assert measured["approximator"].n_train == 20
    assert measured["again"].activations > 64
    assert not measured["again"].vectorised
    assert all(min(of) >= 0 for one in measured.values() for of in one.seconds.values())
    monkeypatch.setattr(cost_model, "_measured", lambda *arguments: pytest.fail("measured again"))
    again = cost_model.measure(settings, ROOT)
    assert set(again) == set(measured)
    assert again["again"].seconds["product"] == list(measured["again"].seconds["product"])
    settings["networks"]["again"]["n_images"] = 50
    assert set(cost_model.read(settings)) == {"approximator"}


def test_activations_of_a_network_that_refuses_one_image() -> None:
    """Group normalisation does, where a group has one value; they are counted for one all the same."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(4, 4), nn.Flatten(), nn.Linear(4, 2))
    images = Split(torch.randn(5, 1, 3, 3), torch.zeros(5), torch.arange(5))
    data = SimpleNamespace(train=images)
    studied = SimpleNamespace(model=model, dataset=data, device="cpu", dtype=torch.float32)
    with pytest.raises(ValueError, match="more than 1 value"):
        model(images.inputs[:1])
    assert cost_model._activations(studied) == 4 + 4 + 4 + 2


def test_corrupt_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = cost_model.path_of("tiny")
    path.parent.mkdir(parents=True)
    path.write_text('{"classifier": {"n_parameters": 3}}')
    with pytest.raises(artifacts.ArtifactError, match=r"passes.json is corrupt"):
        cost_model.read(SETTINGS)


@pytest.mark.parametrize("profile", ["demo", "cifar10-subset"])
def test_cost_of_the_archives(profile: str) -> None:
    """Every stage of every network is predicted within a factor of 2 in time and 1.5 in memory."""
    table = predictions.table(profile)
    assert len(table) > 15
    # Seconds, of which most are the start of a process: 9 s where these were made, 3 s elsewhere.
    starts = (table["profile"] == "cifar10-subset") & (table["seconds"] < 15)
    starts &= table["stage"].isin(["import_checkpoint", "localisation"])
    time = table["predicted_seconds"] / table["seconds"]
    memory = table["predicted_bytes"] / table["bytes"]
    assert (time.between(1 / 2, 2) | starts).all()
    assert memory.between(1 / 1.5, 1.5).all()


def test_archived_predictions_are_those_of_the_archives() -> None:
    archived = pd.read_csv(ROOT / "results/archive/benchmarks/predictions.csv")
    tables = [predictions.table(profile) for profile in archived["profile"].unique()]
    pd.testing.assert_frame_equal(
        archived.fillna({"network": ""}), pd.concat(tables, ignore_index=True), rtol=1e-6
    )
