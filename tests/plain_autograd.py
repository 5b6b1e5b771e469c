"""What a loss and its derivatives are: PyTorch's plain double autograd, checked by differences.

Shares no code with the library. The network runs as it is, in evaluation mode, over all samples at
once, with its parameters set in place. Where its graph is cut or a custom backward pass is wrong,
PyTorch's gradient is not the slope of the loss; differences in float64 decide.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import torch
from random_networks import Built, Case, build
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

EPSILON = {False: 2.0**-52, True: 2.0**-23}

# Differences of losses and gradients that agree with autograd to the first are right, those that
# agree with each other, and not with autograd to the second, are what autograd should have been.
RIGHT, WRONG = 1e-5, 1e-3


@dataclass(frozen=True)
class Quantity:
    """What a call should return, and how far a right result may be from it.

    Attributes:
        truth: The value, or None where there is none.
        allowed: Absolute, in the norm.
        why: Where there is none: why.
    """

    truth: Tensor | None
    allowed: float
    why: str = ""


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """PyTorch's backward pass has 1/6 in float32: right to 1e-8."""
    y = functional.relu6(x + 3) / 6
    return x.copy_(y) if inplace else y


class PlainAutograd:
    """L, ∇L and ∇²L of a case at a point.

    Args:
        case: The network with its loss and samples; built anew.
        theta: Where; the model's own parameters when None.
    """

    def __init__(self, case: Case, theta: Tensor | None = None) -> None:
        self._case = case
        self._build()
        self.sizes = [p.numel() for p in self._parameters]
        own = torch.cat([p.detach().reshape(-1) for p in self._parameters])
        self.theta = own if theta is None else theta
        self.epsilon = EPSILON[case.single]
        self.largest_output = 0.0

    # --- passes ---------------------------------------------------------------------------------

    def _build(self) -> None:
        self._built: Built = build(self._case)
        self._model: nn.Module = self._built.model.eval()
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]

    @contextmanager
    def _at(self, theta: Tensor) -> Iterator[None]:
        if any(inner.name == "stateful" for outer in self._case.layers for inner in outer.walk()):
            self._build()  # the loss is that of the network as it was handed over
        with torch.no_grad():
            for parameter, part in zip(self._parameters, theta.split(self.sizes)):
                parameter.copy_(part.view_as(parameter))
        with (
            warnings.catch_warnings(action="ignore"),
            torch.compiler.set_stance("force_eager"),
            sdpa_kernel(SDPBackend.MATH),
            torch.enable_grad(),
            mock.patch.object(functional, "hardsigmoid", hardsigmoid),
        ):
            yield

    def _outputs(self) -> tuple[Any, Any]:
        inputs, targets = tree_map(lambda t: t.clone(), (self._built.inputs, self._built.targets))
        return self._call(inputs), targets

    def _call(self, inputs: Any) -> Any:
        if isinstance(inputs, tuple) and not self._case.entry.startswith("whole"):
            return self._model(*inputs)
        if isinstance(inputs, dict) and not self._case.entry.startswith("whole"):
            return self._model(**inputs)
        return self._model(inputs)

    def _loss(self) -> Tensor:
        outputs, targets = self._outputs()
        self.largest_output = float(outputs.detach().abs().nan_to_num(0.0).max())
        return torch.as_tensor(self._built.loss(outputs, targets)).reshape(())

    def loss(self, theta: Tensor) -> float:
        with self._at(theta), torch.no_grad():
            return float(self._loss())

    def _gradient(self, scalar: Tensor, create_graph: bool = False) -> Tensor:
        if not scalar.requires_grad:
            return torch.zeros_like(self.theta)
        parts = torch.autograd.grad(
            scalar, self._parameters, create_graph=create_graph, allow_unused=True
        )
        return torch.cat(
            [
                (torch.zeros_like(p) if part is None else part.to_dense()).reshape(-1)
                for part, p in zip(parts, self._parameters)
            ]
        )

    def slope(self, theta: Tensor) -> Tensor:
        with self._at(theta):
            return self._gradient(self._loss()).detach()

    def _product(self, theta: Tensor, v: Tensor) -> Tensor:
        with self._at(theta):
            slope = self._gradient(self._loss(), create_graph=True)
            return self._gradient(slope @ v).detach()

    # --- what is said of them -------------------------------------------------------------------

    @cached_property
    def error(self) -> str:
        """Why there is no loss at all; empty where there is one."""
        try:
            first, second, third = (self.loss(self.theta) for _ in range(3))
        except Exception as error:
            return f"PyTorch: {type(error).__name__}"
        if first != second or second != third:
            return "random, or with a state"
        return "" if math.isfinite(first) else "not finite"

    @cached_property
    def value(self) -> Quantity:
        if self.error:
            return Quantity(None, 0.0, self.error)
        loss = self.loss(self.theta)
        return Quantity(torch.tensor(loss, dtype=torch.float64), self.rounding(loss, 1e-8))

    def rounding(self, loss: float, relative: float = 0.0) -> float:
        """Of a loss: a few roundings of itself and of the outputs that it is computed from."""
        relative = relative * self.epsilon / EPSILON[False]
        samples = self._case.n_samples if "summed" in self._case.loss else 1
        scale = abs(loss) + self.largest_output * samples
        return relative * abs(loss) + 64 * self.epsilon * scale

    @cached_property
    def gradient(self) -> Quantity:
        if self.error:
            return Quantity(None, 0.0, self.error)
        try:
            slope = self.slope(self.theta)
        except Exception as error:
            return Quantity(None, 0.0, f"no gradient: {type(error).__name__}")
        if not bool(slope.isfinite().all()):
            return Quantity(None, 0.0, "gradient not finite")
        wrong = self._differ(
            lambda theta: torch.tensor([self.loss(theta)], dtype=torch.float64),
            lambda u: (slope @ u).reshape(1),
            float(slope.norm()) / math.sqrt(len(slope)),
        )
        if wrong:
            return Quantity(None, 0.0, wrong)
        return Quantity(slope, self._allowed(slope, self._sensitivity))

    def product(self, V: Tensor) -> Quantity:
        """∇²L V, (N, K)."""
        if self.gradient.truth is None:
            return self.gradient
        V = V.clone()  # what was made in inference mode cannot be saved for a backward pass
        try:
            columns = [self._product(self.theta, v) for v in V.T]
        except Exception as error:
            return Quantity(None, 0.0, f"no second derivative: {type(error).__name__}")
        product = torch.stack(columns, 1)
        if not bool(product.isfinite().all()):
            return Quantity(None, 0.0, "product not finite")
        if wrong := self._products_differ:
            return Quantity(None, 0.0, wrong)
        return Quantity(product, self._allowed(product, self._curving * float(V.norm())))

    @cached_property
    def _products_differ(self) -> str:
        u = self._directions()[0]
        product = self._product(self.theta, u)
        return self._differ(
            self.slope, lambda u: self._product(self.theta, u), float(product.norm())
        )

    def differences_of_losses(self, v: Tensor) -> float:
        """v'∇L from losses alone, to about 1e-5: where PyTorch has no gradient."""
        h = 1e-5 / float(v.norm())
        return (self.loss(self.theta + h * v) - self.loss(self.theta - h * v)) / (2 * h)

    def second_differences(self, V: Tensor) -> Tensor:
        """V'∇²LV from losses alone, to about 1e-4: where PyTorch has no right gradient."""
        h = 1e-3 / float(V.norm(dim=0).max())

        def along(v: Tensor) -> float:
            sides = [self.loss(self.theta + sign * h * v) for sign in (1, 0, -1)]
            return (sides[0] - 2 * sides[1] + sides[2]) / h**2

        k = V.shape[1]
        table = [
            [(along(V[:, i] + V[:, j]) - along(V[:, i] - V[:, j])) / 4 for j in range(k)]
            for i in range(k)
        ]
        return torch.tensor(table, dtype=torch.float64)

    def differences_of_slopes(self, V: Tensor) -> Tensor:
        """∇²L V from gradients, to about 1e-5: where PyTorch has no second derivative."""
        columns = []
        for v in V.T:
            h = 1e-5 / float(v.norm())
            sides = [self.slope(self.theta + sign * h * v) for sign in (1, -1)]
            columns.append((sides[0] - sides[1]) / (2 * h))
        return torch.stack(columns, 1)

    def outputs_are_of_single_samples(self) -> bool:
        """Whether the outputs of a batch are those of its samples one by one."""
        try:
            with self._at(self.theta):
                whole, _ = self._outputs()
                rows = range(self._case.n_samples)
                singly = [
                    self._call(tree_map(lambda t, i=i: t[i : i + 1].clone(), self._built.inputs))
                    for i in rows
                ]
                return torch.allclose(whole, torch.cat(singly), rtol=1e-6, atol=1e-9)
        except Exception:
            return False

    # --- differences ----------------------------------------------------------------------------

    def _directions(self) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(self._case.seed + 1)
        found = torch.randn(3, len(self.theta), generator=generator, dtype=torch.float64)
        return [u / u.norm() for u in found]

    def _differ(
        self, function: Callable[[Tensor], Tensor], along: Callable[[Tensor], Tensor], size: float
    ) -> str:
        """Why a derivative is not that of the function; empty where it is, or where none can tell.

        The steps are short enough to cross no kink of so small a network.
        """
        scale = max(1.0, float(self.theta.norm()))
        smooth = 100 if self._case.single else 1
        for u in self._directions():
            expected, tried = along(u), []
            for step in (1e-5, 1e-6, 1e-4):
                h = step * scale * smooth
                difference = (function(self.theta + h * u) - function(self.theta - h * u)) / (2 * h)
                deviation = float((difference - expected).norm())
                if deviation <= RIGHT * max(size, float(expected.norm())):
                    break
                tried.append(difference)
            else:
                settled = min(float((a - b).norm()) for a, b in zip(tried, [*tried[1:], tried[0]]))
                nearest = min(float((a - expected).norm()) for a in tried)
                largest = max(size, max(float(a.norm()) for a in tried))
                noise = 1e4 * self.epsilon * (self.value.allowed + abs(self.loss(self.theta)))
                if settled < 0.1 * nearest and nearest > WRONG * largest and nearest > noise:
                    return "autograd is wrong"
        return ""

    # --- rounding -------------------------------------------------------------------------------

    def _allowed(self, truth: Tensor, scale: float) -> float:
        """1e-8 of the norm, and the rounding of what it is a difference of."""
        relative = 1e-8 * self.epsilon / EPSILON[False]
        return relative * float(truth.norm()) + 2**12 * self.epsilon * scale

    @cached_property
    def _sensitivity(self) -> float:
        """‖∇ Σ ±outputs‖, the size of what a gradient is a weighted sum of: its rounding is to that,
        even where the weights (probability − label) cancel to nothing.
        """
        return float(self._random_output_slope(self.theta).norm())

    @cached_property
    def _curving(self) -> float:
        """‖∇²L v‖ per ‖v‖ without cancellation: that of ± outputs, and slope times slope."""
        u, h = self._directions()[0], 1e-4
        sides = [self._random_output_slope(self.theta + sign * h * u) for sign in (1, -1)]
        second = float((sides[0] - sides[1]).norm()) / (2 * h)
        return math.sqrt(len(u)) * second + self._sensitivity**2 + self._sensitivity

    def _random_output_slope(self, theta: Tensor) -> Tensor:
        with self._at(theta):
            outputs, _ = self._outputs()
            generator = torch.Generator().manual_seed(0)
            signs = torch.randint(0, 2, outputs.shape, generator=generator) * 2.0 - 1
            count = 1 if "summed" in self._case.loss else len(outputs)
            return self._gradient((outputs * signs).sum() / count).detach()


def derivatives(
    model: nn.Module, total: Callable[[nn.Module], Tensor], V: Tensor | None = None
) -> tuple[float, Tensor, Tensor]:
    """L, ∇L and ∇²L V of a user's own network, `total` being the loss of all samples.

    The dense ∇²L where no V is given.
    """
    return derivatives_in_place(copy.deepcopy(model).eval(), total, V)


def derivatives_in_place(
    model: nn.Module, total: Callable[[nn.Module], Tensor], V: Tensor | None = None
) -> tuple[float, Tensor, Tensor]:
    """The same of a network that cannot be copied."""
    parameters = [p for p in model.parameters() if p.requires_grad and p.numel()]
    with sdpa_kernel(SDPBackend.MATH):
        value = total(model)
        slopes = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
        slope = torch.cat([part.reshape(-1) for part in slopes])
        columns = [
            torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
            for entry in (slope if V is None else V.T.to(slope) @ slope)
        ]
    product = torch.stack([torch.cat([part.reshape(-1) for part in c]) for c in columns], 1)
    return float(value.detach()), slope.detach(), product
