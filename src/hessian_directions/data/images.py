"""One image: decoded, scaled, and given to a transform of the user's or of published weights."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hessian_directions import references
from hessian_directions.errors import ConfigurationError, DataError, about
from hessian_directions.models import vision

Size = int | Sequence[int] | None
Transform = str | Mapping[str, Any] | None


def converter(
    size: Size,
    channels: int | None,
    transform: Transform = None,
    folder: Path | None = None,
    normalisation: Any = None,
) -> Callable[[Image.Image], np.ndarray]:
    """A function from an image to pixels (h, w, c) uint8, or to what the transform makes of it.

    Args:
        size, transform: As for an image folder. A transform of the user's gets the PIL image, and
            gives a tensor or an array, which `numbers` describes, or another image.
        channels: 3 for colour, 1 for grey; None: what the image has.
        folder: Of the configuration, where modules are looked for.
        normalisation: What follows, which excludes a transform.
    """
    sides: tuple[int, int] | None = None  # height, width
    if size is not None:
        sides = (size, size) if isinstance(size, int) else (size[0], size[1])
    if transform is None:
        return lambda image: _pixels(_scaled(_coloured(image, channels), sides), channels)
    if normalisation not in (None, "none"):
        raise ConfigurationError(
            "data.normalisation: the transform standardises, state one of them"
        )
    stated: Any = dict(transform) if isinstance(transform, Mapping) else {"name": transform}
    name, options = stated.pop("name", None), stated.pop("options", {})
    if not isinstance(name, str) or stated:
        raise ConfigurationError("data.transform is a name, or has the keys name and options")
    if name.partition(":")[0] in ("timm", "torchvision"):
        function, sides = vision.evaluation_transform(name, sides), None
    else:
        with about("data.transform"):
            function = references.resolve(name, folder)
        if isinstance(transform, Mapping) or isinstance(function, type):
            called = f"data.transform: {name} cannot be called with options {options}"
            with references.failing(ConfigurationError, called):
                function = function(**options)
        if not callable(function):
            raise ConfigurationError(
                f"data.transform: {name} is a {type(function).__name__}, not a function of an image"
            )

    def apply(image: Image.Image) -> np.ndarray:
        image = _scaled(_coloured(image, channels), sides)
        applied = f"data.transform: {name} fails on an image"
        with references.failing(DataError, applied, passed=(DataError,)):
            return numbers(function(image), channels)

    return apply


def decode(content: bytes, name: str) -> Image.Image:
    """The image that a file's bytes hold; DataError names the file."""
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except Exception as error:
        raise DataError(f"{name} cannot be read as an image") from error
    return image


def numbers(value: Any, channels: int | None = None) -> np.ndarray:
    """One input as an array: pixels (h, w, c) uint8, float32 numbers or int64 token ids.

    A PIL image gives pixels. So do uint8 tensors (c, h, w) or (h, w), torchvision's form, and uint8
    arrays (h, w, c) or (h, w). Other numbers keep their shape, a single one gets the shape (1,).
    """
    if isinstance(value, Image.Image):
        return _pixels(value, channels)
    tensor = isinstance(value, torch.Tensor)
    try:
        array = as_array(value)
    except ValueError as error:
        raise DataError(f"a sample's input is a {type(value).__name__}, not an array") from error
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"a sample's input is a {type(value).__name__}, not an image, a tensor or an array"
        )
    if array.dtype == np.uint8 and array.ndim == 2:
        return array[..., None]
    if array.dtype == np.uint8 and array.ndim == 3:
        last = channels_last(array.shape, otherwise=not tensor)
        last = not tensor if last is None else last
        return array if last else array.transpose(1, 2, 0)
    integers = array.dtype.kind in "iu" and array.dtype != np.uint8
    return np.atleast_1d(array.astype(np.int64 if integers else np.float32))


def as_array(values: Any) -> np.ndarray:
    """The values of a tensor, or of what NumPy makes an array of."""
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    # NumPy has no bfloat16.
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def channels_last(shape: tuple[int, ...], otherwise: bool) -> bool | None:
    """Whether the last of three axes is that of the channels, and not the first.

    Beside the sides of a square it is the other axis, else the one of 1, 3 or 4 entries; where both
    have so many, it is as `otherwise` says. None: the shape does not tell.
    """
    first, middle, last = shape
    if (first == middle) != (middle == last):
        return first == middle
    few_first, few_last = (n in (1, 3, 4) for n in (first, last))
    if few_first != few_last:
        return few_last
    return otherwise if few_first else None


def _scaled(image: Image.Image, sides: tuple[int, int] | None) -> Image.Image:
    if sides is None or image.size == sides[::-1]:
        return image
    return image.resize(sides[::-1], Image.Resampling.BILINEAR)


def _coloured(image: Image.Image, channels: int | None) -> Image.Image:
    """With 8 bits a channel; `channels` None keeps grey images grey."""
    if image.mode[0] in "IF":
        # Pillow would cut such values off at 255.
        raise DataError(
            f"an image has more than 8 bits a channel (mode {image.mode}): convert all images to 8 "
            "bits, or store them as an array of floats (data.kind: arrays)"
        )
    grey = channels == 1 or (channels is None and image.mode in ("1", "L"))
    return image.convert("L" if grey else "RGB")


def _pixels(image: Image.Image, channels: int | None) -> np.ndarray:
    array = np.asarray(_coloured(image, channels))
    return array if array.ndim == 3 else array[..., None]
