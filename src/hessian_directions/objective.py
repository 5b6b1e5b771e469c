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
from dataclasses import dataclass
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
from hessian_directions.errors import DifferentiationError, ModelError, NonFiniteError

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]

# How a second directional derivative is named that is computed as v'(Hv).
_PRODUCT = "Hessian-vector product"


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


@dataclass(frozen=True)
class SelfTest:
    """What an objective's self-test found on a few samples in float64.

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
        batch_size: The most samples per forward pass; on the CPU images are taken in smaller pieces
            that stay in its cache. Results depend on it by rounding alone; memory does.
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
        self._samples_at_once = _samples_at_once(inputs, batch_size, self._dtype, self._device)
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
                    if report.second_derivative_mode != _PRODUCT
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

        On a few samples in float64: two passes agree; one batch and two ragged ones agree; two
        modes of Hessian-vector products agree with each other, or one of them with differences of
        gradients; and the second directional derivative agrees with v'(Hv). The first of the modes
        that agree is taken, and what was passed over is named. It runs once, by itself before the
        first second derivative at the latest; its own passes are not part of `cost`.

        Raises ModelError where passes or batches disagree, DifferentiationError where no mode of
        Hessian-vector products agrees with anything.
        """
        if self._report is None:
            chosen = torch.linspace(0, self.n_samples - 1, min(self.n_samples, 6)).long()
            probe = self.subset(chosen).to(dtype=torch.float64)
            with _kernels(self.device):
                self._report = _test(probe)
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
        for start in range(0, self.n_samples, self._samples_at_once):
            part = slice(start, start + self._samples_at_once)
            yield self._cast(self._inputs[part]), self._cast(self._targets[part])

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
        with _kernels(self.device):
            yield
        passes = {f"{kind} {str(self.dtype).removeprefix('torch.')}": count}
        self.cost = self.cost + Cost(passes, time.perf_counter() - start)


@contextlib.contextmanager
def _kernels(device: torch.device) -> Iterator[None]:
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


# --- self-test ----------------------------------------------------------------------------------

# Between two exact ways in float64, and between an exact way and differences of gradients.
_TOLERANCE = 1e-8
_DIFFERENCE_TOLERANCE = 1e-4


