"""Checkpoints: round trips to the bit, Li et al.'s files in miniature, and strictness."""

import argparse
import collections
import datetime
import json
import pickle
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
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
    half, full = ((tmp_path / name).stat().st_size for name in ("half", "full"))
    assert half - 5_000 < full / 2  # the header


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
@pytest.mark.parametrize("shortcut", ["projection", "none", "padding"])
@pytest.mark.parametrize("format", ["li_et_al", None])
def test_lietal_names_become_ours(tmp_path, prefix, shortcut, format):
    model, other = trained(shortcut=shortcut), network(seed=2, shortcut=shortcut).eval()
    write_lietal(tmp_path / "model_300.t7", lietal_state(model), prefix)
    settings = {"file": str(tmp_path / "model_300.t7")} | ({"format": format} if format else {})
    beside = checkpoints.import_into(other, settings)
    assert beside == {"acc": 93.66, "epoch": 300}
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    assert torch.equal(model(images), other(images))


class Attention(nn.Module):
    """LayerNorm and attention, no convolution."""

    def __init__(self, width=4):
        super().__init__()
        self.model = nn.ModuleDict({"norm": nn.LayerNorm(width), "head": nn.Linear(width, 3)})
        self.attention = nn.MultiheadAttention(width, 2)


def attention(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Attention()
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
    return model


def imported(folder, content, model=None, **settings):
    """A network into which a file of this content was imported, and what was beside its weights."""
    model = model or attention(2)
    torch.save(content, folder / "a.pt")
    return model, checkpoints.import_into(model, {"file": "a.pt"} | settings, folder=folder)


def prefixed(state, prefix):
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


@pytest.mark.parametrize("make", [attention, trained])
@pytest.mark.parametrize(
    ("suffix", "place", "prefix"),
    [
        ("pt", "", ""),
        ("t7", "", "module."),
        ("pth", "", "module._orig_mod."),
        ("th", "state_dict", "module."),
        ("pth.tar", "model", ""),
        ("ckpt", "network.net", "model."),
        ("bin", "their own", "a.b."),
        ("safetensors.pt", "ema.module", ""),
    ],
)
def test_weights_are_found_in_whole_checkpoints_under_other_names(
    tmp_path, make, suffix, place, prefix
):
    model, other = make(1), make(2)
    content = prefixed(model.state_dict(), prefix)
    for key in reversed(place.split(".") if place else []):
        content = {key: content, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    torch.save(content | ({"epoch": 7, "loss": torch.tensor(0.3)} if place else {}), tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / f"a.{suffix}")
    beside = checkpoints.import_into(other, {"file": f"a.{suffix}"}, folder=tmp_path)
    assert beside == ({"epoch": 7} if place else {})
    assert same_state(model, other)


@pytest.mark.parametrize(
    ("settings", "seed", "note"),
    [
        ({}, 1, "under state_dict; those under state_dict_ema, old.0.9 fit, too (checkpoint.key)"),
        ({"key": "state_dict_ema"}, 3, None),
        ({"key": "old.0.9"}, 4, None),
        ({"key": "parts", "prefix": "student."}, 5, "6 entries do not begin with student."),
        ({"key": "parts", "prefix": "teacher."}, 6, "6 entries do not begin with teacher."),
    ],
)
def test_the_state_that_is_meant_is_chosen_by_key_and_prefix(tmp_path, settings, seed, note):
    states = {seed: attention(seed).state_dict() for seed in (1, 3, 4, 5, 6)}
    n = len(states[1])
    parts = prefixed(states[5], "module.student.") | prefixed(states[6], "module.teacher.")
    content = {"old": {"0.9": states[4]}, "parts": parts}
    content |= {"state_dict_ema": states[3], "state_dict": states[1]}
    model, beside = imported(tmp_path, content, **settings)
    assert same_state(model, attention(seed))
    if note is None:
        assert beside == {}
    else:
        assert note.replace("6 entries", f"{n} entries") in beside["notes"][0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"key": key}, rf"no .* named tensors under {key} \(checkpoint.key\), but model, epoch")
            for key in ("state", "epoch")
        ),
        ({"prefix": "encoder."}, r"no key begins with encoder. \(checkpoint.prefix\), the first"),
        ({"format": "li_et_al", "key": "model"}, "lacks the key"),
        ({"name": "resnet18"}, "checkpoint.name: state checkpoint.format, timm or torchvision"),
        ({"name": "timm:resnet18"}, "checkpoint of format timm has the keys format and name"),
        ({"file": 3}, "key 'checkpoint.file' is 3; allowed: a text"),
        ({"file": "."}, "is a folder, not a file of weights"),
    ],
)
def test_wrong_keys_and_prefixes_are_refused(tmp_path, settings, message):
    content = {"model": attention(1).state_dict(), "epoch": 3}
    with pytest.raises((CheckpointError, ConfigurationError), match=message) as caught:
        imported(tmp_path, content, trained(), **settings)
    assert "\n" not in str(caught.value)


