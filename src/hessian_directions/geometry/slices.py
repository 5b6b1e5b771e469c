"""Slices of the loss: surfaces over a plane and profiles along lines through the weights.

A surface is L(θ + αη + βδ) over a rectangular grid of α, β. What it shows depends on the lengths of
η and δ, so these are stored with it: α·‖η‖ is a distance in parameter space, α alone is not. The
weights themselves lie at a grid point, the value there is the loss of the network.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from hessian_directions.arrays import Floats, as_floats, as_tensor
from hessian_directions.errors import ArtifactError, ConfigurationError, NonFiniteError
from hessian_directions.geometry.directions import lengths
from hessian_directions.objectives.objective import Objective
from hessian_directions.operators import Operator
from hessian_directions.progress import Clock, Progress

# Points handed to the objective at once: enough to share its batches, few enough to hold.
CHUNK = 16

# What the shards of one surface have in common.
SHARED_ATTRIBUTES = ("n_rows", "length_alpha", "length_beta", "cosine", "normalisation")

Array = ArrayLike | Tensor


def grid(radius: float, n_points: int) -> Floats:
    """Equidistant points from −radius to radius, with an exact 0 in the middle.

    Raises:
        ConfigurationError: The number of points is even, so that none would be 0, or the radius is
            not positive.
    """
    if n_points < 1 or n_points % 2 == 0:
        raise ConfigurationError(
            f"A grid needs an odd number of points to contain the network, not {n_points}."
        )
    if not 0 < radius < np.inf:
        raise ConfigurationError(f"The radius of a grid must be positive, not {radius}.")
    half = n_points // 2
    return radius * np.arange(-half, half + 1) / max(half, 1)


def surface(
    objective: Objective,
    directions: Array,
    alphas: Array,
    betas: Array,
    normalisation: str = "gaussian",
    progress: Progress | None = None,
) -> xr.DataArray:
    """Loss L(θ + αη + βδ) over a plane through the weights θ.

    Args:
        objective: Loss and its parameters.
        directions: (N, 2): η, δ as columns.
        alphas: (A,) ascending coordinates along η; one of them is 0.
        betas: (B,) ascending coordinates along δ; one of them is 0.
        normalisation: What kind of directions these are ("gaussian", "unit", "filter"): stored.
        progress: Called with (points done, points in all, seconds left).

    Returns:
        Array `loss` of dimensions alpha, beta, float64; a loss that is not finite is NaN.
        Attributes: length_alpha = ‖η‖, length_beta = ‖δ‖, cosine of the angle between them,
        normalisation, loss_at_origin, and the lowest point: lowest_alpha, lowest_beta, lowest_loss
        and lowest_distance, its distance from θ in parameter space. Cost: A·B forward passes.
        Memory: (2·16 + 4)·N·itemsize bytes and one forward pass of the objective.

    Raises:
        ConfigurationError: The coordinates do not ascend or do not contain 0.
        ValueError: The directions are not two vectors of N entries.
    """
    rows = range(len(as_floats(alphas).reshape(-1)))
    return gather(
        [surface_rows(objective, directions, alphas, betas, rows, normalisation, progress)]
    )


def surface_rows(
    objective: Objective,
    directions: Array,
    alphas: Array,
    betas: Array,
    rows: Array | range,
    normalisation: str = "gaussian",
    progress: Progress | None = None,
) -> xr.DataArray:
    """Some rows of a surface: a shard that one job computes; `gather` puts shards together.

    Args:
        rows: Indices into alphas; every other argument is that of the whole surface (`surface`).

    Returns:
        Array `loss` of dimensions alpha (these rows only), beta, with the attributes n_rows (of the
        whole surface), length_alpha, length_beta, cosine and normalisation.
    """
    along_alpha, along_beta = _coordinates(alphas, "alphas"), _coordinates(betas, "betas")
    directions = as_tensor(directions)
    if directions.shape != (objective.n_parameters, 2):
        raise ValueError(
            f"the directions have the shape {tuple(directions.shape)}, "
            f"not ({objective.n_parameters}, 2)."
        )
    picked = along_alpha[np.asarray(rows if isinstance(rows, range) else as_tensor(rows).cpu())]
    eta, delta = directions.to(objective.device, objective.dtype).T
    theta, clock = objective.theta, Clock(len(picked) * len(along_beta), progress)
    values = [
        _line(objective, theta + float(alpha) * eta, delta, along_beta, clock, i * len(along_beta))
        for i, alpha in enumerate(picked)
    ]
    length = lengths(directions)
    inner = torch.dot(directions[:, 0].double(), directions[:, 1].double())
    return xr.DataArray(
        np.reshape(values, (len(picked), len(along_beta))),
        coords={"alpha": picked, "beta": along_beta},
        dims=("alpha", "beta"),
        name="loss",
        attrs={
            "n_rows": len(along_alpha),
            "length_alpha": float(length[0]),
            "length_beta": float(length[1]),
            "cosine": float(inner / length.prod()),
            "normalisation": normalisation,
        },
    )


def gather(shards: Sequence[xr.DataArray]) -> xr.DataArray:
    """Put the shards of `surface_rows` together, in any order, and describe the surface.

    Returns:
        What `surface` returns.

    Raises:
        ArtifactError: The shards are not of one surface, overlap, or do not cover it.
    """
    first = {key: shards[0].attrs[key] for key in SHARED_ATTRIBUTES}
    for shard in shards:
        same_grid = shard["beta"].equals(shards[0]["beta"])
        if not same_grid or any(shard.attrs[key] != value for key, value in first.items()):
            raise ArtifactError("The shards are not of one surface: directions or grids differ.")
    loss = xr.concat(shards, "alpha", combine_attrs="drop").sortby("alpha")
    n_rows = first.pop("n_rows")
    if loss.sizes["alpha"] != n_rows or len(np.unique(loss["alpha"])) != n_rows:
        raise ArtifactError(
            f"The shards hold {loss.sizes['alpha']} rows of {n_rows}, each of which must come once."
        )
    loss.attrs = first
    return loss.assign_attrs(_description(loss))


def line(
    objective: Objective,
    directions: Array,
    alphas: Array,
    normalisation: str = "unit",
    progress: Progress | None = None,
) -> xr.DataArray:
    """Loss L(θ + αv_k) along K lines through the weights.

    Args:
        directions: (N, K), the v_k as columns.
        alphas: (A,) ascending coordinates; one of them is 0.
        objective, normalisation, progress: As for `surface`.

    Returns:
        Array `loss` of dimensions direction, alpha, float64, with a coordinate length(direction)
        = ‖v_k‖ and the attribute normalisation. Cost: K·A forward passes.

    Raises:
        ConfigurationError: The coordinates do not ascend or do not contain 0.
    """
    along = _coordinates(alphas, "alphas")
    directions = as_tensor(directions)
    if directions.ndim != 2 or directions.shape[0] != objective.n_parameters:
        raise ValueError(
            f"the directions have the shape {tuple(directions.shape)}, "
            f"not ({objective.n_parameters}, K)."
        )
    V = directions.to(objective.device, objective.dtype).T
    theta, clock = objective.theta, Clock(len(V) * len(along), progress)
    values = [_line(objective, theta, v, along, clock, i * len(along)) for i, v in enumerate(V)]
    return xr.DataArray(
        np.reshape(values, (len(V), len(along))),
        coords={"alpha": along, "length": ("direction", lengths(directions).cpu().numpy())},
        dims=("direction", "alpha"),
        name="loss",
        attrs={"normalisation": normalisation},
    )


def projected_hessian(H: Operator, directions: Array) -> Tensor:
    """V'HV, the Hessian of the slice along the columns of V, symmetrised against rounding.

    Args:
        H: Symmetric operator of shape (N, N).
        directions: (N, K).

    Returns:
        (K, K), float64, on the CPU. Cost: K products with H.
    """
    V = as_tensor(directions)
    product = H @ V.to(H.device, H.dtype)
    M = V.to(H.device, torch.float64).T @ product.double()
    return ((M + M.T) / 2).cpu()


def _coordinates(points: Array, name: str) -> Floats:
    coordinates = as_floats(points)
    if coordinates.ndim != 1 or (np.diff(coordinates) <= 0).any():
        raise ConfigurationError(f"The {name} of a slice must ascend.")
    if not (coordinates == 0).any():
        raise ConfigurationError(
            f"The {name} of a slice must contain 0, so that the network lies at a grid point."
        )
    return coordinates


def _line(
    objective: Objective, start: Tensor, direction: Tensor, points: Floats, clock: Clock, done: int
) -> Floats:
    """L(start + x·direction) at all points x of one line, `done` points after the clock's start.

    A surface is evaluated line by line so that its bits do not depend on how it is sharded.
    """
    losses = np.empty(len(points))
    for first in range(0, len(points), CHUNK):
        x = torch.from_numpy(points[first : first + CHUNK]).to(direction)
        thetas = start[:, None] + direction[:, None] * x
        losses[first : first + len(x)] = _finite_values(objective, thetas)
        clock(done + first + len(x))
    return losses


def _finite_values(objective: Objective, thetas: Tensor) -> Floats:
    """Losses at (N, K) points, NaN where the loss is not finite: a slice may leave that range."""
    try:
        return objective.values(thetas).double().cpu().numpy()
    except NonFiniteError:
        if thetas.shape[1] == 1:
            return np.array([np.nan])
        return np.concatenate([_finite_values(objective, point) for point in thetas.split(1, 1)])


def _description(loss: xr.DataArray) -> dict[str, float]:
    """Loss at the weights, and where the lowest point of the surface lies."""
    lowest = loss[loss.argmin(...)]
    a = float(lowest["alpha"]) * loss.attrs["length_alpha"]
    b = float(lowest["beta"]) * loss.attrs["length_beta"]
    return {
        "loss_at_origin": float(loss.sel(alpha=0.0, beta=0.0)),
        "lowest_alpha": float(lowest["alpha"]),
        "lowest_beta": float(lowest["beta"]),
        "lowest_loss": float(lowest),
        "lowest_distance": float(np.sqrt(a**2 + b**2 + 2 * a * b * loss.attrs["cosine"])),
    }
