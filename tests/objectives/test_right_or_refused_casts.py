"""Networks that compute in float32 on their way: they are proven as closely as others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import hessian_directions as hd
from hessian_directions.errors import DifferentiationError


class Norm(nn.Module):
    """The root-mean-square norm of language models, in float32 whatever it is given."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.weight, self.how = nn.Parameter(torch.ones(width)), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "float":
            wide = x.float()
        elif self.how == "to":
            wide = x.to(torch.float32)
        elif self.how == "type":
            wide = x.type(torch.float32)
        else:
            return (x.softmax(1, dtype=torch.float32) * x.shape[1]).to(x.dtype) * self.weight
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * (wide * scale).to(x.dtype)


class Cut(nn.Module):
    """A part of its graph is cut, so that its gradient is a little wrong."""

    def __init__(self, share: float, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(5, 6), Norm(6, how), nn.Linear(6, 3)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x)).tanh()
        return self.last(h + self.share * h.detach().sin())


def data(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator).to(dtype)
    return x, torch.randint(3, (60,), generator=generator)


HOW = ["float", "to", "type", "softmax"]


@pytest.mark.parametrize("share", [0.03, 0.003])
@pytest.mark.parametrize("how", HOW)
def test_small_cuts_are_refused(how: str, share: float) -> None:
    objective = hd.Objective(Cut(share, how), nn.CrossEntropyLoss(), *data(torch.float32))
    with pytest.raises(DifferentiationError, match="not the slope"):
        objective.gradient()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", HOW)
def test_casts_are_followed(how: str, dtype: torch.dtype) -> None:
    model, (x, y) = Cut(0.0, how).to(dtype), data(dtype)
    objective = hd.Objective(model, nn.CrossEntropyLoss(), x, y, batch_size=25)
    own = copy.deepcopy(model)
    parameters = list(own.parameters())
    loss = nn.functional.cross_entropy(own(x), y)
    slopes = torch.autograd.grad(loss, parameters, create_graph=True)
    slope = torch.cat([part.reshape(-1) for part in slopes])
    v = torch.randn(len(slope), generator=torch.Generator().manual_seed(1)).to(dtype)
    product = torch.cat([p.reshape(-1) for p in torch.autograd.grad(slope @ v, parameters)])
    assert float(objective.value()) == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(objective.gradient(), slope.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(objective.hessian() @ v, product, rtol=1e-3, atol=1e-4)
    assert objective.self_test().precision == "float32"


def test_products_of_matrices_in_float32_do_not_depend_on_batches() -> None:
    class Single(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x.float(), self.weight.float()).to(x.dtype)

    model = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), Single(64, 3)).double()
    x, y = (part.repeat(10, *[1] * (part.ndim - 1)) for part in data(torch.float64))
    objective = hd.Objective(model, nn.CrossEntropyLoss(), x, y)
    expected = float(nn.functional.cross_entropy(model(x), y).detach())
    assert float(objective.value()) == pytest.approx(expected, rel=1e-6)
