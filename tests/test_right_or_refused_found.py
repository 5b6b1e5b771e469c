"""What random networks brought to light (`test_any_network`), one small program each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hessian_directions.errors import DifferentiationError, HessianDirectionsError, ModelError
from hessian_directions.objective import Objective


class Through(nn.Module):
    """A linear layer, then a function, then another linear layer."""

    def __init__(self, function: Callable[[Tensor], Any], first: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6) if first is None else first
        self.function, self.last = function, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def samples(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, 4, generator=generator, dtype=torch.float64),
        torch.randint(3, (n,), generator=generator),
    )


def objective_of(model: nn.Module, *data: Any, **options: Any) -> Objective:
    return Objective(model.double(), nn.CrossEntropyLoss(), *(data or samples()), **options)


def slope_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    loss = functional.cross_entropy(model(inputs), targets)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters)])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# --- errors of our own kind -----------------------------------------------------------------------


@torch.jit.script
def _scripted(x: Tensor) -> Tensor:
    return torch.tanh(x)


def test_a_network_that_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be copied"):
        objective_of(Through(_scripted))


def _one_of_several_views(x: Tensor) -> Tensor:
    left, right = (x * 1.0).split(3, 1)
    return torch.cat([left.sin_(), right], 1)


def test_a_network_that_runs_but_cannot_be_recorded_is_refused() -> None:
    with torch.no_grad():
        Through(_one_of_several_views).double()(samples()[0])
    with pytest.raises(ModelError, match="does not run"):
        objective_of(Through(_one_of_several_views)).value()


def test_whatever_the_self_test_meets_is_an_error_of_ours() -> None:
    seen: list[float] = []

    def here_alone(x: Tensor) -> Tensor:
        seen.append(float(x.detach().sum()))
        if seen[-1] != seen[0]:
            raise ArithmeticError("too far out")
        return x.tanh()

    with pytest.raises(ModelError, match="too far out"):
        objective_of(Through(here_alone), *samples(6)).value()
