"""The loss L(θ) of a network over a fixed set of samples, and its derivatives.

L(θ) is what the loss gives for all samples at once, whatever the batches: for most losses
1/n Σ_i loss(f(x_i; θ), y_i), in evaluation mode, without weight decay. θ ∈ R^N is the flat vector
of the trainable parameters in the model's order: frozen ones are left out and stay constant, and so
are empty ones; unused ones stay in with derivative zero, shared ones count once. Vectors are
columns everywhere: a (N, K) tensor holds K vectors.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from hessian_directions.arrays import as_tensor
from hessian_directions.autodiff.modes import Parameters
from hessian_directions.autodiff.program import keepers, owned_by, private_copy, references
from hessian_directions.cost import Cost
from hessian_directions.errors import (
    ArgumentError,
    DataError,
    DeviceError,
    HessianDirectionsError,
    ModelError,
    NonFiniteError,
    first_line,
    require_count,
)
from hessian_directions.objectives.block import Block, by_name, freeze_others
from hessian_directions.objectives.evaluation import Evaluation
from hessian_directions.objectives.gauss_newton import GaussNewtonTest, prove_gauss_newton
from hessian_directions.objectives.losses import BatchLoss, Loss, ModelLoss, with_own_methods
from hessian_directions.objectives.processes import Processes, checksum
from hessian_directions.objectives.samples import Distributed, collect
from hessian_directions.objectives.self_test import PRODUCT, TOLERANCES, Proof, SelfTest
from hessian_directions.objectives.surroundings import surroundings

T = TypeVar("T")


class _MatrixOfObjective:
    """A symmetric (N, N) operator at θ, the objective's own where None: products cost passes."""

    def __init__(self, objective: Objective, theta: Tensor | None = None) -> None:
        self.objective = objective
        self.theta = None if theta is None else theta.detach().clone()
        self.shape = objective.n_parameters, objective.n_parameters
        self.dtype, self.device = objective.dtype, objective.device

    @property
    def cost(self) -> Cost:
        """The running cost of the objective that the products belong to."""
        return self.objective.cost


class HessianOperator(_MatrixOfObjective):
    """H = ∇²L(θ) as a symmetric (N, N) operator: `H @ v` for v of shape (N,) or (N, K)."""

    def __matmul__(self, v: ArrayLike | Tensor) -> Tensor:
        return self.objective.hessian_vector_product(v, self.theta)


