"""The loss L(θ) of a network over a fixed set of samples, and its derivatives.

L(θ) = 1/n Σ_i loss(f(x_i; θ), y_i), the mean over samples whatever the batches, in evaluation mode,
without weight decay. θ ∈ R^N is the flat vector of the trainable parameters in the model's order:
frozen ones are left out and stay constant, unused ones stay in with derivative zero, shared ones
count once. Vectors are columns everywhere: a (N, K) tensor holds K vectors.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd

from hessian_directions.cost import Cost
from hessian_directions.differentiation import (
    PRODUCTS,
    SECOND_DERIVATIVES,
    Parameters,
    gradient,
    stack,
)
from hessian_directions.errors import ModelError, NonFiniteError
from hessian_directions.self_test import PRODUCT, SelfTest, run_self_test

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over all entries of (outputs − targets)².

    `torch.nn.functional.mse_loss` has no second derivative by forward mode over reverse mode, so
    the mean of squares is written out; an `Objective` puts it in place of that loss by itself.
    """
    return (outputs - targets).square().mean()


class HessianOperator:
    """H = ∇²L(θ) as a symmetric (N, N) operator: `H @ v` for v of shape (N,) or (N, K)."""

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


class Objective:
    """L(θ) over all samples, its gradient, Hessian-vector products and second derivatives.

    Networks without convolution layers are vectorised over vectors and points: their many small
    matrix products become few large ones.

    Memory, in numbers of the objective's precision and beside the model and the data, is at most as
    follows for K vectors, m = min(K, vectors_at_once), b samples per pass and a numbers in all the
    results of one sample's forward pass (a b m in place of a b where vectorised):

    - `values`: (2 m + 2) N + a b,
    - `gradient`: 4 N + 2 a b,
    - `hessian_vector_product`: (2 K + 3 m + 6) N + 4 a b,
    - `second_directional_derivative`: (2 m + 2) N + 2 (m + 1) a b, vectorised or not.

    Args:
        model: Any module that maps a batch of inputs to outputs. It is copied, put into evaluation
            mode, and never changed. Parameters are float32 or float64.
        loss: `loss(outputs, targets)`, a scalar, the mean over the samples of the batch.
        inputs: One sample per row. They stay where they are; every batch is moved to the model's
            device and precision (integers stay integers).
        targets: One target per row, treated alike.
        batch_size: The most samples per pass; on the CPU fewer are taken at once where that keeps
            them in its cache. Results depend on it by rounding alone; memory does.
        vectors_at_once: Vectors or points handled together: they share data and passes.

    Attributes:
        cost: Passes and seconds so far.

    Raises:
        ModelError: There is nothing trainable, or in another precision or on several devices; the
            numbers of inputs and targets differ; the loss has another reduction than the mean.
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
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        kinds = {(p.dtype, p.device) for p in trainable.values()}
        if len(kinds) != 1:
            raise ModelError(
                "The trainable parameters must be of one precision on one device, and at least one."
            )
        self._dtype, self._device = kinds.pop()
        if self._dtype not in (torch.float32, torch.float64):
            raise ModelError(f"Parameters are {self._dtype}, but must be float32 or float64.")
        self.batch_size = batch_size
        self.vectors_at_once = vectors_at_once
        self.cost = Cost()
        self._model = _evaluation_copy(model)
        self._loss = _twice_differentiable(loss)
        self._samples_at_once: int | None = None
        self._inputs = inputs.detach()
        self._targets = targets.detach()
        self._shapes = {name: parameter.shape for name, parameter in trainable.items()}
        self._places = _places(self._model, self._shapes)
        self._theta = torch.cat([p.detach().reshape(-1) for p in trainable.values()])
        # Many small matrix products gain from vectorisation over directions; convolutions lose
        # their memory layout in it and take the directions one after the other.
        self._vectorised = not any(isinstance(m, _ConvNd) for m in self._model.modules())
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

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Objective:
        """A copy in another precision or on another device, with a cost of its own."""
        loss = self._loss
        if isinstance(loss, nn.Module):
            loss = copy.deepcopy(loss).to(dtype=dtype, device=device)
        model = copy.deepcopy(self._model).to(dtype=dtype, device=device)
        return self._with(model, loss, self._inputs, self._targets)

    def subset(self, indices: Tensor | Sequence[int]) -> Objective:
        """The objective over the samples with these indices, with a cost of its own."""
        indices = torch.as_tensor(indices)
        inputs = self._inputs[indices.to(self._inputs.device)]
        targets = self._targets[indices.to(self._targets.device)]
        return self._with(self._model, self._loss, inputs, targets)

    def _with(self, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> Objective:
        """An objective like this one; the self-test of the one holds for the other."""
        trainable = copy.deepcopy(model)
        for name, parameter in trainable.named_parameters():
            parameter.requires_grad_(name in self._shapes)
        other = Objective(trainable, loss, inputs, targets, self.batch_size, self.vectors_at_once)
        other._report, other._vectorised = self._report, self._vectorised
        return other

    # --- value and derivatives ------------------------------------------------------------------

    def value(self, theta: Tensor | None = None) -> Tensor:
        """L(θ), shape ()."""
        theta = self._theta if theta is None else theta
        self._check_vector(theta, "theta", (1,))
        return self.values(theta[:, None])[0]

    def values(self, thetas: Tensor) -> Tensor:
        """L at K points: (N, K) → (K,).

        Raises NonFiniteError, naming the first such point, where the loss is infinite or NaN.
        """
        self._check_vector(thetas, "thetas", (2,))
        with self._pass("value", thetas.shape[1]), torch.no_grad():
            result = torch.cat(
                [self._values(points) for points in thetas.split(self.vectors_at_once, 1)]
            )
        for i, loss in enumerate(result.tolist()):
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"The loss over {self.n_samples} samples is {loss} at point {i + 1} of "
                    f"{len(result)}."
                )
        return result

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """∇L(θ), shape (N,)."""
        parameters = self._parameters_at(theta)
        with self._pass("gradient", 1):
            result = self._gradient(parameters)
        return self._finite(result, "gradient")

    def hessian_vector_product(self, v: Tensor, theta: Tensor | None = None) -> Tensor:
        """∇²L(θ) v: (N,) → (N,), or (N, K) → (N, K).

        Differentiates the gradient along v (Pearlmutter 1994), by default in reverse mode over
        reverse mode: all vectors of a call share one forward and one backward pass per batch.
        """
        self._check_vector(v, "v")
        parameters = self._parameters_at(theta)
        mode = self.self_test().product_mode
        vectors = v.reshape(self.n_parameters, -1)
        with self._pass("hessian_vector_product", vectors.shape[1]):
            result = torch.cat(
                [
                    self._products(parameters, part, mode)
                    for part in vectors.split(self.vectors_at_once, 1)
                ],
                1,
            )
        return self._finite(result, "Hessian-vector product").reshape(v.shape)

    def second_directional_derivative(self, v: Tensor, theta: Tensor | None = None) -> Tensor:
        """v'∇²L(θ)v = d²L(θ + tv)/dt² at t = 0: (N,) → (), or (N, K) → (K,).

        Exact, by default in Taylor mode: without a Hessian-vector product and without a backward
        pass. At a kink of the network (ReLU) it is the derivative beside the kink.
        """
        self._check_vector(v, "v")
        parameters = self._parameters_at(theta)
        report = self.self_test()
        vectors = v.reshape(self.n_parameters, -1)
        with self._pass("second_directional_derivative", vectors.shape[1]):
            result = torch.cat(
                [
                    self._second_derivatives(parameters, part, report.second_derivative_mode)
                    if report.second_derivative_mode != PRODUCT
                    else (part * self._products(parameters, part, report.product_mode)).sum(0)
                    for part in vectors.split(self.vectors_at_once, 1)
                ]
            )
        return self._finite(result, "second directional derivative").reshape(v.shape[1:])

    def hessian(self, theta: Tensor | None = None) -> HessianOperator:
        """The Hessian at θ as an operator; its products cost passes, nothing is stored."""
        return HessianOperator(self, theta)

    def self_test(self) -> SelfTest:
        """Find the modes of differentiation that are right for this network, and take them.

        What is tested stands in `self_test.run_self_test`. It runs once, by itself before the first
        second derivative at the latest, on six samples in float64; its passes are not part of
        `cost`. Subsets and copies share the result.

        Raises:
            ModelError: Two passes, or two ways to split the samples into batches, disagree.
            DifferentiationError: No mode of Hessian-vector products is right.
        """
        if self._report is None:
            chosen = torch.linspace(0, self.n_samples - 1, min(self.n_samples, 6)).long()
            probe = self.subset(chosen).to(dtype=torch.float64)
            with kernels(self.device):
                self._report = run_self_test(probe)
            self._vectorised = probe._vectorised
        return self._report

    # --- one chunk of vectors, all batches ------------------------------------------------------

    def _values(self, points: Tensor) -> Tensor:
        columns = self._unflatten(points)
        total = points.new_zeros(len(columns), dtype=torch.float64)
        for batch in self._batches():
            loss = partial(self._share_of_loss, batch=batch)
            if self._vectorised and len(columns) > 1:
                try:
                    total += vmap(loss)(stack(columns))
                    continue
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError:  # the network branches on its data, for instance
                    self._vectorised = False
            total += torch.stack([loss(column) for column in columns])
        return total.to(self.dtype)

    def _gradient(self, parameters: Parameters) -> Tensor:
        total = self._zeros(1)
        for batch in self._batches():
            _add(total[0], gradient(partial(self._share_of_loss, batch=batch), parameters))
        return _flatten(total)[:, 0]

    def _products(self, parameters: Parameters, vectors: Tensor, mode: str) -> Tensor:
        directions = self._unflatten(vectors)
        total = self._zeros(len(directions))
        for batch in self._batches():
            loss = partial(self._share_of_loss, batch=batch)
            products = PRODUCTS[mode](loss, parameters, directions, self._vectorised)
            for part, product in zip(total, products):
                _add(part, product)
        return _flatten(total)

    def _second_derivatives(self, parameters: Parameters, vectors: Tensor, mode: str) -> Tensor:
        directions = self._unflatten(vectors)
        total = vectors.new_zeros(len(directions), dtype=torch.float64)
        derivatives = SECOND_DERIVATIVES[mode]
        for batch in self._batches():
            loss = partial(self._share_of_loss, batch=batch)
            if self._vectorised and len(directions) > 1:
                along = partial(derivatives, loss, parameters)
                total += vmap(lambda v, along=along: along([v])[0])(stack(directions))
            else:
                total += derivatives(loss, parameters, directions)
        return total.to(self.dtype)

    def _batches(self) -> Iterator[Batch]:
        if self._samples_at_once is None:
            self._samples_at_once = self._choose_samples_at_once()
        for start in range(0, self.n_samples, self._samples_at_once):
            part = slice(start, start + self._samples_at_once)
            yield self._cast(self._inputs[part]), self._cast(self._targets[part])

    def _choose_samples_at_once(self) -> int:
        """On the CPU, as many samples as keep the largest result of a layer in the cache.

        Tuned on a ResNet-20 with two cores: with 64 images of 32 × 32 at once a forward pass takes
        0.23 ms an image, with 256 a third more; in float64, whose kernels unfold the images, 2.5 ms
        with 8 and 5.4 ms with 32.
        """
        if self.device.type != "cpu":
            return self.batch_size
        few, largest = self._cast(self._inputs[:2]), 1

        def watch(module: nn.Module, inputs: object, output: object) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.numel() // len(few))

        handles = [m.register_forward_hook(watch) for m in self._model.modules()]
        try:
            with kernels(self.device), torch.no_grad():
                self._model(few)
        finally:
            for handle in handles:
                handle.remove()
        numbers = 2**20 if self.dtype == torch.float32 else 2**17
        return min(self.batch_size, max(8, numbers // largest))

    def _cast(self, batch: Tensor) -> Tensor:
        dtype = self.dtype if batch.is_floating_point() else None
        return self._laid_out(batch.to(device=self.device, dtype=dtype))

    def _laid_out(self, x: Tensor) -> Tensor:
        """The memory layout that convolutions are fastest in: ResNet-56 in float32 takes 0.46 s in
        channels-last and 3.1 s in the default layout on a CPU, in float64 it is the slower one.
        """
        channels_last = x.ndim == 4 and self.dtype == torch.float32 and self.device.type == "cpu"
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x

    def _share_of_loss(self, parameters: Parameters, batch: Batch) -> Tensor:
        """The batch's part of the mean over all samples."""
        inputs, targets = batch
        everywhere = {place: parameters[name] for place, name in self._places.items()}
        outputs = functional_call(self._model, everywhere, (inputs,), tie_weights=False)
        return self._loss(outputs, targets) * (len(inputs) / self.n_samples)

    # --- flat vectors ---------------------------------------------------------------------------

    def _parameters_at(self, theta: Tensor | None) -> Parameters:
        theta = self._theta if theta is None else theta
        self._check_vector(theta, "theta", (1,))
        return self._unflatten(theta[:, None])[0]

    def _unflatten(self, vectors: Tensor) -> list[Parameters]:
        """(N, K) → K times parameters by name."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        return [
            {
                name: self._laid_out(part.view(shape))
                for (name, shape), part in zip(self._shapes.items(), row.split(sizes))
            }
            for row in vectors.detach().T.contiguous()
        ]

    def _zeros(self, count: int) -> list[Parameters]:
        return self._unflatten(self._theta.new_zeros(self.n_parameters, count))

    def _check_vector(self, v: Tensor, name: str, dims: tuple[int, ...] = (1, 2)) -> None:
        n = self.n_parameters
        if v.ndim not in dims or v.shape[0] != n or v.numel() == 0:
            expected = " or ".join({1: f"({n},)", 2: f"({n}, K)"}[d] for d in dims)
            raise ModelError(f"{name} has shape {tuple(v.shape)}, but {expected} is needed.")
        if v.dtype != self.dtype or v.device != self.device:
            raise ModelError(
                f"{name} is {v.dtype} on {v.device}, but the objective is {self.dtype} on "
                f"{self.device}."
            )

    def _finite(self, result: Tensor, what: str) -> Tensor:
        if not torch.isfinite(result).all():
            raise NonFiniteError(f"The {what} over {self.n_samples} samples is not finite.")
        return result

    @contextlib.contextmanager
    def _pass(self, kind: str, count: int) -> Iterator[None]:
        """`count` passes over all samples: their kernels and their cost."""
        start = time.perf_counter()
        with kernels(self.device):
            yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # else the time of the launches alone
        passes = {f"{kind} {str(self.dtype).removeprefix('torch.')}": count}
        self.cost = self.cost + Cost(passes, time.perf_counter() - start)


@contextlib.contextmanager
def kernels(device: torch.device) -> Iterator[None]:
    """Kernels that have second derivatives, and that are as precise as their number format."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    formats = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    precisions = [part.fp32_precision for part in formats]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        if device.type == "cuda":
            for part in formats:
                part.fp32_precision = "ieee"  # TensorFloat-32 keeps three digits
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        if device.type == "cuda":
            for part, precision in zip(formats, precisions):
                part.fp32_precision = precision


