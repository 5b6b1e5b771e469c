"""What a network needs of its inputs."""

from hessian_directions.errors import ModelError


def require_images(name: str, input_shape: tuple[int, ...]) -> None:
    """ModelError where inputs are no images (channels, height, width); `name` is the model's."""
    if len(input_shape) != 3:
        grey = ": grey images need an axis for their one channel, in arrays by data.channels: first"
        needed = f"{name} needs images (channels, height, width), not inputs {input_shape}"
        raise ModelError(needed + grey * (len(input_shape) == 2))
