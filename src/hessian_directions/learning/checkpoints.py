"""Checkpoints: weights and buffers of a network in a file, read strictly.

Every key and every shape has to fit, nothing is skipped or guessed, and a network is changed only
after the whole file has been checked. Files are read as tensors alone: no code in them is run.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hessian_directions.data.cache import fetch, folder
from hessian_directions.errors import CheckpointError, ConfigurationError
from hessian_directions.files import atomic_path, to_json
from hessian_directions.files import sha256 as file_sha256
from hessian_directions.models import vision

# Files written before PyTorch 0.4 do not have this count; evaluation mode does not read it.
COUNTER = "num_batches_tracked"
# What BatchNorm keeps beside its parameters.
STATISTICS = ("running_mean", "running_var", COUNTER)


def save(
    path: str | os.PathLike[str],
    model: nn.Module,
    metadata: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Write a network's state as safetensors, whole or not at all.

    Parameters
    ----------
    metadata
        What made the weights; kept as sorted JSON under the key "provenance". Equal states and
        metadata give equal bytes.
    dtype
        Rounds floating-point tensors, e.g. to ``torch.float16`` for half the size: relative changes
        up to 5e-4 between 6.1e-5 and 65504, larger ones below. None keeps them as they are.

    A tensor that several keys share is written once, under the first of them. Raises CheckpointError
    where rounding makes a finite number infinite.
    """
    tensors = {key: tensor.detach().cpu() for key, tensor in _unshared(model).items()}
    if dtype is not None:
        rounded = {
            key: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for key, tensor in tensors.items()
        }
        for key, tensor in tensors.items():
            if not torch.equal(tensor.isinf(), rounded[key].isinf()):
                raise CheckpointError(f"{path}: {key} has numbers that are too large for {dtype}")
        tensors = rounded
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    data = safetensors.torch.save(tensors, {"provenance": to_json(dict(metadata))})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def load(path: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Load what `save` wrote, or any safetensors state of this network, and return its metadata.

    Raises CheckpointError naming the file and the key for a missing or unexpected key or a wrong
    shape, and naming the file where it is missing or holds no tensors.
    """
    _require(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get("provenance", "{}"))
        state = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors checkpoint ({error})") from error
    _fill(path, model, state)
    return metadata


def load_torch(path: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Load a state that ``torch.save`` wrote, and return the numbers and names stored beside it.

    The file holds the state itself or a dictionary with it under "state_dict", "model" or "net";
    the prefix "module." of ``DataParallel`` is dropped. Errors as in `load`.
    """
    return _load_torch(path, model, rename=lambda key: key)


def load_lietal(path: str | os.PathLike[str], model: nn.Module) -> dict[str, Any]:
    """Load a residual network that Li et al. 2018 published (``.t7``) into a `resnet` of its shape.

    Returns what they stored beside the weights: {"acc": test accuracy in per cent, "epoch": epochs
    trained}. Errors as in `load`; names in them are ours.
    """
    return _load_torch(path, model, rename=_from_lietal)


def load_timm(name: str, model: nn.Module) -> dict[str, Any]:
    """Load the weights that timm publishes for one of its models into a `timm:` model.

    `name` is a name that timm has weights for, ``hf_hub:<owner>/<name>`` for a model of the Hugging
    Face hub, or ``local-dir:<folder>`` for a folder of the hub's layout (config.json and
    model.safetensors). The published model keeps its own number of classes: timm would give another
    number a new, random classifier without a word. Raises CheckpointError as `load`, and where timm
    cannot get the weights.
    """
    try:
        published = vision.timm().create_model(name, pretrained=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"timm has no weights for {name!r} here ({type(error).__name__}: {reason}); names that "
            "begin with hf_hub: need a network connection or timm's own cache"
        ) from error
    _fill(name, model, published.state_dict())
    return {}


FORMATS: dict[str, Callable[[str | os.PathLike[str], nn.Module], dict[str, Any]]] = {
    "safetensors": load,
    "torch": load_torch,
    "li_et_al": load_lietal,
}


def import_into(
    model: nn.Module, settings: Mapping[str, Any], cache: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Load the checkpoint that a configuration describes, and return what is stored beside it.

    Parameters
    ----------
    settings
        {format, file} for a file on this machine, {format, url, sha256} for one that is fetched
        into the cache folder unless it is there; it is called `file` there, or else by its checksum
        and the name in the address. `format` is "safetensors", "torch" or "li_et_al". With `sha256`
        a file on this machine is checked, too. {format: "timm", name} for weights that timm
        publishes, see `load_timm`.
    cache
        The configured cache folder, see `data.cache.folder`.
    """
    if settings.get("format") == "timm":
        if settings.keys() != {"format", "name"}:
            raise ConfigurationError("checkpoint of format timm has the keys format and name")
        return load_timm(settings["name"], model)
    unknown = settings.keys() - {"format", "file", "url", "sha256"}
    if unknown:
        raise ConfigurationError(
            f"checkpoint has no key {min(unknown)}, it has format, file, url and sha256"
        )
    if settings.get("format") not in FORMATS:
        raise ConfigurationError(
            f"checkpoint.format: {settings.get('format')!r} is unknown, it can be "
            f"{', '.join([*FORMATS, 'timm'])}"
        )
    url, checksum, file = (settings.get(key) for key in ("url", "sha256", "file"))
    if url is not None:
        if checksum is None:
            raise ConfigurationError("checkpoint.url needs checkpoint.sha256")
        name = file or f"{checksum[:12]}-{url.rpartition('/')[2]}"
        path = fetch(url, checksum, name, folder(cache))
    elif file is not None:
        path = Path(file).expanduser()
        _require(path)
        if checksum is not None and (found := file_sha256(path)) != checksum:
            raise CheckpointError(f"{path} has sha256 {found}, not {checksum}")
    else:
        raise ConfigurationError("checkpoint needs the key file, or the keys url and sha256")
    return FORMATS[settings["format"]](path, model)


def require_scores(
    settings: Mapping[str, Any],
    scores: Mapping[str, float],
    expected: Mapping[str, float],
    tolerance: float = 1e-3,
) -> None:
    """Raise CheckpointError unless the imported network scores what its publication says.

    `settings` are those of `import_into`; they name the file.
    """
    source = settings.get("file") or settings.get("url") or settings.get("name")
    for name, value in expected.items():
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


def _load_torch(
    path: str | os.PathLike[str], model: nn.Module, rename: Callable[[str], str]
) -> dict[str, Any]:
    _require(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of tensors, numbers and names alone "
            f"(torch.load refuses it: {type(error).__name__})"
        ) from error
    state, beside = content, {}
    if isinstance(content, Mapping):
        for name in ("state_dict", "model", "net"):
            if isinstance(content.get(name), Mapping):
                state = content[name]
                beside = {
                    key: value
                    for key, value in content.items()
                    if isinstance(value, bool | int | float | str)
                }
                break
    if not _is_state(state):
        raise CheckpointError(f"{path} holds no dictionary of named tensors")
    state = {rename(key.removeprefix("module.")): tensor for key, tensor in state.items()}
    if not any(key.endswith(COUNTER) for key in state):
        zero = torch.tensor(0)
        state |= {key: zero for key in model.state_dict() if key.endswith(COUNTER)}
    _fill(path, model, state)
    return beside


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) for key in content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


def _fill(path: str | os.PathLike[str], model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the model after every key and shape has been compared."""
    wanted = _unshared(model)
    aliases = model.state_dict().keys() - wanted.keys()
    missing = [key for key in wanted if key not in state]
    unexpected = sorted(state.keys() - wanted.keys() - aliases)
    counts = (
        f"the file holds {_n_parameters(state):,} parameters, the model {_n_parameters(wanted):,}"
    )
    if missing:
        raise CheckpointError(
            f"{path} lacks the key {missing[0]}{_others(missing)}{_unknown(unexpected)}; {counts}"
        )
    if unexpected:
        raise CheckpointError(
            f"{path} has a key that the model lacks, {unexpected[0]}{_others(unexpected)}; {counts}"
        )
    present = {key: state[key] for key in wanted}
    for key, tensor in present.items():
        if tensor.shape != wanted[key].shape:
            raise CheckpointError(
                f"{path}: key {key} has shape {tuple(tensor.shape)}, the model wants "
                f"{tuple(wanted[key].shape)}; {counts}"
            )
        if tensor.is_floating_point() != wanted[key].is_floating_point():
            raise CheckpointError(
                f"{path}: key {key} holds {tensor.dtype}, the model wants {wanted[key].dtype}"
            )
    with torch.no_grad():
        for key, tensor in present.items():
            wanted[key].copy_(tensor)


def _unshared(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without the later names of tensors that several names share."""
    seen: set[int] = set()
    unshared = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unshared[key] = tensor
    return unshared


def _n_parameters(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for key, tensor in state.items() if not key.endswith(STATISTICS))


def _others(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _unknown(keys: list[str]) -> str:
    return f" and has {keys[0]}{_others(keys)} instead" if keys else ""


def _require(path: str | os.PathLike[str]) -> None:
    if not Path(path).is_file():
        raise CheckpointError(f"{path} is missing")
