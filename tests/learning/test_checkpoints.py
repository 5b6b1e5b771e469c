"""Checkpoints: round trips to the bit, Li et al.'s files in miniature, and strictness."""

import json
import pickle
from functools import partial

import pytest
import safetensors
import safetensors.torch
import torch
from miniature import lietal_state, write_lietal
from torch import nn

from hessian_directions.errors import CheckpointError, ConfigurationError, DataError
from hessian_directions.learning import checkpoints
from hessian_directions.models import vision
from hessian_directions.models.registry import build
from hessian_directions.reproduction import artifacts

METADATA = {"seed": 3, "epochs": [1, 2], "name": "β"}


def network(seed=0, **options):
    options = {"depth": 8, "width": 2} | options
    return build("resnet", options, input_shape=(3, 8, 8), n_outputs=4, seed=seed)


def trained(seed=1, **options):
    """A network whose BatchNorm statistics are not the initial ones."""
    model = network(seed, **options)
    model(torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))
    return model.eval()


def same_state(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_round_trip_to_the_bit(tmp_path):
    model, other = trained(), network(seed=2)
    checkpoints.save(tmp_path / "a.safetensors", model, METADATA)
    assert checkpoints.load(tmp_path / "a.safetensors", other) == METADATA
    assert same_state(model, other)
    assert artifacts.read_provenance(tmp_path / "a.safetensors") == METADATA
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_equal_states_give_equal_bytes_and_metadata_is_one_sorted_key(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    checkpoints.save(paths[0], trained(), {"b": 1, "a": 2})
    checkpoints.save(paths[1], trained(), {"a": 2, "b": 1})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with safetensors.safe_open(paths[0], "pt") as file:
        assert list(file.metadata()) == ["provenance"]
        assert file.metadata()["provenance"] == json.dumps({"a": 2, "b": 1})


def test_half_precision_rounds_and_halves(tmp_path):
    model, other = trained(), network(seed=2)
    checkpoints.save(tmp_path / "full", model, {})
    checkpoints.save(tmp_path / "half", model, {}, dtype=torch.float16)
    checkpoints.load(tmp_path / "half", other)
    tensors = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    for ours, theirs in tensors:
        assert ours.dtype == theirs.dtype
        if ours.is_floating_point():
            assert torch.equal(ours.half().float(), theirs)
        else:
            assert torch.equal(ours, theirs)
    assert not same_state(model, other)
    header = 5_000
    assert (tmp_path / "half").stat().st_size - header < (tmp_path / "full").stat().st_size / 2


def test_a_number_too_large_for_half_precision_is_refused(tmp_path):
    model = trained()
    next(model.parameters()).data.flatten()[0] = 7e4
    with pytest.raises(CheckpointError, match="too large for torch"):
        checkpoints.save(tmp_path / "half", model, {}, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_shared_parameters_are_stored_once_and_stay_shared(tmp_path):
    def tied(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
        model[2].weight = model[0].weight
        return model

    model, other = tied(1), tied(2)
    checkpoints.save(tmp_path / "a", model, {})
    assert set(safetensors.torch.load_file(tmp_path / "a")) == {"0.weight", "0.bias", "2.bias"}
    checkpoints.load(tmp_path / "a", other)
    assert same_state(model, other)
    assert other[2].weight is other[0].weight


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("shortcut", ["projection", "none"])
def test_lietal_names_become_ours(tmp_path, prefix, shortcut):
    model, other = trained(shortcut=shortcut), network(seed=2, shortcut=shortcut).eval()
    write_lietal(tmp_path / "model_300.t7", lietal_state(model), prefix)
    beside = checkpoints.load_lietal(tmp_path / "model_300.t7", other)
    assert beside == {"acc": 93.66, "epoch": 300}
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    assert torch.equal(model(images), other(images))


def test_torch_checkpoints_with_and_without_a_frame(tmp_path):
    model = trained()
    for content in (model.state_dict(), {"model": model.state_dict(), "epoch": 7}):
        other = network(seed=2)
        torch.save(content, tmp_path / "a.pt")
        beside = checkpoints.load_torch(tmp_path / "a.pt", other)
        assert same_state(model, other)
    assert beside == {"epoch": 7}


def test_other_networks_are_refused_by_key_and_count_and_the_network_stays(tmp_path):
    checkpoints.save(tmp_path / "a", trained(), {})
    checkpoints.save(tmp_path / "none", trained(shortcut="none"), {})
    cases = [
        ("none", {}, "none lacks the key stages.1.0.shortcut.0.weight .and 1. more.; the file hol"),
        ("a", {"shortcut": "none"}, "a has a key that the model lacks, stages.1.0.shortcut.0.wei"),
        ("a", {"width": 4}, r"key stem.weight has shape \(2, 3, 3, 3\), the model wants \(4, 3"),
        ("a", {"depth": 14}, "a lacks the key stages.0.1.conv1.weight"),
    ]
    for name, options, message in cases:
        model = network(seed=2, **options)
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load(tmp_path / name, model)
        assert same_state(model, network(seed=2, **options))
    n_file, n_model = (
        sum(parameter.numel() for parameter in network(shortcut=shortcut).parameters())
        for shortcut in ("none", "projection")
    )
    with pytest.raises(
        CheckpointError, match=f"holds {n_file:,} parameters, the model {n_model:,}"
    ):
        checkpoints.load(tmp_path / "none", network())


def test_a_single_wrong_key_is_named(tmp_path):
    state = lietal_state(trained())
    state["layer2.0.conv1.wieght"] = state.pop("layer2.0.conv1.weight")
    write_lietal(tmp_path / "a.t7", state)
    message = "lacks the key stages.1.0.conv1.weight and has stages.1.0.conv1.wieght instead"
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load_lietal(tmp_path / "a.t7", network())


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "text").write_text("no tensors here")
    (tmp_path / "empty").write_bytes(b"")
    checkpoints.save(tmp_path / "whole", trained(), {})
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    torch.save([1, 2], tmp_path / "list")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers")
    for name in ("text", "empty", "cut"):
        for load in checkpoints.FORMATS.values():
            with pytest.raises(CheckpointError, match=f"{name} is not a"):
                load(tmp_path / name, network())
    for name in ("list", "numbers"):
        with pytest.raises(CheckpointError, match=f"{name} holds no dictionary of named tensors"):
            checkpoints.load_torch(tmp_path / name, network())
    with pytest.raises(CheckpointError, match="absent is missing"):
        checkpoints.load(tmp_path / "absent", network())


def test_import_finds_the_file_here_or_in_the_cache_and_checks_it(tmp_path):
    model, path = trained(), tmp_path / "li.t7"
    write_lietal(path, lietal_state(model))
    checksum = artifacts.sha256(path)
    url = "http://127.0.0.1:9/resnet56/model_300.t7"
    here = {"format": "li_et_al", "file": str(path)}
    there = {"format": "li_et_al", "url": url, "sha256": checksum}
    (tmp_path / f"{checksum[:12]}-model_300.t7").write_bytes(path.read_bytes())
    for settings in (
        here,
        here | {"sha256": checksum},
        there,
        there | {"file": "li.t7"},
    ):
        other = network(seed=2)
        assert checkpoints.import_into(other, settings, tmp_path)["epoch"] == 300
        assert torch.equal(other.stem.weight, model.stem.weight)

    def refused(settings, error, message):
        with pytest.raises(error, match=message):
            checkpoints.import_into(network(), settings, tmp_path)

    refused(here | {"sha256": "00"}, CheckpointError, "li.t7 has sha256 .*, not 00")
    refused(here | {"file": "nowhere.t7"}, CheckpointError, "nowhere.t7 is missing")
    refused(there | {"sha256": "00"}, DataError, r"00-model_300.t7 is needed from http")
    refused(here | {"format": "pickle"}, ConfigurationError, "safetensors, torch, li_et_al")
    refused(here | {"path": "a"}, ConfigurationError, "no key path, it has format, file")
    refused({"format": "torch"}, ConfigurationError, "needs the key file")
    refused({"format": "torch", "url": url}, ConfigurationError, "needs checkpoint.sha256")


def test_weights_that_timm_publishes(tmp_path, monkeypatch):
    """A folder of the hub's layout stands in for the hub, which needs a network."""
    small = partial(build, "timm:test_resnet", {}, input_shape=(3, 32, 32))
    published, folder = small(n_outputs=10, seed=1), tmp_path / "hub"
    vision.timm().models.save_for_hf(published, folder, safe_serialization=True)
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors"}
    settings = {"format": "timm", "name": f"local-dir:{folder}"}
    model = small(n_outputs=10, seed=2)
    checkpoints.import_into(model, settings)
    for key, tensor in published.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)

    def refused(model, settings, error, message):
        with pytest.raises(error, match=message):
            checkpoints.import_into(model, settings)

    # timm itself would give seven classes a random classifier, and load the rest.
    seven = small(n_outputs=7, seed=2)
    refused(seven, settings, CheckpointError, r"hub: key fc.weight has shape \(10, .*\(7, ")
    refused(network(), settings, CheckpointError, "hub lacks the key")
    absent = settings | {"name": f"local-dir:{tmp_path}/absent"}
    refused(model, absent, CheckpointError, "timm has no weights for 'local-dir:.*absent'")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    remote = settings | {"name": "hf_hub:nobody/nothing"}
    refused(model, remote, CheckpointError, "'hf_hub:nobody/nothing' here .* network connection")
    refused(model, settings | {"file": "a"}, ConfigurationError, "has the keys format and name")


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    for write in (
        lambda path, content: torch.save(content, path),
        lambda path, content: path.write_bytes(pickle.dumps(content, protocol=2)),
    ):
        write(tmp_path / "a.t7", {"state_dict": {"a": Exploit(tmp_path / "touched")}})
        with pytest.raises(CheckpointError, match="is not a checkpoint of tensors"):
            checkpoints.load_lietal(tmp_path / "a.t7", network())
        assert not (tmp_path / "touched").exists()


def test_a_failed_save_leaves_the_earlier_file(tmp_path):
    checkpoints.save(tmp_path / "a", trained(), METADATA)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(TypeError):
        checkpoints.save(tmp_path / "a", trained(2), {"object": object()})
    assert (tmp_path / "a").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_scores_other_than_published_are_refused():
    settings = {"format": "li_et_al", "file": "model.t7"}
    published = {"test_loss": 0.261, "test_accuracy": 0.938}
    checkpoints.require_scores(settings, {"test_loss": 0.2607, "test_accuracy": 0.9381}, published)
    checkpoints.require_scores(settings, {"test_loss": 9.0, "test_accuracy": 0.1}, {})
    for scores in ({"test_loss": 0.2607, "test_accuracy": 0.92}, {"test_loss": float("nan")}):
        with pytest.raises(CheckpointError, match=r"model.t7: the test \w+ is .*expected"):
            checkpoints.require_scores(settings, {"test_accuracy": 0.938} | scores, published)
