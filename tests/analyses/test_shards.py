"""What is gathered from shards has the same bits however many there are."""

from typing import Any

import fabricate
import pytest
import xarray as xr
from pydantic import ValidationError

from hessian_directions.analyses import registry

MANY: dict[str, dict[str, Any]] = {
    "trace": {"n_samples": 40, "n_sketch": 2},  # three groups
    "spectrum": {"n_probes": 10, "n_steps": 4},  # three groups
    "slices": {"n_points": 5},
    "population": {},
}


def made(name: str, n_shards: int | None, **own: Any) -> xr.Dataset:
    part = "random" if name == "slices" else ""
    dataset, *_ = fabricate.run(name, part=part, **MANY[name], n_shards=n_shards, **own)
    return dataset.drop_attrs()


@pytest.mark.parametrize("name", MANY)
def test_results_do_not_depend_on_the_number_of_shards(name: str) -> None:
    whole = made(name, 1)
    if name == "population":  # members are trained: two shards were made for other tests
        assert fabricate.made(name).drop_attrs().identical(whole)
        return
    others: tuple[int | None, ...] = (2, 3)
    if name in ("trace", "spectrum"):
        others += (None,)
    for n_shards in others:
        assert made(name, n_shards).identical(whole), n_shards


def test_an_exact_trace_does_not_depend_on_the_number_of_shards() -> None:
    assert made("trace", 3, exact=True).identical(made("trace", None, exact=True))


@pytest.mark.parametrize("name", ["trace", "spectrum"])
def test_shards_are_not_more_than_groups(name: str) -> None:
    with pytest.raises(ValidationError, match="1 to 3, the groups of"):
        registry.analysis(name).settings(**MANY[name], n_shards=4)
