"""Critical points of a loss: parameters θ* at which its gradient vanishes, whatever their index.

A minimiser never ends at a saddle. Here ∇L(θ) = 0 is solved by Levenberg and Marquardt's method on
½‖∇L‖², whose Jacobian is the dense Hessian, and the last digits come from Newton's method. That
descent has two kinds of false ends, which are told apart from critical points: points with ∇L ≠ 0
where ‖∇L‖² is stationary since H∇L = 0, and paths to infinity along which units saturate and ‖∇L‖
fades without vanishing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import optimize
from torch import Tensor

from hessian_directions.arrays import Floats
from hessian_directions.errors import NonFiniteError
from hessian_directions.operators import Operator

Outcome = Literal["critical", "stationary", "escaping", "unfinished"]

# Eigenvalues below this multiple of ‖H‖₂ are not divided by in a Newton step.
CUTOFF = 1e-12
# A step that is longer than this part of 1 + ‖θ‖ leads elsewhere: no critical point is here.
LONGEST_STEP = 1e-6
# In place of a loss, or of the entries of a gradient, that is not finite: a search turns back.
FAR = 1e100
# Gradients of a search; steps that are taken need a Hessian each.
MAX_EVALUATIONS = 100


class Differentiable(Protocol):
    """A loss with gradient and Hessian at any θ: an `Objective`, or a function of one's own."""

    def gradient(self, theta: Tensor) -> Tensor: ...

    def hessian(self, theta: Tensor) -> Operator: ...


@dataclass(frozen=True)
class CriticalPoint:
    """Where a search ended, and what the Hessian is there.

    Attributes:
        theta: (N,) parameters.
        gradient_norm: ‖∇L(θ)‖.
        step: (N,) the Newton step −H⁺∇L that would follow: to first order the way to the critical
            point.
        hessian: (N, N) dense Hessian at θ.
        eigenvalues: (N,) ascending.
        tolerance: Eigenvalues up to this size count as zero. By how much they move on the way that
            is left and with the last digits of θ: ‖H(θ + 4·step + 4ε·σ|θ|) − H(θ)‖₂ with random
            signs σ; and not less than what rounding leaves of a sum of N terms, N·ε·‖H‖₂.
        outcome: "critical"; "stationary": ‖∇L‖² does not fall any more, but ∇L is not zero;
            "escaping": ∇L is, but the Newton step is long; "unfinished": neither.
    """

    theta: Floats
    gradient_norm: float
    step: Floats
    hessian: Floats
    eigenvalues: Floats
    tolerance: float
    outcome: Outcome

    @property
    def index(self) -> int:
        """Number of negative eigenvalues."""
        return int((self.eigenvalues < -self.tolerance).sum())

    @property
    def n_zero(self) -> int:
        """Number of eigenvalues that are zero to the accuracy of the point."""
        return int((np.abs(self.eigenvalues) <= self.tolerance).sum())


def find(loss: Differentiable, start: ArrayLike, tolerance: float = 1e-8) -> CriticalPoint:
    """The critical point that Levenberg and Marquardt's method reaches from a start.

    Args:
        loss: Twice differentiable in float64, on the CPU; N up to about 2,000, since each step
            needs the dense Hessian, N products, and a factorisation of it.
        start: (N,) parameters.
        tolerance: Largest ‖∇L‖ at a critical point.

    Returns:
        CriticalPoint; read its outcome before anything else.
    """

    def gradient(theta: Floats) -> Floats:
        try:
            return loss.gradient(torch.from_numpy(theta)).numpy()
        except NonFiniteError:
            # A trial step may lead too far: what is longer than at the last point is not taken.
            return np.full_like(theta, FAR)

    found = optimize.least_squares(
        gradient,
        np.asarray(start, dtype=np.float64),
        lambda theta: dense_hessian(loss, theta),
        method="lm",
        # As far as rounding lets it.
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
        max_nfev=MAX_EVALUATIONS,
    )
    point = examine(loss, found.x, tolerance)
    # Close by, Newton's method doubles the digits; what does not profit from it stays as it is.
    for _ in range(3):
        try:
            following = examine(loss, point.theta + point.step, tolerance)
        except NonFiniteError:
            break
        if following.gradient_norm >= point.gradient_norm:
            break
        point = following
    return point


def examine(loss: Differentiable, theta: ArrayLike, tolerance: float = 1e-8) -> CriticalPoint:
    """The Hessian and its eigenvalues at θ, and whether θ is a critical point.

    Arguments as for `find`.
    """
    theta = np.asarray(theta, dtype=np.float64)
    gradient = loss.gradient(torch.from_numpy(theta)).numpy()
    hessian = dense_hessian(loss, theta)
    values, vectors = np.linalg.eigh(hessian)
    largest = float(np.abs(values).max())
    # What is zero to rounding is left out of the step.
    kept = np.abs(values) > CUTOFF * largest
    step = -vectors[:, kept] @ ((vectors[:, kept].T @ gradient) / values[kept])
    gradient_norm = float(np.linalg.norm(gradient))
    epsilon = np.finfo(np.float64).eps
    rounding, moved = len(theta) * epsilon * largest, 0.0
    outcome: Outcome = "unfinished"
    if gradient_norm <= tolerance:
        is_near = np.linalg.norm(step) <= LONGEST_STEP * (1 + np.linalg.norm(theta))
        outcome = "critical" if is_near else "escaping"
    elif np.linalg.norm(hessian @ gradient) <= 1e-6 * largest * gradient_norm:
        outcome = "stationary"
    if outcome == "critical":
        # Where curvature vanishes Newton's steps fall short: by half at a root of order two. A flat
        # point's Hessian is what is left of terms that cancel: their last digits are far above its own.
        signs = np.random.default_rng(0).choice([-1.0, 1.0], len(theta))
        beyond = dense_hessian(loss, theta + 4 * step + 4 * epsilon * signs * np.abs(theta))
        moved = float(np.linalg.norm(beyond - hessian, 2))
    return CriticalPoint(theta, gradient_norm, step, hessian, values, max(moved, rounding), outcome)


def dense_hessian(loss: Differentiable, theta: Floats) -> Floats:
    """The Hessian at θ as a symmetric (N, N) matrix, by N products."""
    identity = torch.eye(len(theta), dtype=torch.float64)
    hessian = (loss.hessian(torch.from_numpy(theta)) @ identity).numpy()
    return np.asarray((hessian + hessian.T) / 2)
