"""The quadratic that fits a loss best over a region of a plane, and the curvatures it has.

The Hessian says how the loss curves at a point; what a picture shows is its shape over a region.
The least-squares quadratic over that region has both: a slope, and a curvature of either sign.

NumPy only: tables and figures import this module without importing torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from hessian_directions.errors import ArgumentError
from hessian_directions.geometry.principal_curvatures import principal_curvatures, shows_saddle
from hessian_directions.spectral.density import Floats

# Coefficients of a quadratic of two variables.
N_COEFFICIENTS = 6


@dataclass(frozen=True)
class QuadraticFit:
    """L(x, y) ≈ c + g·(x, y) + ½ (x, y) K (x, y)', for one surface or an array of them.

    Attributes:
        constant: c, (…), the loss of the fit at the origin.
        slope: g, (…, 2), loss per length.
        curvature: K, (…, 2, 2), symmetric, loss per length².
        residual: Root mean square of what the fit leaves, (…), in units of the loss.
        is_saddle: Whether the fit has curvature of both signs, κ₋ < 0 < κ₊, (…): beyond the
            rounding of losses in float64.
    """

    constant: Floats
    slope: Floats
    curvature: Floats
    residual: Floats
    is_saddle: NDArray[np.bool_]

    @property
    def principal(self) -> tuple[Floats, Floats]:
        """The principal curvatures κ₋ ≤ κ₊ of the fit, each (…)."""
        return principal_curvatures(self.curvature)

    @property
    def mean_curvature(self) -> Floats:
        """½(κ₋ + κ₊), (…)."""
        return np.asarray(np.trace(self.curvature, axis1=-2, axis2=-1) / 2)

    @property
    def stationary_point(self) -> Floats:
        """Where the fit has no slope, −K⁻¹g, (…, 2); NaN where K is singular or not finite."""
        (A, B), (_, C) = np.moveaxis(self.curvature, (-2, -1), (0, 1))
        g, h = np.moveaxis(self.slope, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            point = np.stack([B * h - C * g, B * g - A * h], axis=-1) / (A * C - B**2)[..., None]
        return np.where(np.isfinite(point), point, np.nan)


def fit_quadratic(x: ArrayLike, y: ArrayLike, values: ArrayLike) -> QuadraticFit:
    """The quadratic of least squares through the values at P points, all of one weight.

    Args:
        x: (P,) first coordinate of the points, a length.
        y: (P,) second coordinate, at right angles to the first.
        values: (…, P) losses. A surface that is not finite at one of the points has no fit: NaN.

    Returns:
        The fit of each surface, in float64.

    Raises:
        ArgumentError: The points do not determine a quadratic: fewer than six, or on one conic.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    values = np.asarray(values, dtype=np.float64)
    # In units of the region's own size columns are of one order of magnitude.
    across, along = (float(np.abs(coordinate).max(initial=0.0)) or 1.0 for coordinate in (x, y))
    X, Y = x / across, y / along
    design = np.stack([np.ones_like(X), X, Y, X**2 / 2, X * Y, Y**2 / 2], axis=1)
    if np.linalg.matrix_rank(design) < N_COEFFICIENTS:
        raise ArgumentError(f"{len(x)} points do not determine a quadratic of two variables.")
    # Differences from a value of the surface keep the digits that a large constant would take.
    reference = values[..., :1]
    with np.errstate(invalid="ignore"):
        differences = values - reference
    finite = np.isfinite(values).all(axis=-1)
    differences = np.where(finite[..., None], differences, 0.0)
    coefficients = differences @ np.linalg.pinv(design).T
    residual = np.sqrt(np.square(differences - coefficients @ design.T).mean(axis=-1))
    coefficients = np.where(finite[..., None], coefficients, np.nan)
    c, g, h, A, B, C = np.moveaxis(coefficients, -1, 0)
    # Signs are the same in any units; in the region's own, rounding is that of the losses.
    scaled = np.stack([np.stack([A, B], axis=-1), np.stack([B, C], axis=-1)], axis=-1)
    saddle = shows_saddle(scaled, np.where(finite, np.abs(values).max(axis=-1), 0.0))
    A, B, C = A / across**2, B / (across * along), C / along**2
    return QuadraticFit(
        constant=c + np.where(finite, reference[..., 0], np.nan),
        slope=np.stack([g / across, h / along], axis=-1),
        curvature=np.stack([np.stack([A, B], axis=-1), np.stack([B, C], axis=-1)], axis=-1),
        residual=np.where(finite, residual, np.nan),
        is_saddle=saddle,
    )


