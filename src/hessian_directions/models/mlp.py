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
    n_inner: int = 2,
    activation: str = "relu",
) -> nn.Module:
    """Input layer, `n_inner` maps width → width, output layer; activations after all but the last.

    With the defaults and one input and output it has 20,501 parameters, with ten inner maps
    101,301.

    Args:
        input_shape: Of one sample, which is flattened.
        n_outputs: Classes, or numbers that are predicted.
        width: Units of a hidden layer.
        n_inner: Maps width → width between the first and the last layer.
        activation: Name of the activation (see `activations`).
    """
    if width < 1:
        raise ModelError(f"option width: {width} is not a number of units")
    if n_inner < 0:
        raise ModelError(f"option n_inner: {n_inner} is not a number of maps")
    layers: list[nn.Module] = [nn.Flatten()]
    n_inputs = math.prod(input_shape)
    for _ in range(n_inner + 1):
        layers += [nn.Linear(n_inputs, width), make_activation(activation)]
        n_inputs = width
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))
