"""The loss L(θ) of a network over a fixed set of samples, and its derivatives.

L(θ) is what the loss gives for all samples at once, whatever the batches: for most losses
1/n Σ_i loss(f(x_i; θ), y_i), in evaluation mode, without weight decay. θ ∈ R^N is the flat vector
of the trainable parameters in the model's order: frozen ones are left out and stay constant, unused
ones stay in with derivative zero, shared ones count once. Vectors are columns everywhere: a (N, K)
tensor holds K vectors.
"""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves, tree_map

from hessian_directions.arrays import as_tensor
from hessian_directions.autodiff.double_backward import DoubleBackward, FoldingError
from hessian_directions.autodiff.modes import (
    FAST,
    PRODUCTS,
    SECOND_DERIVATIVES,
    Parameters,
    gradient,
    stack,
)
from hessian_directions.autodiff.program import Program, owned_by, private_copy, references
from hessian_directions.autodiff.referee import Referee, cast
from hessian_directions.cost import Cost
from hessian_directions.errors import DataError, HessianDirectionsError, ModelError, NonFiniteError
from hessian_directions.objectives.losses import BatchLoss, Loss
from hessian_directions.objectives.samples import Batch, Samples, collect, representatives
from hessian_directions.objectives.self_test import PRODUCT, Proof, SelfTest, depends_on_batches


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

    def __matmul__(self, v: ArrayLike | Tensor) -> Tensor:
        return self.objective.hessian_vector_product(v, self.theta)


