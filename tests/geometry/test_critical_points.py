"""Searches on functions whose critical points are known in closed form."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from hessian_directions.errors import NonFiniteError
from hessian_directions.geometry import critical_points


@dataclass(frozen=True)
class Function:
    """A loss from its formula, differentiated by plain PyTorch."""

    value: Callable[[Tensor], Tensor]

    def gradient(self, theta: Tensor) -> Tensor:
        return torch.func.grad(self.value)(theta)

    def hessian(self, theta: Tensor) -> Tensor:
        return torch.func.hessian(self.value)(theta)


# Every coordinate −1, 0 or 1 is critical: Hessian 8 at ±1, −4 at 0.
WELLS = Function(lambda theta: ((theta**2 - 1) ** 2).sum())


@pytest.mark.parametrize("index", range(5))
def test_saddles_of_every_index(index: int) -> None:
    expected = np.array([0.0] * index + [1.0] * (4 - index))
    start = expected + 0.1 * np.random.default_rng(index).standard_normal(4)
    point = critical_points.find(WELLS, start)
    assert point.outcome == "critical"
    np.testing.assert_allclose(point.theta, expected, atol=1e-9)
    assert point.gradient_norm < 1e-12
    np.testing.assert_allclose(point.eigenvalues, [-4.0] * index + [8.0] * (4 - index), atol=1e-9)
    assert (point.index, point.n_zero) == (index, 0)


class Bounded(Function):
    """A loss whose gradient overflows beyond |θ| = 3."""

    def gradient(self, theta: Tensor) -> Tensor:
        if theta.abs().max() > 3:
            raise NonFiniteError("The gradient over 1 samples is not finite.")
        return super().gradient(theta)


@pytest.mark.parametrize(
    ("value", "start", "outcome"),
    [
        (WELLS.value, 3**-0.5 + 1e-9, "critical"),  # no curvature: the first step is a long one
        (lambda theta: (1e-9 * theta + 1e-30 * theta**2).sum(), 1.0, "escaping"),
    ],
)
def test_steps_that_lead_too_far_are_not_taken(value, start: float, outcome: str) -> None:
    assert critical_points.find(Bounded(value), [start]).outcome == outcome


def test_directions_without_curvature_are_counted_apart() -> None:
    """A circle of minima, and a coordinate that has no part in the loss."""
    ring = Function(lambda theta: (theta[:2].square().sum() - 1) ** 2 - theta[2] ** 2)
    point = critical_points.find(ring, [0.9, 0.5, 0.2, 3.0])
    assert point.outcome == "critical"
    assert (point.index, point.n_zero) == (1, 2)
    np.testing.assert_allclose(point.eigenvalues, [-2, 0, 0, 8], atol=1e-9)


@pytest.mark.parametrize(
    ("value", "start", "outcome"),
    [
        # ∇L fades, but every Newton step has length one.
        (lambda theta: torch.exp(-theta).sum(), [0.0], "escaping"),
        # The second part of ∇L, y² + 1, is smallest at 0, where its curvature is 0.
        (lambda theta: theta[0] ** 2 + theta[1] ** 3 / 3 + theta[1], [0.5, 0.3], "stationary"),
    ],
)
def test_false_ends_are_no_critical_points(value, start: list[float], outcome: str) -> None:
    assert critical_points.find(Function(value), start).outcome == outcome


def test_a_point_beside_a_critical_one_is_unfinished() -> None:
    point = critical_points.examine(WELLS, [0.9, 0.1])
    assert point.outcome == "unfinished"
    np.testing.assert_allclose(
        point.step,
        [-0.9 * (0.81 - 1) * 4 / (12 * 0.81 - 4), -0.1 * (0.01 - 1) * 4 / (12 * 0.01 - 4)],
    )


def test_the_tolerance_of_zero_is_what_the_last_step_moves() -> None:
    """A point that is off by 10⁻⁹ has eigenvalues that are off by H'·10⁻⁹, and not critical curvature."""
    flat = Function(lambda theta: theta[0] ** 3 - theta[1] ** 2)  # curvature 6x at x
    point = critical_points.examine(flat, [1e-9, 0.0])
    assert point.outcome == "critical"
    assert (point.index, point.n_zero) == (1, 1)


def test_curvature_of_cancelling_terms_is_zero_to_their_last_digits() -> None:
    """x³ − 3x² + 3x − 1 = (x − 1)³ has curvature 0 at 1, of which terms of size 6 leave rounding."""
    c = np.sqrt(2.0)  # (x − c)³ − y² in powers of x: no term is exact

    def value(theta: Tensor) -> Tensor:
        x, y = theta
        return x**3 - 3 * c * x**2 + 3 * c**2 * x - c**3 - y**2 * 1e-12

    for start in np.nextafter(c, [0.0, c, 9.0]):
        point = critical_points.examine(Function(value), [start, 0.0])
        assert point.outcome == "critical"
        # The curvature of y, −2·10⁻¹², is far above what is left of x's.
        assert 1e-16 < point.tolerance < 1e-13
        assert (point.index, point.n_zero) == (1, 1)
