"""Checkpoints: weights and buffers of a network in a file, read strictly.

Where the weights lie in a file, and what stands before their names, is found by trying; but every
key and every shape has to fit, and a network is changed only after the whole state has been checked.
Files are read as tensors and plain values alone: no code in them is run.
"""

import argparse
import collections
import datetime
import json
import pathlib
import re
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hessian_directions.data import cache as cache_folder
from hessian_directions.errors import CheckpointError, ConfigurationError, NonFiniteError
from hessian_directions.files import AnyPath, atomic_path, to_json
from hessian_directions.files import sha256 as file_sha256
from hessian_directions.learning.settings import Checkpoint
from hessian_directions.models import vision
from hessian_directions.models.resnet import ResNet
from hessian_directions.settings import checked

# Files written before PyTorch 0.4 do not have this count; evaluation mode does not read it.
COUNTER = "num_batches_tracked"
# What BatchNorm keeps beside its parameters.
STATISTICS = ("running_mean", "running_var", COUNTER)
# Where programs put the weights in a dictionary with other things; the first that fits is taken.
PLACES = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights",
    "params", "student", "ema", "model_ema", "ema_state_dict", "state_dict_ema",
)  # fmt: skip
# What the weights are called in the folders that transformers and accelerate write.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# How many networks `torch.optim.swa_utils.AveragedModel` has averaged.
AVERAGED = "n_averaged"
# What torch.compile puts into the names of parameters, of a whole network or of a part; no part of
# a network is called so.
COMPILED = "_orig_mod"
# What DataParallel, Opacus and FSDP put there; parts may be called so.
WRAPPERS = ("module", "_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def save(
    path: AnyPath, model: nn.Module, metadata: Mapping[str, Any], dtype: torch.dtype | None = None
) -> None:
    """Write a network's state as safetensors, whole or not at all.

    A tensor that several keys share is written once, under the first of them.

    Args:
        metadata: What made the weights; kept as sorted JSON under the key "provenance". Equal states
            and metadata give equal bytes.
        dtype: Rounds floating-point tensors, e.g. to ``torch.float16`` for half the size: relative
            changes up to 5e-4 between 6.1e-5 and 65504, larger ones below. None keeps them as they
            are.

    Raises:
        CheckpointError: Rounding makes a finite number infinite.
    """
    tensors = {}
    for key, tensor in _unshared(model).items():
        exact = tensor.detach().cpu().contiguous()
        tensors[key] = exact.to(dtype) if dtype and exact.is_floating_point() else exact
        if not torch.equal(exact.isinf(), tensors[key].isinf()):
            raise CheckpointError(f"{path}: {key} has numbers that are too large for {dtype}")
    data = safetensors.torch.save(tensors, {"provenance": to_json(dict(metadata))})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def load(path: AnyPath, model: nn.Module) -> dict[str, Any]:
    """Load what `save` wrote, or any safetensors state of this network, and return its metadata.

    Raises:
        CheckpointError: The file is missing or holds no tensors, a key is missing or unexpected, or
            a shape is wrong; the message names file and key.
    """
    _require(path)
    state, metadata = _read_safetensors(path)
    _fill(path, model, state)
    return metadata