# --- small helpers ------------------------------------------------------------------------------


def _evaluation_copy(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return model


def _places(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Every place that holds one of these parameters → its name; shared modules are one place.

    `functional_call` finds shared parameters itself, but leaves a shared module changed behind.
    """
    parameters = dict(model.named_parameters())
    name_of = {id(parameters[name]): name for name in names}
    return {
        f"{prefix}.{attribute}" if prefix else attribute: name_of[id(parameter)]
        for prefix, module in model.named_modules()
        for attribute, parameter in module._parameters.items()
        if id(parameter) in name_of
    }


def _twice_differentiable(loss: Loss) -> Loss:
    reduction = getattr(loss, "reduction", "mean")
    if reduction != "mean":
        raise ModelError(f"The loss has reduction {reduction!r}, but 'mean' is needed.")
    if isinstance(loss, nn.MSELoss) or loss is nn.functional.mse_loss:
        return mean_squared_error
    return loss


def _add(total: Parameters, part: Parameters) -> None:
    for name, tensor in total.items():
        tensor.add_(part[name])


def _flatten(columns: Sequence[Parameters]) -> Tensor:
    """K times parameters by name → (N, K)."""
    rows = [torch.cat([part.reshape(-1) for part in column.values()]) for column in columns]
    return torch.stack(rows, 1)
