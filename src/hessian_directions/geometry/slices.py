"""Slices of the loss: surfaces over a plane and lines, both through the weights.

A surface is L(θ + αη + βδ) over a rectangular grid of α, β. The passes that give the loss give the
accuracy, too, which is a coordinate of every surface and line. What it shows depends on the lengths of
η and δ, so these are stored with it: α·‖η‖ is a distance in parameter space, α alone is not. The
weights themselves lie at a grid point, the value there is the loss of the network.

Where no directions are given they are those of the largest and the smallest eigenvalue, and where
no grid is given the spectrum chooses it (`half_widths`).
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from hessian_directions.arrays import Floats, as_floats, as_tensor
from hessian_directions.errors import (
    ArgumentError,
    ArtifactError,
    ConfigurationError,
    NonFiniteError,
    require_count,
    require_positive,
)
from hessian_directions.geometry.directions import (
    as_directions,
    filter_normalised,
    gaussian,
    lengths,
    unit,
)
from hessian_directions.objectives.objective import Objective
from hessian_directions.operators import (
    HasHessian,
    Operator,
    WithVectors,
    as_operator,
    in_own_precision,
    require_objective,
    require_symmetric_projections,
)
from hessian_directions.progress import Clock, Progress
from hessian_directions.seeds import as_generator
from hessian_directions.spectral.eigenpairs import extreme_eigenpairs

# Points handed to the objective at once: enough to share its batches, few enough to hold.
CHUNK = 16

# A coordinate this small beside the distance of two of them is 0.
NO_DISTANCE = 1e-6

# What the shards of one surface have in common.
SHARED_ATTRIBUTES = ("n_rows", "length_alpha", "length_beta", "cosine", "normalisation")

Array = ArrayLike | Tensor

# "hessian": the directions of the largest and the smallest eigenvalue, of length one; "random": two
# Gaussian ones, of length about √N; "filter": these with every filter as long as the network's (Li
# et al. 2018).
Plane = Literal["hessian", "random", "filter"]
NORMALISATIONS: dict[Plane, str] = {"hessian": "unit", "random": "gaussian", "filter": "filter"}


def grid(radius: float, n_points: int) -> Floats:
    """Equidistant points from −radius to radius, with an exact 0 in the middle.

    Raises:
        ConfigurationError: The number of points is even, so that none would be 0.
        ArgumentError: It is no number of points, or the radius is not positive and finite.
    """
    require_count("n_points", n_points)
    require_positive("radius", radius)
    if n_points % 2 == 0:
        raise ConfigurationError(
            f"A grid needs an odd number of points to contain the network, not {n_points}."
        )
    half = n_points // 2
    return radius * np.arange(-half, half + 1) / max(half, 1)


@in_own_precision
def half_widths(objective: Objective, directions: Array) -> Floats:
    """Distances s along K directions at which a slice ends where nobody says how far it reaches.

    s = √(|L|/|κ|), κ = v'Hv/‖v‖² the curvature along the direction: there ½κs² is half of the loss
    L at the weights, as far as a loss that cannot be negative may follow a negative curvature with
    some ease. So every direction is shown on its own scale, s ∝ |κ|^(−1/2), and a saddle looks
    like one. At most ‖θ‖, beyond which nobody would speak of a neighbourhood of θ.

    Args:
        directions: (N, K).

    Returns:
        (K,) distances in parameter space. Cost: K second directional derivatives, one forward pass.
    """
    require_objective(objective)
    V = as_directions(directions, objective.n_parameters)
    V = unit(V.to(objective.device, objective.dtype))
    curvatures = np.abs(as_floats(objective.second_directional_derivative(V)))
    loss = abs(float(objective.value())) or 1.0
    longest = float(lengths(objective.theta)) or 1.0
    with np.errstate(divide="ignore"):
        return np.minimum(np.sqrt(loss / curvatures), longest)


@in_own_precision
def plane_directions(
    objective: Objective,
    plane: Plane = "hessian",
    seed: int | torch.Generator = 0,
    vectors: Tensor | None = None,
) -> Tensor:
    """The two directions of a named plane (see `Plane`), (N, 2).

    Args:
        seed: Of the eigenpairs' start vectors or of the random directions.
        vectors: (N, k) eigenvectors, ascending, of which the Hessian plane takes the last and the
            first. Without, they are computed.

    Raises:
        ConfigurationError: The name is unknown, or there is one parameter only.
    """
    if plane not in NORMALISATIONS:
        raise ConfigurationError(f"The plane is {plane!r}, not one of {', '.join(NORMALISATIONS)}.")
    if objective.n_parameters < 2:
        raise ConfigurationError("A plane needs two parameters, but the objective has one.")
    if plane == "hessian":
        if vectors is None:
            vectors = extreme_eigenpairs(objective, seed=seed).vectors
        return both_ends(vectors)
    generator = as_generator(seed, "plane")
    V = gaussian(objective.n_parameters, 2, generator, objective.dtype, objective.device)
    if plane == "filter":
        V = filter_normalised(V, objective)
        if not V.any():
            raise ConfigurationError("The plane is 'filter', but no parameter here has filters.")
    return V


@in_own_precision
def surface(
    objective: Objective,
    directions: Array | WithVectors | None = None,
    alphas: Array | None = None,
    betas: Array | None = None,
    normalisation: str = "gaussian",
    progress: Progress | None = None,
    *,
    plane: Plane = "hessian",
    n_points: int = 25,
    radius: float | None = None,
    seed: int | torch.Generator = 0,
) -> xr.DataArray:
    """Loss L(θ + αη + βδ) over a plane through the weights θ.

    Args:
        directions: (N, 2): η, δ as columns; or eigenpairs, of which the last and the first are
            taken. Without, those of `plane`.
        alphas: (A,) ascending coordinates along η; one of them is 0. Without, `n_points` that reach
            to the half-width of the direction (`half_widths`), or to `radius`.
        betas: (B,) ascending coordinates along δ, likewise.
        normalisation: What kind of directions these are ("gaussian", "unit", "filter"): stored.
        plane: Where no directions are given, see `Plane`.
        n_points: Points of a grid that is not given, odd.
        radius: Half-width of such a grid in parameter space.
        seed: Of the plane's directions.

    Returns:
        Array `loss` of dimensions alpha, beta, float64; a loss that is not finite is NaN. Coordinate
        accuracy (alpha, beta): share of the samples that are classified correctly, NaN where they
        have no classes or the loss is not finite.
        Attributes: length_alpha = ‖η‖, length_beta = ‖δ‖, cosine of the angle between them,
        normalisation, loss_at_origin, and the lowest point: lowest_alpha, lowest_beta, lowest_loss
        and lowest_distance, its distance from θ in parameter space. Cost: A·B forward passes, and
        for the Hessian plane what `extreme_eigenpairs` takes. Memory: (2·16 + 4)·N·itemsize bytes
        and one forward pass of the objective.

    Raises:
        ConfigurationError: The coordinates do not ascend or do not contain 0.
        ArgumentError: The directions are not two vectors of N entries.
    """
    require_objective(objective)
    if directions is None:
        directions, normalisation = plane_directions(objective, plane, seed), NORMALISATIONS[plane]
    elif (vectors := getattr(directions, "vectors", None)) is not None:
        if vectors.shape[1] < 2 <= objective.n_parameters:
            raise ArgumentError(
                "A plane needs two eigenvectors: extreme_eigenpairs(objective, 1, 1)."
            )
        directions, normalisation = both_ends(vectors), "unit"
    V = as_directions(directions, objective.n_parameters, 2)
    if alphas is None or betas is None:
        if radius is not None:
            require_positive("radius", radius)
        reach = half_widths(objective, V) if radius is None else np.full(2, float(radius))
        along = [
            grid(half_width / float(length), n_points)
            for half_width, length in zip(reach, lengths(V), strict=True)
        ]
        alphas = along[0] if alphas is None else alphas
        betas = along[1] if betas is None else betas
    rows = range(len(as_floats(alphas).reshape(-1)))
    return gather([surface_rows(objective, V, alphas, betas, rows, normalisation, progress)])


@in_own_precision
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
        Array `loss` of dimensions alpha (these rows only), beta, with the coordinate accuracy and
        the attributes n_rows (of the whole surface), length_alpha, length_beta, cosine and
        normalisation.
    """
    require_objective(objective)
    along_alpha, along_beta = _coordinates(alphas, "alphas"), _coordinates(betas, "betas")
    directions = as_directions(directions, objective.n_parameters, 2)
    picked = along_alpha[np.asarray(rows if isinstance(rows, range) else as_tensor(rows).cpu())]
    eta, delta = directions.to(objective.device, objective.dtype).T
    theta, along = objective.theta, [delta] * len(picked)
    starts = (theta + float(alpha) * eta for alpha in picked)
    losses, accuracies = _along_lines(objective, starts, along, along_beta, progress)
    length = lengths(directions)
    inner = torch.dot(directions[:, 0].double(), directions[:, 1].double())
    return xr.DataArray(
        losses,
        coords={
            "alpha": picked,
            "beta": along_beta,
            "accuracy": (("alpha", "beta"), accuracies),
        },
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


@in_own_precision
def line(
    objective: Objective,
    directions: Array | WithVectors | None = None,
    alphas: Array | None = None,
    normalisation: str = "unit",
    progress: Progress | None = None,
    *,
    n_points: int = 41,
    radius: float | None = None,
    seed: int | torch.Generator = 0,
) -> xr.DataArray:
    """Loss L(θ + αv_k) along K lines through the weights.

    Args:
        directions: (N, K), the v_k as columns, or one of them, (N,); or eigenpairs. Without, the
            directions of the smallest and the largest eigenvalue, named so in the coordinate
            direction.
        alphas: (A,) ascending coordinates; one of them is 0. Without, `n_points` that reach to
            `radius`, or to the geometric mean of the directions' half-widths (`half_widths`).
        radius: Half-width of a grid that is not given, in units of the directions.
        normalisation, n_points, seed, progress: As for `surface`.

    Returns:
        Array `loss` of dimensions direction, alpha, float64, with coordinates length (direction)
        = ‖v_k‖ and accuracy (direction, alpha) as for `surface`, and the attribute normalisation.
        Cost: K·A forward passes.

    Raises:
        ConfigurationError: The coordinates do not ascend or do not contain 0.
    """
    require_objective(objective)
    names: list[str] | None = None
    if directions is None:
        directions = extreme_eigenpairs(objective, seed=seed).vectors
        names, normalisation = ["smallest", "largest"], "unit"
        if objective.n_parameters == 1:
            names = ["largest"]
    V = as_directions(directions, objective.n_parameters)
    length = as_floats(lengths(V))
    if alphas is None and radius is None:
        radius = float(np.exp(np.log(half_widths(objective, V) / length).mean()))
    along = grid(radius or 0.0, n_points) if alphas is None else _coordinates(alphas, "alphas")
    columns = V.to(objective.device, objective.dtype).T
    starts = [objective.theta] * len(columns)
    losses, accuracies = _along_lines(objective, starts, columns, along, progress)
    loss = xr.DataArray(
        losses,
        coords={
            "alpha": along,
            "length": ("direction", length),
            "accuracy": (("direction", "alpha"), accuracies),
        },
        dims=("direction", "alpha"),
        name="loss",
        attrs={"normalisation": normalisation},
    )
    return loss if names is None else loss.assign_coords(direction=names)


@in_own_precision
def projected_hessian(H: Operator | HasHessian, directions: Array) -> Tensor:
    """V'HV, the Hessian of the slice along the columns of V, symmetrised against rounding.

    Args:
        directions: (N, K).

    Returns:
        (K, K), float64, on the CPU. Cost: K products with H.
    """
    H = as_operator(H)
    V = as_directions(directions, H.shape[0]).to(H.device, H.dtype)
    product = (H @ V).double()
    M = V.double().T @ product
    require_symmetric_projections(
        float((M - M.T).norm()), float(V.double().norm() * product.norm()), H.dtype
    )
    return ((M + M.T) / 2).cpu()


def both_ends(vectors: Tensor) -> Tensor:
    """η of the largest, δ of the smallest eigenvalue, each with its largest entry positive.

    An eigenvector has no sign: fixing it keeps the orientation of a picture.
    """
    V = torch.stack([vectors[:, -1], vectors[:, 0]], dim=1)
    signs = V.gather(0, V.abs().argmax(0, keepdim=True)).sign()
    return V * torch.where(signs == 0, 1, signs)


def _coordinates(points: Array, name: str) -> Floats:
    coordinates = as_floats(points)
    ascending = coordinates.ndim == 1 and bool((np.diff(coordinates) > 0).all())
    if not ascending or not np.isfinite(coordinates).all():
        raise ConfigurationError(f"The {name} of a slice must ascend.")
    # The middle of a symmetric grid is 0 but for rounding, in float32 even 10⁻⁸ of its half-width.
    middle = np.abs(coordinates) <= NO_DISTANCE * np.diff(coordinates).min(initial=np.inf)
    if len(coordinates) > 1:
        coordinates = np.where(middle, 0.0, coordinates)
    if not (coordinates == 0).any():
        raise ConfigurationError(
            f"The {name} of a slice must contain 0, so that the network lies at a grid point."
        )
    return coordinates


def _along_lines(
    objective: Objective,
    starts: Iterable[Tensor],
    directions: Sequence[Tensor] | Tensor,
    points: Floats,
    progress: Progress | None,
) -> tuple[Floats, Floats]:
    """L(start + x·direction) and accuracy at all P points x of each of K lines, (K, P) each.

    A surface is evaluated line by line so that its bits do not depend on how it is sharded.
    """
    values = np.empty((len(directions), len(points), 2))
    clock = Clock(len(directions) * len(points), "points", progress)
    for k, (start, direction) in enumerate(zip(starts, directions)):
        for first in range(0, len(points), CHUNK):
            x = torch.from_numpy(points[first : first + CHUNK].copy()).to(direction)
            thetas = start[:, None] + direction[:, None] * x
            values[k, first : first + len(x)] = finite_values(objective, thetas)
            clock(k * len(points) + first + len(x))
    return values[..., 0], values[..., 1]


def finite_values(objective: Objective, thetas: Tensor) -> Floats:
    """Losses and accuracies at (N, K) points, (K, 2), NaN where the loss is not finite: a slice may
    leave that range.
    """
    try:
        found = objective.values_and_accuracies(thetas)
        return torch.stack([part.double() for part in found], 1).cpu().numpy()
    except NonFiniteError:
        if thetas.shape[1] == 1:
            return np.full((1, 2), np.nan)
        return np.concatenate([finite_values(objective, point) for point in thetas.split(1, 1)])


def _description(loss: xr.DataArray) -> dict[str, float]:
    """Loss at the weights, and where the lowest point of the surface lies."""
    lowest = loss[loss.argmin(...)]
    a = float(lowest["alpha"]) * loss.attrs["length_alpha"]
    b = float(lowest["beta"]) * loss.attrs["length_beta"]
    # Of opposite steps along parallel directions rounding may leave less than nothing.
    square = a**2 + b**2 + 2 * a * b * loss.attrs["cosine"]
    return {
        "loss_at_origin": float(loss.sel(alpha=0.0, beta=0.0)),
        "lowest_alpha": float(lowest["alpha"]),
        "lowest_beta": float(lowest["beta"]),
        "lowest_loss": float(lowest),
        "lowest_distance": float(np.sqrt(max(square, 0.0))),
    }
