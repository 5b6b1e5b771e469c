"""The self-test: what it looks at and costs, and how it fails."""

from __future__ import annotations

import pytest
import torch
from programs import images, net, objective_of, vectors
from random_networks import Apply
from torch import Tensor, nn

from hessian_directions.errors import DifferentiationError, ModelError
from hessian_directions.objectives.samples import _spread


def test_the_self_test_looks_at_every_class_and_costs_little() -> None:
    targets = torch.cat([torch.zeros(500).long(), torch.arange(10), torch.tensor([-100])])
    model = nn.Sequential(nn.Flatten(), nn.Linear(50, 10)).double()
    objective = objective_of(model, images(len(targets)), targets)
    report = objective.self_test()
    assert report.n_samples == 12
    assert report.cost.passes["referee's gradient"] == 2
    assert report.cost.passes["referee's value"] <= 8
    assert objective.cost.passes == {}
    assert "on 12 samples" in report.describe()


@pytest.mark.parametrize("n", [1, 2, 11, 12, 13, 1000, 2**25 + 3, 2**40 + 1])
def test_samples_that_represent_all_are_there(n: int) -> None:
    """Floats of 32 bits name no sample beyond the 2²⁵th."""
    chosen = _spread(n, 12)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1], len(chosen)) == (0, n - 1, min(n, 12))


def test_few_samples_are_all_tested() -> None:
    """One of nine takes another path, on which the graph is cut."""

    class Rare(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return torch.where(x[:, :1] > 4, y.detach().sin(), y)

    inputs, targets = vectors(9)
    for rare in range(9):
        one = inputs.clone()
        one[rare, 0] = 5
        with pytest.raises(DifferentiationError, match="not the slope"):
            objective_of(Rare(5, 3).double(), one, targets).gradient()


def test_whatever_the_self_test_meets_is_an_error_of_ours() -> None:
    seen: list[float] = []

    def here_alone(x: Tensor) -> Tensor:
        seen.append(float(x.detach().sum()))
        if seen[-1] != seen[0]:
            raise ArithmeticError("too far out")
        return x.tanh()

    model = nn.Sequential(nn.Linear(5, 6), Apply(here_alone), nn.Linear(6, 3)).double()
    with pytest.raises(ModelError, match="too far out"):
        objective_of(model, *vectors(6)).value()


def test_what_was_refused_once_stays_refused() -> None:
    @torch.no_grad()
    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return net.body(x)

    objective = objective_of(net(forward, body=lambda: nn.Linear(5, 3)), *vectors(12))
    for _ in range(2):
        with pytest.raises(DifferentiationError):
            objective.subset([0, 1]).gradient()
    assert objective.value() > 0