def import_into(
    model: nn.Module,
    settings: Mapping[str, Any],
    cache: AnyPath | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Load the checkpoint that a configuration describes, and return what is stored beside it.

    That are numbers and names, and under "notes", where there are any, sentences on what was found:
    numbers of another precision, several states that fit.

    Args:
        settings: Keys of `Checkpoint`.
        cache: The configured cache folder, see `data.cache.folder`.
        folder: Of the configuration, where files are looked for before the working folder.

    Raises:
        ConfigurationError: The settings have an unknown key, or do not go together.
        CheckpointError: The weights cannot be had, or are those of another network.
        DataError: A file cannot be fetched.
        NonFiniteError: A weight is NaN or infinite.
    """
    chosen = checked(Checkpoint, settings, "checkpoint")
    library, name = _published_name(chosen)
    beside: dict[str, Any] = {}
    if name is not None:
        place, notes = name, _fill(name, model, _published(library, name))
    else:
        path = _file(chosen, cache_folder.folder(cache), folder)
        content: Mapping[str, Any]
        if chosen.format == "safetensors" or (chosen.format is None and _is_safetensors(path)):
            content, beside = _read_safetensors(path)
        else:
            content = _read_torch(path)
            plain = bool | int | float | str
            beside = {key: value for key, value in content.items() if isinstance(value, plain)}
        found = _find(path, model, content, chosen)
        place, notes = str(path), found.notes + _fill(path, model, found.state)
    _require_finite(place, model)
    return beside | ({"notes": notes} if notes else {})


def _require_finite(path: AnyPath, model: nn.Module) -> None:
    """Buffers, such as masks of attention, may hold infinite numbers."""
    parameters = dict(model.named_parameters())
    for key, tensor in model.state_dict().items():
        if wrong := int((~tensor.isfinite() if key in parameters else tensor.isnan()).sum()):
            raise NonFiniteError(
                f"{path}: {wrong} of the {tensor.numel()} numbers of key {key} are NaN or infinite: "
                "training had diverged when these weights were saved"
            )


def _published_name(chosen: Checkpoint) -> tuple[str | None, str | None]:
    """The library that publishes weights and their name in it; None where they are in a file.

    Raises ConfigurationError where the keys do not go together.
    """
    format: str | None = chosen.format
    name = chosen.name
    others = (chosen.file, chosen.url, chosen.sha256, chosen.key, chosen.prefix)
    if name is not None:
        library, _, rest = name.partition(":")
        if library in ("timm", "torchvision"):
            format, name = format or library, rest
        elif format is None:
            guesses = {"hf_hub": "timm", "local-dir": "timm"}
            format = guesses.get(library) or ("torchvision" if "_Weights." in name else None)
    if format in ("timm", "torchvision"):
        if name is None or any(value is not None for value in others):
            raise ConfigurationError(f"checkpoint of format {format} has the keys format and name")
    elif name is not None:
        raise ConfigurationError("checkpoint.name: state checkpoint.format, timm or torchvision")
    elif chosen.file is None and chosen.url is None:
        raise ConfigurationError(
            "checkpoint needs the key file, the keys url and sha256, or the key name"
        )
    elif chosen.url is not None and chosen.sha256 is None:
        raise ConfigurationError("checkpoint.url needs checkpoint.sha256")
    return format, name


def require_scores(
    settings: Mapping[str, Any], scores: Mapping[str, float], tolerance: float = 1e-3
) -> None:
    """Raise CheckpointError unless the imported network scores what its publication says.

    `settings` are those of `Checkpoint`: they name the file and what is `expected`.
    """
    source = settings.get("file") or settings.get("url") or settings.get("name")
    for name, value in (settings.get("expected") or {}).items():
        if not abs(scores[name] - value) <= tolerance:
            raise CheckpointError(
                f"{source}: the {name.replace('_', ' ')} is "
                f"{scores[name]:.4f}, but checkpoint.expected.{name} is {value}: other weights, "
                "images or normalisation"
            )


def _from_lietal(key: str) -> str:
    key = re.sub(r"^layer([123])\.", lambda match: f"stages.{int(match[1]) - 1}.", key)
    key = re.sub(r"^conv1\.", "stem.", key)
    key = re.sub(r"^bn1\.", "norm.", key)
    key = re.sub(r"\.bn([12])\.", r".norm\1.", key)
    return re.sub(r"^linear\.", "classifier.", key)


def _published(library: str | None, name: str) -> dict[str, Tensor]:
    """The weights that timm or torchvision publishes, for the classes that they were trained on.

    For another number of classes timm would give a new, random classifier without a word.
    """
    try:
        if library == "timm":
            return vision.timm().create_model(name, pretrained=True).state_dict()
        models, weights = vision.torchvision().models, vision.published_weights(name)
        kind = type(weights)
        builder = next(m for m in models.list_models() if models.get_model_weights(m) is kind)
        # By the model: some files have names of parameters that only their model knows.
        return models.get_model(builder, weights=weights, progress=False).state_dict()
    except Exception as error:
        reason = " ".join(str(error).split())
        cache = "timm's" if library == "timm" else "torch's"
        raise CheckpointError(
            f"{library} has no weights for {name!r} here ({type(error).__name__}: {reason}); they "
            f"need a network connection or {cache} own cache"
        ) from error


def _file(chosen: Checkpoint, cache: Path, folder: Path | None) -> Path:
    if chosen.url is not None and chosen.sha256 is not None:
        name = chosen.file or f"{chosen.sha256[:12]}-{chosen.url.rpartition('/')[2]}"
        return cache_folder.fetch(chosen.url, chosen.sha256, name, cache)
    path = cache_folder.find(chosen.file or "", folder, cache)
    _require(path)
    if chosen.sha256 is not None and (found := file_sha256(path)) != chosen.sha256:
        raise CheckpointError(f"{path} has sha256 {found}, not {chosen.sha256}")
    return path


def _is_safetensors(path: Path) -> bool:
    """By the beginning: the length of a header that is JSON, in 8 bytes, and the header's brace."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return path.suffix == ".safetensors" or (start[8:] == b"{" and length < path.stat().st_size)


def _read_safetensors(path: AnyPath) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and the metadata that `save` writes."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("provenance", "{}"))
        return safetensors.torch.load_file(path), metadata
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors checkpoint ({error})") from error


def _harmless() -> list[Any]:
    """Types that checkpoints hold beside weights, whose restoring runs no code of the file."""
    multiarray = np._core.multiarray
    scalars = "?bhilqBHILQefdgFDSU"
    paths = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    return [
        *(argparse.Namespace, types.SimpleNamespace, collections.defaultdict),
        *(datetime.datetime, datetime.date, datetime.timedelta, np.ndarray, np.dtype),
        *{type(np.dtype(scalar)) for scalar in scalars},
        # NumPy moved these between its versions 1 and 2.
        *(
            (getattr(multiarray, function), f"numpy.{core}.multiarray.{function}")
            for core in ("core", "_core")
            for function in ("scalar", "_reconstruct")
        ),
        # A path of another system cannot be made here; its parts are enough.
        *(
            (pathlib.PurePosixPath, f"{module}.{name}")
            for module in ("pathlib", "pathlib._local")
            for name in paths
        ),
    ]


def _read_torch(path: Path) -> Mapping[str, Any]:
    """What ``torch.save`` wrote, without running code; DataParallel's and old files included."""
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a TorchScript program is one: it is refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error)
        found = re.search(r"GLOBAL ([\w.]+\.\w+)", text)
        if "TorchScript" in text:
            what = "it is a TorchScript program"
        elif found:
            what = f"it holds a {found[1]}, and restoring that would run code"
        else:
            what = f"torch.load refuses it, {type(error).__name__}: damaged or not complete?"
        raise CheckpointError(
            f"{path} is not a checkpoint of tensors, numbers and names alone ({what}): save the "
            "weights by torch.save(model.state_dict(), file) where the network was made"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds no dictionary of named tensors, but a {type(content).__name__}"
        )
    return content


