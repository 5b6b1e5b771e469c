"""What few samples do not show: networks and losses that tell large batches from small ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import hessian_directions as hd
from hessian_directions.errors import ModelError


def data(n: int, outputs: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(outputs, (n,), generator=generator)


class Experts(nn.Module):
    """Each takes so many samples of a batch and leaves the others out."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.route = nn.Linear(5, 2)
        self.experts = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])
        self.capacity = capacity

    def forward(self, x: Tensor) -> Tensor:
        gates = self.route(x).softmax(1)
        chosen, out = gates.argmax(1), x.new_zeros(len(x), 3)
        for k, expert in enumerate(self.experts):
            rows = (chosen == k).nonzero()[: self.capacity, 0]
            out = out.index_add(0, rows, gates[rows, k : k + 1] * expert(x[rows]))
        return out


@pytest.mark.parametrize("batch_size", [100, 256])
@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), lambda z, y: functional.cross_entropy(z, y)]
)
def test_experts_of_limited_capacity_are_refused(
    batch_size: int, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="split into batches"):
        hd.Objective(Experts(32).double(), loss, *data(300), batch_size=batch_size).value()
    # With room for all of them it is a network like others.
    model, (x, y) = Experts(300).double(), data(300)
    objective = hd.Objective(model, loss, x, y, batch_size=batch_size)
    assert float(objective.value()) == pytest.approx(float(loss(model(x), y).detach()), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [60, 250, 257, 300, 341, 342, 600])
def test_means_over_what_is_there_are_refused(n: int, dtype: torch.dtype) -> None:
    """Whatever the number of samples, of which a few lack their targets."""

    def masked(z: Tensor, t: Tensor) -> Tensor:
        there = ~t.isnan()
        return ((z - t.nan_to_num()) ** 2 * there).sum() / there.sum()

    x, targets = data(n)[0], torch.randn(n, 3, dtype=torch.float64)
    targets[n - n // 10 : n - 1] = math.nan
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    objective = hd.Objective(model, masked, x.to(dtype), targets.to(dtype))
    with pytest.raises(ModelError, match="split into batches"):
        objective.to(dtype=torch.float64).value()


class Observer(nn.Module):
    """Scales its inputs by the largest that it has seen."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(5, 3)
        self.register_buffer("largest", torch.zeros(()))
        self.seen = torch.zeros(())
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        held = self.largest if self.kind == "buffer" else self.seen
        with torch.no_grad():
            if self.kind == "data":
                held.data = torch.maximum(held.data, x.abs().max())
            else:
                held.copy_(torch.maximum(held, x.abs().max()))
        return self.layer(x / held if self.kind != "unused" else x)


@pytest.mark.parametrize("kind", ["buffer", "attribute", "data"])
def test_networks_that_remember_other_samples_are_refused(kind: str) -> None:
    x, y = data(100)
    x[30] *= 5
    with pytest.raises(ModelError, match=r"split into batches|saw before"):
        hd.Objective(Observer(kind).double(), functional.cross_entropy, x, y).value()


def test_what_is_kept_and_not_used_does_no_harm() -> None:
    model, (x, y) = Observer("unused").double(), data(100)
    objective = hd.Objective(model, functional.cross_entropy, x, y, batch_size=25)
    expected = float(functional.cross_entropy(model(x), y).detach())
    assert [float(objective.value()) for _ in range(2)] == pytest.approx([expected] * 2, rel=1e-12)
