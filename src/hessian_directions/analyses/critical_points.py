"""Critical points of small networks: true saddles of many indices, and what random slices show of them.

Networks with one hidden layer approximate f(x) = log(sin(10x) + 2) + sin(x). Points are searched in
narrow ones; each then gives exact critical points of wide ones, every hidden unit being replaced by
copies that share its output weight (Fukumizu and Amari 2000). The shares are free, and so the index
and r = tr H/‖H‖_F vary over what a search would hardly reach.
"""

from typing import Annotated, Literal

import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.analyses.job import Job
from hessian_directions.settings import (
    Allowed,
    Count,
    Counts,
    Different,
    Natural,
    NotNegative,
    Odd,
    Positive,
    Positives,
    Several,
    setting,
)

# A search amplifies rounding as training does.
TRAINS = True


class Settings(typed.Settings):
    n_data: Several = setting(50, "points x drawn uniformly from [−1, 1) at which f is learned")
    activations: Annotated[
        Different[Literal["tanh", "gelu"]], Allowed("a list of tanh and gelu")
    ] = setting(["tanh", "gelu"], "of the hidden units")
    widths: Counts = setting([1, 2, 3], "hidden units of the networks that are searched")
    n_starts: Count = setting(40, "starts of the search in each of them")
    scales: Positives = setting(
        [1.0, 2.0, 3.0, 5.0], "deviation of the input weights at the starts, one after the other"
    )
    max_descent: Natural = setting(
        20, "longest descent by L-BFGS from every second start before the search", unit="steps"
    )
    tolerance: Positive = setting(1e-8, "largest norm of the gradient at a critical point")
    n_embedded: Natural = setting(5, "points of each activation that are embedded in wide networks")
    wide: Counts = setting([50, 200], "hidden units of the wide networks")
    scatters: Annotated[
        Different[NotNegative], Allowed("a list of different numbers, at least 0")
    ] = setting(
        [0.0, 1.0], "deviation of the shares among the copies of a unit", unit="of their mean"
    )
    n_planes: Several = setting(
        400, "random planes whose projected Hessians are kept, and as many that are searched"
    )
    n_spectrum_samples: Several = setting(100_000, "planes drawn from the whole spectrum")
    rise: Positive = setting(2e-4, "largest change of the loss up to the edges of its planes")
    n_points: Odd = setting(41, "points a side of these planes")


def takes(settings: Settings, stage: str) -> tuple[float, float]:
    """Of a start, and of a point of a wide network; how many of them are found nobody knows before."""
    n_starts = len(settings.activations) * len(settings.widths) * settings.n_starts
    n_wide = 2 * len(settings.wide) * len(settings.scatters)
    n_wide *= len(settings.activations) * settings.n_embedded
    return 0.25 * n_starts + 1.2 * n_wide, 300e6


def run(settings: Settings, job: Job) -> xr.Dataset:
    """All points that were found, and those of wide networks that follow from them.

    `outcomes` counts how the searches of each activation and width ended: at a critical point; where
    a unit is idle on the data, having died, saturated or become linear (a point of a narrower
    network, or one at infinity); where ‖∇L‖² is stationary; on the way to infinity; unfinished.
    Only the first are kept.
    """
    from hessian_directions.analyses import small_networks

    return small_networks.study(settings, job)
