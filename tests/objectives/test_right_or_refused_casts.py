"""Networks that compute in float32 on their way: they are proven as closely as others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import hessian_directions as hd
from hessian_directions.errors import DifferentiationError, ModelError


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


START = 1.7e9  # seconds since 1970


class _OfTime(nn.Module):
    """A network in float32 that takes an offset off its inputs before it casts them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        self.register_buffer("start", torch.tensor(START, dtype=torch.float64))
        self.how = how

    def forward(self, t: Tensor) -> Tensor:
        start = self.start if self.how == "buffer" else START
        return self.inner(((t - start) / 100).float())


class _OfIds(nn.Module):
    """Takes numbers of things, of which only the last digits matter, as real numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Embedding(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[:, 0].long() % 5)


class _Casting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.float())


def _seconds(n: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 100 * torch.rand(n, 1, generator=generator, dtype=torch.float64)


WIDE = {  # network, inputs, targets, whether digits are lost
    "times": (_OfTime("number"), START + _seconds(), _seconds() / 100, True),
    "times and a buffer": (_OfTime("buffer"), START + _seconds(), _seconds() / 100, True),
    "integers and a buffer": (_OfTime("buffer"), (START + _seconds()).long(), _seconds(), False),
    "ids": (_OfIds(), 2.0**26 + _seconds().floor(), _seconds() / 100, True),
    "small ids": (_OfIds(), _seconds().floor(), _seconds() / 100, False),
    "targets": (nn.Linear(1, 1), _seconds().float(), START + _seconds(), False),
    "plain": (nn.Linear(1, 1), _seconds(), _seconds(), False),
    "a network that casts": (_Casting(), _seconds(), _seconds(), False),
    "trained": (_Casting(), _seconds(), _Casting()(_seconds()).detach().double() + 1e-6, False),
}


@pytest.mark.parametrize("name", WIDE)
def test_data_in_float64_for_a_network_in_float32(name: str) -> None:
    """They are cast, as PyTorch does not do, where no digits are lost that the network uses."""
    model, inputs, targets, lost = WIDE[name]
    loss = nn.functional.mse_loss
    objective = hd.Objective(model, loss, inputs, targets)
    if lost:
        with pytest.raises(ModelError, match="subtract an offset"):
            objective.value()
        return
    casts = isinstance(model, _OfTime | _Casting)
    exact = model if casts else copy.deepcopy(model).double()
    z = exact(inputs if casts or isinstance(model, _OfIds) else inputs.double())
    value = loss(z.double(), targets.double())
    assert float(objective.value()) == pytest.approx(value.item(), rel=1e-4, abs=1e-10)
    parts = torch.autograd.grad(value, list(exact.parameters()))
    slope = torch.cat([part.reshape(-1) for part in parts])
    assert (objective.gradient() - slope).norm() <= 1e-4 * slope.norm() + 1e-5
