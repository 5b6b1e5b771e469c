"""Directions in parameter space: random draws, unit length, filter normalisation, orthonormal sets.

Directions are columns: one of shape (N,), K of shape (N, K). Raw Gaussian, unit-length and
filter-normalised directions are different objects that see different curvatures (a Gaussian
direction has length about √N), so whoever draws a slice says which one it is.
"""

from collections.abc import Callable
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from hessian_directions.arrays import as_tensor

Distribution = Literal["gaussian", "rademacher"]


def gaussian(
    n: int,
    k: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw K directions with independent entries N(0, 1); their length is about √N.

    Every column is drawn on its own, on the CPU and in float64, and only then cast and moved: the
    same generator gives the same directions on every device and in every precision, and drawing
    3 and then 5 gives the columns of drawing 8 (so chunks and shards agree with one large draw).

    Args:
        n: Number of parameters N.
        k: Number of directions K.
        generator: CPU generator; it advances.
        dtype: Precision of the result.
        device: Device of the result.

    Returns:
        (N, K) tensor whose columns are contiguous. Memory: N·(K·itemsize + 8) bytes.
    """

    def column() -> Tensor:
        return torch.randn(n, generator=generator, dtype=torch.float64)

    return _columns(column, n, k, dtype, device)


def rademacher(
    n: int,
    k: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw K directions with independent entries −1 or +1; their length is √N.

    Arguments, result and reproducibility as for `gaussian`.
    """

    def column() -> Tensor:
        return torch.randint(0, 2, (n,), generator=generator, dtype=torch.int8) * 2 - 1

    return _columns(column, n, k, dtype, device)


def draw(
    distribution: Distribution,
    n: int,
    k: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw K directions of N entries with mean 0 and variance 1 from a named distribution.

    Raises:
        ValueError: The distribution is neither "gaussian" nor "rademacher".
    """
    if distribution == "gaussian":
        return gaussian(n, k, generator, dtype, device)
    if distribution == "rademacher":
        return rademacher(n, k, generator, dtype, device)
    raise ValueError(f'the distribution is {distribution!r}, not "gaussian" or "rademacher".')


def unit(v: ArrayLike | Tensor) -> Tensor:
    """Divide each direction by its Euclidean length.

    Args:
        v: (N,) or (N, K).

    Raises:
        ValueError: A direction has length zero or is not finite.
    """
    v = as_tensor(v)
    length = lengths(v)
    if not bool(((length > 0) & length.isfinite()).all()):
        raise ValueError("a direction of length zero, or one that is not finite, has no unit form.")
    return v / length.to(v.dtype)


def lengths(v: ArrayLike | Tensor) -> Tensor:
    """Euclidean length of each direction, accumulated in float64: (N,) -> (), (N, K) -> (K,)."""
    return torch.linalg.vector_norm(as_tensor(v), dim=0, dtype=torch.float64)


def filter_normalised(direction: ArrayLike | Tensor, model: nn.Module) -> Tensor:
    """Give every filter of a direction the length of the same filter of the network.

    d_j ← d_j · ‖θ_j‖/‖d_j‖ for the filters j of each weight (slices along its first axis: output
    channels of a convolution, rows of a linear map), each filter exactly once; parameters with
    fewer than two axes (biases, BatchNorm) get 0. Li, Xu, Taylor, Studer and Goldstein, 2018,
    "Visualizing the Loss Landscape of Neural Nets", with the `biasbn` rule of their published code.

    Args:
        direction: (N,) or (N, K), N trainable parameters in the model's order.
        model: Network whose present weights set the lengths.

    Returns:
        Tensor of the same shape, dtype and device.

    Raises:
        ValueError: The direction has not as many entries as the model has trainable parameters.
    """
    direction = as_tensor(direction)
    parameters = [p.detach() for p in model.parameters() if p.requires_grad]
    n_parameters = sum(p.numel() for p in parameters)
    if direction.shape[0] != n_parameters:
        raise ValueError(
            f"the direction has {direction.shape[0]} entries, the model {n_parameters} parameters."
        )
    columns = direction.reshape(n_parameters, -1)
    scaled = torch.zeros_like(columns)
    start = 0
    for p in parameters:
        stop = start + p.numel()
        if p.ndim >= 2:
            d = columns[start:stop].reshape(p.shape[0], -1, columns.shape[1])  # (filters, size, K)
            wanted = torch.linalg.vector_norm(p.reshape(p.shape[0], -1).to(d), dim=1)
            present = torch.linalg.vector_norm(d, dim=1)
            # A filter of zeros has no direction to scale; it stays zero.
            factor = torch.where(present > 0, wanted[:, None] / present, 0)
            scaled[start:stop] = (d * factor[:, None]).reshape(p.numel(), -1)
        start = stop
    return scaled.reshape(direction.shape)


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
        ValueError: The columns are linearly dependent to rounding.
    """
    V = as_tensor(V)
    n, k = V.shape
    if k == 0:
        return V.clone()
    Q, R = torch.linalg.qr(V)
    diagonal = R.diagonal()
    floor = max(n, k) * torch.finfo(V.dtype).eps * lengths(V)
    if k > n or bool((diagonal.abs() <= floor).any()):
        raise ValueError("the directions are linearly dependent.")
    return Q * diagonal.sign()


def _columns(
    column: Callable[[], Tensor], n: int, k: int, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    rows = torch.empty(k, n, dtype=dtype, device=device)
    for row in rows:
        row.copy_(column())
    return rows.T
