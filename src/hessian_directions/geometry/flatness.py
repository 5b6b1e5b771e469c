"""Measures of flatness, and why the trace alone is none: rescaling layers changes it at will.

Rank correlations of such measures with generalization lie in `rank_correlation`, without torch.
"""

import copy

import torch
from torch import Tensor, nn

from hessian_directions.errors import ModelError


def normalised_measures(
    trace: float, largest: float, theta_norm: float, n_parameters: int
) -> dict[str, float]:
    """Measures of flatness, two of which do not depend on the size of the weights.

    With t the trace, λ_max the largest eigenvalue, N the number of parameters:

    - ``mean_curvature``: t/N;
    - ``trace_scaled``: t·‖θ‖²/N, the mean curvature per relative change of the weights;
    - ``largest_scaled``: λ_max·‖θ‖².

    The scaled ones stay the same when all weights are multiplied by a common factor and the
    function stays what it is (as with normalisation layers); none of them stays the same under the
    rescaling of single layers (see `rescale`).

    Args:
        trace, largest: Of the Hessian, unit of the loss.
        theta_norm: ‖θ‖.
        n_parameters: N.
    """
    return {
        "mean_curvature": trace / n_parameters,
        "trace_scaled": trace * theta_norm**2 / n_parameters,
        "largest_scaled": largest * theta_norm**2,
    }


def rescale(model: nn.Module, scale: float) -> nn.Module:
    """The same function with other curvature: one layer times s, the next over s.

    ReLU is positively homogeneous, relu(s·a) = s·relu(a), so weights and biases of the first linear
    layer that a ReLU and another linear layer follow may be multiplied by s and the weights of the
    second divided by s (Dinh, Pascanu, Bengio and Bengio 2017, "Sharp Minima Can Generalize For
    Deep Nets"). With θ' = d ⊙ θ (d from `rescaling_factors`) the Hessian becomes
    H'_ij = H_ij/(d_i d_j), so a trace or λ_max as large as one likes goes with one function.

    Args:
        model: Sequential network; it is not changed.
        scale: s > 0; a power of two changes no bit of the outputs.

    Returns:
        A rescaled copy.

    Raises:
        ModelError: s is not positive, or the model has no two such layers.
    """
    if not 0 < scale < float("inf"):
        raise ModelError(f"The scale is {scale}, but must be positive and finite.")
    rescaled = copy.deepcopy(model)
    first, second = _layers_around_relu(rescaled)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(scale)
        second.weight.div_(scale)
    return rescaled


def rescaling_factors(model: nn.Module, scale: float) -> Tensor:
    """Factors d (N,) of the trainable parameters, in the model's order, that `rescale` applies."""
    ones = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in ones.parameters():
            parameter.fill_(1)
    trainable = [p for p in rescale(ones, scale).parameters() if p.requires_grad]
    return torch.cat([p.detach().reshape(-1) for p in trainable])


def _layers_around_relu(model: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The first two linear layers of a sequential network with just a ReLU between them."""
    layers = _in_sequence(model)
    for first, activation, second in zip(layers, layers[1:], layers[2:]):
        if (
            isinstance(first, nn.Linear)
            and isinstance(activation, nn.ReLU)
            and isinstance(second, nn.Linear)
            and first.weight is not second.weight
        ):
            return first, second
    raise ModelError("The model is no sequence of layers with Linear, ReLU, Linear in it.")


def _in_sequence(model: nn.Module) -> list[nn.Module]:
    """The layers in the order in which they are applied: only a Sequential tells it."""
    if not isinstance(model, nn.Sequential):
        return [model]
    return [layer for part in model for layer in _in_sequence(part)]