class GaussNewtonOperator(_MatrixOfObjective):
    """G = Σ J'(∇²ℓ)J at θ as a symmetric (N, N) operator: `G @ v` for v of (N,) or (N, K)."""

    def __matmul__(self, v: ArrayLike | Tensor) -> Tensor:
        return self.objective.gauss_newton_vector_product(v, self.theta)


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
    - `hessian_vector_product`, `gauss_newton_vector_product`: (2 K + 3 m + 6) N + 4 a b,
    - `second_directional_derivative`: (2 m + 3) N + 2 (m + 1) a b, vectorised or not; the first of
      them at least what a product with one vector takes.

    Args:
        model: Any module that maps a batch of inputs to outputs. It is copied, put into evaluation
            mode, and never changed. Parameters are float32 or float64. Wrappers for several devices
            and for compilation are taken off. What cannot be copied and holds neither tensors nor
            modules (a lock, a file, a logger) is shared with the copy.
        loss: `loss(outputs, targets)`, a scalar, or a `ModelLoss` of a function of network and
            batch: the mean over the samples of a batch, or their sum where its reduction is "sum".
            A method of the network's own becomes that of the copy.
            Class weights and targets to be ignored are those of
            PyTorch's cross entropy and negative log-likelihood, as modules or with options given by
            `functools.partial`; the loss of all samples is then their weighted mean.
        data: With `targets`, the inputs, one sample per row: a tensor, a NumPy array or a list, or
            a tuple or dictionary of arrays, which become the arguments of the network's `forward`.
            Without, a DataLoader, a Dataset, one batch (inputs, targets) or any iterable of them; of
            batches of any form for a `ModelLoss`, or one array or dictionary of arrays. Batches may
            have rows of different shapes (padded to their own longest sequence): samples are then
            split and joined among those of one shape alone.
            Every batch is moved to the model's device and precision (integers stay integers).
        targets: One target per row.
        batch_size: The most samples per pass; on the CPU fewer are taken at once where that keeps
            them in its cache. Results depend on it by rounding alone; memory does.
        vectors_at_once: Vectors or points handled together: they share data and passes.
        in_memory: True keeps one pass over the batches of `data` in memory, whatever it brought (a
            loader may shuffle or augment); False reads them anew in every pass, and refuses a pass
            that brings other samples. None keeps them unless they take more than a quarter of the
            machine's memory.
        parameters: The block of trainable parameters that θ is made of, all others being constant:
            a name, a shell pattern of names ("layer4.*"), a list of these or of parameters
            (`model.layer4.parameters()`), or a function (name, parameter) → bool; names are those of
            `model.named_parameters()`, a shared parameter is chosen by any of its names. All when
            None.

    Attributes:
        cost: Passes and seconds so far; without those of the self-test.

    Raises:
        ModelError: There is nothing trainable, or in another precision or on several devices;
            `parameters` choose nothing; the network cannot be copied; the loss has another
            reduction; there are not as many inputs as targets.
        DataError: There are no samples, or the loss ignores them all.
        ProcessesError: Processes of the group have other networks, or one of them has ended.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | ModelLoss,
        data: Any,
        targets: Any = None,
        batch_size: int = 256,
        vectors_at_once: int = 16,
        in_memory: bool | None = None,
        parameters: Block | None = None,
        group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"The network is a {type(model).__name__}, but a torch.nn.Module is needed."
            )
        require_count("batch_size", batch_size)
        require_count("vectors_at_once", vectors_at_once)
        self.vectors_at_once = vectors_at_once
        self.cost = Cost()
        processes = Processes(group, next((p.device for p in model.parameters()), "cpu"))
        with torch.inference_mode(False), torch.no_grad():
            with processes.agreed("objective", *model.parameters()):
                owned = owned_by(model) | keepers(model)
                given = loss.function if isinstance(loss, ModelLoss) else loss
                if references(given, owned):
                    raise ModelError(
                        "The loss refers to the network itself, of which a copy is studied: return "
                        "what it needs from the network, or use the one that a ModelLoss is given."
                    )
                twin = private_copy(model)
                if parameters is not None:
                    freeze_others(twin, by_name(model, parameters))
                named = twin.named_parameters()
                names = [name for name, p in named if p.requires_grad and p.numel()]
                batch_loss = BatchLoss(with_own_methods(loss, model, owned))
                samples = collect(data, targets, batch_loss, batch_size, in_memory)
            if group is not None:
                samples = Distributed(samples, processes, batch_loss)
            self._evaluation = Evaluation(twin, names, batch_loss, samples, batch_size)
            foreign = [weakref.ref(parameter) for parameter in model.parameters()]
            self._proof = Proof(self._evaluation, foreign)
        self._gauss_newton: GaussNewtonTest | None = None

    @property
    def theta(self) -> Tensor:
        """The model's own parameters as a flat vector, (N,); a copy."""
        return self._evaluation.theta.clone()

    @property
    def network(self) -> nn.Module:
        """The copy of the network that is studied; it is not to be changed."""
        return self._evaluation.model

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters that θ consists of by name, in θ's order; a copy."""
        at = self._evaluation.parameters_at(self._evaluation.theta)
        return {name: parameter.detach() for name, parameter in at.items()}

    @property
    def n_parameters(self) -> int:
        return self._evaluation.n_parameters

    @property
    def n_samples(self) -> int:
        return self._evaluation.samples.count

    @property
    def samples_at_once(self) -> int:
        """The most samples of one pass: b."""
        return self._evaluation.samples_at_once

    @property
    def vectorised(self) -> bool:
        """Whether the passes so far took their points and vectors side by side."""
        return self._evaluation.ways.vectorised

    @property
    def dtype(self) -> torch.dtype:
        return self._evaluation.dtype

    @property
    def device(self) -> torch.device:
        return self._evaluation.device

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Objective:
        """A copy in another precision or on another device, with a cost of its own.

        Raises:
            ArgumentError: The precision is neither float32 nor float64.
            DeviceError: There is no such device.
        """
        if dtype not in (None, torch.float32, torch.float64):
            raise ArgumentError(f"dtype is {dtype!r}, not torch.float32 or torch.float64.")
        try:
            torch.zeros((), device=device or self.device).item()  # on "meta" there are no numbers
        except (RuntimeError, AssertionError) as error:
            said = first_line(error)
            raise DeviceError(f"The device {str(device)!r} is not there: {said}.") from error
        with surroundings(self.device):
            return self._with(self._evaluation.to(dtype, device))

    def subset(self, indices: ArrayLike | Tensor) -> Objective:
        """The objective over the samples with these indices, with a cost of its own.

        A mask of all samples chooses those where it is true.
        """
        chosen = as_tensor(list(indices) if isinstance(indices, range) else indices).reshape(-1)
        if chosen.dtype == torch.bool and len(chosen) == self.n_samples:
            chosen = chosen.nonzero().reshape(-1)
        if chosen.dtype not in (torch.int64, torch.int32) or not len(chosen):
            raise DataError("A subset needs indices of samples, or a mask of all of them.")
        with surroundings(self.device):
            samples = self._evaluation.samples.subset(chosen.tolist())
            return self._with(self._evaluation.to(samples=samples))

    def _with(self, evaluation: Evaluation) -> Objective:
        """An objective like this one; the self-test of the one holds for the other."""
        other = copy.copy(self)
        other._evaluation, other.cost = evaluation, Cost()
        other._gauss_newton = None
        return other

    # --- value and derivatives ------------------------------------------------------------------

    def value(self, theta: ArrayLike | Tensor | None = None) -> Tensor:
        """L(θ), shape ()."""
        return self.values(self._point(theta)[:, None])[0]

    def values(self, thetas: ArrayLike | Tensor) -> Tensor:
        """L at K points: (N, K) → (K,).

        Raises NonFiniteError, naming the first such point, where the loss is infinite or NaN.
        """
        result = torch.cat(self._at_points(self._evaluation.values, thetas))
        self._require_finite(result)
        return result

    def values_and_accuracies(self, thetas: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
        """L and, by the same passes, the accuracy at K points: (N, K) → (K,) and (K,) float64.

        The losses are those of `values` to the bit, and so are the errors; accuracies are those of
        `accuracy`.
        """
        found = self._at_points(self._evaluation.values_and_accuracies, thetas)
        losses, accuracies = (torch.cat(part) for part in zip(*found, strict=True))
        self._require_finite(losses)
        return losses, accuracies

    def _at_points(self, function: Callable[[Tensor], T], thetas: ArrayLike | Tensor) -> list[T]:
        """A function of points, of as many of them at once as are handled together."""
        thetas = self._vectors(thetas, "thetas", (2,))
        self._prove(Proof.of_values)
        with self._pass("value", thetas.shape[1]):
            return [function(points) for points in thetas.split(self.vectors_at_once, 1)]

    def _require_finite(self, result: Tensor) -> None:
        """Raise where a loss is not finite, or none could be compared."""
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

    def accuracy(self, theta: ArrayLike | Tensor | None = None) -> float:
        """Share of the samples whose largest output is their class; NaN where there are none.

        Cross entropy, negative log-likelihood and multi-margin loss have classes, two or more along
        the second axis of the outputs; targets that are ignored, or none of them, are left out. Any
        other loss of PyTorch's has none, a function of the user's where outputs (B, classes, …) go
        with integers (B, …) that are all classes (or -100), and with no other axis of the outputs.
        """
        evaluate = self._evaluation.values_and_accuracies
        ((_, accuracy),) = self._at_points(evaluate, self._point(theta)[:, None])
        return float(accuracy)

    def gradient(self, theta: ArrayLike | Tensor | None = None) -> Tensor:
        """∇L(θ), shape (N,)."""
        parameters = self._parameters_at(theta)
        self._prove(Proof.of_gradients)
        with self._pass("gradient", 1):
            result = self._evaluation.gradient(parameters)
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
        products = partial(self._evaluation.products, parameters, mode=mode)
        return self._product(products, v, "hessian_vector_product", "Hessian-vector product")

    def gauss_newton_vector_product(
        self, v: ArrayLike | Tensor, theta: ArrayLike | Tensor | None = None
    ) -> Tensor:
        """G(θ) v: (N,) → (N,), or (N, K) → (N, K).

        G = Σ_i J_i'(∇²ℓ_i)J_i over the samples, weighted as in the loss, is the Hessian of the loss
        of the linearised network: J_i is the Jacobian of the network's outputs z_i, ∇²ℓ_i the
        second derivative of the loss with respect to these, and H − G = Σ_i Σ_c ∂ℓ_i/∂z_ic ∇²z_ic.
        The loss is convex in the outputs, so that G is positive semidefinite. What counts as output
        is what the network returns: one that ends in log-probabilities, in which the negative
        log-likelihood is linear, has G = 0; the cross-entropy of logits has not.

        Reverse mode alone: all vectors of a call share one forward and two backward passes per
        batch.

        Raises:
            ModelError, DifferentiationError: See `gauss_newton_test`.
        """
        v = self._vectors(v, "v")
        parameters = self._parameters_at(theta)
        mode = self.gauss_newton_test().mode
        products = partial(self._evaluation.gauss_newton_products, parameters, mode=mode)
        return self._product(products, v, "gauss_newton_vector_product", "Gauss–Newton product")

    def _product(
        self, products: Callable[[Tensor], Tensor], v: Tensor, kind: str, what: str
    ) -> Tensor:
        vectors = v.reshape(self.n_parameters, -1)
        with self._pass(kind, vectors.shape[1]):
            parts = vectors.split(self.vectors_at_once, 1)
            result = torch.cat([products(part) for part in parts], 1)
        return self._finite(result, what).reshape(v.shape)

    def second_directional_derivative(
        self, v: ArrayLike | Tensor, theta: ArrayLike | Tensor | None = None
    ) -> Tensor:
        """v'∇²L(θ)v = d²L(θ + tv)/dt² at t = 0: (N,) → (), or (N, K) → (K,).

        Exact, by default in Taylor mode: without a Hessian-vector product and without a backward
        pass. At a kink of the network (ReLU) it is the derivative beside the kink.

        Before the first of them in a precision at these parameters, and before the first over more
        samples than then, the one along a random direction is compared with v'(Hv) over all
        samples, which costs a product that is no part of `cost`: where they differ by more than
        rounding, and where one is not finite, v'(Hv) is taken. Large arguments of exponentials are
        an example.
        """
        v = self._vectors(v, "v")
        parameters = self._parameters_at(theta)
        at = None if theta is None else checksum(self._vectors(theta, "theta", (1,)))
        report = self.self_test()
        vectors = v.reshape(self.n_parameters, -1)
        self._compare_with_product(parameters, at, vectors, report)
        with self._pass("second_directional_derivative", vectors.shape[1]):
            parts = vectors.split(self.vectors_at_once, 1)
            result = torch.cat([self._curvatures(parameters, part, report) for part in parts])
        return self._finite(result, "second directional derivative").reshape(v.shape[1:])

    def _curvatures(self, parameters: Parameters, vectors: Tensor, report: SelfTest) -> Tensor:
        mode = report.second_derivative_mode
        if mode != PRODUCT and self.dtype not in self._evaluation.ways.inexact:
            result = self._evaluation.second_derivatives(parameters, vectors, mode)
            if bool(result.isfinite().all()):
                return result
        products = self._evaluation.products(parameters, vectors, report.product_mode)
        return (vectors * products).sum(0)

    def _compare_with_product(
        self, parameters: Parameters, at: int | None, vectors: Tensor, report: SelfTest
    ) -> None:
        """See `second_directional_derivative`; the self-test has few samples, and has float64.

        `at` stands for the parameters, None for the network's own.
        """
        evaluation, ways = self._evaluation, self._evaluation.ways
        mode, seen = report.second_derivative_mode, ways.compared.get((self.dtype, at), 0)
        if mode == PRODUCT or self.dtype in ways.inexact or seen >= self.n_samples:
            return
        generator = torch.Generator().manual_seed(0)
        u = torch.randn(self.n_parameters, 1, generator=generator, device="cpu").to(vectors)
        u *= vectors.norm(dim=0).max() / u.norm()  # as long as theirs: it is squared
        with self._undisturbed("comparison with a Hessian-vector product"):
            terms = u * evaluation.products(parameters, u, report.product_mode)
            found = evaluation.second_derivatives(parameters, u, mode)
        size, expected = (part.sum(dtype=torch.float64) for part in (terms.abs(), terms))
        close = (found - expected).abs() <= TOLERANCES[self.dtype].exact * size
        if bool(size.isfinite()) and not bool(close):
            ways.inexact.add(self.dtype)
        ways.compared[self.dtype, at] = self.n_samples

    def hessian(self, theta: ArrayLike | Tensor | None = None) -> HessianOperator:
        """The Hessian at θ as an operator; its products cost passes, nothing is stored."""
        at = None if theta is None else self._vectors(theta, "theta", (1,))
        return HessianOperator(self, at)

    def gauss_newton(self, theta: ArrayLike | Tensor | None = None) -> GaussNewtonOperator:
        """The Gauss–Newton part of the Hessian at θ as an operator.

        See `gauss_newton_vector_product`; products cost passes, nothing is stored.
        """
        at = None if theta is None else self._vectors(theta, "theta", (1,))
        return GaussNewtonOperator(self, at)

    def gauss_newton_test(self) -> GaussNewtonTest:
        """Prove Gauss–Newton products against plain PyTorch, and take the mode that is right.

        It runs once, by itself before the first of them and after `self_test`, on as few samples.
        Subsets and copies, which may have other samples, make their own.

        Raises:
            ModelError: What `self_test` raises; the loss is a `ModelLoss`, which is no function of
                outputs; it is not convex in the outputs on these samples, here or nearby; outputs
                are not real tensors, or tuples, lists or dictionaries of them.
            DifferentiationError: What `self_test` raises; no mode of these products is right.
        """
        if self._gauss_newton is None:
            precision = self.self_test().precision
            processes = self._evaluation.samples.processes
            with surroundings(self.device):
                try:
                    with processes.agreed("test of Gauss–Newton products"):
                        self._gauss_newton = prove_gauss_newton(self._evaluation, precision)
                finally:
                    self._evaluation.restore()
        return self._gauss_newton

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
        return self._prove(Proof.of_products)

    def _prove(self, stage: Callable[[Proof], Any]) -> Any:
        with surroundings(self.device):
            return stage(self._proof)

    def kinks(self) -> list[str]:
        """The operations of network and loss whose slope jumps ("Relu", "MaxPool", …), by name.

        There the loss has no second derivative, and its differences do not converge to the one
        beside the kinks (`trace.finite_difference`).
        """
        self._prove(Proof.of_values)
        return self._proof.kinks

    def kinks_along(
        self,
        v: ArrayLike | Tensor,
        reach: float,
        visit: Callable[[int, Tensor, Tensor], None],
    ) -> None:
        """The kinks of ℓ_k(x) = L(θ + x v_k) within |x| < reach, to first order.

        One backward pass for every `vectors_at_once` vectors tells what each unit does to the loss,
        one pass in forward mode a vector where its kinks are and how much the slope of ℓ jumps
        there: see `autodiff.kinks`, which lists the operations that are known.

        Args:
            v: (N,) or (N, K).
            reach: In units of the vectors.
            visit: visit(k, places, jumps) is called for every vector k and every batch, so that
                nobody holds the kinks of all samples at once.

        Raises:
            KinkError: The loss has kinks of a kind that is not known.
        """
        v = self._vectors(v, "v").reshape(self.n_parameters, -1)
        parameters = self._parameters_at(None)
        self._prove(Proof.of_kinks)
        for start in range(0, v.shape[1], self.vectors_at_once):
            part = v[:, start : start + self.vectors_at_once]

            def of_part(k: int, places: Tensor, jumps: Tensor, start: int = start) -> None:
                visit(start + k, places, jumps)

            with self._pass("directional_derivative", part.shape[1], gradients=1):
                self._evaluation.kinks_along(parameters, part, reach, of_part)

    # --- arguments, results, cost -----------------------------------------------------------------

    def _parameters_at(self, theta: ArrayLike | Tensor | None) -> Parameters:
        return self._evaluation.parameters_at(self._point(theta))

    def _point(self, theta: ArrayLike | Tensor | None) -> Tensor:
        return self._evaluation.theta if theta is None else self._vectors(theta, "theta", (1,))

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
    def _pass(self, kind: str, count: int, gradients: int = 0) -> Iterator[None]:
        """`count` passes over all samples, and their cost.

        `gradients` of them are made on the way, beside the others.
        """
        start = time.perf_counter()
        with self._undisturbed(kind.replace("_", " ")):
            yield
        precision = str(self.dtype).removeprefix("torch.")
        passes = {f"{kind} {precision}": count}
        if gradients:
            passes[f"gradient {precision}"] = gradients
        self.cost = self.cost + Cost(passes, time.perf_counter() - start)

    @contextlib.contextmanager
    def _undisturbed(self, what: str) -> Iterator[None]:
        """The surroundings of passes over all samples; what they leave in the network goes."""
        with surroundings(self.device):
            try:
                yield
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)  # else the time of the launches alone
            except (HessianDirectionsError, torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:
                raise ModelError(
                    f"The {what} over {self.n_samples} samples failed: {first_line(error)}"
                ) from error
            finally:
                self._evaluation.restore()