@dataclass(frozen=True)
class _Found:
    """A state by the model's names, where it was in the file, and how far it is from fitting."""

    state: dict[str, Tensor]
    place: str
    n_wrong: int
    notes: list[str]


def _find(path: Path, model: nn.Module, content: Mapping[str, Any], chosen: Checkpoint) -> _Found:
    """The first state in the file that has the model's keys, else the one that lacks the fewest."""
    states = dict(_states(content, "", 3 if chosen.key is None else chosen.key.count(".") + 1))
    if chosen.key is not None:
        states = {place: state for place, state in states.items() if place == chosen.key}
    if not any(key.rpartition(".")[2] == AVERAGED for key in model.state_dict()):
        without = {place: _without_count(state) for place, state in states.items()}
        states = {place: state for place, state in without.items() if state}
    if not states:
        keys = ", ".join(map(str, content))
        where = f" under {chosen.key} (checkpoint.key), but {keys}" if chosen.key else ""
        raise CheckpointError(f"{path} holds no dictionary of named tensors{where}")
    notes: dict[str, str] = {}
    if chosen.prefix is not None:
        states, notes = _beginning(path, states, chosen.prefix)
    ranks = {
        place: PLACES.index(name) for place in states if (name := place.split(".")[-1]) in PLACES
    }
    order = sorted(states, key=lambda place: ranks.get(place, len(PLACES)))
    found = [_best(model, place, states[place], chosen) for place in order]
    best = min(found, key=lambda one: one.n_wrong)
    best.notes.extend(filter(None, [notes.get(best.place)]))
    if best.n_wrong and chosen.prefix is None:
        inside = (_inside(path, model, place, states[place], chosen) for place in order)
        return next(filter(None, inside), best)
    others = [one.place for one in found if one.n_wrong == 0 and one is not best]
    if best.n_wrong == 0 and others:
        best.notes.append(
            f"{path}: the weights are those under {best.place or 'the top'}; those under "
            f"{', '.join(others)} fit, too (checkpoint.key)"
        )
    return best


