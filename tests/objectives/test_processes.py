"""Processes are held against each other by numbers that stand for what they were given."""

import pytest
import torch

from hessian_directions.geometry.directions import rademacher
from hessian_directions.objectives.processes import _number


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (3, 2, 4)])
def test_other_tensors_have_other_numbers(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    v = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = v.to(dtype)
    last = v.clone()
    last.view(-1)[-1] = torch.nextafter(last.view(-1)[-1], last.new_tensor(9.0))
    others = [v, -v, v.flip(0), v.roll(1, 0), 2 * v, v.abs(), last, torch.zeros_like(v)]
    assert len({_number("step", (other,)) for other in others}) == len(others)
    before = v.clone()
    assert _number("step", (v,)) == _number("step", (before,)) != _number("other", (v,))
    assert torch.equal(v, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("k", [1, 16])
def test_directions_of_signs_have_other_numbers(dtype: torch.dtype, k: int) -> None:
    """All their entries have the same bits but for the highest one."""
    found = {_number("step", (rademacher(40, k, seed, dtype),)) for seed in range(200)}
    assert len(found) == 200


def test_equal_tensors_have_one_number_however_they_lie_in_memory() -> None:
    v = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    lying = (v, v.T.contiguous().T, torch.cat([v, v], dim=1)[:, :4])
    assert len({_number("step", (one,)) for one in lying}) == 1
