"""The curvature that random planes show over discs of growing radius: it is t/N in the limit only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import xarray as xr
from pydantic import Field, model_validator

from hessian_directions import settings as typed
from hessian_directions.settings import Allowed, Count, Positive, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("trace",)


class Settings(typed.Settings):
    n_planes: Several = setting(24, "planes of two random directions")
    smallest_radius: Positive = setting(0.01, "of the discs", unit="length in parameter space")
    largest_radius: Positive = setting(30.0, "of the discs", unit="length in parameter space")
    n_radii: Several = setting(15, "discs, their radii in geometric progression")
    n_angles: Annotated[int, Field(ge=5), Allowed("a whole number, at least 5")] = setting(
        8, "points of a ring; with fewer than 5 the smallest disc has no quadratic"
    )
    n_images: Count | None = setting(
        None, "balanced choice of the training images; null: those of the network's curvature"
    )

    @model_validator(mode="after")
    def _fit(self) -> Settings:
        ascending = self.smallest_radius < self.largest_radius
        typed.require(ascending, "largest_radius", "above smallest_radius")
        return self


def passes(settings: Settings) -> dict[str, float]:
    points = settings.n_radii * settings.n_angles
    return {"values": settings.n_planes * (points + 9) + 1, "derivatives": 2 * settings.n_planes}


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Curvatures of the quadratics that fit the loss best over discs in random planes.

    A plane is spanned by two Gaussian directions, made orthonormal: lengths are those of parameter
    space. In each, the loss is taken on rings of radii ρ_1 < … < ρ_R; the disc of radius ρ_k is
    fitted by the quadratic of least squares through its centre and the rings 1 … k
    (`geometry.quadratic_fit.fit_discs`). Per disc (plane, radius), in loss per length²:

    - mean_curvature: ½(κ₋ + κ₊) of the fit, which tends to the mean of η'Hη and δ'Hδ as ρ → 0
      where the loss is smooth, and to t/N in the mean over planes;
    - smallest, largest: κ₋ and κ₊ of the fit.

    A disc in which the loss is not finite somewhere has NaN.

    Per plane: exact_curvature, the mean of η'Hη and δ'Hδ. Per radius: rounding, the standard
    deviation of one mean curvature that the rounding errors of the loss cause. Scalars: reference,
    t/N of `trace`, or the mean of exact_curvature where the images are not those of `trace`, with
    reference_standard_error; loss L(θ*), and noise, the standard deviation of its rounding errors.
    """
    from hessian_directions import seeds
    from hessian_directions.geometry import discs, quadratic_fit
    from hessian_directions.traces.finite_differences import loss_noise

    objective = problem.over(settings.n_images).objective("train")
    generator = seeds.generator(seeds.derive(job.seed, "apparent_curvature"), "planes")
    radii = np.geomspace(settings.smallest_radius, settings.largest_radius, settings.n_radii)
    loss = float(objective.value())
    noises, rings, exact = [], [], []
    for number in range(settings.n_planes):
        plane = discs.random_plane(objective, generator)
        noises.append(loss_noise(objective, plane[:, 0]))
        rings.append(discs.ring_losses(objective, plane, radii, settings.n_angles))
        exact.append(float(objective.second_directional_derivative(plane).mean()))
        job.announce(f"plane {number + 1} of {settings.n_planes}")
    fits = quadratic_fit.fit_discs(radii, np.stack(rings), loss)
    smallest, largest = fits.principal
    noise = float(np.median(noises))
    weights = quadratic_fit.mean_curvature_weights(radii, settings.n_angles)
    if settings.n_images is None:
        trace, n = job.read["trace"], objective.n_parameters
        reference = float(trace["trace"]) / n
        error = float(trace["trace_standard_error"]) / n
    else:
        reference = float(np.mean(exact))
        error = float(np.std(exact, ddof=1)) / settings.n_planes**0.5
    return xr.Dataset(
        {
            "mean_curvature": (("plane", "radius"), fits.mean_curvature),
            "smallest": (("plane", "radius"), smallest),
            "largest": (("plane", "radius"), largest),
            "exact_curvature": ("plane", exact),
            "rounding": ("radius", noise * np.linalg.norm(weights, axis=-1)),
            "reference": reference,
            "reference_standard_error": error,
            "loss": loss,
            "noise": noise,
        },
        coords={"radius": radii},
        attrs={"n_images": objective.n_samples},
    )
