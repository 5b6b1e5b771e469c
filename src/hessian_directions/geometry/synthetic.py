"""Synthetic saddles whose curvature is known in closed form.

    L(θ) = ½ θ_{2n+1} (Σ_{i≤ñ} θ_i² − Σ_{ñ<i≤2n} θ_i²)   at   θ* = (0, …, 0, 1)

has L(θ*) = 0, a vanishing gradient and a diagonal Hessian with ñ eigenvalues +1, 2n − ñ eigenvalues
−1 and one 0, so tr H = 2(ñ − n) and ‖H‖_F = √(2n): a critical point whose mean curvature is
positive, zero or negative as one likes, although it is a saddle for every 0 < ñ < 2n. (A
reconstruction of the example of Böttcher and Wheeler 2024.) Its fourth derivatives vanish.
"""

import math

import torch
from torch import Tensor, nn

from hessian_directions.errors import ArgumentError
from hessian_directions.operators import DiagonalOperator


def eigenvalues(n: int, n_positive: int) -> Tensor:
    """All 2n + 1 eigenvalues of the Hessian at θ*, ascending, float64."""
    return hessian(n, n_positive).diagonal.sort().values


def trace(n: int, n_positive: int) -> float:
    """tr H = 2(ñ − n) at θ*."""
    return 2.0 * (n_positive - n)


def frobenius_norm(n: int) -> float:
    """‖H‖_F = √(2n) at θ*, whatever ñ."""
    return math.sqrt(2 * n)


def hessian(n: int, n_positive: int) -> DiagonalOperator:
    """Hessian at θ*, float64: an operator of shape (2n + 1, 2n + 1) that costs one product."""
    return DiagonalOperator(torch.cat([_signs(n, n_positive), torch.zeros(1, dtype=torch.float64)]))


class SaddleModel(nn.Module):
    """The saddle as a network whose output is its loss, so that `Objective` serves it too.

    Every input gives the same output L(θ), so any input serves, `inputs()` say, and the loss of
    the objective is the mean of the outputs, `mean_of_outputs`.

    Args:
        n: Half the number of quadratic terms; the model has 2n + 1 parameters.
        n_positive: ñ, the number of positive ones, 0 ≤ ñ ≤ 2n.

    Raises:
        ArgumentError: n < 1, or ñ is not between 0 and 2n.
    """

    signs: Tensor

    def __init__(self, n: int, n_positive: int) -> None:
        super().__init__()
        self.register_buffer("signs", _signs(n, n_positive))
        theta = torch.zeros(2 * n + 1, dtype=torch.float64)
        theta[-1] = 1.0
        self.theta = nn.Parameter(theta)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, …) inputs, which do not matter -> (B,) outputs, all equal to L(θ)."""
        loss = 0.5 * self.theta[-1] * (self.signs * self.theta[:-1] ** 2).sum()
        return loss.expand(inputs.shape[0])


def inputs() -> Tensor:
    """One input for a `SaddleModel`, (1, 1), float64; it serves as the target too."""
    return torch.zeros(1, 1, dtype=torch.float64)


def mean_of_outputs(outputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of a model whose outputs are already losses: their mean; targets are ignored."""
    return outputs.mean()


def _signs(n: int, n_positive: int) -> Tensor:
    if n < 1 or not 0 <= n_positive <= 2 * n:
        raise ArgumentError(
            f"a saddle needs n ≥ 1 and 0 ≤ ñ ≤ 2n, not n = {n} and ñ = {n_positive}."
        )
    signs = torch.full((2 * n,), -1.0, dtype=torch.float64)
    signs[:n_positive] = 1.0
    return signs