def fit_surface(loss: xr.DataArray, region: float = 1.0) -> QuadraticFit:
    """The quadratic that fits a drawn surface best over the middle of the picture.

    Coordinates are those of the picture, α‖η‖ and β‖δ‖, drawn at right angles.

    Args:
        loss: Of dimensions alpha, beta, with attributes length_alpha and length_beta (`surface`).
        region: Share of both half-widths that the fit covers, 0 … 1.

    Returns:
        The fit, of shape (); NaN where fewer than three grid points a side lie in the region.
    """
    loss = loss.transpose("alpha", "beta")
    x, y = surface_axes(loss)
    rows, columns = (np.abs(axis) <= region * axis.max() * (1 + 1e-9) for axis in (x, y))
    if min(rows.sum(), columns.sum()) < 3:
        nothing = np.full((2, 2), np.nan)
        return QuadraticFit(nothing[0, 0], nothing[0], nothing, nothing[0, 0], np.array(False))
    across, along = np.meshgrid(x[rows], y[columns], indexing="ij")
    inside = loss.values[np.ix_(rows, columns)]
    return fit_quadratic(across.ravel(), along.ravel(), inside.ravel())


def surface_axes(loss: xr.DataArray) -> tuple[Floats, Floats]:
    """Coordinates of a surface as distances in parameter space: α‖η‖ and β‖δ‖."""
    return (
        loss["alpha"].values * loss.attrs["length_alpha"],
        loss["beta"].values * loss.attrs["length_beta"],
    )


def polar_points(radii: ArrayLike, n_angles: int) -> tuple[Floats, Floats]:
    """Points of rings around the origin: x and y, each (R, A); the first angle is 0.

    Args:
        radii: (R,) of the rings.
        n_angles: A, of equal spacing.
    """
    angles = 2 * np.pi * np.arange(n_angles) / n_angles
    # Right angles exactly: a search along an axis must not leave it by rounding.
    unit = np.round(np.stack([np.cos(angles), np.sin(angles)]), 15)
    x, y = np.asarray(radii, dtype=np.float64)[:, None] * unit[:, None]
    return x, y


def fit_discs(radii: Sequence[float] | Floats, rings: ArrayLike, centre: ArrayLike) -> QuadraticFit:
    """The quadratics that fit best over discs: for each radius all points up to it, and the centre.

    Args:
        radii: (R,) ascending radii of the rings.
        rings: (…, R, A) losses at `polar_points(radii, A)`.
        centre: (…) loss at the origin.

    Returns:
        Fits of shape (…, R); NaN where a loss in the disc is not finite.

    Raises:
        ArgumentError: A ring has fewer than five points, so that the first disc has no fit.
    """
    rings = np.asarray(rings, dtype=np.float64)
    radii = np.asarray(radii, dtype=np.float64)
    centre = np.broadcast_to(np.asarray(centre, dtype=np.float64), rings.shape[:-2])[..., None]
    x, y = polar_points(radii, rings.shape[-1])
    fits = []
    for count in range(1, len(radii) + 1):
        inside = rings[..., :count, :].reshape(*rings.shape[:-2], -1)
        fits.append(
            fit_quadratic(
                np.append(0.0, x[:count]),
                np.append(0.0, y[:count]),
                np.concatenate([centre, inside], axis=-1),
            )
        )
    return QuadraticFit(
        *(
            np.stack([getattr(fit, name) for fit in fits], axis=rings.ndim - 2)
            for name in ("constant", "slope", "curvature", "residual", "is_saddle")
        )
    )


def mean_curvature_weights(radii: Sequence[float] | Floats, n_angles: int) -> Floats:
    """What `fit_discs` multiplies losses by for the mean curvature of each disc.

    Args:
        radii: (R,) ascending radii of the rings.
        n_angles: A, points of a ring.

    Returns:
        (R, 1 + R·A): weights of the centre and of the rings, ring by ring, 1/length². With
        independent errors of standard deviation σ in the losses, that of the mean curvature is σ
        times the norm of its weights.
    """
    # The fit is linear in the losses: its weights are the fits of losses that are 1 at one point.
    single = np.eye(1 + len(radii) * n_angles)
    rings = single[:, 1:].reshape(len(single), len(radii), n_angles)
    return fit_discs(radii, rings, single[:, 0]).mean_curvature.T
