"""The traces of synthetic saddles, which are known, by every estimator."""

from __future__ import annotations

import xarray as xr
from pydantic import model_validator

from hessian_directions import settings as typed
from hessian_directions.analyses.job import Job
from hessian_directions.settings import Count, Naturals, Odd, Several, setting


class Settings(typed.Settings):
    n: Count = setting(500, "pairs of eigenvalues: N = 2n + 1 parameters")
    n_positive: Naturals = setting([420, 500, 580], "ñ, eigenvalues +1 of each saddle")
    n_samples: Several = setting(400, "directions")
    fit_points: Odd = setting(5, "points of the quadratic fit along a direction")

    @model_validator(mode="after")
    def _fit(self) -> Settings:
        """The saddle has 2n eigenvalues of either sign."""
        typed.require(max(self.n_positive) <= 2 * self.n, "n_positive", f"0 to 2n = {2 * self.n}")
        return self


def takes(settings: Settings, stage: str) -> tuple[float, float]:
    return 2e-3 * len(settings.n_positive) * settings.n_samples, 0.0


def run(settings: Settings, job: Job) -> xr.Dataset:
    """The trace of each saddle by every estimator, beside the known one."""
    from hessian_directions import seeds
    from hessian_directions.analyses.estimates import compare
    from hessian_directions.analyses.saddles import objective_of
    from hessian_directions.geometry import synthetic

    seed = seeds.derive(job.seed, "saddle traces")
    datasets, seconds = [], {}
    for n_positive in settings.n_positive:
        objective = objective_of(settings.n, n_positive)
        numbers = settings.n_samples, settings.n_samples, settings.fit_points
        dataset, spent = compare(objective, None, *numbers, seeds.derive(seed, n_positive), job)
        reference = synthetic.trace(settings.n, n_positive)
        datasets.append(dataset.assign(reference=reference, reference_standard_error=0.0))
        seconds[str(n_positive)] = spent
    job.record["seconds"] = seconds
    merged = xr.concat(datasets, "saddle").assign_coords(saddle=list(settings.n_positive))
    return merged.assign_attrs(reference_kind="exact", activation="smooth")
