"""torchvision and timm: the only place that imports them, on first use (each import takes seconds).

Pip can bring a CUDA build of torchvision beside a CPU build of torch. Its compiled library then
fails to load, and `import torchvision` (which timm does too) stops at the operators nms and qnms,
which Python code registers but the library should have declared. Nothing here needs either
operator, so they are declared in its place.
"""

import difflib
import importlib
import importlib.machinery
import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hessian_directions.errors import ModelError
from hessian_directions.models.inputs import require_images


@cache
def torchvision() -> ModuleType:
    """The package torchvision, also beside a torch that its compiled library does not match."""
    _declare_missing_operators()
    return importlib.import_module("torchvision")


@cache
def timm() -> ModuleType:
    """The package timm."""
    torchvision()
    return importlib.import_module("timm")


def torchvision_model(
    name: str, options: Mapping[str, Any], *, input_shape: tuple[int, ...], n_outputs: int
) -> nn.Module:
    """A classifier of torchvision, untrained unless the option `weights` names published weights.

    Vision transformers get the size of the images. torchvision's classifiers take three channels.
    """
    models = torchvision().models
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model {name!r}{similar(name, models.list_models())}")
    require_images(f"model torchvision:{name}", input_shape)
    if input_shape[0] != 3:
        raise ModelError(
            f"model torchvision:{name} takes images of 3 channels, not inputs of shape "
            f"{input_shape}: state data.channels: 3 where images are read from files, or take a model "
            "of timm, which has any number"
        )
    given: dict[str, Any] = {"weights": None, "num_classes": n_outputs}
    if name.startswith("vit_") and input_shape[1] == input_shape[2]:
        given["image_size"] = input_shape[1]
    return models.get_model(name, **given | dict(options))


def timm_model(
    name: str, options: Mapping[str, Any], *, input_shape: tuple[int, ...], n_outputs: int
) -> nn.Module:
    """A classifier of timm, untrained unless the option `pretrained` is true.

    Number of classes, of channels and, for networks of one image size, that size come from the
    data, unless the options state them.

    Args:
        name: A name of timm's list, `hf_hub:<owner>/<name>` (read from the Hugging Face hub) or
            `local-dir:<folder>`, a folder of the hub's layout: config.json and model.safetensors.
    """
    package = timm()
    if ":" not in name and not package.is_model(name):
        raise ModelError(f"timm has no model {name!r}{similar(name, package.list_models())}")
    require_images(f"model timm:{name}", input_shape)
    given: dict[str, Any] = {"pretrained": False, "num_classes": n_outputs}
    given |= {"in_chans": input_shape[0]} | dict(options)
    published = ":" not in name and package.get_pretrained_cfg(name, allow_unregistered=True)
    if published and published.fixed_input_size and "img_size" not in given:
        size = tuple(input_shape[1:])
        try:
            if tuple(published.input_size[1:]) != size:
                return package.create_model(name, img_size=size, **given)
        except TypeError as error:
            # Some have one size and no argument for it; trying them tells.
            if "img_size" not in str(error):
                raise
    return package.create_model(name, **given)


def evaluation_transform(name: str, size: tuple[int, int] | None = None) -> Any:
    """Resizing, cropping and standardising that belong to published weights, as in their evaluation.

    Args:
        name: "timm:<model>" with a name as in `timm_model`, "torchvision:<model>" for its default
            weights, or "torchvision:<Weights>.<NAME>".
        size: (height, width) of what comes out, in pixels; None: the published one.

    Returns:
        A function from a PIL image to a float32 tensor (channels, height, width).

    Raises:
        ModelError: There are no such weights, or torchvision's have no images of that size.
    """
    library, _, model = name.partition(":")
    try:
        if library == "timm":
            return _timm_transform(model, size)
        weights = published_weights(model)
    # timm and torchvision raise many kinds of error for a name that they do not know.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name} names no published weights here: {reason}") from error
    if size is None:
        return weights.transforms()
    if size[0] != size[1]:
        raise ModelError(f"{name}: torchvision's transforms give square images, not {size}")
    return weights.transforms(crop_size=size[0], resize_size=size[0])


def published_weights(name: str) -> Any:
    """torchvision's weights "<Weights>.<NAME>", or the default ones of the model "<name>"."""
    models = torchvision().models
    return models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT


def _timm_transform(model: str, size: tuple[int, int] | None) -> Any:
    package = timm()
    source, identifier = package.models.parse_model_name(model)
    if source == "local-dir":
        published = json.loads((Path(identifier) / "config.json").read_text())["pretrained_cfg"]
    elif source:
        published = package.models.load_model_config_from_hf(identifier)[0]
    elif (found := package.get_pretrained_cfg(model)) is not None:
        published = found.to_dict()
    else:
        raise ValueError(f"timm has no weights called {model}")
    arguments = {} if size is None else {"input_size": (published["input_size"][0], *size)}
    data = package.data
    return data.create_transform(**data.resolve_data_config(arguments, pretrained_cfg=published))


def _declare_missing_operators() -> None:
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        raise ModelError("torchvision is not installed: pip install torchvision")
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        library = Path(package.origin).with_name(f"_C{suffix}")
        if library.is_file():
            try:
                torch.ops.load_library(str(library))
            except OSError:
                break
            return
    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(f"torchvision::{operator}", schema)


def similar(name: str, known: list[str]) -> str:
    """The end of a message: what is called nearly so, if anything."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; similar are {', '.join(close)}" if close else ""
