"""What kinks of the loss add to its second differences, and differences without it.

Proposition. Let L be put together from smooth operations and from operations y = g(z) that are
continuous and piecewise smooth (ReLU, the largest of several). Let ℓ(x) = L(θ + xv), let s be the
derivative of z along v and δ = ∂L/∂y, both at θ, and let x_k be the places where z + xs meets a
kink of g, at which g's slope along s jumps by j_k|s|. With J_k = δ j_k |s| and

    K_ε(x) = max(ε − |x|, 0)/ε²,

the second difference D(ε) = (ℓ(ε) − 2ℓ(0) + ℓ(−ε))/ε² is

    D(ε) = v'∇²L(θ)v + Σ_k J_k K_ε(x_k) + R,

v'∇²L(θ)v being the derivative beside the kinks, that of automatic differentiation.

Sketch: ε²D(ε) is the integral of ε²K_ε against ℓ'' as a measure, by parts. Its smooth part gives
ℓ''(0) + O(ε), as K_ε integrates to 1. Its atoms are the jumps of ℓ'. That of a kink is J_k, and its
place x_k, up to a relative O(ε), which the curvature of z along v and the change of δ and s up to
x_k make.

Assumed: s ≠ 0, and what is crossed before x_k changes δ and s of this unit little. Then a kink
within ε leaves a rest of the order of J_k/ε times ε, that is, one that stays bounded, and kinks
within ε are O(ε) in number: R has mean O(ε) and root mean square O(√ε). It is not small where one
kink switches a large part of the network. Beside R stands the truncation O(ε²) of smooth losses.

Where kinks have the density ρ(x) along the line and the mean jump m(x), both continuous, the excess
tends to ρ(0) m(0): its mean does not vanish with the step. J has the sign of δ j_k; of the kinks
of a trained network about half are negative.

On curvature and piecewise linear activations: Duersch et al. 2024 (arXiv:2411.16914), Dauphin et
al. 2024 (arXiv:2401.10809).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hessian_directions.arrays import as_tensor
from hessian_directions.objectives.objective import Objective
from hessian_directions.traces.finite_differences import in_float64, parabola


def kernel(places: Tensor, step: float) -> Tensor:
    """K_ε(x) = max(ε − |x|, 0)/ε²: what a jump of 1 at x adds to a second difference of step ε."""
    return (step - places.abs()).clamp_min(0) / step**2


def predicted_excess(
    objective: Objective, directions: ArrayLike | Tensor, steps: Sequence[float]
) -> Tensor:
    """Σ_k J_k K_ε(x_k), what kinks add to second differences, to first order.

    Args:
        objective: In any precision; float64 is computed in.
        directions: (N, K).
        steps: ε, S of them, in units of the directions.

    Returns:
        (K, S) float64, in units of v'Hv; zeros where the loss has no kinks. Cost: one pass in
        forward mode a direction and one gradient for every `vectors_at_once` directions, whatever S.

    Raises:
        KinkError: The loss has kinks of a kind that is not known (`autodiff.kinks`).
    """
    return survey(objective, directions, steps, edges=(0.0, 1.0)).excess.T


def corrected_differences(objective: Objective, V: Tensor, step: float, centre: Tensor) -> Tensor:
    """Second differences of the loss less what kinks add to them: D(ε) − Σ_k J_k K_ε(x_k).

    A step is chosen by what is left: kinks, which tell differences to keep to large steps, do not
    count, and the rest R wants a small one. Arguments as for `parabola`.
    """
    excess = predicted_excess(objective, V, [step])[:, 0]
    return parabola(objective, V, step, centre) - excess


@dataclass
class Crossed:
    """The kinks that second differences cross along K directions, for S steps.

    Attributes:
        excess: (S, K), Σ J_k K_ε(x_k).
        count: (2, S, K) kinks with |x_k| < ε, of negative and of positive jumps.
        jump: (2, S, K) sums of their jumps, in units of the slope of ℓ.
        sizes: (2, S, B) kinks of all directions by log₁₀|J|: how many lie between two edges, those
            outside in the first and in the last bin.
        nearest: (K,) the smallest |x_k|; infinite where no kink lies within the largest step.
    """

    excess: Tensor
    count: Tensor
    jump: Tensor
    sizes: Tensor
    nearest: Tensor


def survey(
    objective: Objective,
    directions: ArrayLike | Tensor,
    steps: Sequence[float],
    edges: Sequence[float],
) -> Crossed:
    """Which kinks second differences cross, and how large and of which sign their jumps are.

    Other arguments as for `predicted_excess`.

    Args:
        edges: B + 1 rising edges of the bins of log₁₀|J|.

    Returns:
        All numbers in float64. Cost and errors as for `predicted_excess`.
    """
    objective = in_float64(objective)
    V = as_tensor(directions, torch.float64, objective.device)
    k, s, n_bins = V.shape[1], len(steps), len(edges) - 1
    inner = V.new_tensor(edges[1:-1])
    found = Crossed(
        excess=V.new_zeros(s, k),
        count=V.new_zeros(2, s, k),
        jump=V.new_zeros(2, s, k),
        sizes=V.new_zeros(2, s, n_bins),
        nearest=V.new_full((k,), torch.inf),
    )

    def add(k: int, places: Tensor, jumps: Tensor) -> None:
        distances = places.abs()
        bins = torch.bucketize(jumps.abs().log10(), inner)
        for i, step in enumerate(steps):
            found.excess[i, k] += jumps @ kernel(places, step)
            for sign, chosen in enumerate((jumps < 0, jumps > 0)):
                met = chosen & (distances < step)
                found.count[sign, i, k] += met.sum()
                found.jump[sign, i, k] += jumps[met].sum()
                found.sizes[sign, i] += torch.bincount(bins[met], minlength=n_bins)
        if len(places):
            found.nearest[k] = torch.minimum(found.nearest[k], distances.min())

    if objective.kinks():
        objective.kinks_along(V, max(steps), add)
    return found
