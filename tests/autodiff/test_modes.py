"""Modes of differentiation against closed forms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hessian_directions.autodiff import modes
from hessian_directions.autodiff.modes import Parameters


def function(at: Parameters) -> Tensor:
    """½ a'Qa + Σ b a₀³ + linear; `idle` is not used."""
    Q = torch.tensor([[2.0, 1.0], [1.0, -3.0]], dtype=torch.float64)
    return at["a"] @ Q @ at["a"] / 2 + (at["b"] * at["a"][0] ** 3).sum() + at["c"].sum()


POINT = {
    "a": torch.tensor([2.0, 5.0], dtype=torch.float64),
    "b": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
    "c": torch.ones(2, dtype=torch.float64),
    "idle": torch.ones(2, 2, dtype=torch.float64),
}


def directions(k: int) -> list[Parameters]:
    generator = torch.Generator().manual_seed(0)
    return [
        {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in POINT.items()}
        for _ in range(k)
    ]


def product(v: Parameters) -> Parameters:
    """∇²f v by hand: ∂²f/∂a₀² = 2 + 6 a₀ Σb, ∂²f/∂a₀∂b = 3 a₀²."""
    a, b = POINT["a"][0], POINT["b"]
    first = (2 + 6 * a * b.sum()) * v["a"][0] + v["a"][1] + 3 * a**2 * v["b"].sum()
    return {
        "a": torch.stack([first, v["a"][0] - 3 * v["a"][1]]),
        "b": (3 * a**2 * v["a"][0]).expand(3),
        "c": torch.zeros(2, dtype=torch.float64),
        "idle": torch.zeros(2, 2, dtype=torch.float64),
    }


def test_gradient() -> None:
    slope = modes.gradient(function, POINT)
    a, b = POINT["a"], POINT["b"]
    expected = {
        "a": torch.tensor([2 * 2 + 5 + 3 * 4 * 6.0, 2 - 3 * 5.0], dtype=torch.float64),
        "b": a[0] ** 3 * torch.ones_like(b),
        "c": torch.ones(2, dtype=torch.float64),
        "idle": torch.zeros(2, 2, dtype=torch.float64),
    }
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("mode", modes.PRODUCTS)
@pytest.mark.parametrize("vectorised", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_products(mode: str, vectorised: bool, k: int) -> None:
    products = list(modes.PRODUCTS[mode](function, POINT, directions(k), vectorised))
    assert len(products) == k
    for actual, v in zip(products, directions(k)):
        torch.testing.assert_close(actual, product(v))


@pytest.mark.parametrize("mode", modes.PRODUCTS)
@pytest.mark.parametrize("vectorised", [False, True])
def test_products_with_a_function_that_is_linear(mode: str, vectorised: bool) -> None:
    def linear(at: Parameters) -> Tensor:
        return at["a"].sum() + 2 * at["c"].sum()

    for actual in modes.PRODUCTS[mode](linear, POINT, directions(2), vectorised):
        assert {name: float(part.abs().sum()) for name, part in actual.items()} == dict.fromkeys(
            POINT, 0.0
        )


@pytest.mark.parametrize("derivatives", modes.SECOND_DERIVATIVES.values())
def test_second_derivatives(derivatives: Callable[..., Any]) -> None:
    V = directions(3)
    expected = [sum((v[n] * part).sum() for n, part in product(v).items()) for v in V]
    torch.testing.assert_close(derivatives(function, POINT, V), torch.stack(expected))


def test_the_callers_parameters_stay_without_a_graph() -> None:
    list(modes.reverse_over_reverse(function, POINT, directions(1), False))
    assert not any(p.requires_grad or p.grad is not None for p in POINT.values())


def test_directions_are_stacked_by_name() -> None:
    V = directions(3)
    stacked = modes.stack(V)
    assert stacked["idle"].shape == (3, 2, 2)
    assert torch.equal(stacked["a"][1], V[1]["a"])
