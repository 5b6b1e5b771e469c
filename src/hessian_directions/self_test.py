"""Which modes of differentiation are right for a network: found out before anything is estimated.

Modes can be missing (PyTorch 2.13: no forward mode through the gradient of SiLU, no second backward
pass of hardsigmoid) and silently wrong (forward mode over forward mode through layer, instance and
batch normalisation), so every network is tested on a few samples in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hessian_directions.differentiation import PRODUCTS, SECOND_DERIVATIVES, Parameters
from hessian_directions.errors import DifferentiationError, ModelError, NonFiniteError

if TYPE_CHECKING:
    from hessian_directions.objective import Objective

# How a second directional derivative is named that is computed as v'(Hv).
PRODUCT = "Hessian-vector product"

# Relative deviations allowed in float64: between two exact ways, and between an exact way and
# central differences of gradients.
_TOLERANCE = 1e-8
_DIFFERENCE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class SelfTest:
    """What an objective's self-test found.

    Attributes:
        product_mode: How Hessian-vector products are computed: "reverse over reverse" or, where
            that is missing or wrong, "forward over reverse".
        second_derivative_mode: How second directional derivatives are computed: "Taylor mode" or,
            where that is missing or wrong, "nested forward mode" or "Hessian-vector product".
        deviations: Relative deviations, by what was compared.
        fallbacks: Why a mode was passed over, by mode; empty when the first choices passed.
    """

    product_mode: str
    second_derivative_mode: str
    deviations: dict[str, float]
    fallbacks: dict[str, str]

    def describe(self) -> str:
        """One line for logs and artifacts."""
        deviations = ", ".join(f"{name} {value:.1e}" for name, value in self.deviations.items())
        fallbacks = "".join(f"; {mode} not taken: {why}" for mode, why in self.fallbacks.items())
        return (
            f"Hessian-vector products by {self.product_mode}, second directional derivatives by "
            f"{self.second_derivative_mode}; deviations in float64: {deviations}{fallbacks}"
        )


def run_self_test(probe: Objective) -> SelfTest:
    """Test an objective in float64 with few samples, which is used up by it.

    Two passes must agree, and so must one batch and two ragged ones. Then, along two random
    directions u and v, the first mode of Hessian-vector products is taken that

    - is symmetric, u'(Hv) = v'(Hu), and
    - agrees in u'(Hu) and v'(Hv) with a mode of second directional derivatives (which is then taken
      too), or else with central differences of the gradient (then v'(Hv) is taken).

    Agreement along random directions leaves room for an antisymmetric error alone, and symmetry
    leaves none.

    Raises:
        ModelError: Two passes disagree, or two ways to split the samples into batches.
        NonFiniteError: The gradient is not finite.
        DifferentiationError: No mode of Hessian-vector products is right.
    """
    parameters = probe._parameters_at(None)
    deviations = _repeatability(probe, parameters)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(probe.n_parameters, 2, generator=generator, dtype=torch.float64)
    vectors = (vectors / vectors.norm(dim=0)).to(probe.device)
    fallbacks: dict[str, str] = {}
    for mode in PRODUCTS:
        product = partial(probe._products, parameters, vectors, mode)
        products = _attempt(probe, product, mode, fallbacks)
        if products is None:
            continue
        cross = vectors.T @ products
        asymmetry = abs(float(cross[0, 1] - cross[1, 0])) / _size(cross)
        deviations[f"symmetry of {mode}"] = asymmetry
        if asymmetry > _TOLERANCE:
            fallbacks[mode] = f"is not symmetric by {asymmetry:.1e}"
            continue
        for second_mode in SECOND_DERIVATIVES:
            second = partial(probe._second_derivatives, parameters, vectors, second_mode)
            curvatures = _attempt(probe, second, second_mode, fallbacks)
            if curvatures is None:
                continue
            deviation = float((curvatures - cross.diagonal()).norm()) / _size(cross)
            deviations[f"{second_mode} and {mode}"] = deviation
            if deviation <= _TOLERANCE:
                fallbacks.pop(second_mode, None)
                return SelfTest(mode, second_mode, deviations, fallbacks)
            fallbacks[second_mode] = f"deviates from {mode} by {deviation:.1e}"
        deviation = _deviation(products, _gradient_differences(probe, vectors))
        deviations[f"differences of gradients and {mode}"] = deviation
        if deviation <= _DIFFERENCE_TOLERANCE:
            return SelfTest(mode, PRODUCT, deviations, fallbacks)
        fallbacks[mode] = f"deviates from differences of gradients by {deviation:.1e}"
    reasons = "; ".join(f"{mode}: {why}" for mode, why in fallbacks.items())
    raise DifferentiationError(f"No mode of Hessian-vector products is right ({reasons}).")


def _repeatability(probe: Objective, parameters: Parameters) -> dict[str, float]:
    """Deviations between two passes, and between one batch and two ragged ones."""
    probe._samples_at_once = probe.n_samples
    slope = probe._gradient(parameters)
    if not torch.isfinite(slope).all():
        raise NonFiniteError(f"The gradient over {probe.n_samples} samples is not finite.")
    deviations = {"two passes": _deviation(slope, probe._gradient(parameters))}
    if deviations["two passes"] > _TOLERANCE:
        raise ModelError(
            "Two passes over the same samples disagree: the network is random in evaluation mode."
        )
    probe._samples_at_once = max(1, 2 * probe.n_samples // 3)
    deviations["two batches"] = _deviation(slope, probe._gradient(parameters))
    if deviations["two batches"] > _TOLERANCE:
        raise ModelError(
            "The loss depends on how the samples are split into batches: it is not a mean over "
            "samples, or the network mixes the samples of a batch."
        )
    probe._samples_at_once = probe.n_samples
    return deviations


def _attempt(
    probe: Objective, function: Callable[[], Tensor], mode: str, fallbacks: dict[str, str]
) -> Tensor | None:
    """The result, unvectorised where vectorisation fails; None where the mode is missing."""
    try:
        try:
            return function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            if not probe._vectorised:
                raise
            probe._vectorised = False
            return function()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        fallbacks[mode] = str(error).splitlines()[0][:160]
        return None


def _gradient_differences(probe: Objective, vectors: Tensor) -> Tensor:
    """Central differences of the gradient along unit vectors, (N, K)."""
    theta = probe.theta
    step = 1e-6 * max(1.0, float(theta.norm()))
    columns = []
    for v in vectors.T:
        ahead, behind = (
            probe._gradient(probe._parameters_at(theta + sign * step * v)) for sign in (1, -1)
        )
        columns.append((ahead - behind) / (2 * step))
    return torch.stack(columns, 1)


def _size(a: Tensor) -> float:
    """‖a‖, or 1 where it is zero."""
    return float(a.norm()) or 1.0


def _deviation(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ relative to the larger of the two."""
    return float((a - b).norm()) / _size(torch.maximum(a.abs(), b.abs()))
