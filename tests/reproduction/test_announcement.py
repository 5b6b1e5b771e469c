"""What a run is going to compute is said before it starts."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from hessian_directions.errors import CheckpointError
from hessian_directions.reproduction import announcement, artifacts, configuration, cost_model
from hessian_directions.reproduction.cost_model import Passes

ROOT = Path(__file__).parents[2]
GIVEN = yaml.safe_load((ROOT / "tests/config/tiny.yaml").read_text())
SETTINGS = configuration.complete(GIVEN, "tiny", ROOT)


def record(path: Path, rule: str, network: str, seconds: float, device: str | None = None) -> None:
    """A job of so many seconds on a machine that did much else."""
    content = {
        "rule": rule,
        "wildcards": {"network": network} if network else {},
        "wall_seconds": 4 * seconds,
        "cpu_seconds": seconds,
        "peak_memory_bytes": 2 * 10**9 if rule == "saddles" else 10**9,
    } | ({"device": device} if device else {})
    artifacts.write_json(path, content)


def announced(settings: dict, archive: Path, cores: int) -> list[str]:
    return announcement.announce(settings, archive, cores, ROOT).splitlines()


def test_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of pass takes a second whatever its images; one batch holds all of them."""
    kinds = ("value", "gradient", "product", "derivative", "values", "products", "derivatives")
    passes = Passes(
        measured="",
        n_parameters=10,
        activations=10,
        image=64,
        n_images=100,
        n_test_images=100,
        n_train=500,
        n_test=1297,
        batch=500,
        precise_batch=500,
        vectorised=False,
        seconds=dict.fromkeys(("start", *kinds), (1.0, 0.0))
        | {"epoch": (20.0, 0.0), "record": (2.0, 0.0)},
    )
    monkeypatch.setattr(cost_model, "measure", lambda settings, folder: {"classifier": passes})
    classifier = GIVEN["networks"]["classifier"] | {"analyses": ["lines"]}
    given = GIVEN | {"networks": {"classifier": classifier}, "analyses": {}}
    lines = announced(configuration.complete(given, "tiny", ROOT), Path("nowhere"), cores=2)
    assert lines[0] == (
        "Profile tiny: 1 network (1 trained here), 1 analyses, beside the archive of "
        "cifar10-subset."
    )
    assert lines[1].startswith("  digits: ")
    # 4 · 41 values, a gradient, 4 derivatives and the start; 3 epochs and 4 records; both processes.
    assert "Predicted from a few passes: 4 min of one core, about 2 min on 2 like it" in lines[2]
    assert lines[3:] == ["  classifier: 4 min, 0.5 GB (lines 3 min, train_network 68 s)"]


def test_estimate_from_the_records(tmp_path: Path) -> None:
    """Processor times over the cores; the longest first."""
    record(tmp_path / "networks/a/eigenpairs.run.json", "eigenpairs", "a", 600.0)
    record(tmp_path / "networks/b/eigenpairs.run.json", "eigenpairs", "b", 100.0)
    record(tmp_path / "networks/b/shards/slices/r_0.run.json", "slices_shard", "b", 200.0)
    record(tmp_path / "networks/b/shards/slices/r_1.run.json", "slices_shard", "b", 400.0)
    record(tmp_path / "saddles.run.json", "saddles", "", 3.0)
    (tmp_path / "configuration.yaml").write_text(yaml.safe_dump(SETTINGS))
    lines = announced(SETTINGS, tmp_path, cores=4)
    assert lines[0].startswith("Profile tiny: 3 networks (3 trained here), 23 analyses (saddles, ")
    # 600 + 100 + 600 + 3 seconds.
    assert (
        "this took 22 min of one core, about 5 min on 4 like it; the largest job 2.0 GB"
        in (lines[1])
    )
    assert lines[2:] == [
        "  b: 12 min, 1.0 GB (slices_shard 10 min, eigenpairs 2 min)",
        "  a: 10 min, 1.0 GB (eigenpairs 10 min)",
        "  beside the networks: 3 s, 2.0 GB (saddles 3 s)",
    ]


def test_records_of_another_device_tell_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a GPU wall times count, and of what needs none the processor's."""
    (tmp_path / "configuration.yaml").write_text(yaml.safe_dump(SETTINGS))
    on_gpu = SETTINGS | {"device": "cuda"}
    monkeypatch.setattr(cost_model, "measure", lambda settings, folder: {})
    record(tmp_path / "saddles.run.json", "saddles", "", 3.0, "cpu")
    assert "this took" in announced(SETTINGS, tmp_path, cores=4)[1]
    assert "Predicted" in announced(on_gpu, tmp_path, cores=4)[3]
    record(tmp_path / "networks/a/eigenpairs.run.json", "eigenpairs", "a", 600.0, "cuda")
    assert "Predicted" in announced(SETTINGS, tmp_path, cores=4)[3]
    assert announced(on_gpu, tmp_path, cores=4)[-2:] == [
        "  a: 40 min, 1.0 GB (eigenpairs 40 min)",
        "  beside the networks: 3 s, 2.0 GB (saddles 3 s)",
    ]


def test_records_of_other_settings_tell_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "saddles.run.json", "saddles", "", 3.0)
    (tmp_path / "configuration.yaml").write_text(yaml.safe_dump(SETTINGS | {"seed": 2}))
    monkeypatch.setattr(cost_model, "measure", lambda settings, folder: {})
    assert "Predicted" in announced(SETTINGS, tmp_path, cores=4)[3]


