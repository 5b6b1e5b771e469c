"""Parameters that are shared, empty, frozen, or more than their numbers: attributes, complex buffers."""

from __future__ import annotations

import pytest
import torch
from programs import built, objective_of, perceptron, require_followed, require_right, vectors
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

import hessian_directions as hd
from hessian_directions.errors import DeviceError, HessianDirectionsError, ModelError

# --- shared and frozen ------------------------------------------------------------------------------


def test_parameters_that_share_memory_are_one_or_refused() -> None:
    encoder, decoder = nn.Linear(5, 3, bias=False).double(), nn.Linear(3, 5, bias=False).double()
    decoder.weight.data = encoder.weight.data.T
    model, (x, _) = nn.Sequential(encoder, decoder), vectors()
    with pytest.raises(ModelError, match=r"'0\.weight' and '1\.weight' share memory"):
        hd.Objective(model, functional.mse_loss, x, x)


def test_disjoint_parts_of_one_buffer_are_parameters() -> None:
    model = perceptron()
    parameters = list(model.parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    sizes = [p.numel() for p in parameters]
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        parameter.data = part.view_as(parameter)
    require_followed(model, cross_entropy, *vectors())


def test_frozen_weights_of_less_precision_are_refused() -> None:
    model = perceptron().float()
    model[0].requires_grad_(False).to(torch.bfloat16)
    with pytest.raises(ModelError, match=r"frozen parameter '0\.weight' is torch\.bfloat16"):
        objective_of(model, *vectors(dtype=torch.float32))


# --- without numbers --------------------------------------------------------------------------------


class WithDevice(nn.Module):
    """Finds its device by a parameter that holds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.empty(0))
        self.body = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
        self.none = nn.Parameter(torch.empty(0, 3, dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.to(self.anchor.device))


def test_an_empty_parameter_does_not_count() -> None:
    model = WithDevice()
    x, y = torch.randn(9, 2, dtype=torch.float64), torch.randint(2, (9,))
    objective = objective_of(model, x, y)
    assert list(objective.parameters) == [name for name, p in model.named_parameters() if p.numel()]
    require_right(objective, model, lambda model: cross_entropy(model(x), y))
    direction = torch.randn(objective.n_parameters, dtype=torch.float64)
    torch.testing.assert_close(
        hd.directions.filter_normalised(direction, model),
        hd.directions.filter_normalised(direction, model.body),
    )
    with pytest.raises(HessianDirectionsError, match="at least one"):
        objective_of(model, x, y, parameters="anchor")


def test_a_report_of_a_network_with_an_empty_parameter() -> None:
    x, y = torch.randn(9, 2, dtype=torch.float64), torch.randint(2, (9,))
    report = hd.analyze(WithDevice(), cross_entropy, x, y, parts="localisation", progress=False)
    assert float(report.localisation["share"].sum("parameter")[0]) == pytest.approx(1.0)


def test_weights_that_are_not_loaded_are_named() -> None:
    with pytest.raises(ModelError, match="without numbers"):
        objective_of(perceptron().to("meta"), *vectors())
    with pytest.raises(DeviceError, match="meta"):
        objective_of(perceptron(), *vectors()).to(device="meta")
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ModelError, match="no shape yet"):
        objective_of(lazy, *vectors(dtype=torch.float32))


# --- attributes -------------------------------------------------------------------------------------


class Shape:
    """As the `infshape` of muP."""

    def __init__(self, width: float) -> None:
        self.width = width


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)
        self.first.weight.infshape = Shape(2.0)
        self.last.weight.mask = (torch.arange(12) % 3 > 0).reshape(3, 4)
        self.last.bias.factor = 3.0
        self.last.bias.requires_grad = False
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.first, self.last
        h = torch.tanh(first(x) / first.weight.infshape.width)
        y = functional.linear(h, last.weight * last.weight.mask)
        return y + last.bias.factor * last.bias + self.shift.direction * self.shift


def scaled(dtype: torch.dtype) -> nn.Module:
    model = built(Scaled).to(dtype)
    model.shift.direction = -1.0  # PyTorch itself drops that of a buffer
    return model


def test_attributes_of_parameters_are_kept() -> None:
    model = scaled(torch.float64)
    require_followed(model, cross_entropy, *vectors())
    assert model.first.weight.infshape.width == 2.0


def test_attributes_are_kept_in_another_precision() -> None:
    model, (x, y) = scaled(torch.float32), vectors(dtype=torch.float32)
    objective = objective_of(model, x, y)
    assert float(objective.value()) == pytest.approx(
        float(cross_entropy(model(x), y).detach()), rel=1e-5
    )
    assert "float64" in objective.self_test().describe()
    precise = objective.to(torch.float64)
    assert float(precise.value()) == pytest.approx(float(objective.value()), rel=1e-5)


# --- complex numbers keep their imaginary parts -----------------------------------------------------


class Rotary(nn.Module):
    """Rotary position embedding: a complex buffer, as language models keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.head = nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(4, 3)
        angle = torch.arange(4.0)[:, None] * torch.tensor([1.0, 0.1])
        self.register_buffer("frequencies", torch.polar(torch.ones_like(angle), angle))

    def turned(self, z: Tensor) -> Tensor:
        pairs = torch.view_as_complex(z.reshape(-1, 4, 2, 2))
        return torch.view_as_real(pairs * self.frequencies).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.turned(self.q(x)) * self.turned(self.k(x)).flip(1)).mean(1))


def test_complex_buffers_stay_complex_in_another_precision() -> None:
    objective = objective_of(Rotary(), torch.randn(20, 4, 2), torch.randint(3, (20,)))
    precise = objective.to(torch.float64)
    assert float(precise.value()) == pytest.approx(float(objective.value()), rel=1e-6)
    V = torch.eye(objective.n_parameters)
    exact = hd.trace.directional(objective, directions=V).mean
    assert hd.trace.finite_difference(objective, directions=V).mean == pytest.approx(exact, 1e-3)
    assert precise.to(torch.float32).network.frequencies.dtype == torch.complex64


class Weighted(nn.Module):
    """A loss with a complex buffer, of which the imaginary part counts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(1.0 + 2.0j))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(z * self.factor.imag, y)


def test_complex_buffers_of_a_loss_stay_complex() -> None:
    model, (x, y), loss = perceptron(), vectors(), Weighted()
    expected = float(loss(model(x), y).detach())
    assert float(hd.Objective(model, loss, x, y).value()) == pytest.approx(expected, rel=1e-6)
