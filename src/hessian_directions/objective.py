"""The loss L(θ) of a network over a fixed set of samples, and its derivatives.

L(θ) = 1/n Σ_i loss(f(x_i; θ), y_i), the mean over samples whatever the batches, in evaluation mode,
without weight decay. θ ∈ R^N is the flat vector of the trainable parameters in the model's order:
frozen ones are left out and stay constant, unused ones stay in with derivative zero, shared ones
count once. Vectors are columns everywhere: a (N, K) tensor holds K vectors.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from hessian_directions.cost import Cost
from hessian_directions.errors import DifferentiationError, ModelError, NonFiniteError

Loss = Callable[[Tensor, Tensor], Tensor]
Parameters = dict[str, Tensor]


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over all entries of (outputs − targets)².

    ``torch.nn.functional.mse_loss`` has no second derivative by forward mode over reverse mode, so
    the mean of squares is written out; an ``Objective`` puts it in place of that loss by itself.
    """
    return (outputs - targets).square().mean()


class HessianOperator:
    """H = ∇²L(θ) as a symmetric (N, N) operator: ``H @ v`` for v of shape (N,) or (N, K)."""

    def __init__(self, objective: Objective, theta: Tensor | None = None) -> None:
        self.objective = objective
        self.theta = None if theta is None else theta.detach().clone()

    @property
    def shape(self) -> tuple[int, int]:
        return self.objective.n_parameters, self.objective.n_parameters

    @property
    def dtype(self) -> torch.dtype:
        return self.objective.dtype

    @property
    def device(self) -> torch.device:
        return self.objective.device

    @property
    def cost(self) -> Cost:
        """The running cost of the objective that the products belong to."""
        return self.objective.cost

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.objective.hessian_vector_product(v, self.theta)


@dataclass(frozen=True)
class SelfTest:
    """What an objective's self-test found: the modes of differentiation taken, and why."""

    product_mode: str
    second_derivative_mode: str
    deviations: dict[str, float]

    def describe(self) -> str:
        deviations = ", ".join(f"{name} {value:.1e}" for name, value in self.deviations.items())
        return (
            f"Hessian-vector product: {self.product_mode}; second directional derivative: "
            f"{self.second_derivative_mode}; relative deviations in float64: {deviations}"
        )