def _best(model: nn.Module, place: str, state: Mapping[str, Tensor], chosen: Checkpoint) -> _Found:
    """The state under the first names that are the model's, else under those that lack the fewest."""
    wanted, known = _unshared(model).keys(), model.state_dict().keys()
    found: list[_Found] = []
    for form in _renamed(state, chosen, isinstance(model, ResNet)):
        if not any(key.endswith(COUNTER) for key in form):
            zero = torch.tensor(0)
            form |= {key: zero for key in known if key.endswith(COUNTER)}
        n_wrong = len(wanted - form.keys()) + len(form.keys() - known)
        found.append(_Found(form, place, n_wrong, []))
        if n_wrong == 0:
            break
    return min(found, key=lambda one: one.n_wrong)


def _inside(
    path: Path, model: nn.Module, place: str, state: Mapping[str, Tensor], chosen: Checkpoint
) -> _Found | None:
    """The weights where they are a part among others, as in Lightning's modules: by a prefix.

    Raises CheckpointError where several parts fit.
    """
    *_, (before, inner) = _peeled(_called(state, _unwrapped))
    wanted = _unshared(model)
    fitting = {}
    for first in dict.fromkeys(key.partition(".")[0] for key in inner if "." in key):
        part = {k.partition(".")[2]: t for k, t in inner.items() if k.startswith(f"{first}.")}
        found = _best(model, place, part, chosen)
        # Beside others' weights more than names has to fit.
        if found.n_wrong == 0 and all(found.state[k].shape == wanted[k].shape for k in wanted):
            prefix = f"{before}{first}."
            note = f"{path}: {len(inner) - len(part)} entries do not begin with {prefix}"
            fitting[prefix] = replace(found, notes=[note])
    if len(fitting) > 1:
        raise CheckpointError(
            f"{path} holds the network several times, state which is meant; checkpoint.prefix: "
            f"{' or '.join(fitting)} fits"
        )
    return next(iter(fitting.values()), None)