class Objective:
    """L(θ) over all samples, its gradient, Hessian-vector products and second derivatives.

    Before its first number of any kind an objective proves on a few samples that it computes what
    the network does when PyTorch runs it (`self_test`): it is right, or it raises. What a network
    keeps from pass to pass has no part in the loss: every pass begins with it as it was given.

    Networks without convolution layers are vectorised over vectors and points: their many small
    matrix products become few large ones.

    Memory, in numbers of the objective's precision and beside the model and the data, is at most as
    follows for K vectors, m = min(K, vectors_at_once), b samples per pass and a numbers in all the
    results of one sample's forward pass (a b m in place of a b where vectorised):

    - `values`: (2 m + 2) N + a b,
    - `gradient`: 4 N + 2 a b,
    - `hessian_vector_product`: (2 K + 3 m + 6) N + 4 a b,
    - `second_directional_derivative`: (2 m + 3) N + 2 (m + 1) a b, vectorised or not.

    Args:
        model: Any module that maps a batch of inputs to outputs. It is copied, put into evaluation
            mode, and never changed. Parameters are float32 or float64. Wrappers for several devices
            and for compilation are taken off.
        loss: `loss(outputs, targets)`, a scalar: the mean over the samples of a batch, or their sum
            where its reduction is "sum". Class weights and targets to be ignored are those of
            PyTorch's cross entropy and negative log-likelihood, as modules or with options given by
            `functools.partial`; the loss of all samples is then their weighted mean.
        data: With `targets`, the inputs, one sample per row: a tensor, a NumPy array or a list, or
            a tuple or dictionary of arrays, which become the arguments of the network's `forward`.
            Without, a DataLoader, a Dataset or any other iterable of batches (inputs, targets).
            Every batch is moved to the model's device and precision (integers stay integers).
        targets: One target per row.
        batch_size: The most samples per pass; on the CPU fewer are taken at once where that keeps
            them in its cache. Results depend on it by rounding alone; memory does.
        vectors_at_once: Vectors or points handled together: they share data and passes.
        in_memory: True keeps one pass over the batches of `data` in memory, whatever it brought (a
            loader may shuffle or augment); False reads them anew in every pass, and refuses a pass
            that brings other samples. None keeps them unless they take more than a quarter of the
            machine's memory.

    Attributes:
        cost: Passes and seconds so far; without those of the self-test.

    Raises:
        ModelError: There is nothing trainable, or in another precision or on several devices; the
            network cannot be copied; the loss has another reduction; there are not as many inputs
            as targets.
        DataError: There are no samples, or the loss ignores them all.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        targets: Any = None,
        batch_size: int = 256,
        vectors_at_once: int = 16,
        in_memory: bool | None = None,
    ) -> None:
        if batch_size < 1 or vectors_at_once < 1:
            raise ModelError("batch_size and vectors_at_once must be at least 1.")
        with torch.inference_mode(False), torch.no_grad():
            twin = private_copy(model)
            names = [name for name, p in twin.named_parameters() if p.requires_grad]
            if references(loss, owned_by(model)):
                raise ModelError(
                    "The loss refers to the network itself, of which a copy is studied: return "
                    "what it needs from the network."
                )
            batch_loss = BatchLoss(loss)
            samples = collect(data, targets, batch_loss.weight, batch_size, in_memory)
            self._set_up(twin, names, batch_loss, samples, batch_size, vectors_at_once)
            foreign = [weakref.ref(parameter) for parameter in model.parameters()]
            self._proof = self._new_proof(twin, foreign)

    def _set_up(
        self,
        model: nn.Module,
        names: Sequence[str],
        loss: BatchLoss,
        samples: Samples,
        batch_size: int,
        vectors_at_once: int,
    ) -> None:
        parameters = dict(model.named_parameters())
        trainable = {name: parameters[name] for name in names}
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
        # Not run itself: what a network keeps of a pass is in no copy of it.
        self._pristine = model
        self._program = Program(model, names)
        self._loss = loss.to(self._dtype, self._device)
        self._samples = samples
        self._samples_at_once: int | None = None
        self._shapes = {name: parameter.shape for name, parameter in trainable.items()}
        self._theta = torch.cat([p.detach().reshape(-1) for p in trainable.values()]).clone()
        self._weight = samples.weight(self._loss.weight)
        if not self._weight:
            raise DataError("The loss ignores every target.")
        # Many small matrix products gain from vectorisation over directions; convolutions lose
        # their memory layout in it and take the directions one after the other.
        self._vectorised = not any(isinstance(m, _ConvNd) for m in model.modules())

    def _new_proof(self, model: nn.Module, foreign: Iterable[weakref.ref[Any]]) -> Proof:
        """The self-test over samples that represent all, which are read when it begins."""
        chosen = representatives(self._samples)
        taken: list[Samples] = []

        def samples() -> Samples:
            if not taken:
                taken.append(self._samples.take(chosen))
            return taken[0]

        def probe(dtype: torch.dtype) -> Objective:
            few = self._with(copy.deepcopy(model).to(dtype), self._loss, samples())
            few._samples_at_once = few.n_samples
            return few

        def referee(dtype: torch.dtype) -> Referee:
            batch = next(samples().batches(len(chosen)))
            loss = self._loss.to(dtype, self.device).original
            twin = copy.deepcopy(model).to(dtype)
            return Referee(twin, list(self._shapes), loss, cast(batch, dtype, self.device), foreign)

        def splits() -> tuple[float, float] | None:
            if self._loss.is_known or self.n_samples <= len(chosen):
                return None
            sizes = [len(tree_leaves(targets)[0]) for _, targets in self._batches()]
            return self._value_in_batches(max(sizes)), self._value_in_batches(max(sizes) * 2 // 3)

        return Proof(probe, referee, self.dtype, splits)

    def _value_in_batches(self, size: int) -> float:
        """The loss of all samples, at most half of them at once."""
        parameters, total = self._parameters_at(None), 0.0
        for batch in self._batches(max(1, min(size, self.n_samples // 2))):
            total += float(self._share_of_loss(parameters, batch).detach())
        self._program.restore()
        return total

    @property
    def theta(self) -> Tensor:
        """The model's own parameters as a flat vector, (N,); a copy."""
        return self._theta.clone()

    @property
    def network(self) -> nn.Module:
        """The copy of the network that is studied; it is not to be changed."""
        return self._pristine

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters that θ consists of by name, in θ's order; a copy."""
        return self._unflatten(self._theta[:, None])[0]

    @property
    def n_parameters(self) -> int:
        return len(self._theta)

    @property
    def n_samples(self) -> int:
        return self._samples.count

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
        model = copy.deepcopy(self._pristine).to(dtype=dtype, device=device)
        return self._with(model, self._loss, self._samples)

    def subset(self, indices: ArrayLike | Tensor) -> Objective:
        """The objective over the samples with these indices, with a cost of its own.

        A mask of all samples chooses those where it is true.
        """
        chosen = as_tensor(list(indices) if isinstance(indices, range) else indices).reshape(-1)
        if chosen.dtype == torch.bool and len(chosen) == self.n_samples:
            chosen = chosen.nonzero().reshape(-1)
        if chosen.dtype not in (torch.int64, torch.int32) or not len(chosen):
            raise DataError("A subset needs indices of samples, or a mask of all of them.")
        return self._with(self._pristine, self._loss, self._samples.take(chosen.tolist()))

    def _with(self, model: nn.Module, loss: BatchLoss, samples: Samples) -> Objective:
        """An objective like this one; the self-test of the one holds for the other."""
        other = copy.copy(self)
        other._set_up(
            model, list(self._shapes), loss, samples, self.batch_size, self.vectors_at_once
        )
        return other

    # --- value and derivatives ------------------------------------------------------------------

    def value(self, theta: ArrayLike | Tensor | None = None) -> Tensor:
        """L(θ), shape ()."""
        theta = self._theta if theta is None else self._vectors(theta, "theta", (1,))
        return self.values(theta[:, None])[0]

    def values(self, thetas: ArrayLike | Tensor) -> Tensor:
        """L at K points: (N, K) → (K,).

        Raises NonFiniteError, naming the first such point, where the loss is infinite or NaN.
        """
        thetas = self._vectors(thetas, "thetas", (2,))
        self._prove(Proof.of_values)
        with self._pass("value", thetas.shape[1]):
            result = torch.cat(
                [self._values(points) for points in thetas.split(self.vectors_at_once, 1)]
            )
        for i, loss in enumerate(result.tolist()):
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"The loss over {self.n_samples} samples is {loss} at point {i + 1} of "
                    f"{len(result)}."
                )
        if not self._proof.compared:
            raise ModelError(
                "The loss is not finite at the network's own parameters, so that nothing tells "
                "whether it is right at others: give a network whose loss is finite."
            )
        return result

    def accuracy(self, theta: ArrayLike | Tensor | None = None) -> float:
        """Share of the samples whose largest output is their class; NaN where there are none.

        Outputs (B, classes, …) with integers (B, …) as targets have classes; targets that are none
        of them are left out.
        """
        parameters, right, counted = self._parameters_at(theta), 0, 0
        self._prove(Proof.of_values)
        # No parameter asks for a graph; a network that differentiates by itself may.
        with self._pass("value", 1), torch.enable_grad():
            for inputs, targets in self._batches():
                outputs = self._program(parameters, tree_map(Tensor.clone, inputs))
                if not _are_classes(outputs, targets):
                    return math.nan
                known = (targets >= 0) & (targets < outputs.shape[1])
                right += int((outputs.argmax(1) == targets)[known].sum())
                counted += int(known.sum())
        self._program.restore()
        return right / counted if counted else math.nan

    def gradient(self, theta: ArrayLike | Tensor | None = None) -> Tensor:
        """∇L(θ), shape (N,)."""
        parameters = self._parameters_at(theta)
        self._prove(Proof.of_gradients)
        with self._pass("gradient", 1):
            result = self._gradient(parameters)
        return self._finite(result, "gradient")

    def hessian_vector_product(
        self, v: ArrayLike | Tensor, theta: ArrayLike | Tensor | None = None
    ) -> Tensor:
        """∇²L(θ) v: (N,) → (N,), or (N, K) → (N, K).

        Differentiates the gradient along v (Pearlmutter 1994), by default in reverse mode over
        reverse mode: all vectors of a call share one forward and one backward pass per batch.
        """
        v = self._vectors(v, "v")
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

    def second_directional_derivative(
        self, v: ArrayLike | Tensor, theta: ArrayLike | Tensor | None = None
    ) -> Tensor:
        """v'∇²L(θ)v = d²L(θ + tv)/dt² at t = 0: (N,) → (), or (N, K) → (K,).

        Exact, by default in Taylor mode: without a Hessian-vector product and without a backward
        pass. At a kink of the network (ReLU) it is the derivative beside the kink.
        """
        v = self._vectors(v, "v")
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

    def hessian(self, theta: ArrayLike | Tensor | None = None) -> HessianOperator:
        """The Hessian at θ as an operator; its products cost passes, nothing is stored."""
        at = None if theta is None else self._vectors(theta, "theta", (1,))
        return HessianOperator(self, at)

    def self_test(self) -> SelfTest:
        """Prove this objective against plain PyTorch, and take the modes that are right.

        What is tested stands in `self_test.Proof`. It runs once, on at most twelve samples that
        represent all (of every class, ignored ones too), in float64 where the network can; by
        itself before the first number: values before the first value, gradients before the first
        gradient, products before the first second derivative. Its passes are not part of `cost`
        but of the report's. Subsets and copies share the result.

        Raises:
            ModelError: The network is random in evaluation mode, mixes the samples of a batch,
                changes its own parameters, or is not followed for another reason; the loss is
                neither a mean nor a sum over samples.
            DifferentiationError: The gradient is not the slope of the loss, or no mode of
                Hessian-vector products is right.
        """
        self._prove(Proof.of_products)
        assert self._proof.report is not None
        return self._proof.report

    def _prove(self, stage: Callable[[Proof], Any]) -> None:
        with surroundings(self.device):
            stage(self._proof)
        if not self._proof.vectorised:
            self._vectorised = False

    def kinks(self) -> list[str]:
        """The operations of network and loss whose slope jumps ("Relu", "MaxPool", …), by name.

        There the loss has no second derivative, and its differences do not converge to the one
        beside the kinks (`trace.finite_difference`).
        """
        self._prove(Proof.of_values)
        return self._proof.kinks

    # --- one chunk of vectors, all batches ------------------------------------------------------

    def _values(self, points: Tensor) -> Tensor:
        columns = self._unflatten(points)
        self._refuse_branches(columns)
        before = _checksum(columns)
        together = stack(columns) if self._vectorised and len(columns) > 1 else None
        total = points.new_zeros(len(columns), dtype=torch.float64)
        # No parameter asks for a graph; a network that differentiates by itself may.
        with torch.enable_grad():
            for batch in self._batches():
                loss = partial(self._share_of_loss, batch=batch)
                if together is not None:
                    try:
                        total += vmap(loss)(together).detach()
                        continue
                    except torch.OutOfMemoryError:
                        raise
                    except RuntimeError:  # the network branches on its parameters, for instance
                        self._vectorised, together = False, None
                total += torch.stack([loss(column).detach() for column in columns])
        _refuse_changed(before, columns if together is None else [together])
        self._program.restore()
        return total.to(self.dtype)

    def _refuse_branches(self, columns: Sequence[Parameters]) -> None:
        """Raise where a network branches at these points by what a batch has in common.

        Networks that turn tensors into numbers may; the self-test saw two points.
        """
        if not self._proof.reads_numbers or self.n_samples == 1:
            return
        for column in columns:
            together, singly = (
                torch.stack([self._share_of_loss(column, b).detach() for b in batches]).double()
                for batches in (self._batches(), self._batches(self._proof.smallest_batch))
            )
            allowed = 1e-9 if self.dtype == torch.float64 else 1e-4
            if float((together.sum() - singly.sum()).abs()) > allowed * float(singly.abs().sum()):
                raise depends_on_batches(is_sum=False)

    def _gradient(self, parameters: Parameters) -> Tensor:
        self._refuse_branches([parameters])
        total, before = self._zeros(1), _checksum([parameters])
        fast = self._proof.gradient_mode == FAST and not self._vectorised
        for batch in self._batches():
            _add(total[0], self._folded(gradient, fast, batch, parameters))
        _refuse_changed(before, [parameters])
        return _flatten(total)[:, 0]

    def _products(self, parameters: Parameters, vectors: Tensor, mode: str) -> Tensor:
        self._refuse_branches([parameters])
        directions = self._unflatten(vectors)
        total, before = self._zeros(len(directions)), _checksum([parameters])
        fast = mode == FAST and not self._vectorised
        for batch in self._batches():
            arguments = (parameters, directions, self._vectorised)
            products = self._folded(PRODUCTS[mode], fast, batch, *arguments)
            for part, product in zip(total, products):
                _add(part, product)
        _refuse_changed(before, [parameters])
        self._program.restore()
        return _flatten(total)

    def _folded(self, mode: Callable[..., Any], fast: bool, batch: Batch, *arguments: Any) -> Any:
        """A mode of the batch's loss; without folding where a network takes an unproven path."""
        loss = partial(self._share_of_loss, batch=batch, fast=fast)
        try:
            return mode(loss, *arguments)
        except FoldingError:
            self._proof.foldings = {}
            return mode(loss, *arguments)

    def _second_derivatives(self, parameters: Parameters, vectors: Tensor, mode: str) -> Tensor:
        self._refuse_branches([parameters])
        directions = self._unflatten(vectors)
        total = vectors.new_zeros(len(directions), dtype=torch.float64)
        derivatives, before = SECOND_DERIVATIVES[mode], _checksum([parameters])
        together = stack(directions) if self._vectorised and len(directions) > 1 else None
        for batch in self._batches():
            loss = partial(self._share_of_loss, batch=batch)
            if together is not None:
                along = partial(derivatives, loss, parameters)
                total += vmap(lambda v, along=along: along([v])[0])(together)
            else:
                total += derivatives(loss, parameters, directions)
        _refuse_changed(before, [parameters])
        self._program.restore()
        return total.to(self.dtype)

    def _batches(self, size: int | None = None) -> Iterator[Batch]:
        """Inputs and targets; batches of which the loss ignores every target are left out."""
        if size is None and self._samples_at_once is None:
            self._samples_at_once = self._choose_samples_at_once()
        size = size or self._samples_at_once or 1
        for inputs, targets in self._samples.batches(size, self._proof.smallest_batch):
            if self._loss.weight(targets):
                yield self._cast(inputs), cast(targets, self.dtype, self.device)

    def _choose_samples_at_once(self) -> int:
        """On the CPU, as many samples as keep the largest result of a layer in the cache.

        Tuned on a ResNet-20 with two cores: with 64 images of 32 × 32 at once a forward pass takes
        0.23 ms an image, with 256 a third more; in float64, whose kernels unfold the images, 2.5 ms
        with 8 and 5.4 ms with 32.
        """
        if self.device.type != "cpu":
            return self.batch_size
        few, largest = self._cast(self._samples.take([0, -1]).inputs), 1

        def watch(module: nn.Module, inputs: object, output: object) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.numel() // 2)

        modules = self._program.module.modules()
        handles = [module.register_forward_hook(watch) for module in modules]
        try:
            self._program(self._unflatten(self._theta[:, None])[0], few)
        finally:
            for handle in handles:
                handle.remove()
        numbers = 2**20 if self.dtype == torch.float32 else 2**17
        return min(self.batch_size, max(8, numbers // largest))

    def _cast(self, inputs: Any) -> Any:
        return tree_map(self._laid_out, cast(inputs, self.dtype, self.device))

    def _laid_out(self, x: Tensor) -> Tensor:
        """The memory layout that convolutions are fastest in: ResNet-56 in float32 takes 0.46 s in
        channels-last and 3.1 s in the default layout on a CPU, in float64 it is the slower one.
        """
        channels_last = x.ndim == 4 and self.dtype == torch.float32 and self.device.type == "cpu"
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x

    def _share_of_loss(self, parameters: Parameters, batch: Batch, fast: bool = False) -> Tensor:
        """The batch's part of the loss of all samples; `fast`: also in a second backward pass."""
        # Batches are parts of the user's arrays, which a network in place would change.
        inputs, targets = tree_map(Tensor.clone, batch) if self._proof.copies_samples else batch
        share = self._loss.weight(targets) / self._weight
        self._program.acts_in_place = self._proof.acts_in_place
        mode: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if fast:
            mode = DoubleBackward(self._proof.foldings, self._program.tensor)
        with mode:
            loss = self._loss.function(self._program(parameters, inputs), targets)
            return loss.reshape(()) * share if loss.ndim else loss * share

    # --- flat vectors ---------------------------------------------------------------------------

    def _parameters_at(self, theta: ArrayLike | Tensor | None) -> Parameters:
        at = self._theta if theta is None else self._vectors(theta, "theta", (1,))
        return self._unflatten(at[:, None])[0]

    def _unflatten(self, vectors: Tensor) -> list[Parameters]:
        """(N, K) → K times parameters by name."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        with torch.inference_mode(False):
            # A copy: whatever the network does to its parameters, the caller's stay.
            rows = vectors.detach().T.clone(memory_format=torch.contiguous_format)
            return [
                {
                    name: self._laid_out(part.view(shape))
                    for (name, shape), part in zip(self._shapes.items(), row.split(sizes))
                }
                for row in rows
            ]

    def _zeros(self, count: int) -> list[Parameters]:
        return self._unflatten(self._theta.new_zeros(self.n_parameters, count))

    def _vectors(self, v: ArrayLike | Tensor, name: str, dims: tuple[int, ...] = (1, 2)) -> Tensor:
        """Checked; NumPy arrays and lists in the objective's precision, on its device."""
        if not isinstance(v, Tensor):
            v = as_tensor(v, self.dtype, self.device)
        n = self.n_parameters
        if v.ndim not in dims or v.shape[0] != n or v.numel() == 0:
            expected = " or ".join({1: f"({n},)", 2: f"({n}, K)"}[d] for d in dims)
            raise ModelError(f"{name} has shape {tuple(v.shape)}, but {expected} is needed.")
        if v.dtype != self.dtype or v.device != self.device:
            raise ModelError(
                f"{name} is {v.dtype} on {v.device}, but the objective is {self.dtype} on "
                f"{self.device}."
            )
        with torch.inference_mode(False):
            return v.detach().clone() if v.is_inference() else v.detach()

    def _finite(self, result: Tensor, what: str) -> Tensor:
        if not torch.isfinite(result).all():
            raise NonFiniteError(f"The {what} over {self.n_samples} samples is not finite.")
        return result

    @contextlib.contextmanager
    def _pass(self, kind: str, count: int) -> Iterator[None]:
        """`count` passes over all samples: their surroundings, their cost, and what they leave."""
        start = time.perf_counter()
        try:
            with surroundings(self.device):
                yield
        except (HessianDirectionsError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"The {kind.replace('_', ' ')} over {self.n_samples} samples failed: {reason}"
            ) from error
        finally:
            self._program.restore()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # else the time of the launches alone
        passes = {f"{kind} {str(self.dtype).removeprefix('torch.')}": count}
        self.cost = self.cost + Cost(passes, time.perf_counter() - start)


@contextlib.contextmanager
def surroundings(device: torch.device) -> Iterator[None]:
    """What the caller has switched on or off around an analysis is not part of it.

    Graphs are recorded, nothing is cast by itself, compiled pieces run as they were written, and
    kernels are those that have second derivatives and are as precise as their number format.
    """
    with contextlib.ExitStack() as stack_of_contexts:
        enter = stack_of_contexts.enter_context
        enter(torch.inference_mode(False))
        enter(torch.enable_grad())
        enter(torch.autocast(device.type, enabled=False))
        if "torch._dynamo" in sys.modules:
            enter(torch.compiler.set_stance("force_eager"))
        enter(kernels(device))
        yield


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


def _are_classes(outputs: Any, targets: Any) -> bool:
    """Whether integers choose among the second axis of the outputs."""
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return False
    integers = not (targets.is_floating_point() or targets.is_complex())
    return integers and outputs.ndim > 1 and outputs[:, 0].shape == targets.shape


def _add(total: Parameters, part: Parameters) -> None:
    for name, tensor in total.items():
        tensor.add_(part[name])


def _checksum(columns: Sequence[Parameters]) -> list[int]:
    """Of the bits of parameters, by name; of columns the sum, which is that of their stack, too."""
    total = [0] * len(columns[0])
    for column in columns:
        for i, p in enumerate(column.values()):
            bits = torch.int64 if p.dtype == torch.float64 else torch.int32
            total[i] += int(p.detach().view(bits).sum())
    return [number % 2**64 for number in total]


def _refuse_changed(before: list[int], columns: Sequence[Parameters]) -> None:
    """Raise where a pass has left other parameters than it was given.

    The self-test looks for this at two points; a constraint that a network imposes on its weights
    (`weight.data.clamp_(0)`) may act at others alone, where PyTorch's gradient is not the slope.
    """
    if _checksum(columns) != before:
        raise ModelError("The network changes its own parameters in a forward pass.")


def _flatten(columns: Sequence[Parameters]) -> Tensor:
    """K times parameters by name → (N, K)."""
    rows = [torch.cat([part.reshape(-1) for part in column.values()]) for column in columns]
    return torch.stack(rows, 1)