def averaged(seed, wrapped=lambda model: model):
    """As `torch.optim.swa_utils.AveragedModel` writes it, of a network in a wrapper, too."""
    return torch.optim.swa_utils.AveragedModel(wrapped(attention(seed))).state_dict()


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (averaged(1), None),
        (averaged(1, nn.DataParallel), None),
        ({"ema": averaged(1), "epoch": 3}, None),
        ({"ema": averaged(1), "state_dict": attention(3).state_dict()}, "ema"),
        ({"state_dict": prefixed(averaged(1), "ema_model."), "epoch": 3}, None),
    ],
)
def test_averaged_weights_have_a_count_that_is_no_weight(tmp_path, content, key):
    model, beside = imported(tmp_path, content, **({"key": key} if key else {}))
    assert "notes" not in beside
    assert same_state(model, attention(1))


def test_averaged_weights_beside_the_last_ones_are_noted(tmp_path):
    content = {"ema": averaged(3), "state_dict": attention(1).state_dict()}
    model, beside = imported(tmp_path, content)
    assert "are those under state_dict; those under ema fit, too" in beside["notes"][0]
    assert same_state(model, attention(1))


class Counting(nn.Module):
    """It has of its own what wrappers call theirs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n_averaged", torch.tensor(3))
        self.module = nn.ModuleDict({"_module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net."])
def test_parts_of_a_network_may_be_called_as_wrappers_are(tmp_path, prefix):
    model = Counting()
    other, _ = imported(tmp_path, prefixed(model.state_dict(), prefix), Counting())
    assert same_state(model, other)


def test_names_of_wrapped_parts_are_found(tmp_path):
    """torch.compile, DataParallel, Opacus and FSDP of a part, alone and beside one another."""
    model = attention(1)
    for place, wrapper in (
        ("model.", "_orig_mod."),
        ("model.head.", "_orig_mod."),
        ("attention.", "module."),
        ("attention.out_proj.", "_module."),
        ("model.norm.", "_fsdp_wrapped_module._orig_mod."),
        ("model.", "module._orig_mod."),
    ):
        for prefix in ("", "module.", "net."):
            state = {
                prefix
                + (place + wrapper + key.removeprefix(place) if key.startswith(place) else key): t
                for key, t in model.state_dict().items()
            }
            other, _ = imported(tmp_path, state)
            assert same_state(model, other), state.keys()


def test_a_network_among_other_weights_is_found_where_one_alone_fits(tmp_path):
    """As Lightning keeps it beside a criterion or a teacher of another size."""
    state, extra = attention(1).state_dict(), {"criterion.weight": torch.ones(3)}
    for prefix in ("model.", "net.backbone.", "module.model.", "model._orig_mod."):
        for more in (extra, prefixed(attention(3).state_dict(), "teacher.")):
            # The teacher is wider, with the same names.
            others = {
                k: torch.cat([t, t]) if k.startswith("teacher") else t for k, t in more.items()
            }
            model, beside = imported(tmp_path, {"state_dict": prefixed(state, prefix) | others})
            assert same_state(model, attention(1))
            assert f"{len(others)} entries do not begin with " in beside["notes"][0]


def test_several_networks_among_other_weights_are_refused_with_their_prefixes(tmp_path):
    parts = prefixed(attention(1).state_dict(), "model.") | prefixed(averaged(3), "ema_model.")
    parts |= {"criterion.weight": torch.ones(3)}
    content = {"state_dict": parts, "loss": torch.tensor(0.3)}
    message = r"a.pt holds the network .*; checkpoint.prefix: model. or ema_model. fits"
    with pytest.raises(CheckpointError, match=message):
        imported(tmp_path, content)
    for prefix, seed in (
        ("model.", 1),
        ("model", 1),
        ("ema_model.", 3),
        ("ema_model", 3),
        ("ema_model.module", 3),
    ):
        model, beside = imported(tmp_path, content, prefix=prefix)
        assert same_state(model, attention(seed))
        assert "do not begin with " in beside["notes"][0]


def test_names_that_become_one_are_not_confused(tmp_path):
    """Two tensors of one name without wrappers: one of them would be lost."""
    more = {"model.module.head.weight": torch.ones(3, 4)}
    with pytest.raises(CheckpointError, match=r"the model lacks, model.module.head"):
        imported(tmp_path, attention(1).state_dict() | more)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_is_refused_with_the_file_that_is_meant(tmp_path, name):
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    (folder / name).touch()
    (folder / "optimizer.pt").touch()
    message = f"checkpoint-500 is a folder, not a file of weights; checkpoint-500/{name} is one"
    with pytest.raises(CheckpointError, match=message):
        checkpoints.import_into(attention(1), {"file": "checkpoint-500"}, folder=tmp_path)


def test_weights_of_another_network_are_named_by_their_first_keys(tmp_path):
    message = "a.pt lacks the key stem.weight .and .* more. and has attention.in_proj_bias .and"
    with pytest.raises(CheckpointError, match=message):
        imported(tmp_path, {"epoch": 3, "state_dict": attention(1).state_dict()}, network())
    write_lietal(tmp_path / "li.t7", lietal_state(trained()), "module.")
    with pytest.raises(CheckpointError, match=r"lacks the key model.norm.weight .* has bn1.bias"):
        checkpoints.import_into(attention(1), {"file": "li.t7"}, folder=tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_numbers_of_another_precision_are_noted(tmp_path, dtype, form):
    model, other = attention(1).to(dtype), attention(2)
    if form == "torch":
        torch.save(model.state_dict(), tmp_path / "a")
    else:
        safetensors.torch.save_file(model.state_dict(), tmp_path / "a")
    beside = checkpoints.import_into(other, {"file": "a"}, folder=tmp_path)
    assert beside["notes"] == [f"{tmp_path / 'a'}: its {dtype} numbers became torch.float32"]
    assert same_state(other, model.float())


def test_harmless_values_beside_the_weights_are_passed_over(tmp_path):
    content = {
        "model": attention(1).state_dict(),
        "args": argparse.Namespace(lr=0.1, out=Path("runs"), layers=[1, 2]),
        "paths": [PurePosixPath("a"), PureWindowsPath("b")],
        "best": np.float64(0.5),
        "f32": np.float32(0.5),
        "history": {"loss": np.arange(3.0), "step": np.int64(3), "names": np.array(["a"])},
        "when": datetime.datetime(2020, 1, 1),
        "more": collections.OrderedDict(a=collections.Counter(b=1)),
    }
    # As NumPy 1 wrote it, and Python 2 with it.
    raw = {"net": {}, "best": np.float64(0.5)}
    torch.save(raw, tmp_path / "old.pt", _use_new_zipfile_serialization=False, pickle_protocol=2)
    data = (tmp_path / "old.pt").read_bytes().replace(b"numpy._core.mul", b"numpy.core.mul")
    (tmp_path / "old.pt").write_bytes(data)
    model, beside = imported(tmp_path, content)
    assert beside == {"best": 0.5}
    assert same_state(model, attention(1))
    with pytest.raises(CheckpointError, match=r"old.pt holds no dictionary of named tensors"):
        checkpoints.import_into(model, {"file": "old.pt"}, folder=tmp_path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_networks_saved_whole_are_refused_with_what_to_do(tmp_path):
    torch.save(attention(1), tmp_path / "whole.pt")
    torch.save({"model": attention(1)}, tmp_path / "inside.pt")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    for name, what in (
        ("whole", r"it holds a \S*test_checkpoints.Attention, and restoring that would run code"),
        ("inside", r"it holds a \S*Attention"),
        ("script", "it is a TorchScript program"),
    ):
        message = rf"{name}.pt is not a checkpoint of tensors.* \({what}.*save the weights by "
        with pytest.raises(CheckpointError, match=message + r"torch.save\(model.state_dict\(\)"):
            checkpoints.import_into(attention(2), {"file": f"{name}.pt"}, folder=tmp_path)


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


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda weight: weight.to("meta")])
def test_weights_without_a_number_for_each_entry_are_named_and_the_network_stays(tmp_path, change):
    state = dict(trained().state_dict())
    key = list(state)[-2]
    torch.save(state | {key: change(state[key])}, tmp_path / "a.pt")
    model = network(seed=2)
    with pytest.raises(CheckpointError, match=f"key {key} holds"):
        checkpoints.import_into(model, {"file": str(tmp_path / "a.pt")})
    assert same_state(model, network(seed=2))


def test_a_single_wrong_key_is_named(tmp_path):
    state = lietal_state(trained())
    state["layer2.0.conv1.wieght"] = state.pop("layer2.0.conv1.weight")
    write_lietal(tmp_path / "a.t7", state)
    message = "lacks the key stages.1.0.conv1.weight and has stages.1.0.conv1.wieght instead"
    with pytest.raises(CheckpointError, match=message):
        checkpoints.import_into(network(), {"file": str(tmp_path / "a.t7")})


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "text").write_text("no tensors here")
    (tmp_path / "empty").write_bytes(b"")
    checkpoints.save(tmp_path / "whole", trained(), {})
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    torch.save([1, 2], tmp_path / "list")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers")
    for name in ("text", "empty", "cut"):
        for more in ({"format": "safetensors"}, {"format": "torch"}, {"format": "li_et_al"}, {}):
            with pytest.raises(CheckpointError, match=f"{name} is not a"):
                checkpoints.import_into(network(), {"file": str(tmp_path / name)} | more)
    for name in ("list", "numbers"):
        with pytest.raises(CheckpointError, match=f"{name} holds no dictionary of named tensors"):
            checkpoints.import_into(network(), {"file": str(tmp_path / name)})
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
    for settings in (here, here | {"sha256": checksum}, there, there | {"file": "li.t7"}):
        other = network(seed=2)
        assert checkpoints.import_into(other, settings, tmp_path)["epoch"] == 300
        assert torch.equal(other.stem.weight, model.stem.weight)

    def refused(settings, error, message):
        with pytest.raises(error, match=message):
            checkpoints.import_into(network(), settings, tmp_path)

    zeros = "0" * 64
    refused(here | {"sha256": zeros}, CheckpointError, "li.t7 has sha256 .*, not 0{64}")
    refused(here | {"sha256": "00"}, ConfigurationError, "is '00'; allowed: 64 hexadecimal digits")
    refused(here | {"file": "nowhere.t7"}, CheckpointError, "nowhere.t7 is missing")
    refused(there | {"sha256": zeros}, DataError, r"0{12}-model_300.t7 is needed from http")
    refused(here | {"format": "pickle"}, ConfigurationError, "safetensors, torch, li_et_al")
    unknown = "unknown key 'checkpoint.path'; allowed here: format"
    refused(here | {"path": "a"}, ConfigurationError, unknown)
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


def test_weights_that_torchvision_publishes(tmp_path, monkeypatch):
    """Files in torch's own cache stand in for the addresses, which need a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = vision.torchvision().models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    make = partial(build, "torchvision:shufflenet_v2_x0_5", {}, input_shape=(3, 32, 32))
    published = make(n_outputs=1000, seed=1)
    file = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(published.state_dict(), file)
    name = "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    for settings in (
        {"format": "torchvision", "name": name},
        {"name": name},
        {"name": "torchvision:shufflenet_v2_x0_5"},
    ):
        model = make(n_outputs=1000, seed=2)
        assert checkpoints.import_into(model, settings) == {}
        assert same_state(model, published)
    with pytest.raises(CheckpointError, match=r"key fc.weight has shape \(1000, .*\(7, "):
        checkpoints.import_into(make(n_outputs=7, seed=2), settings)
    with pytest.raises(CheckpointError, match="torchvision has no weights for 'resnet1' here"):
        checkpoints.import_into(model, {"format": "torchvision", "name": "resnet1"})


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
            checkpoints.import_into(network(), {"file": str(tmp_path / "a.t7")})
        assert not (tmp_path / "touched").exists()


def test_a_failed_save_leaves_the_earlier_file(tmp_path):
    checkpoints.save(tmp_path / "a", trained(), METADATA)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(TypeError):
        checkpoints.save(tmp_path / "a", trained(2), {"object": object()})
    assert (tmp_path / "a").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_scores_other_than_published_are_refused():
    published = {"test_loss": 0.261, "test_accuracy": 0.938}
    settings = {"format": "li_et_al", "file": "model.t7", "expected": published}
    checkpoints.require_scores(settings, {"test_loss": 0.2607, "test_accuracy": 0.9381})
    checkpoints.require_scores(settings | {"expected": None}, {"test_loss": 9.0})
    for scores in ({"test_loss": 0.2607, "test_accuracy": 0.92}, {"test_loss": float("nan")}):
        with pytest.raises(CheckpointError, match=r"model.t7: the test \w+ is .*expected"):
            checkpoints.require_scores(settings, {"test_accuracy": 0.938} | scores)
