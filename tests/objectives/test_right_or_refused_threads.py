"""Two threads that ask one objective."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import nn
from torch.nn import functional

from hessian_directions.autodiff.program import Program
from hessian_directions.objectives.objective import Objective


@pytest.mark.parametrize("what", ["value", "gradient", "hessian_vector_product"])
def test_threads_do_not_take_each_others_parameters(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one thread leaves in the network goes before another makes its pass."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(64, 4, dtype=torch.float64), torch.randint(3, (64,))
    objective = Objective(model, functional.cross_entropy, x, y, batch_size=4)
    points = [objective.theta * (1 + k) for k in range(3)]

    def ask(point: torch.Tensor) -> torch.Tensor:
        if what == "hessian_vector_product":
            return objective.hessian_vector_product(torch.ones_like(point), point)
        return getattr(objective, what)(point)

    expected = [ask(point) for point in points]
    restore = Program.restore

    def restore_late(self: Program) -> None:
        time.sleep(2e-3)
        restore(self)

    monkeypatch.setattr(Program, "restore", restore_late)
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(8):
            if not torch.allclose(ask(points[k]), expected[k], rtol=1e-10):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(points))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
