"""By which mode Gauss–Newton products are right: proven on few samples before the first of them.

A product is compared with the referee's, which goes through the network as PyTorch runs it. The
matrix is positive semidefinite where the loss is convex in the outputs; other losses are refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hessian_directions.autodiff.copies import copied
from hessian_directions.autodiff.gauss_newton import GAUSS_NEWTON
from hessian_directions.autodiff.referee import Referee, cast
from hessian_directions.errors import (
    DifferentiationError,
    HessianDirectionsError,
    ModelError,
    first_line,
)
from hessian_directions.objectives.evaluation import Evaluation
from hessian_directions.objectives.samples import representatives
from hessian_directions.objectives.self_test import (
    NEAR,
    TOLERANCES,
    attempt,
    entry_scale,
    random_of_size,
)

# How far from the network lies the point at which its loss is not small: relative to the parameters.
FAR = 0.5

# The most outputs, of all few samples together, between which the curvature of the loss is taken.
MOST_OUTPUTS = 128


@dataclass(frozen=True)
class GaussNewtonTest:
    """What the test of Gauss–Newton products found.

    Attributes:
        mode: How they are computed: "reverse over reverse" or, where that is missing or wrong,
            "plain reverse over reverse" or "forward and reverse mode".
        deviation: Relative, from the referee's product.
        fallbacks: Why a mode was passed over, by mode; empty when the first choice passed.
        n_samples: Samples that it looked at.
    """

    mode: str
    deviation: float
    fallbacks: dict[str, str]
    n_samples: int

    def describe(self) -> str:
        """One line for logs and artifacts."""
        fallbacks = "".join(f"; {mode} not taken: {why}" for mode, why in self.fallbacks.items())
        return (
            f"Gauss–Newton products by {self.mode}; deviation on {self.n_samples} samples "
            f"{self.deviation:.1e}{fallbacks}"
        )


def prove_gauss_newton(evaluation: Evaluation, precision: str) -> GaussNewtonTest:
    """The first mode whose products along random directions are the referee's.

    Raises what `Objective.gauss_newton_test` does.

    Args:
        evaluation: Over all samples; its Hessian-vector products are proven.
        precision: In which the network computes when it is asked for float64.
    """
    if evaluation.loss.takes_model:
        raise ModelError(
            "The Gauss–Newton matrix is of a loss of outputs and targets, but a ModelLoss is one of "
            "network and batch."
        )
    tolerances = TOLERANCES[getattr(torch, precision)]
    dtype = torch.float64 if precision == "float64" else evaluation.dtype
    few = evaluation.samples.take(representatives(evaluation.samples))
    probe = evaluation.to(dtype, None, few, samples_at_once=few.count)
    scale = entry_scale(probe.theta, probe.sizes)
    random = partial(random_of_size, scale)
    near, far = probe.theta + NEAR * random(3), probe.theta + FAR * random(1)
    _refuse_losses_that_are_not_convex(probe, [probe.theta, far], tolerances.exact)
    vectors = torch.stack([random(2), random(4)], 1)
    expected, elsewhere = (_by_referee(probe, point, vectors[:, 0]) for point in (near, far))
    # What is a small difference of large numbers, at the end of training, is rounded as they are.
    rounding = 64 * tolerances.epsilon * float(elsewhere.nan_to_num(0.0).norm())
    size = max(float(expected.norm()), rounding / tolerances.exact) or 1.0
    at, fallbacks = probe.parameters_at(near), dict[str, str]()

    def products(mode: str) -> list[Tensor]:
        """Along the first vector, beside the other one and alone."""
        both = (vectors, vectors[:, :1])
        return [probe.gauss_newton_products(at, V, mode)[:, 0] for V in both]

    for mode in GAUSS_NEWTON:
        found, reason = attempt(partial(products, mode))
        if found is None:
            fallbacks[mode] = reason
            continue
        deviation = max(float((p - expected).norm()) / size for p in found)
        if deviation <= tolerances.exact:
            return GaussNewtonTest(mode, deviation, fallbacks, few.count)
        fallbacks[mode] = f"deviates by {deviation:.1e}"
    reasons = "; ".join(f"{mode}: {why}" for mode, why in fallbacks.items())
    raise DifferentiationError(f"No mode of Gauss–Newton products is right ({reasons}).")


def _by_referee(probe: Evaluation, theta: Tensor, v: Tensor) -> Tensor:
    batches = list(probe.samples.batches(probe.samples.count))
    batches = cast(batches, probe.dtype, probe.device)
    model = copied(probe.model)
    referee = Referee(model, list(probe.shapes), probe.loss.of_original, batches)
    try:
        return referee.gauss_newton_product(theta, v)
    except (torch.OutOfMemoryError, MemoryError, HessianDirectionsError):
        raise
    except Exception as error:
        raise DifferentiationError(
            f"PyTorch has no Gauss–Newton product of this network: {first_line(error)}."
        ) from error


def _refuse_losses_that_are_not_convex(
    probe: Evaluation, points: Sequence[Tensor], allowed: float
) -> None:
    """Raise where the loss is seen to bend down as a function of the outputs at these points."""
    lowest = highest = 0.0
    for point, batch in itertools.product(points, list(probe.batches())):
        leaves = {name: p.requires_grad_() for name, p in probe.parameters_at(point).items()}
        outputs, loss = probe.outputs_and_loss(leaves, batch)
        outputs = [z.detach() for z in outputs]
        _refuse_a_loss_that_reads(list(leaves.values()), loss(outputs))
        curvature = _curvature(outputs, loss)
        if bool(curvature.isfinite().all()):
            values = torch.linalg.eigvalsh(curvature)
            lowest = min(lowest, float(values[0]))
            highest = max(highest, float(values.abs().max()))
    probe.restore()
    if lowest < -allowed * highest:
        raise ModelError(
            "The Gauss–Newton matrix is of a loss that is convex in the network's outputs, but this "
            f"one has curvatures from {lowest:.2g} to {highest:.2g} there."
        )


def _refuse_a_loss_that_reads(parameters: Sequence[Tensor], loss: Tensor) -> None:
    """Raise where a loss of given outputs depends on parameters, as a network's own method may."""
    if loss.requires_grad and any(
        slope is not None for slope in torch.autograd.grad(loss, parameters, allow_unused=True)
    ):
        raise ModelError(
            "The Gauss–Newton matrix is of a loss of outputs and targets, but this one reads "
            "parameters of the network, too."
        )


def _curvature(outputs: Sequence[Tensor], loss: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
    """∇²ℓ with respect to the outputs, (m, m): a random choice of m where they are many."""
    flat = torch.cat([z.reshape(-1) for z in outputs])
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0), device="cpu")
    chosen = order[:MOST_OUTPUTS].to(flat.device)

    def of_chosen(values: Tensor) -> Tensor:
        parts = flat.index_copy(0, chosen, values).split([z.numel() for z in outputs])
        return loss([part.view_as(z) for part, z in zip(parts, outputs, strict=True)])

    return torch.autograd.functional.hessian(of_chosen, flat[chosen])