def _states(
    content: Mapping[Any, Any], place: str, depth: int
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every group of named tensors in nested dictionaries, by the keys that lead to it."""
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if tensors := {key: value for key, value in named.items() if isinstance(value, Tensor)}:
        yield place, tensors
    for key, value in named.items():
        if depth > 0 and isinstance(value, Mapping):
            yield from _states(value, f"{place}.{key}" if place else key, depth - 1)


def _beginning(
    path: Path, states: Mapping[str, dict[str, Tensor]], prefix: str
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """By place the entries that begin with a prefix, without it, and a sentence about the others."""
    kept, notes = {}, {}
    # It may have been stated without its dot, or stand behind a wrapper's.
    starts = (f"{prefix.removesuffix('.')}.", prefix)
    for place, state in states.items():
        for names in (state, _called(state, _unwrapped)):
            start = next((s for s in starts if any(key.startswith(s) for key in names)), None)
            if start is None:
                continue
            kept[place] = {
                k.removeprefix(start): t for k, t in names.items() if k.startswith(start)
            }
            if n := len(names) - len(kept[place]):
                notes[place] = f"{path}: {n} entries do not begin with {start}"
            break
    if not kept:
        first = next(iter(next(iter(states.values()))))
        raise CheckpointError(
            f"{path}: no key begins with {prefix} (checkpoint.prefix), the first is {first}"
        )
    return kept, notes


def _renamed(
    state: Mapping[str, Tensor], chosen: Checkpoint, ours: bool
) -> Iterator[dict[str, Tensor]]:
    """The state under the names that it may have in the model, the likeliest first.

    Into our own `resnet` a file with Li et al.'s names goes without being called so.
    """
    starts = [_called(state, rename) for rename in (_unwrapped, str, _without_wrappers)]
    forms = [form for start in starts for _, form in _peeled(start)]
    # Where two names became one, one of the two tensors is gone.
    forms = [form for form in forms if len(form) == len(state)]
    if chosen.format != "li_et_al":
        yield from map(dict, forms)
    if chosen.format == "li_et_al" or (chosen.format is None and ours):
        for form in forms:
            yield _called(form, _from_lietal)


def _peeled(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The state as it is, then without each first part that all its names share; and those parts."""
    before = ""
    yield before, state
    while len({key.partition(".")[0] for key in state}) == 1 and all("." in key for key in state):
        before += f"{next(iter(state)).partition('.')[0]}."
        state = _called(state, lambda key: key.partition(".")[2])
        yield before, state


def _called(state: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(key): tensor for key, tensor in state.items()}


def _unwrapped(key: str) -> str:
    """A name without what torch.compile puts anywhere in it, and DataParallel before it."""
    parts = [part for part in key.split(".") if part != COMPILED] or [key]
    while parts[0] == WRAPPERS[0] and len(parts) > 1:
        parts = parts[1:]
    return ".".join(parts)


def _without_wrappers(key: str) -> str:
    """A name without what wrappers of a network's parts put into it."""
    return ".".join(part for part in key.split(".") if part not in (COMPILED, *WRAPPERS))


def _without_count(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: t for key, t in state.items() if key.rpartition(".")[2] != AVERAGED or t.ndim}


def _fill(path: AnyPath, model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copy `state` into the model after every key and shape has been compared.

    Returns a sentence if the numbers had another precision.
    """
    wanted = _unshared(model)
    aliases = model.state_dict().keys() - wanted.keys()
    missing = [key for key in wanted if key not in state]
    unexpected = sorted(state.keys() - wanted.keys() - aliases)
    counts = (
        f"the file holds {_n_parameters(state):,} parameters, the model {_n_parameters(wanted):,}"
    )
    if missing:
        instead = f" and has {unexpected[0]}{_others(unexpected)} instead" if unexpected else ""
        raise CheckpointError(
            f"{path} lacks the key {missing[0]}{_others(missing)}{instead}; {counts}"
        )
    if unexpected:
        raise CheckpointError(
            f"{path} has a key that the model lacks, {unexpected[0]}{_others(unexpected)}; {counts}"
        )
    notes = set()
    for key, ours in wanted.items():
        theirs = state[key]
        if theirs.shape != ours.shape:
            raise CheckpointError(
                f"{path}: key {key} has shape {tuple(theirs.shape)}, the model wants "
                f"{tuple(ours.shape)}; {counts}"
            )
        if theirs.is_meta or theirs.layout != torch.strided:
            kind = "a shape without numbers" if theirs.is_meta else f"a {theirs.layout} tensor"
            raise CheckpointError(f"{path}: key {key} holds {kind}, the model wants a dense tensor")
        if theirs.is_floating_point() != ours.is_floating_point():
            raise CheckpointError(
                f"{path}: key {key} holds {theirs.dtype}, the model wants {ours.dtype}"
            )
        if theirs.is_floating_point() and theirs.dtype != ours.dtype:
            notes.add(f"{path}: its {theirs.dtype} numbers became {ours.dtype}")
    with torch.no_grad():
        for key, ours in wanted.items():
            ours.copy_(state[key])
    return sorted(notes)


def _unshared(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without the later names of tensors that several names share."""
    first: dict[int, tuple[str, Tensor]] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (key, tensor))
    return dict(first.values())


def _n_parameters(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for key, tensor in state.items() if not key.endswith(STATISTICS))


def _others(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _require(path: AnyPath) -> None:
    if Path(path).is_dir():
        inside = next((name for name in WEIGHTS if Path(path, name).is_file()), None)
        hint = f"; {Path(Path(path).name, inside)} is one" if inside else ""
        raise CheckpointError(f"{path} is a folder, not a file of weights{hint}")
    if not Path(path).is_file():
        raise CheckpointError(f"{path} is missing")
