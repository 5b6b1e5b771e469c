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
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hessian_directions.errors import ModelError


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

    torchvision's classifiers take images of three channels.
    """
    models = torchvision().models
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model {name!r}{_similar(name, models.list_models())}")
    return models.get_model(name, **{"weights": None, "num_classes": n_outputs, **options})


def timm_model(
    name: str, options: Mapping[str, Any], *, input_shape: tuple[int, ...], n_outputs: int
) -> nn.Module:
    """A classifier of timm, untrained unless the option `pretrained` is true.

    `name` may be a name of timm's list, `hf_hub:<owner>/<name>` (read from the Hugging Face hub) or
    `local-dir:<folder>`, a folder of the hub's layout: config.json and model.safetensors.
    """
    package = timm()
    if ":" not in name and not package.is_model(name):
        raise ModelError(f"timm has no model {name!r}{_similar(name, package.list_models())}")
    return package.create_model(
        name,
        **{"pretrained": False, "num_classes": n_outputs, "in_chans": input_shape[0], **options},
    )


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
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(
                f"torchvision::{operator}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )


def _similar(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"; similar are {', '.join(close)}" if close else ""
