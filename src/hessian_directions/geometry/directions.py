"""Directions in parameter space: random draws, unit length, filter normalisation, orthonormal sets.

Directions are columns: one of shape (N,), K of shape (N, K). Raw Gaussian, unit-length and
filter-normalised directions are different objects that see different curvatures (a Gaussian
direction has length about √N), so whoever draws a slice says which one it is.
"""

from collections.abc import Iterable

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from hessian_directions.arrays import as_tensor
from hessian_directions.errors import ArgumentError
from hessian_directions.operators import in_own_precision
from hessian_directions.random_vectors import (
    Distribution,
    draw,
    gaussian,
    lengths,
    rademacher,
    unit,
)

__all__ = [
    "Distribution",
    "draw",
    "filter_normalised",
    "gaussian",
    "lengths",
    "orthonormalise",
    "rademacher",
    "unit",
]


@in_own_precision
def filter_normalised(
    direction: ArrayLike | Tensor, network: nn.Module | Iterable[Tensor]
) -> Tensor:
    """Give every filter of a direction the length of the same filter of the network.

    d_j ← d_j · ‖θ_j‖/‖d_j‖ for the filters j of each weight (slices along its first axis: output
    channels of a convolution, rows of a linear map), each filter exactly once; parameters with
    fewer than two axes (biases, BatchNorm) get 0. Li, Xu, Taylor, Studer and Goldstein, 2018,
    "Visualizing the Loss Landscape of Neural Nets", with the `biasbn` rule of their published code.

    Args:
        direction: (N,) or (N, K), N trainable parameters in the network's order.
        network: The network whose present weights set the lengths, or these weights one by one.

    Returns:
        Tensor of the same shape, dtype and device.

    Raises:
        ArgumentError: The direction has not as many entries as the network has parameters.
    """
    direction = as_tensor(direction)
    if isinstance(network, nn.Module):
        network = (p for p in network.parameters() if p.requires_grad)
    parameters = [p.detach() for p in network]
    n_parameters = sum(p.numel() for p in parameters)
    if direction.shape[0] != n_parameters:
        raise ArgumentError(
            f"the direction has {direction.shape[0]} entries, the network {n_parameters} parameters."
        )
    columns = direction.reshape(n_parameters, -1)
    scaled = torch.zeros_like(columns)
    start = 0
    for p in parameters:
        stop = start + p.numel()
        if p.ndim >= 2 and p.numel():
            d = columns[start:stop].reshape(p.shape[0], -1, columns.shape[1])  # (filters, size, K)
            wanted = torch.linalg.vector_norm(p.reshape(p.shape[0], -1).to(d), dim=1)
            present = torch.linalg.vector_norm(d, dim=1)
            # A filter of zeros has no direction to scale; it stays zero.
            factor = torch.where(present > 0, wanted[:, None] / present, 0)
            scaled[start:stop] = (d * factor[:, None]).reshape(p.numel(), -1)
        start = stop
    return scaled.reshape(direction.shape)


@in_own_precision
def orthonormalise(V: ArrayLike | Tensor) -> Tensor:
    """Orthonormal basis of the span of the columns of V, each turned towards its own column.

    Q of V = QR by Householder reflections (orthonormal to rounding whatever the condition of V),
    with the signs that make the diagonal of R positive, so that orthonormal columns come back
    unchanged.

    Args:
        V: (N, K) with K ≤ N linearly independent columns.

    Returns:
        (N, K), same dtype and device.

    Raises:
        ArgumentError: The columns are linearly dependent to rounding.
    """
    V = as_tensor(V)
    n, k = V.shape
    if k == 0:
        return V.clone()
    Q, R = torch.linalg.qr(V)
    diagonal = R.diagonal()
    floor = max(n, k) * torch.finfo(V.dtype).eps * lengths(V)
    if k > n or bool((diagonal.abs() <= floor).any()):
        raise ArgumentError("the directions are linearly dependent.")
    turned: Tensor = Q * diagonal.sign()
    return turned
