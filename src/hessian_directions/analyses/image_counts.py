"""How curvature depends on the number of images that the loss is a mean over."""

from collections.abc import Mapping
from typing import Any

import xarray as xr

from hessian_directions.analyses.curvature_summary import summarize
from hessian_directions.objectives.objective import Objective
from hessian_directions.progress import Progress


def study(
    objective: Objective,
    settings: Mapping[str, Any],
    seed: int,
    state_path: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """λ_min, λ_max and trace of one network over a balanced choice of its training images.

    The choices are nested, and every count draws the same directions: what differs is the images.
    """
    summary = summarize(
        objective,
        settings,
        seed,
        missed_probability=1.0,  # the check would double the cost; the count of `eigenpairs` has it
        state_path=state_path,
        progress=progress,
    )
    summary |= {"n_images": objective.n_samples, "loss": float(objective.value())}
    return xr.Dataset({name: ((), value) for name, value in summary.items()})