def _test(probe: Objective) -> SelfTest:
    """The self-test on an objective in float64 with few samples."""
    probe._samples_at_once = probe.n_samples
    parameters = probe._parameters_at(None)
    slope = probe._gradient(parameters)
    if not torch.isfinite(slope).all():
        raise NonFiniteError(f"The gradient over {probe.n_samples} samples is not finite.")
    deviations = {"two passes": _deviation(slope, probe._gradient(parameters))}
    probe._samples_at_once = max(1, 2 * probe.n_samples // 3)
    deviations["two batches"] = _deviation(slope, probe._gradient(parameters))
    probe._samples_at_once = probe.n_samples
    if deviations["two passes"] > _TOLERANCE:
        raise ModelError(
            "Two passes over the same samples disagree: the network is random in evaluation mode."
        )
    if deviations["two batches"] > _TOLERANCE:
        raise ModelError(
            "The loss depends on how the samples are split into batches: it is not a mean over "
            "samples, or the network mixes the samples of a batch."
        )
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(probe.n_parameters, 2, generator=generator, dtype=torch.float64)
    vectors = vectors.to(probe.device) / vectors.norm(dim=0).to(probe.device)
    fallbacks: dict[str, str] = {}
    product_mode, products = _product_mode(probe, parameters, vectors, deviations, fallbacks)
    second_mode = _second_derivative_mode(
        probe, parameters, vectors, products, deviations, fallbacks
    )
    return SelfTest(product_mode, second_mode, deviations, fallbacks)


def _product_mode(
    probe: Objective,
    parameters: Parameters,
    vectors: Tensor,
    deviations: dict[str, float],
    fallbacks: dict[str, str],
) -> tuple[str, Tensor]:
    results = {}
    for mode in PRODUCTS:
        result = _attempt(probe, fallbacks, mode, probe._products, parameters, vectors, mode)
        if result is not None:
            results[mode] = result
    if len(results) == 2:
        deviation = _deviation(*results.values())
        deviations["forward over reverse and reverse over reverse"] = deviation
        if deviation <= _TOLERANCE:
            mode = next(iter(PRODUCTS))
            return mode, results[mode]
    differences = _gradient_differences(probe, vectors)
    for mode, result in results.items():
        deviation = _deviation(result, differences)
        deviations[f"{mode} and differences of gradients"] = deviation
        if deviation <= _DIFFERENCE_TOLERANCE:
            return mode, result
        fallbacks[mode] = "deviates from differences of gradients"
    reasons = "; ".join(f"{mode} {why}" for mode, why in fallbacks.items())
    raise DifferentiationError(f"No mode of Hessian-vector products is right: {reasons}.")


def _second_derivative_mode(
    probe: Objective,
    parameters: Parameters,
    vectors: Tensor,
    products: Tensor,
    deviations: dict[str, float],
    fallbacks: dict[str, str],
) -> str:
    exact = (vectors * products).sum(0)
    for mode in SECOND_DERIVATIVES:
        result = _attempt(
            probe, fallbacks, mode, probe._second_derivatives, parameters, vectors, mode
        )
        if result is None:
            continue
        deviation = _deviation(result, exact)
        deviations[f"{mode} and v'(Hv)"] = deviation
        if deviation <= _TOLERANCE:
            return mode
        fallbacks[mode] = f"deviates from v'(Hv) by {deviation:.1e}"
    return _PRODUCT


def _attempt(
    probe: Objective,
    fallbacks: dict[str, str],
    mode: str,
    function: Callable[..., Tensor],
    *arguments: object,
) -> Tensor | None:
    """The result, unvectorised where vectorisation fails; None where the mode is missing."""
    try:
        try:
            return function(*arguments)
        except RuntimeError:
            if not probe._vectorised:
                raise
            probe._vectorised = False
            return function(*arguments)
    except (RuntimeError, NotImplementedError) as error:
        fallbacks[mode] = str(error).splitlines()[0][:160]
        return None


def _gradient_differences(probe: Objective, vectors: Tensor) -> Tensor:
    """Central differences of the gradient along unit vectors, (N, K)."""
    step = 1e-6 * max(1.0, float(probe._theta.norm()))
    columns = []
    for v in vectors.T:
        ahead, behind = (
            probe._gradient(probe._parameters_at(probe._theta + sign * step * v))
            for sign in (1, -1)
        )
        columns.append((ahead - behind) / (2 * step))
    return torch.stack(columns, 1)


def _deviation(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ relative to the larger of the two; zero where both are zero."""
    scale = max(float(a.norm()), float(b.norm()))
    return float((a - b).norm()) / scale if scale else 0.0


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


# Tuned on a ResNet-20 with two cores: with 64 images of 32 × 32 at once a forward pass takes 0.23 ms
# an image, with 256 a third more; in float64, whose kernels unfold the images, 2.5 ms with 8 and
# 5.4 ms with 32.
_PIXELS_AT_ONCE = {torch.float32: 65_536, torch.float64: 8_192}


def _samples_at_once(
    inputs: Tensor, batch_size: int, dtype: torch.dtype, device: torch.device
) -> int:
    if device.type != "cpu" or inputs.ndim != 4:
        return batch_size
    pixels = inputs.shape[2] * inputs.shape[3]
    return max(1, min(batch_size, _PIXELS_AT_ONCE[dtype] // pixels))


def _add(total: Parameters, part: Parameters) -> None:
    for name, tensor in total.items():
        tensor.add_(part[name])


def _flatten(columns: Sequence[Parameters]) -> Tensor:
    """K times parameters by name → (N, K)."""
    rows = [torch.cat([part.reshape(-1) for part in column.values()]) for column in columns]
    return torch.stack(rows, 1)
