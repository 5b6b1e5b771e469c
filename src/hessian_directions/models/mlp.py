"""Fully connected networks: the function approximators, and a smooth classifier of small images."""

import math

from torch import nn

from hessian_directions.errors import ModelError
from hessian_directions.models.activations import activation as make_activation


def mlp(
    *,
    input_shape: tuple[int, ...],
    n_outputs: int,
    width: int = 100,
    hidden_layers: int = 3,
    activation: str = "relu",
) -> nn.Module:
    """Fully connected layers: `hidden_layers` of `width` units with activations, and the output.

    With the defaults and one input and output it has 20,501 parameters, with eleven hidden layers
    101,301.

    Args:
        input_shape: Of one sample, which is flattened.
        n_outputs: Classes, or numbers that are predicted.
        width: Units of a hidden layer.
        hidden_layers: Layers of hidden units, at least 1.
        activation: Name of the activation (see `activations`).
    """
    if width < 1:
        raise ModelError(f"option width: {width} is not a number of units")
    if hidden_layers < 1:
        raise ModelError(
            f"option hidden_layers: {hidden_layers} is not a number of layers, at least 1"
        )
    layers: list[nn.Module] = [nn.Flatten()]
    n_inputs = math.prod(input_shape)
    for _ in range(hidden_layers):
        layers += [nn.Linear(n_inputs, width), make_activation(activation)]
        n_inputs = width
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))