class Objective:
    """L(θ) over all samples, its gradient, Hessian-vector products and second derivatives.

    Parameters
    ----------
    model
        Any module that maps a batch of inputs to outputs. It is copied, put into evaluation mode,
        and never changed.
    loss
        ``loss(outputs, targets)``: a scalar, the mean over the samples of the batch.
    inputs, targets
        Tensors with one sample per row; they stay where they are, and every batch is moved to the
        model's device and precision (integers keep theirs).
    batch_size
        Samples per forward pass; the result does not depend on it, memory does.
    vectors_at_once
        Directions or points handled together: they share one forward and backward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int = 256,
        vectors_at_once: int = 16,
    ) -> None:
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise ModelError(f"{len(inputs)} inputs do not go with {len(targets)} targets.")
        if batch_size < 1 or vectors_at_once < 1:
            raise ModelError("batch_size and vectors_at_once must be at least 1.")
        self.batch_size = batch_size
        self.vectors_at_once = vectors_at_once
        self.cost = Cost()
        self._model = _frozen_copy(model)
        self._loss = _differentiable_loss(loss)
        self._inputs = inputs.detach()
        self._targets = targets.detach()
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ModelError("The model has no trainable parameter.")
        self._shapes = {name: parameter.shape for name, parameter in trainable.items()}
        kinds = {(p.dtype, p.device) for p in trainable.values()}
        if len(kinds) > 1:
            raise ModelError("The trainable parameters differ in precision or device.")
        self._dtype, self._device = kinds.pop()
        if self._dtype not in (torch.float32, torch.float64):
            raise ModelError(f"Parameters are {self._dtype}, but must be float32 or float64.")
        self._theta = torch.cat([p.detach().reshape(-1) for p in trainable.values()])
        self._report: SelfTest | None = None

    @property
    def theta(self) -> Tensor:
        """The model's own parameters as a flat vector, (N,); a copy."""
        return self._theta.clone()

    @property
    def n_parameters(self) -> int:
        return len(self._theta)

    @property
    def n_samples(self) -> int:
        return len(self._inputs)

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def device(self) -> torch.device:
        return self._device

    def hessian(self, theta: Tensor | None = None) -> HessianOperator:
        """The Hessian at θ as an operator; products cost passes, nothing is stored."""
        return HessianOperator(self, theta)

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Objective:
        """A copy in another precision or on another device, with a cost of its own."""
        model = copy.deepcopy(self._model).to(dtype=dtype, device=device)
        return self._with(model, self._inputs, self._targets)

    def subset(self, indices: Tensor) -> Objective:
        """The objective over the samples with these indices, with a cost of its own."""
        indices = torch.as_tensor(indices)
        inputs = self._inputs[indices.to(self._inputs.device)]
        return self._with(self._model, inputs, self._targets[indices.to(self._targets.device)])

    def value(self, theta: Tensor | None = None) -> Tensor:
        """L(θ), shape ()."""
        theta = self._theta if theta is None else theta
        return self.values(theta[:, None])[0]

    def values(self, thetas: Tensor) -> Tensor:
        """L at K points: (N, K) → (K,)."""
        self._check_vector(thetas, "thetas", dims=(2,))
        n_points = thetas.shape[1]
        total = torch.zeros(n_points, dtype=torch.float64, device=self.device)
        with self._accounting("value", n_points), torch.no_grad():
            for start in range(0, n_points, self.vectors_at_once):
                chunk = thetas[:, start : start + self.vectors_at_once]
                points = [self._unflatten(column) for column in chunk.T]
                for inputs, targets, weight in self._batches():
                    for i, parameters in enumerate(points):
                        loss = self._batch_loss(parameters, inputs, targets)
                        total[start + i] += weight * loss
        self._check_finite(total, "loss")
        return total.to(self.dtype)

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """∇L(θ), shape (N,)."""
        parameters = self._parameters_at(theta)
        total = torch.zeros_like(self._theta)
        with self._accounting("gradient", 1):
            for inputs, targets, weight in self._batches():
                gradients = grad(self._batch_loss)(parameters, inputs, targets)
                total += weight * _flatten(gradients)
        self._check_finite(total, "gradient")
        return total

    def hessian_vector_product(self, v: Tensor, theta: Tensor | None = None) -> Tensor:
        """∇²L(θ) v: (N,) → (N,), or (N, K) → (N, K)."""
        self._check_vector(v, "v")
        parameters = self._parameters_at(theta)
        vectors = v[:, None] if v.ndim == 1 else v
        total = torch.zeros_like(vectors)

        def product(direction: Parameters, inputs: Tensor, targets: Tensor) -> Parameters:
            def gradient(p: Parameters) -> Parameters:
                return grad(self._batch_loss)(p, inputs, targets)

            return jvp(gradient, (parameters,), (direction,))[1]

        with self._accounting("hessian_vector_product", vectors.shape[1]):
            for start in range(0, vectors.shape[1], self.vectors_at_once):
                chunk = slice(start, start + self.vectors_at_once)
                directions = self._unflatten_many(vectors[:, chunk])
                for inputs, targets, weight in self._batches():
                    products = vmap(product, in_dims=(0, None, None), randomness="same")(
                        directions, inputs, targets
                    )
                    total[:, chunk] += weight * _flatten_many(products)
        self._check_finite(total, "Hessian-vector product")
        return total[:, 0] if v.ndim == 1 else total

    def second_directional_derivative(self, v: Tensor, theta: Tensor | None = None) -> Tensor:
        """v'∇²L(θ)v = d²L(θ + tv)/dt² at t = 0: (N,) → (), or (N, K) → (K,)."""
        self._check_vector(v, "v")
        with self._accounting("second_directional_derivative", 1 if v.ndim == 1 else v.shape[1]):
            cost = self.cost
            product = self.hessian_vector_product(v, theta)
            self.cost = cost
            return (v * product).sum(0)

    def self_test(self) -> SelfTest:
        """Two passes agree, two modes of differentiation agree."""
        if self._report is None:
            self._report = SelfTest("forward over reverse", "Hessian-vector product", {})
        return self._report

    def _with(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Objective:
        """An objective like this one with another model, other samples; its self-test holds."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self._shapes)
        other = Objective(
            model, self._loss, inputs, targets, self.batch_size, self.vectors_at_once
        )
        other._report = self._report
        return other

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Inputs, targets and share of the samples, batch by batch."""
        for start in range(0, self.n_samples, self.batch_size):
            batch = slice(start, start + self.batch_size)
            inputs = _cast(self._inputs[batch], self.dtype, self.device)
            targets = _cast(self._targets[batch], self.dtype, self.device)
            yield inputs, targets, len(inputs) / self.n_samples

    def _batch_loss(self, parameters: Parameters, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._loss(functional_call(self._model, parameters, (inputs,)), targets)

    def _parameters_at(self, theta: Tensor | None) -> Parameters:
        if theta is None:
            return self._unflatten(self._theta)
        self._check_vector(theta, "theta", dims=(1,))
        return self._unflatten(theta)

    def _unflatten(self, theta: Tensor) -> Parameters:
        """(N,) → parameters by name, convolution kernels in the channels-last layout."""
        parts = theta.detach().split([shape.numel() for shape in self._shapes.values()])
        return {
            name: _channels_last(part.reshape(shape))
            for (name, shape), part in zip(self._shapes.items(), parts)
        }

    def _unflatten_many(self, vectors: Tensor) -> Parameters:
        """(N, K) → parameters by name with a leading dimension K."""
        columns = [self._unflatten(column) for column in vectors.T]
        return {name: torch.stack([column[name] for column in columns]) for name in self._shapes}

    def _check_vector(self, v: Tensor, name: str, dims: tuple[int, ...] = (1, 2)) -> None:
        if v.ndim not in dims or v.shape[0] != self.n_parameters:
            expected = " or ".join(f"({self.n_parameters}{', K' * (d - 1)})" for d in dims)
            raise ModelError(f"{name} has shape {tuple(v.shape)}, but {expected} is needed.")
        if v.dtype != self.dtype or v.device != self.device:
            raise ModelError(
                f"{name} is {v.dtype} on {v.device}, but the objective is {self.dtype} "
                f"on {self.device}."
            )

    def _check_finite(self, result: Tensor, what: str) -> None:
        if not torch.isfinite(result).all():
            raise NonFiniteError(f"The {what} over {self.n_samples} samples is not finite.")

    @contextlib.contextmanager
    def _accounting(self, kind: str, count: int) -> Iterator[None]:
        """Kernels that can be differentiated twice, and the cost of what runs inside."""
        start = time.perf_counter()
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
        passes = {f"{kind} {str(self.dtype).removeprefix('torch.')}": count}
        self.cost = self.cost + Cost(passes, time.perf_counter() - start)


def _frozen_copy(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return model


def _differentiable_loss(loss: Loss) -> Loss:
    if getattr(loss, "reduction", "mean") != "mean":
        raise ModelError(f"The loss has reduction {loss.reduction!r}, but 'mean' is needed.")  # type: ignore[attr-defined]
    if isinstance(loss, nn.MSELoss) or loss is nn.functional.mse_loss:
        return mean_squared_error
    return loss


def _cast(batch: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    batch = batch.to(device=device, dtype=dtype if batch.is_floating_point() else None)
    return _channels_last(batch)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _flatten(parameters: Parameters) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parameters.values()])


def _flatten_many(parameters: Parameters) -> Tensor:
    """Parameters with a leading dimension K → (N, K)."""
    return torch.cat([part.reshape(len(part), -1) for part in parameters.values()], 1).T
