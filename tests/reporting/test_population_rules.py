"""The statistics of claim C6 on made-up populations, and the power of its rule."""

import math

import numpy as np
import pytest
import xarray as xr
from fabricate import members
from scipy.stats import kendalltau

from hessian_directions.reporting.population_rules import (
    hidden_curvature,
    hidden_decades,
    random_flatness,
    related,
)
from hessian_directions.reporting.verdicts import NOT_REPRODUCED, REPRODUCED, decide


def test_label_noise_has_no_part_in_random_flatness() -> None:
    population = members(0.0, of_stratum=20.0)
    reached = population.isel(member=population["reached"])
    assert kendalltau(reached["mean_curvature"], reached["gap_loss"]).statistic > 0.4
    found = random_flatness(population, "gap_loss")
    assert -0.3 < found.low < found.value < found.high < 0.3


def test_members_that_did_not_reach_the_loss_do_not_count() -> None:
    population = members(0.0)
    spoiled = population.copy(deep=True)
    spoiled["reached"][:4] = False
    spoiled["mean_curvature"][:4] = 1e9
    kept = population.isel(member=slice(4, None))
    assert random_flatness(spoiled, "gap_loss") == random_flatness(kept, "gap_loss")


def test_hidden_curvature_of_each_end() -> None:
    population = members(0.0)
    for end, factor in (("largest", 100), ("smallest", -10)):
        population[end] = factor * population["mean_curvature"]
    largest, smallest = (
        hidden_curvature(population, hidden_decades(population, end))
        for end in ("largest", "smallest")
    )
    assert (largest.value, smallest.value) == pytest.approx((2.0, 1.0))
    assert largest.low == pytest.approx(2.0)
    population["smallest"][1] = 1.0  # no negative curvature
    assert hidden_curvature(population, hidden_decades(population, "smallest")).value == -math.inf
    assert hidden_curvature(population, hidden_decades(population, "largest")) == largest


def decided(tau: float, n_seeds: int, per_stratum: int, n_strata: int = 3) -> list[str]:
    """What the rule |τ| ≤ 0.3 says of sixty populations in which τ is known."""
    seed, stratum = np.meshgrid(
        np.repeat(np.arange(n_seeds), per_stratum), np.arange(n_strata), indexing="ij"
    )
    population = xr.Dataset(
        {
            "seed": ("member", seed.ravel()),
            "stratum": ("member", stratum.ravel()),
            "reached": ("member", np.ones(seed.size, dtype=bool)),
        }
    )
    random = np.random.default_rng(0)
    found = [random_flatness(related(population, tau, random), "gap_loss") for _ in range(60)]
    assert np.mean([one.value for one in found]) == pytest.approx(tau, abs=0.03)
    return [decide((one.low, one.high), "inside", 0.3) for one in found]


def test_power_of_the_rule() -> None:
    """At 15 seeds of 48 members the rule decides rightly at τ = 0 and τ = 0.5."""
    of_claim, false = decided(0.0, 15, 16), decided(0.5, 15, 16)
    assert min(of_claim.count(REPRODUCED), false.count(NOT_REPRODUCED)) >= 48
    assert of_claim.count(NOT_REPRODUCED) == false.count(REPRODUCED) == 0


def test_forty_members_decide_nothing() -> None:
    assert decided(0.0, 5, 4, n_strata=2).count(REPRODUCED) < 30
