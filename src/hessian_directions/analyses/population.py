"""Flatness against generalization: classifiers that differ in how they were trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr
from pydantic import model_validator

from hessian_directions import settings as typed
from hessian_directions.analyses.job import Job
from hessian_directions.learning.settings import TrainingSettings
from hessian_directions.settings import (
    Allowed,
    Count,
    Different,
    Model,
    Number,
    Positive,
    Positives,
    Several,
    Text,
    setting,
)

TRAINS = True

GENERALIZATION = ("gap_loss", "gap_accuracy")
STATISTICS = (
    *("kendall", "within_strata", "partial_noise", "partial_factors"),
    *("granulated", "information"),
)
# Measures that a rescaling of layers leaves as they are, and what each would improve on.
COUNTERPARTS = {
    "adaptive_trace": "trace",
    "adaptive_largest": "largest",
    "relative_flatness": "trace",
    "relative_flatness_output": "trace",
}

# Factors that are options of the model; the others but the seed are settings of training.
MODEL_FACTORS = ("width",)
# Factors that are whole numbers.
INTEGERS = ("batch_size", "width", "seed")

Levels = Annotated[Different[Number], Allowed("a list of different numbers")]


class Settings(typed.Settings):
    data: Text = setting(..., "a key of `data`")
    loss: Literal["cross_entropy"] = setting("cross_entropy", "what is minimised and analysed")
    model: Model = setting(..., "the network that is trained again and again")
    training: TrainingSettings = setting(..., "how, where no factor says otherwise")
    factors: dict[str, Levels] = setting(
        ...,
        "every combination is trained: settings of training, `width` and `seed`; `label_noise` and"
        " `seed` are among them: the statistics' strata (with `width`) and their clusters",
    )
    n_images: Count | None = setting(
        None, "training images, a balanced choice; null: all of them", unit="images"
    )
    n_shards: Count = setting(1, "jobs that the members are shared out over")
    tolerance: Positive = setting(1e-2, "residual of the extreme eigenpairs", unit="|λ|")
    n_samples: Several = setting(
        32, "random directions of each trace, relative flatness and average increase"
    )
    average_radii: Positives = setting(
        [0.3, 1.0, 3.0], "at which the loss's mean increase is measured", unit="‖δ‖"
    )
    worst_radii: Positives = setting(
        [0.03, 0.1, 0.3], "of the balls in which the loss's largest increase is sought", unit="‖δ‖"
    )
    n_ascent_steps: Count = setting(5, "gradients of each search for the largest increase")
    m: Several = setting(100, "images of a batch of m-sharpness")
    m_radius: Positive = setting(
        0.05, "of the ball of m-sharpness, Foret et al.'s default", unit="‖δ‖"
    )
    rescaling: Positives = setting(
        [0.25, 0.5, 1.0, 2.0, 4.0], "factors of the rescaling counter-example"
    )

    @model_validator(mode="after")
    def _fit(self) -> Settings:
        typed.require(bool(self.factors), "factors", "a mapping of at least one factor")
        typed.require(
            {"label_noise", "seed"} <= self.factors.keys(),
            "factors",
            "factors with label_noise and seed among them",
        )
        n = self.n_members
        typed.require(self.n_shards <= n, "n_shards", f"1 to {n}, the members")
        return self

    @property
    def n_members(self) -> int:
        return math.prod(map(len, self.factors.values()))

    def members(self) -> list[dict[str, Any]]:
        """The factors of every member: all combinations, in a fixed order."""
        levels = [
            [(int if name in INTEGERS else float)(value) for value in values]
            for name, values in self.factors.items()
        ]
        return [dict(zip(self.factors, values)) for values in itertools.product(*levels)]

    def of_member(self, factors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The model's options and the settings of training of the member with these factors."""
        options, training = dict(self.model.options), self.training.model_dump()
        for name, value in factors.items():
            if name != "seed":
                chosen = options if name in MODEL_FACTORS else training
                chosen[name] = int(value) if name in INTEGERS else float(value)
        return options, training


def passes(settings: Settings) -> dict[str, float]:
    """Members that stop at a loss are taken to need a third of the epochs that they may train for,
    searches for eigenvalues 25 products.
    """
    training = settings.training
    epochs = training.epochs / 3 if training.target_loss is not None else training.epochs
    of_a_member = {
        "epoch": epochs,
        "record": 1 + epochs / training.history_every,
        "product": 2 * 25,
        "products": 3 * settings.n_samples,
        "values": len(settings.average_radii) * settings.n_samples,
        "gradient": len(settings.worst_radii) * settings.n_ascent_steps + 4,
    }
    # The first shard has most members.
    n_members = math.ceil(settings.n_members / settings.n_shards)
    return {kind: n_members * count for kind, count in of_a_member.items()}


def takes(settings: Settings, stage: str) -> tuple[float, float]:
    """To gather, by the number of members."""
    members = settings.n_members
    return (0.03 * members, 1e4 * members) if stage == "gather" else (0.0, 0.0)


