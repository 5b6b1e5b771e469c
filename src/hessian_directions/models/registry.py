"""Networks by name: our own, timm's, torchvision's, or a function or class of the user's."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hessian_directions import references
from hessian_directions.errors import ConfigurationError, ModelError
from hessian_directions.models import vision
from hessian_directions.models.densenet import DenseNet
from hessian_directions.models.mlp import mlp
from hessian_directions.models.resnet import ResNet

MODELS: dict[str, Callable[..., nn.Module]] = {"resnet": ResNet, "densenet": DenseNet, "mlp": mlp}
LIBRARIES = {"timm": vision.timm_model, "torchvision": vision.torchvision_model}


def build(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    seed: int,
    input_dtype: torch.dtype = torch.float32,
    folder: Path | None = None,
) -> nn.Module:
    """A network (B, *input_shape) → (B, n_outputs), float32, on the CPU, in training mode.

    Args:
        name: "resnet", "densenet" or "mlp"; "timm:<name>" or "torchvision:<name>"; or a function or
            class of the user's, "package.module:name" or "path/to/file.py:name", that gives a
            network. It is found in `folder`, in the working folder or on Python's path.
        options: Keyword arguments of that network. What a user's signature names of the following
            it gets from the data, unless the options state it: `input_shape`; `n_outputs`,
            `num_classes` or `n_classes`; and for images `in_chans`, `in_channels` or `n_channels`,
            and `img_size` or `image_size` (a number for square images, else height and width).
        input_shape: Of one sample, (channels, height, width) for images.
        n_outputs: Numbers that the network gives per sample: one score a class.
        seed: Of the initial weights, which are PyTorch's or the library's defaults. The global
            generator is left as it was.
        input_dtype: Of the inputs: int64 for token ids, else float32.
        folder: Of the configuration; None: the working folder.

    Raises:
        ModelError: The name or an option is unknown, the user's code fails, or the network does not
            fit its inputs and outputs.
    """
    options = dict(options or {})
    shape = tuple(input_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(name, options, shape, n_outputs, folder)
        _check_shapes(name, model, shape, n_outputs, input_dtype)
    return model


def _build(
    name: str,
    options: dict[str, Any],
    input_shape: tuple[int, ...],
    n_outputs: int,
    folder: Path | None,
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
        if (package := name.partition(".")[0]) in LIBRARIES:
            getattr(vision, package)()  # which alone knows how to import it
        try:
            function = references.resolve(name, folder)
        except ConfigurationError as error:
            raise ModelError(f"model {error}") from error
        if isinstance(function, nn.Module):
            raise ModelError(
                f"model {name} is a {type(function).__name__} already: name the function or class "
                "that makes it"
            )
        wanted = references.parameters(function)
        derived = _derived(input_shape, n_outputs)
        asked = {key: derived[key] for key in wanted if key in derived}
        call = partial(function, **asked | options)
    else:
        raise ModelError(
            f"model {name!r} is unknown, it can be {', '.join(MODELS)}, timm:<name>, "
            "torchvision:<name>, package.module:function or path/to/file.py:Class"
        )
    built = f"model {name} cannot be built with options {options}"
    with references.failing(ModelError, built, passed=(ModelError,)):
        model = call()
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returns a {type(model).__name__}, not a torch.nn.Module")
    return model.float()


def _derived(input_shape: tuple[int, ...], n_outputs: int) -> dict[str, Any]:
    """What a network may want to know about its data, by the names that are in use."""
    derived: dict[str, Any] = {"input_shape": input_shape}
    derived |= dict.fromkeys(("n_outputs", "num_classes", "n_classes"), n_outputs)
    if len(input_shape) == 3:
        channels, *sides = input_shape
        derived |= dict.fromkeys(("in_chans", "in_channels", "n_channels"), channels)
        size = sides[0] if sides[0] == sides[1] else tuple(sides)
        derived |= dict.fromkeys(("img_size", "image_size"), size)
    return derived


def _check_shapes(
    name: str,
    model: nn.Module,
    input_shape: tuple[int, ...],
    n_outputs: int,
    input_dtype: torch.dtype,
) -> None:
    training = model.training
    model.eval()
    kind = "" if input_dtype == torch.float32 else f" and type {input_dtype}"
    taken = f"model {name} does not take inputs of shape {input_shape}{kind}"
    with references.failing(ModelError, taken), torch.no_grad():
        outputs = model(torch.zeros(2, *input_shape, dtype=input_dtype))
    model.train(training)
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if shape != (2, n_outputs):
        # As a network ends whose loss is the binary cross entropy.
        is_binary = n_outputs == 2 and shape in ((2, 1), (2,))
        hint = ": two classes need two outputs" if is_binary else ""
        raise ModelError(f"model {name} gives {shape} for 2 samples, not (2, {n_outputs}){hint}")
