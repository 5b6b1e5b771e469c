"""Directions in parameter space: random draws, unit length, filter normalisation, orthonormal sets.

Directions are columns: one of shape (N,), K of shape (N, K). Raw Gaussian, unit-length and
filter-normalised directions are different objects that see different curvatures (a Gaussian
direction has length about √N), so whoever draws a slice says which one it is.
"""

from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from hessian_directions.arrays import as_tensor
from hessian_directions.errors import ArgumentError, ModelError
from hessian_directions.objectives.objective import Objective
from hessian_directions.operators import in_own_precision
from hessian_directions.random_vectors import Distribution as Distribution
from hessian_directions.random_vectors import as_real, positive_lengths
from hessian_directions.random_vectors import draw as draw
from hessian_directions.random_vectors import gaussian as gaussian
from hessian_directions.random_vectors import lengths as lengths
from hessian_directions.random_vectors import rademacher as rademacher
from hessian_directions.random_vectors import unit as unit

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@in_own_precision
def filter_normalised(
    direction: ArrayLike | Tensor, network: nn.Module | Objective | Iterable[Tensor]
) -> Tensor:
    """Give every filter of a direction the length of the same filter of the network.

    d_j ← d_j · ‖θ_j‖/‖d_j‖ for the filters j of each weight (slices along its first axis: output
    channels of a convolution, rows of a linear map; those of a transposed convolution along its
    second one), each filter exactly once; parameters with fewer than two axes (biases, BatchNorm)
    get 0. Li, Xu, Taylor, Studer and Goldstein, 2018, "Visualizing the Loss Landscape of Neural
    Nets", with the `biasbn` rule of their published code.

    Args:
        direction: (N,) or (N, K), N trainable parameters in the network's order.
        network: The network whose present weights set the lengths; an objective; or the weights
            alone, of which none is a transposed convolution's.

    Returns:
        Tensor of the same shape, dtype and device; integers and halves become float32.

    Raises:
        ArgumentError: The direction has not as many entries as the network has parameters, is
            complex or not finite; or there is no network.
    """
    direction = as_real(getattr(direction, "vectors", direction))
    if isinstance(network, nn.Module):
        named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        weights = [(p.detach(), owners(network, name)) for name, p in named.items()]
    elif isinstance(network, Objective):
        weights = [(p, owners(network.network, name)) for name, p in network.parameters.items()]
    elif isinstance(network, Iterable):
        weights = [(as_tensor(p), []) for p in network]
    else:
        raise ArgumentError(
            f"A {type(network).__name__} has no weights: give a network, an objective or weights."
        )
    n_parameters = sum(p.numel() for p, _ in weights)
    if direction.ndim not in (1, 2) or direction.shape[0] != n_parameters:
        raise ArgumentError(
            f"the direction has the shape {tuple(direction.shape)}, the network {n_parameters} "
            "parameters."
        )
    if not bool(lengths(direction).isfinite().all()):
        raise ArgumentError("a direction is not finite.")
    columns = direction.reshape(n_parameters, -1)
    scaled = torch.zeros_like(columns)
    start = 0
    for p, modules in weights:
        first, start = start, start + p.numel()
        place: slice | Tensor = slice(first, start)
        if p.ndim >= 2 and p.numel():
            filters = p.reshape(p.shape[0], -1)
            transposed = [module for module in modules if isinstance(module, TRANSPOSED)]
            if transposed:
                filters = outputs_first(p, transposed[0])
                order = torch.arange(p.numel(), device=columns.device).reshape(p.shape)
                place = first + outputs_first(order, transposed[0]).reshape(-1)
            d = columns[place].reshape(len(filters), -1, columns.shape[1])  # (filters, size, K)
            wanted = torch.linalg.vector_norm(filters.to(d), dim=1)
            present = torch.linalg.vector_norm(d, dim=1)
            # A filter of zeros has no direction to scale; it stays zero.
            factor = torch.where(present > 0, wanted[:, None] / present, 0)
            scaled[place] = (d * factor[:, None]).reshape(p.numel(), -1)
    return scaled.reshape(direction.shape)


def owners(network: nn.Module, name: str) -> list[nn.Module]:
    """The modules that have the network's parameter of this name, several where it is tied."""
    parameter = network.get_parameter(name)
    return [
        module
        for module in network.modules()
        if any(p is parameter for p in module._parameters.values())
    ]


def outputs_first(weight: Tensor, module: nn.Module) -> Tensor:
    """A weight of a convolution, transposed or not, a linear map or an embedding as (outputs, size).

    A transposed convolution has its outputs along the second axis, those of each group of inputs
    from the start; an embedding, the linear map of a one-hot vector, along the second one, too.

    Raises:
        ModelError: The module is of none of these kinds.
    """
    if isinstance(module, TRANSPOSED):
        grouped = weight.unflatten(0, (module.groups, -1))  # (groups, inputs, outputs, …)
        return torch.flatten(grouped.transpose(1, 2).flatten(0, 1), 1)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return weight.T
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return weight.flatten(1)
    raise ModelError(
        f"A weight of a {type(module).__name__} has no outputs that are known here: choose those of "
        "linear maps, convolutions and embeddings with the objective's `parameters`."
    )


def as_directions(vectors: Any, n: int, k: int | None = None) -> Tensor:
    """Directions as columns (N, K) without a graph: given so, as eigenpairs that hold them, or,
    where any number will do, as one of shape (N,).

    Args:
        vectors: The directions, in any precision, on any device: they are not moved. Integers and
            halves become float32.
        k: K, if it must be that.

    Raises:
        ArgumentError: They have another shape, are complex or not finite, or one has length zero.
    """
    V = as_tensor(getattr(vectors, "vectors", vectors))
    if k is None and V.ndim == 1:
        V = V[:, None]
    if V.ndim != 2 or V.shape[0] != n or k not in (None, V.shape[1]):
        raise ArgumentError(
            f"the directions have the shape {tuple(V.shape)}, not ({n}, {k or 'K'})."
        )
    V = as_real(V)
    positive_lengths(V)
    return V


@in_own_precision
def orthonormalise(V: ArrayLike | Tensor) -> Tensor:
    """Orthonormal basis of the span of the columns of V, each turned towards its own column.

    Q of V = QR by Householder reflections (orthonormal to rounding whatever the condition of V),
    with the signs that make the diagonal of R positive, so that orthonormal columns come back
    unchanged.

    Args:
        V: (N, K) with K ≤ N linearly independent columns.

    Returns:
        (N, K), same dtype and device; integers and halves become float32.

    Raises:
        ArgumentError: The columns are linearly dependent to rounding, complex or not finite.
    """
    V = as_real(V)
    if V.ndim != 2:
        raise ArgumentError(f"the directions have the shape {tuple(V.shape)}, not (N, K).")
    n, k = V.shape
    if k == 0:
        return V.clone()
    length = lengths(V)
    if not bool(length.isfinite().all()):
        raise ArgumentError("a direction is not finite.")
    Q, R = torch.linalg.qr(V)
    diagonal = R.diagonal()
    floor = max(n, k) * torch.finfo(V.dtype).eps * length
    if k > n or bool((diagonal.abs() <= floor).any()):
        raise ArgumentError("the directions are linearly dependent.")
    turned: Tensor = Q * diagonal.sign()
    return turned
