"""The population: a member's measures against its dense Hessian, the tables against SciPy."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from fabricate import DIGITS, made, settings
from networks import Problem, dense_hessian
from scipy.stats import kendalltau
from torch.nn.utils import parameters_to_vector

from hessian_directions.analyses import members, population
from hessian_directions.data import registry as data


@pytest.fixture(scope="module")
def member() -> members.Member:
    dataset = data.load(DIGITS, None, None)
    factors = {"batch_size": 8, "learning_rate": 0.05, "label_noise": 0.1, "width": 3, "seed": 0}
    return members._train_member(settings("population"), factors, dataset, 7, "cpu")


def test_measures_of_a_member_against_its_dense_hessian(member: members.Member) -> None:
    of_member = settings("population", n_samples=400, tolerance=1e-4)
    row = members.measure(member.model, member, of_member, torch.float64, seed=3)
    model, loss = member.model.double(), torch.nn.functional.cross_entropy
    theta = parameters_to_vector(model.parameters()).detach()
    H = dense_hessian(Problem(model, loss, member.images.inputs.double(), member.images.targets))
    values = torch.linalg.eigvalsh(H)
    assert row["largest"] == pytest.approx(float(values[-1]), rel=1e-4)
    assert row["smallest_magnitude"] == pytest.approx(-float(values[0]), rel=1e-4)
    assert abs(row["trace"] - float(H.trace())) < 3.5 * row["trace_standard_error"]
    assert row["frobenius_norm"] == pytest.approx(float(H.norm()), rel=0.05)
    adaptive = theta.abs()[:, None] * H * theta.abs()
    assert row["adaptive_largest"] == pytest.approx(
        float(torch.linalg.eigvalsh(adaptive)[-1]), rel=1e-4
    )
    error = row["adaptive_trace_standard_error"]
    assert abs(row["adaptive_trace"] - float(adaptive.trace())) < 3.5 * error
    assert row["distance"] == pytest.approx(float((theta - member.initial).norm()))
    assert 0 < row["distance"] < row["theta_norm"] + float(member.initial.norm())
    assert set(population.measures(of_member)) <= row.keys()


def test_members_of_a_seed_begin_alike_and_others_do_not() -> None:
    dataset = data.load(DIGITS, None, None)
    initial = {}
    for seed in (0, 1):
        for rate in (0.05, 0.1):
            factors = {"batch_size": 8, "learning_rate": rate, "width": 3, "seed": seed}
            one = members._train_member(settings("population"), factors, dataset, seed, "cpu")
            initial[seed, rate] = one.initial
    assert torch.equal(initial[0, 0.05], initial[0, 0.1])
    assert not torch.equal(initial[0, 0.05], initial[1, 0.05])


def test_statistics_of_the_gathered_members() -> None:
    dataset = made("population")
    reached = dataset.isel(member=dataset["reached"].values.astype(bool))
    x, y = reached["largest"].values, reached["gap_loss"].values
    table = dataset.sel(measure="largest", generalization="gap_loss")
    expected = kendalltau(x, y).statistic
    assert float(table["correlation"].sel(statistic="kendall")) == pytest.approx(expected)
    for level in (0.0, 0.1):
        of = reached["label_noise"].values == level
        within = float(table["level_correlation"].sel(level=level))
        assert within == pytest.approx(kendalltau(x[of], y[of]).statistic, nan_ok=True)
    within = dataset["correlation"].sel(statistic="within_strata", generalization="gap_loss")
    advantage = dataset["advantage"].sel(invariant="adaptive_trace", generalization="gap_loss")
    difference = within.sel(measure="adaptive_trace") - within.sel(measure="trace")
    assert float(advantage) == pytest.approx(float(difference))
    assert np.ptp(dataset["rescaled_loss"].values) < 1e-9


class Files(Sequence[xr.Dataset]):
    """Shards that are made when they are asked for, and watched while they live."""

    def __init__(self, n_shards: int, of_shard: Callable[[int], xr.Dataset]) -> None:
        self.n_shards, self.of_shard = n_shards, of_shard
        self.read: list[weakref.ref[xr.Dataset]] = []
        self.most = 0

    def __len__(self) -> int:
        return self.n_shards

    def __getitem__(self, number: Any) -> Any:
        if number >= self.n_shards:
            raise IndexError(number)
        shard = self.of_shard(number)
        self.read.append(weakref.ref(shard))
        self.most = max(self.most, sum(one() is not None for one in self.read))
        return shard


@pytest.mark.parametrize("n_shards", [1, 3, 8])
def test_population_is_gathered_at_any_scale_one_shard_after_the_other(n_shards: int) -> None:
    whole = made("population")
    columns = [name for name in whole if whole[name].dims == ("member",)]
    shared = [name for name in whole if whole[name].dims == ("scale",)]

    def of_shard(number: int) -> xr.Dataset:
        mine = slice(number, None, n_shards)
        shard = xr.Dataset({name: ("member", whole[name].values[mine]) for name in columns})
        return shard.merge(whole[shared]) if number == 0 else shard

    files = Files(n_shards, of_shard)
    gathered = population.gather(files, settings("population"), None)
    xr.testing.assert_equal(gathered, whole)
    # The first, which has what members share, and the one that is read.
    assert files.most <= 3