def typical(settings: Settings) -> dict[str, Any]:
    """Model and training of the member in the middle of all factors."""
    middle = {name: sorted(levels)[len(levels) // 2] for name, levels in settings.factors.items()}
    options, training = settings.of_member(middle)
    return {"model": {"name": settings.model.name, "options": options}, "training": training}


def run(settings: Settings, job: Job) -> xr.Dataset:
    """Every n_shards-th member, trained and measured; beside its own the counter-example."""
    from hessian_directions.analyses.members import train_members

    return train_members(settings, job)


def measures(settings: Settings) -> list[str]:
    """The measures of flatness of a member, each a variable of the dataset."""
    return [
        *("trace", "mean_curvature", "largest", "smallest_magnitude", "frobenius_norm"),
        *("gradient_norm", "trace_scaled", "largest_scaled", *COUNTERPARTS),
        *(f"average_increase_{radius:g}" for radius in settings.average_radii),
        *(f"worst_increase_{radius:g}" for radius in settings.worst_radii),
        *("m_sharpness", "distance", "theta_norm"),
    ]


def gather(shards: Sequence[xr.Dataset], settings: Settings, job: Job) -> xr.Dataset:
    """The members of all shards in order, and how each measure ranks them against each gap.

    A `stratum` holds the members of one label noise and one size of the network: noise moves
    curvature and gap alike, and size moves some measures and not others.

    Statistics are those of `rank_correlation`, over the members that reached the target loss:
    Kendall's τ over all and within strata, of all levels of label noise together and of each;
    partial τ given label noise, and given all factors; granulated τ; conditional mutual
    information. `advantage` is τ within strata of a measure that rescaling leaves as it is, less
    that of its counterpart. Intervals (95 %) are by the jackknife over seeds.
    """
    from hessian_directions.statistics import rank_correlation as rank

    # The table alone grows with the members: a shard is let go before the next one is read.
    first, example = shards[0], xr.Dataset()
    columns = [name for name, variable in first.items() if "scale" not in variable.dims]
    parts: dict[Any, list[np.ndarray]] = {name: [] for name in columns}
    for shard in shards:
        for name in columns:
            parts[name].append(shard[name].values)
        if "scale" in shard.dims:
            example = shard.drop_vars(columns)
    order = np.argsort(np.concatenate(parts["number"]), kind="stable")
    members = xr.Dataset(
        {name: ("member", np.concatenate(of_shards)[order]) for name, of_shards in parts.items()}
    )
    of_stratum = [name for name in ("label_noise", *MODEL_FACTORS) if name in settings.factors]
    labels = np.stack([members[name].values for name in of_stratum])
    members["stratum"] = "member", np.unique(labels, axis=1, return_inverse=True)[1].ravel()
    reached = members.isel(member=members["reached"].values.astype(bool))
    seed, noise, stratum = (reached[name].values for name in ("seed", "label_noise", "stratum"))
    factors = {
        name: reached[name].values for name, values in settings.factors.items() if len(values) > 1
    }
    known = {name: values for name, values in factors.items() if name != "seed"}
    names, levels = measures(settings), sorted(settings.factors["label_noise"])
    result = xr.Dataset(
        coords={
            "statistic": list(STATISTICS),
            "measure": names,
            "generalization": list(GENERALIZATION),
            "level": levels,
            "invariant": list(COUNTERPARTS),
        }
    )
    for table, along in (
        ("correlation", ("statistic", "measure", "generalization")),
        ("level_correlation", ("level", "measure", "generalization")),
        ("advantage", ("invariant", "generalization")),
    ):
        for end in ("", "_low", "_high"):
            shape = [result.sizes[dimension] for dimension in along]
            result[table + end] = (along, np.full(shape, np.nan))

    def keep(table: str, interval: rank.Interval, **place: Any) -> None:
        for end, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high)):
            result[table + end].loc[place] = value

    for gap in GENERALIZATION:
        y = reached[gap].values
        within = {name: rank.kendall(reached[name].values, y, stratum) for name in names}
        for name in names:
            x = reached[name].values
            statistics = {
                "kendall": rank.kendall(x, y),
                "within_strata": within[name],
                "partial_noise": rank.partial(x, y, {"label_noise": noise}),
                "partial_factors": rank.partial(x, y, known),
                "granulated": rank.granulated(x, y, factors, held=["seed"]),
                "information": rank.information(x, y, known),
            }
            place = {"measure": name, "generalization": gap}
            for kind, statistic in statistics.items():
                keep("correlation", rank.jackknife(statistic, seed), statistic=kind, **place)
            for level in levels:
                of = noise == level
                interval = rank.jackknife(rank.kendall(x[of], y[of], stratum[of]), seed[of])
                keep("level_correlation", interval, level=level, **place)
        for name, other in COUNTERPARTS.items():
            interval = rank.jackknife(rank.difference(within[name], within[other]), seed)
            keep("advantage", interval, invariant=name, generalization=gap)
    return members.merge(example).merge(result)