def test_each_data_set_has_a_line_that_says_how_it_was_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at the second time, when nothing is measured; and the files may be others by then."""
    images = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 5), dtype=np.uint8)
    np.savez(tmp_path / "bands.npz", x=images, y=np.arange(24) % 3)
    own = {"model": {"name": "mlp"}, "training": {"epochs": 1}}
    given = {
        "profile": "mine",
        "data": {
            "bands": {"kind": "arrays", "path": "bands.npz", "n_test": 6},
            "curve": {"kind": "function"},
        },
        "networks": {"a": own | {"data": "bands"}, "b": own | {"data": "curve"}}
        | {"c": own | {"data": "bands"}},
    }
    settings = configuration.complete(given, "mine", ROOT)
    monkeypatch.setattr(cost_model, "measure", lambda settings, folder: {})

    def said() -> list[str]:
        return announcement.announce(settings, Path("nowhere"), 2, tmp_path).splitlines()

    lines = said()
    assert lines[1].startswith(
        "  bands: 18 training and 6 test images, 5×12×12 (channels×height×width), 3 classes "
        "(0, 1, 2), normalised by mean ("
    )
    assert lines[2] == (
        "  curve: 50 training and 1000 test samples of shape 1, 1 number to predict, not normalised."
    )
    assert lines[3].startswith("Predicted")
    np.savez(tmp_path / "bands.npz", x=images, y=np.arange(24) % 2)
    assert "2 classes (0, 1)" in said()[1]


def run(monkeypatch: pytest.MonkeyPatch, config: str) -> int:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["announcement", config])
    return announcement.main()


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "config/demo.yaml") == 0
    assert capsys.readouterr().out.startswith("Profile demo: ")


def test_mistake_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the first command of a run, so the first to meet a wrong configuration."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GIVEN | {"sed": 1}))
    assert run(monkeypatch, str(path)) == 1
    assert capsys.readouterr().err.startswith(f"announce: {path}: unknown key 'sed'; allowed here")
    assert run(monkeypatch, str(tmp_path / "none.yaml")) == 1
    assert "none.yaml cannot be read" in capsys.readouterr().err


def test_corrupt_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.run.json").write_text("{")
    (tmp_path / "configuration.yaml").write_text(yaml.safe_dump(SETTINGS))
    with pytest.raises(artifacts.ArtifactError, match=r"a.run.json is corrupt"):
        announced(SETTINGS, tmp_path, cores=2)


MINE = """
profile: mine
data: {marks: {kind: digits}}
networks:
  own: {model: {name: resnet, options: {depth: 8, width: 4}}, checkpoint: {file: weights.pt}}
"""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("", "", r"mine\.yaml: own: the checkpoint .*weights\.pt is missing"),
        (
            "kind: digits}",
            "kind: digits, paht: 3}",
            r"mine\.yaml: own \(data marks\): unknown key 'data\.marks\.paht'; allowed",
        ),
        (
            "kind: digits}",
            "kind: digits, n_test: 1e2}",
            r"mine\.yaml: own \(data marks\): key 'data\.marks\.n_test' is '1e2'; allowed: a whole",
        ),
        (
            "width: 4}",
            "width: 4}",
            r"mine\.yaml: own: .*weights\.pt is not a checkpoint of tensors",
        ),
        (
            "file: weights.pt",
            "file: run",
            r"mine\.yaml: own: .*run is a folder.*; run/model.safetens",
        ),
        (
            "name: resnet",
            "name: 'timm:lcnet_35'",
            r"mine\.yaml: own \(data marks\): timm has no model",
        ),
        ("profile: mine", "profile: mine\nprofile: other", "'profile' is there twice in line 3"),
    ],
)
def test_what_is_wrong_is_said_with_file_network_and_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, sentence: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE.replace(old, new, 1) if old else MINE)
    if old and "twice" not in sentence:
        (tmp_path / "weights.pt").touch()
        (tmp_path / "run").mkdir()
        (tmp_path / "run/model.safetensors").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["announcement", str(path)])
        assert announcement.main() == 1
    said = capsys.readouterr().err
    assert re.search(sentence, said)
    assert len(said.splitlines()) == 1


def test_weights_that_do_not_fit_are_refused_before_anything_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the last network, too; and what is noted of those that fit is said."""
    import torch

    from hessian_directions.models.registry import build

    def weights(width: int) -> dict:
        options = {"depth": 8, "width": width}
        return build("resnet", options, input_shape=(1, 8, 8), n_outputs=10, seed=0).state_dict()

    fits, other = tmp_path / "fits.pt", tmp_path / "other.pt"
    torch.save({"state_dict": weights(4), "ema": weights(4)}, fits)
    torch.save(weights(3), other)
    given = yaml.safe_load(MINE)
    network = given["networks"]["own"] | {"checkpoint": {"file": "fits.pt"}}
    given["networks"] = {"first": network, "last": network | {"checkpoint": {"file": "other.pt"}}}
    measured: list[bool] = []
    monkeypatch.setattr(cost_model, "measure", lambda *given: measured.append(True) or {})
    monkeypatch.chdir(tmp_path)

    def announce() -> str:
        settings = configuration.complete(given, "mine", ROOT)
        return announcement.announce(settings, Path("nowhere"), 2, tmp_path)

    with pytest.raises(CheckpointError, match=r"^last: .*other.pt: key .* has shape"):
        announce()
    assert not measured
    torch.save(weights(4), other)
    assert announce().endswith("those under ema fit, too (checkpoint.key)")
    assert measured
    # What was imported before is not read again.
    torch.save(weights(3), other)
    for name in given["networks"]:
        place = tmp_path / "results/computed/mine/networks" / name
        place.mkdir(parents=True)
        (place / "checkpoint.safetensors").touch()
    announce()


def test_home_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(MINE)
    assert run(monkeypatch, "~/mine.yaml") == 1
    assert f"{tmp_path}/weights.pt is missing" in capsys.readouterr().err
