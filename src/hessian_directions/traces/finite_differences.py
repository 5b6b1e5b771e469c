"""Curvature from loss values alone: second differences, fitted parabolas, and the choice of a step.

Differences divide rounding errors by ε², so the loss is evaluated in float64, on an upcast copy
where the objective has float32.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hessian_directions.arrays import as_tensor
from hessian_directions.cost import Cost
from hessian_directions.errors import ArgumentError, NonFiniteError, require_positive
from hessian_directions.geometry.directions import lengths
from hessian_directions.objectives.objective import Objective
from hessian_directions.operators import require_objective

# Second differences of an objective along (N, K) directions, of step ε, given L(θ): (K,).
Difference = Callable[[Objective, Tensor, float, Tensor], Tensor]

# Directions along which a step is chosen.
PILOTS = 4

# Between points that measure noise, in units of the weights' length: far above the rounding of the
# weights, far below any curvature.
SPACING = {torch.float64: 1e-11, torch.float32: 1e-5}


class LossCurvature:
    """Second derivative of the parabola fitted to loss values at `n_points` points along v.

    See `parabola`; the centre is evaluated once.

    Args:
        step: ε, in units of each direction; None chooses it by `choose_step` along the first four
            directions that come.
        n_points: Odd number of points, at least 3.
        without_kinks: Second differences that are taken in place of the parabola, as for
            `choose_step`.
    """

    dtype = torch.float64

    def __init__(
        self,
        objective: Objective,
        step: float | None = None,
        n_points: int = 3,
        without_kinks: Difference | None = None,
    ) -> None:
        if n_points < 3 or n_points % 2 == 0:
            raise ArgumentError(f"a parabola is fitted to 3, 5, 7, … points, not {n_points}.")
        if step is not None:
            require_positive("step", step)
        self._objective = in_float64(objective)
        self.step = math.nan if step is None else step
        self.n_parameters = objective.n_parameters
        self.device = objective.device
        self._centre: Tensor | None = None
        self._n_points = n_points
        self._without_kinks = without_kinks

    @property
    def cost(self) -> Cost:
        return self._objective.cost

    def __call__(self, V: Tensor) -> Tensor:
        if self._centre is None:
            self._centre = self._objective.value()
        if math.isnan(self.step):
            pilots = V[:, :PILOTS]
            self.step = choose_step(self._objective, pilots, without_kinks=self._without_kinks)
        if self._without_kinks is not None:
            return self._without_kinks(self._objective, V, self.step, self._centre)
        return parabola(self._objective, V, self.step, self._centre, self._n_points)

    def rounding(self) -> float:
        """What the rounding of L(θ) adds to all differences alike, about."""
        centre = 0.0 if self._centre is None else abs(float(self._centre))
        return centre * torch.finfo(self.dtype).eps / self.step**2


def parabola(
    objective: Objective, V: Tensor, step: float, centre: Tensor, n_points: int = 3
) -> Tensor:
    """Second derivatives of parabolas fitted to the loss along (N, K) directions: (K,).

    The points x = −ε … ε are equidistant. With three of them it is the second difference
    (L(θ+εv) − 2L(θ) + L(θ−εv))/ε².

    Args:
        objective: In float64.
        step: ε, in units of the directions.
        centre: L(θ).
        n_points: Odd; the centre is one of them.
    """
    half = n_points // 2
    points = torch.arange(-half, half + 1, dtype=torch.float64, device="cpu") / half
    spread = points.square() - points.square().mean()
    # Second derivative = Σ weight·L: least squares in x², whose weights sum to zero.
    weights = 2 * spread / spread.square().sum()
    theta, total = objective.theta[:, None], torch.zeros_like(V[0])
    for point, weight in zip(points.tolist(), weights.tolist()):
        if point != 0:
            total += weight * (objective.values(theta + point * step * V) - centre)
    return total / step**2


def in_float64(objective: Objective) -> Objective:
    """The objective itself where it has float64, otherwise an upcast copy with its own cost."""
    require_objective(objective)
    return objective if objective.dtype == torch.float64 else objective.to(dtype=torch.float64)


def choose_step(
    objective: Objective,
    directions: ArrayLike | Tensor,
    cap: float | None = None,
    without_kinks: Difference | None = None,
) -> float:
    """Step ε at which second differences of the loss err least along these directions.

    With D(ε) = (L(θ+εv) − 2L(θ) + L(θ−εv))/ε² the relative error of a step is estimated as

        e(ε) = (√6·σ/ε² + (100/99)·rms_v |D(ε) − D(ε/10)|) / rms_v |D(ε/10)|,

    rounding plus truncation to leading order, where σ is the measured noise of the loss
    (`loss_noise`). ε runs down from the cap by powers of ten. The first step with e < 10⁻⁶ is
    taken, the cap itself where the fourth derivative vanishes. Otherwise, once D has settled
    (e < ½), e must keep falling, a hundredfold where the loss is smooth: where it does not even
    halve, rounding or kinks rule, and the best step so far is taken. So kinks do not drive ε to the
    tiny steps that cross none of them, where the mean over a few directions misses their rare but
    large contributions. If D never settles (curvature below the noise) the smallest error in
    absolute terms decides. Nothing is divided by a difference of fourth order.

    Args:
        objective: Objective; upcast to float64 where needed.
        directions: (N, P) pilot directions; four are enough.
        cap: Largest ε; 0.1·‖θ‖/rms‖v‖ when None: a tenth of the weights' length, beyond which
            nobody would speak of a curvature at θ.
        without_kinks: D(ε) along the pilots of objective, pilots, ε and L(θ), from which what kinks
            add was taken off. Then rounding alone ends the search.

    Returns:
        ε in units of the directions. Cost: one D, 2P forward passes, a step, about three to six
        steps, and ten more.

    Raises:
        NonFiniteError: The loss is not finite at any step.
    """
    objective = in_float64(objective)
    V = as_tensor(directions, torch.float64, objective.device)
    centre = objective.value()
    noise = loss_noise(objective, V[:, 0])

    def second_difference(step: float) -> Tensor | None:
        try:
            return (without_kinks or parabola)(objective, V, step, centre)
        except NonFiniteError:  # too far out
            return None

    step = 0.1 * _reach(objective.theta[:, None], V) if cap is None else cap
    coarse = second_difference(step)
    tried: list[tuple[float, float, float]] = []  # relative error, absolute error, step
    for _ in range(16):  # sixteen powers of ten reach the rounding of θ itself
        fine, rounding = second_difference(step / 10), math.sqrt(6) * noise / step**2
        if coarse is not None and fine is not None:
            error, curvature = rounding + 100 / 99 * _rms(coarse - fine), _rms(fine)
            relative = error / curvature if curvature > 0 else math.inf
            best = min(tried, default=(math.inf, math.inf, step))[0]
            tried.append((relative, error, step))
            if error <= 1e-6 * curvature:
                return step
            if without_kinks is None and best < 0.5 and relative > best / 2:
                break
            if rounding > min(error for _, error, _ in tried):
                break
        step, coarse = step / 10, fine
    if not tried:
        raise NonFiniteError("The loss is not finite around the weights, at no step tried.")
    relative, _, step = min(tried)
    return step if relative < 0.5 else min(tried, key=lambda rung: rung[1])[2]


def loss_noise(objective: Objective, direction: ArrayLike | Tensor) -> float:
    """Standard deviation σ of the rounding errors of L(θ), from values at nine nearby points.

    Third differences Δ³ over points too close for the loss to change smoothly between them are
    pure noise, of variance 20σ²; σ² is the median of (Δ³)²/20, which a kink between two of the
    points does not move (after Moré and Wild 2011, "Estimating Computational Noise"; the mean
    there). Never below the rounding of the value itself, |L|·ε_machine/√12.

    Args:
        objective: Objective, whose noise in its own precision is measured.
        direction: (N,), the line on which the points lie.

    Returns:
        σ in units of the loss. Cost: nine forward passes.
    """
    theta = objective.theta[:, None]
    v = as_tensor(direction, theta.dtype, theta.device)[:, None]
    spacing = SPACING[theta.dtype] * _reach(theta, v)
    values = objective.values(theta + spacing * torch.arange(9.0, device="cpu").to(theta) * v)
    third = values.diff(n=3)
    # The median of a χ²₁ variable is 0.455 of its mean.
    measured = math.sqrt(float(third.square().median()) / (20 * 0.455))
    return max(measured, float(values.abs().max()) * torch.finfo(values.dtype).eps / math.sqrt(12))


def _reach(theta: Tensor, V: Tensor) -> float:
    """‖θ‖/rms‖v‖, the step along V that is as long as the weights.

    Weights whose root mean square is below 10⁻³ count as that large: at θ = 0 their length says
    nothing about the scale on which the loss varies.
    """
    length = math.hypot(float(lengths(theta)), 1e-3 * math.sqrt(theta.shape[0]))
    return length / _rms(lengths(V))


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def second_differences(objective: Objective, vectors: Tensor, steps: np.ndarray) -> np.ndarray:
    """(L(θ+εv) − 2L(θ) + L(θ−εv))/ε² along each of (N, K) vectors at each of S steps: (K, S)."""
    objective = in_float64(objective)
    centre = objective.value()
    differences = [parabola(objective, vectors.double(), step, centre) for step in steps]
    return torch.stack(differences, dim=1).cpu().numpy()
