"""Networks by name: our own, timm's, torchvision's, or a function of the user's."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from hessian_directions.errors import ModelError
from hessian_directions.models import vision
from hessian_directions.models.densenet import densenet
from hessian_directions.models.mlp import mlp
from hessian_directions.models.resnet import resnet

MODELS: dict[str, Callable[..., nn.Module]] = {"resnet": resnet, "densenet": densenet, "mlp": mlp}
LIBRARIES = {"timm": vision.timm_model, "torchvision": vision.torchvision_model}


def build(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    seed: int,
) -> nn.Module:
    """A network (B, *input_shape) → (B, n_outputs), float32, on the CPU, in training mode.

    Parameters
    ----------
    name
        "resnet", "densenet" or "mlp"; "timm:<name>" or "torchvision:<name>"; or
        "package.module:function", a function that returns a network. It is found on Python's path
        or in the working folder, and gets the options, and `input_shape` and `n_outputs` where its
        signature names them.
    options
        Keyword arguments of that network.
    seed
        Of the initial weights, which are PyTorch's or the library's defaults. The global generator
        is left as it was.

    Raises ModelError for an unknown name or option, and for a network that does not fit its inputs
    and outputs.
    """
    options = dict(options or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(name, options, tuple(input_shape), n_outputs)
        _check_shapes(name, model, tuple(input_shape), n_outputs)
    return model


def _build(
    name: str, options: dict[str, Any], input_shape: tuple[int, ...], n_outputs: int
) -> nn.Module:
    given: dict[str, Any] = {"input_shape": input_shape, "n_outputs": n_outputs}
    if name in MODELS:
        builder = MODELS[name]
        allowed = inspect.signature(builder).parameters.keys() - given.keys()
        if unknown := options.keys() - allowed:
            raise ModelError(
                f"model {name} has no option {min(unknown)}, it has {', '.join(sorted(allowed))}"
            )
        call = partial(builder, **given, **options)
    elif (library := name.partition(":")[0]) in LIBRARIES:
        call = partial(LIBRARIES[library], name.partition(":")[2], options, **given)
    elif ":" in name:
        function, wanted = _import(name)
        asked = {key: value for key, value in given.items() if key in wanted}
        call = partial(function, **asked, **options)
    else:
        raise ModelError(
            f"model {name!r} is unknown, it can be {', '.join(MODELS)}, timm:<name>, "
            "torchvision:<name> or package.module:function"
        )
    try:
        model = call()
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"model {name} cannot be built with options {options}: {_first_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returns a {type(model).__name__}, not a torch.nn.Module")
    return model


def _import(name: str) -> tuple[Callable[..., Any], Collection[str]]:
    """The function and the names of its parameters."""
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        return function, inspect.signature(function).parameters.keys()
    # Whatever the user's module does when it is imported.
    except Exception as error:
        raise ModelError(f"model {name} cannot be imported: {_first_line(error)}") from error


def _check_shapes(
    name: str, model: nn.Module, input_shape: tuple[int, ...], n_outputs: int
) -> None:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(torch.zeros(2, *input_shape))
    except Exception as error:
        raise ModelError(
            f"model {name} does not take inputs of shape {input_shape}: {_first_line(error)}"
        ) from error
    finally:
        model.train(training)
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if shape != (2, n_outputs):
        raise ModelError(f"model {name} gives {shape} for 2 samples, not (2, {n_outputs})")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
