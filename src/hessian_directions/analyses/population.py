"""Flatness against generalization: classifiers that differ in how they were trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import xarray as xr
from pydantic import AfterValidator, Field, model_validator

from hessian_directions import settings as typed
from hessian_directions.learning.settings import TrainingSettings
from hessian_directions.settings import (
    Allowed,
    Count,
    Model,
    Number,
    Positive,
    Positives,
    Several,
    Text,
    setting,
)

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job

OF = "profile"

MEASURES = (
    "trace",
    "mean_curvature",
    "largest",
    "smallest",
    "frobenius_norm",
    "trace_scaled",
    "largest_scaled",
    "gradient_norm",
)
GENERALIZATION = ("gap_loss", "gap_accuracy")

Levels = Annotated[
    list[Number],
    Field(min_length=1),
    AfterValidator(typed.all_different),
    Allowed("a list of different numbers"),
]


class Settings(typed.Settings):
    data: Text = setting(..., "a key of `data`")
    loss: Literal["cross_entropy"] = setting("cross_entropy", "what is minimised and analysed")
    model: Model = setting(..., "the network that is trained again and again")
    training: TrainingSettings = setting(..., "how, where no factor says otherwise")
    factors: dict[str, Levels] = setting(
        ...,
        "every combination is trained: settings of training, `width` and `seed`; `batch_size`"
        " is among them, by which figures colour the members",
    )
    n_shards: Count = setting(1, "jobs that the members are shared out over")
    tolerance: Positive = setting(1e-2, "residual of the extreme eigenpairs", unit="|λ|")
    n_samples: Several = setting(60, "Rademacher samples of each trace")
    rescaling: Positives = setting(
        [0.25, 0.5, 1.0, 2.0, 4.0], "factors of the rescaling counter-example"
    )
    n_bootstrap: Several = setting(
        2000, "resampled populations behind each interval", stage="gather"
    )

    @model_validator(mode="after")
    def _fit(self) -> Settings:
        typed.require(bool(self.factors), "factors", "a mapping of at least one factor")
        typed.require("batch_size" in self.factors, "factors", "factors with batch_size among them")
        members = math.prod(map(len, self.factors.values()))
        typed.require(self.n_shards <= members, "n_shards", f"1 to {members}, the members")
        return self


def run(settings: Settings, job: Job) -> xr.Dataset:
    """Every n_shards-th member, trained and measured; with the first shard the counter-example."""
    from hessian_directions.analyses.members import train_members

    return train_members(settings, job)


def gather(shards: Sequence[xr.Dataset], settings: Settings, job: Job) -> xr.Dataset:
    """The members of all shards in order, and for each measure and gap the rank correlations.

    τ is Kendall's over all members that reached the target loss; the granulated τ is its mean over
    groups that differ in one factor only (Jiang et al. 2020). Intervals are bootstrap percentiles
    over members.
    """
    from hessian_directions import seeds
    from hessian_directions.statistics.rank_correlation import (
        granulated_interval,
        granulated_tau,
        kendall_interval,
        kendall_tau,
    )

    seed = seeds.derive(job.seed, "bootstrap")
    shared = [name for name, variable in shards[0].items() if "scale" in variable.dims]
    members = xr.concat(
        [part.drop_dims("scale", errors="ignore") for part in shards], "member"
    ).sortby("number")
    reached = members.isel(member=members["reached"].values.astype(bool))
    factors = {
        name: reached[name].values for name, values in settings.factors.items() if len(values) > 1
    }
    shape = (len(MEASURES), len(GENERALIZATION))
    names = [kind + end for kind in ("kendall", "granulated") for end in ("", "_low", "_high")]
    tables = {name: np.full(shape, np.nan) for name in names}
    options: dict[str, Any] = {"confidence": 0.95, "n_bootstrap": settings.n_bootstrap}
    for i, measure in enumerate(MEASURES):
        for j, gap in enumerate(GENERALIZATION):
            x, y = reached[measure].values, reached[gap].values
            random = np.random.default_rng(seed)
            tables["kendall"][i, j] = kendall_tau(x, y)
            low, high = kendall_interval(x, y, generator=random, **options)
            tables["kendall_low"][i, j], tables["kendall_high"][i, j] = low, high
            tables["granulated"][i, j] = granulated_tau(x, y, factors)
            low, high = granulated_interval(x, y, factors, generator=random, **options)
            tables["granulated_low"][i, j], tables["granulated_high"][i, j] = low, high
    return members.merge(shards[0][shared]).merge(
        xr.Dataset(
            {name: (("measure", "generalization"), table) for name, table in tables.items()},
            coords={"measure": list(MEASURES), "generalization": list(GENERALIZATION)},
        )
    )
