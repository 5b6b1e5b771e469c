"""Synthetic saddles of known curvature: projected Hessians, visibility against theory, slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import xarray as xr
from pydantic import AfterValidator, Field, model_validator

from hessian_directions import settings as typed
from hessian_directions.settings import (
    Allowed,
    Count,
    Counts,
    Natural,
    Naturals,
    Odd,
    Positive,
    Several,
    setting,
)

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.objectives.objective import Objective


class Settings(typed.Settings):
    n: Count = setting(500, "pairs of eigenvalues: N = 2n + 1 parameters")
    n_positive: Naturals = setting(
        [420, 440, 460, 480, 490, 500, 510, 520, 540, 560, 580], "ñ, eigenvalues +1 of each saddle"
    )
    n_samples: Several = setting(4000, "random planes whose projected Hessians are kept")
    n_visibility_samples: Several = setting(200_000, "random planes that visibility is counted on")
    shown: Annotated[
        list[Natural],
        Field(min_length=3, max_length=3),
        AfterValidator(typed.all_different),
        Allowed("three different whole numbers"),
    ] = setting([420, 500, 580], "ñ of the saddles that are drawn")
    n_points: Odd = setting(41, "points a side of the slices")
    half_width: Positive = setting(10.0, "of the slices", unit="length in parameter space")
    dimension_saddles: Naturals = setting(
        [500, 540, 580, 660], "ñ of the saddles seen in subspaces of growing dimension"
    )
    dimensions: Counts = setting(
        [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 36, 40, 48], "dimensions of subspaces"
    )
    n_subspaces: Several = setting(200, "random subspaces of each dimension")

    @model_validator(mode="after")
    def _fit(self) -> Settings:
        """The saddle has 2n eigenvalues of either sign."""
        for key in ("n_positive", "shown", "dimension_saddles"):
            typed.require(max(getattr(self, key)) <= 2 * self.n, key, f"0 to 2n = {2 * self.n}")
        n_parameters = 2 * self.n + 1
        typed.require(
            max(self.dimensions) <= n_parameters, "dimensions", f"1 to 2n + 1 = {n_parameters}"
        )
        return self


def takes(settings: Settings, stage: str) -> tuple[float, float]:
    """By the numbers that are drawn."""
    planes = len(settings.n_positive) * settings.n_samples * 2
    subspaces = len(settings.dimension_saddles) * settings.n_subspaces * sum(settings.dimensions)
    numbers = (planes + subspaces) * (2 * settings.n + 1)
    numbers += 6 * len(settings.n_positive) * settings.n_visibility_samples
    return 1.6e-8 * numbers, 8.0 * settings.n_visibility_samples * 40


def run(settings: Settings, job: Job) -> xr.Dataset:
    """Everything that is drawn of the saddles, for every configured ñ."""
    from hessian_directions import seeds

    seed = seeds.derive(job.seed, "saddles")
    parts = [part(settings, seed, job) for part in (_projections, _dimensions, _slices)]
    return xr.merge(parts).assign_attrs(n=settings.n, n_parameters=2 * settings.n + 1)


def _projections(settings: Settings, seed: int, job: Job) -> xr.Dataset:
    from hessian_directions import seeds
    from hessian_directions.geometry import synthetic, visibility
    from hessian_directions.geometry.principal_curvatures import visibility as visibility_formula

    n, saddles = settings.n, []
    for n_positive in settings.n_positive:
        job.announce(f"projections of the saddle with {n_positive} positive eigenvalues")
        eigenvalues = synthetic.eigenvalues(n, n_positive).numpy()
        # The spectrum is known eigenvalue by eigenvalue, so slices are drawn from it without directions.
        n_planes = settings.n_visibility_samples
        generator = seeds.generator(seed, "planes", n_positive)
        matrices = visibility.sample_from_spectrum(eigenvalues, 0.0, 0.0, n_planes, generator)
        share = visibility.share_of_saddles(matrices)
        t, f = synthetic.trace(n, n_positive), synthetic.frobenius_norm(n)
        formula = visibility.formula(eigenvalues)
        saddle = {
            "projected_hessian": (("sample", "row", "column"), matrices[: settings.n_samples]),
            "trace": t,
            "frobenius_norm": f,
            "visibility_sampled": share.probability,
            "visibility_low": share.low,
            "visibility_high": share.high,
            "visibility_formula": float(visibility_formula(t / f)),
            "visibility_corrected": formula.corrected,
            "condition": formula.condition,
        }
        saddles.append(xr.Dataset(saddle))
    return xr.concat(saddles, "saddle").assign_coords(saddle=list(settings.n_positive))


def _dimensions(settings: Settings, seed: int, job: Job) -> xr.Dataset:
    from hessian_directions import seeds
    from hessian_directions.geometry import synthetic, visibility
    from hessian_directions.geometry.principal_curvatures import critical_dimension

    n, dimensions = settings.n, settings.dimensions
    largest = max(dimensions)
    saddles = []
    for n_positive in settings.dimension_saddles:
        job.announce(f"subspaces of the saddle with {n_positive} positive eigenvalues")
        H = synthetic.hessian(n, n_positive)
        generator = seeds.generator(seed, "subspaces", n_positive)
        first = visibility.first_negative_dimension(H, largest, settings.n_subspaces, generator)
        shares = [visibility.share_seeing_negative(first, d) for d in dimensions]
        r = synthetic.trace(n, n_positive) / synthetic.frobenius_norm(n)
        saddle = {
            "negative_seen": ("dimension", [s.probability for s in shares]),
            "negative_seen_low": ("dimension", [s.low for s in shares]),
            "negative_seen_high": ("dimension", [s.high for s in shares]),
            "critical_dimension": critical_dimension(synthetic.eigenvalues(n, n_positive).numpy()),
            "quarter_r_squared": r**2 / 4,
        }
        saddles.append(xr.Dataset(saddle))
    return xr.concat(saddles, "dimension_saddle").assign_coords(
        dimension_saddle=list(settings.dimension_saddles), dimension=list(dimensions)
    )


def _slices(settings: Settings, seed: int, job: Job) -> xr.Dataset:
    """Losses of the network that is the saddle, on planes of equal width in parameter space."""
    import torch

    from hessian_directions import seeds
    from hessian_directions.geometry import slices
    from hessian_directions.geometry.directions import gaussian

    n, points = settings.n, slices.grid(settings.half_width, settings.n_points)
    surfaces = []
    for n_positive in settings.shown:
        job.announce(f"slices of the saddle with {n_positive} positive eigenvalues")
        objective = objective_of(n, n_positive)
        unit_vectors = torch.zeros(objective.n_parameters, 2, dtype=objective.dtype)
        unit_vectors[0, 0] = unit_vectors[2 * n - 1, 1] = 1.0  # λ = +1 and λ = −1
        random = gaussian(
            objective.n_parameters, 2, seeds.generator(seed, "slices", n_positive), objective.dtype
        )
        planes = [random / random.norm(dim=0), unit_vectors]
        surfaces.append(
            [slices.surface(objective, plane, points, points, "unit").values for plane in planes]
        )
    return xr.Dataset(
        {"surface": (("shown", "plane", "alpha", "beta"), np.array(surfaces))},
        coords={
            "shown": list(settings.shown),
            "plane": ["random", "hessian"],
            "alpha": points,
            "beta": points,
        },
    )


def objective_of(n: int, n_positive: int) -> Objective:
    """The saddle as an objective like any network's."""
    from hessian_directions.geometry import synthetic
    from hessian_directions.objectives.objective import Objective

    model = synthetic.SaddleModel(n, n_positive).double()
    inputs = synthetic.inputs()
    return Objective(model, synthetic.mean_of_outputs, inputs, inputs)
