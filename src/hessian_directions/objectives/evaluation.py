"""Passes of a network over samples: values, gradients, products and second derivatives.

Nothing here is checked against anything or counted: `self_test` decides which ways are right, and
`objective` is what people use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from hessian_directions.arrays import aligned
from hessian_directions.autodiff import kinks
from hessian_directions.autodiff.double_backward import DoubleBackward, FoldingError
from hessian_directions.autodiff.folding import Folding, foldings
from hessian_directions.autodiff.gauss_newton import GAUSS_NEWTON
from hessian_directions.autodiff.modes import (
    FAST,
    PRODUCTS,
    SECOND_DERIVATIVES,
    Parameters,
    gradient,
    stack,
)
from hessian_directions.autodiff.precision import moved
from hessian_directions.autodiff.program import Program, convention
from hessian_directions.autodiff.referee import cast
from hessian_directions.errors import DataError, DifferentiationError, ModelError
from hessian_directions.objectives.losses import BatchLoss, Watch
from hessian_directions.objectives.samples import Batch, Samples, n_rows

P = ParamSpec("P")

_DENSE = torch.contiguous_format


@dataclass
class Ways:
    """How passes are made: settled by the self-test, for all copies of an objective at once."""

    # Over vectors and points: many small matrix products become few large ones.
    vectorised: bool
    # Modules change their inputs where the user asked them to.
    acts_in_place: bool = False
    # The network or its loss differentiates with respect to its parameters, which ask for a graph in
    # passes for values, too.
    takes_gradients: bool = False
    # Every pass gets a copy of its batch, which the network may change.
    copies_samples: bool = True
    # The fewest samples that the network takes.
    smallest_batch: int = 1
    # The network turns tensors into numbers, which it may branch on.
    reads_numbers: bool = False
    # Gradients by the fast backward pass (`double_backward`), too.
    fast_gradients: bool = True
    # Inputs and parameters lie in memory as convolutions are fastest.
    channels_last: bool = False
    # Batch normalisations that are folded into the convolution before them.
    foldings: dict[int, Folding] = field(default_factory=dict)
    # On how many samples second derivatives were compared with products, by precision and checksum of
    # the parameters, None for the network's own.
    compared: dict[tuple[torch.dtype, int | None], int] = field(default_factory=dict)
    # The precisions in which they are other ones.
    inexact: set[torch.dtype] = field(default_factory=set)


def of_all_processes(
    own: Callable[Concatenate[Evaluation, P], Tensor],
) -> Callable[Concatenate[Evaluation, P], Tensor]:
    """A method that adds up this process' batches as one that adds up those of all processes.

    They must call it with the same arguments. Each of them gets the same bits.
    """

    @wraps(own)
    def of_all(self: Evaluation, *arguments: P.args, **options: P.kwargs) -> Tensor:
        processes = self.samples.processes
        with processes.agreed(own.__name__, *tree_leaves((arguments, options))):
            total = own(self, *arguments, **options)
        return processes.sum(total)

    return of_all


class Evaluation:
    """L(θ) over samples and its derivatives, θ flat in the order of the parameters.

    Args:
        model: A private copy in evaluation mode; it is not run itself, but a copy of it.
        names: The parameters that make up θ; all others are constant.
        batch_size: The most samples per pass.
        ways: How passes are made; when None as they are tried first.
        samples_at_once: As many per pass; chosen by the first pass when None.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        loss: BatchLoss,
        samples: Samples,
        batch_size: int,
        ways: Ways | None = None,
        samples_at_once: int | None = None,
    ) -> None:
        named = dict(model.named_parameters())
        parameters = {name: named[name] for name in names}
        kinds = {(p.dtype, p.device) for p in parameters.values()}
        if len(kinds) != 1:
            raise ModelError(
                "The trainable parameters must be of one precision on one device, and at least one."
            )
        self.dtype, self.device = kinds.pop()
        if self.dtype not in (torch.float32, torch.float64):
            raise ModelError(f"Parameters are {self.dtype}, but must be float32 or float64.")
        _refuse_coarse_parameters(model, self.dtype)
        # Not run itself: what a network keeps of a pass is in no copy of it.
        self.model = model
        self.loss = loss.to(self.dtype, self.device)
        self.samples = samples
        self.shapes = {name: parameter.shape for name, parameter in parameters.items()}
        self.theta = torch.cat([p.detach().reshape(-1) for p in parameters.values()]).clone()
        # Many small matrix products gain from vectorisation over directions; convolutions lose
        # their memory layout in it and take the directions one after the other.
        self.ways = ways or Ways(not any(isinstance(m, _ConvNd) for m in model.modules()))
        self._batch_size, self._samples_at_once = batch_size, samples_at_once
        self._program = Program(model, names)
        self._loss_of = self.loss.of(self._program.module)
        # The parts of a sum are added as they are, however many there are.
        self._weight = 1.0 if self.loss.total else samples.weight(self.loss)
        if not self._weight:
            raise DataError("The loss ignores every target.")

    @property
    def n_parameters(self) -> int:
        return len(self.theta)

    @property
    def sizes(self) -> list[int]:
        """The number of entries of each parameter."""
        return [shape.numel() for shape in self.shapes.values()]

    @property
    def samples_at_once(self) -> int:
        """The most samples of one pass; chosen when it is first asked for."""
        if self._samples_at_once is None:
            self._samples_at_once = self._choose_samples_at_once()
        return self._samples_at_once

    def to(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        samples: Samples | None = None,
        samples_at_once: int | None = None,
    ) -> Evaluation:
        """In another precision, on another device, over other samples; by the same ways."""
        model = self.model
        dtype = None if dtype == self.dtype else dtype  # buffers in float64 stay what they are
        if dtype is not None or device is not None:
            model = moved(model, dtype, device)
        return Evaluation(
            model,
            list(self.shapes),
            self.loss,
            samples or self.samples,
            self._batch_size,
            self.ways,
            samples_at_once,
        )

    # --- all batches, for as many vectors as are handled together --------------------------------

    def values(self, points: Tensor) -> Tensor:
        """L at K points: (N, K) → (K,)."""
        return self._totals(points, self.share_of_loss).to(self.dtype)

    def values_and_accuracies(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """L and, by the same passes, the share of samples whose largest output is their class.

        (N, K) → (K,), with the bits of `values`, and (K,) float64, NaN where there are no classes.
        """
        value, right, counted = self._totals(points, self._share_and_right, 3).T
        return value.to(self.dtype), right / counted

    @of_all_processes
    def _totals(self, points: Tensor, share: Callable[..., Tensor], *shape: int) -> Tensor:
        """Sums over all batches of a batch's share, () or `shape`, at K points: (K, *shape)."""
        return self._own_totals(points, share, *shape)

    def _own_totals(self, points: Tensor, share: Callable[..., Tensor], *shape: int) -> Tensor:
        columns = [self._as_points(column) for column in self._unflatten(points)]
        self._refuse_branches(columns)
        total = points.new_zeros(len(columns), *shape, dtype=torch.float64)
        together = stack(columns) if self.ways.vectorised and len(columns) > 1 else None
        # Where no parameter asks for a graph, a network that differentiates by itself may.
        with self._unchanged(columns if together is None else [together]), torch.enable_grad():
            for batch in self.batches():
                of_batch = partial(share, batch=batch)
                if together is None:
                    total += torch.stack([of_batch(column).detach() for column in columns])
                    continue
                try:
                    total += vmap(of_batch)(together).detach()
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError:  # the network branches on its parameters, for instance
                    self.ways.vectorised = False
                    return self._own_totals(points, share, *shape)
        self.restore()
        return total

    @of_all_processes
    def gradient(self, parameters: Parameters) -> Tensor:
        """∇L, (N,)."""
        self._refuse_branches([parameters])
        total = self._zeros(1)
        fast = self.ways.fast_gradients and not self.ways.vectorised
        with self._unchanged([parameters]):
            for batch in self.batches():
                loss = partial(self.share_of_loss, batch=batch, fast=fast)
                _add(total[0], self._without_folding(gradient, loss, parameters))
        return _flatten(total)[:, 0]

    @of_all_processes
    def products(self, parameters: Parameters, vectors: Tensor, mode: str) -> Tensor:
        """∇²L v for K vectors: (N, K) → (N, K)."""
        return self._products(parameters, vectors, mode, PRODUCTS, self.share_of_loss)

    @of_all_processes
    def gauss_newton_products(self, parameters: Parameters, vectors: Tensor, mode: str) -> Tensor:
        """J'(∇²ℓ)Jv for K vectors, J the Jacobian of the network's outputs: (N, K) → (N, K)."""
        return self._products(parameters, vectors, mode, GAUSS_NEWTON, self.outputs_and_loss)

    def _products(
        self,
        parameters: Parameters,
        vectors: Tensor,
        mode: str,
        modes: Mapping[str, Callable[..., Any]],
        of_batch: Callable[..., Any],
    ) -> Tensor:
        """Sums over this process' batches of what a mode makes of `of_batch` and K vectors."""
        self._refuse_branches([parameters])
        directions = self._unflatten(vectors)
        total = self._zeros(len(directions))
        fast = mode == FAST and not self.ways.vectorised
        with self._unchanged([parameters]):
            for batch in self.batches():
                function = partial(of_batch, batch=batch, fast=fast)
                arguments = (parameters, directions, self.ways.vectorised)
                products = self._without_folding(modes[mode], function, *arguments)
                for part, product in zip(total, products):
                    _add(part, product)
        self.restore()
        return _flatten(total)

    def second_derivatives(self, parameters: Parameters, vectors: Tensor, mode: str) -> Tensor:
        """v'∇²L v for K vectors: (N, K) → (K,)."""
        return self._second_derivatives(parameters, vectors, mode).to(self.dtype)

    @of_all_processes
    def _second_derivatives(self, parameters: Parameters, vectors: Tensor, mode: str) -> Tensor:
        self._refuse_branches([parameters])
        directions = self._unflatten(vectors)
        total = vectors.new_zeros(len(directions), dtype=torch.float64)
        derivatives = SECOND_DERIVATIVES[mode]
        together = stack(directions) if self.ways.vectorised and len(directions) > 1 else None
        with self._unchanged([parameters]):
            for batch in self.batches():
                loss = partial(self.share_of_loss, batch=batch)
                if together is not None:
                    along = partial(derivatives, loss, parameters)
                    total += vmap(lambda v, along=along: along([v])[0])(together)
                else:
                    total += derivatives(loss, parameters, directions)
        self.restore()
        return total

    def kinks_along(
        self,
        parameters: Parameters,
        vectors: Tensor,
        reach: float,
        visit: Callable[[int, Tensor, Tensor], None],
    ) -> None:
        """Shows `visit` the kinks along K vectors (N, K) within `reach`, batch by batch."""
        # ∇L·v by forward and by reverse mode, and the size of its terms.
        slopes = vectors.new_zeros(3, vectors.shape[1], dtype=torch.float64)
        found = self._own_kinks_along(parameters, vectors, reach, slopes)
        for k, *crossings in self.samples.processes.in_turn("kinks", found):
            visit(k, *(part.to(self.device) for part in crossings))
        self.samples.processes.sum(slopes)
        forward, reverse, size = slopes
        allowed = 1e-9 if self.dtype == torch.float64 else 1e-3
        if bool(((forward - reverse).abs() > allowed * size).any()):
            raise DifferentiationError(
                "Forward mode gives another slope of the loss than reverse mode: kinks cannot be "
                "located."
            )

    def _own_kinks_along(
        self, parameters: Parameters, vectors: Tensor, reach: float, slopes: Tensor
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The number of a vector with the kinks of a batch along it; adds to the slopes."""
        self._refuse_branches([parameters])
        directions = self._unflatten(vectors)
        with self._unchanged([parameters]):
            for batch in self.batches():
                loss = partial(self.share_of_loss, batch=batch)
                gradient, deltas = kinks.sensitivities(loss, parameters)
                for k, v in enumerate(directions):
                    slope, found = kinks.crossings(loss, parameters, v, deltas, reach)
                    terms = _flatten([gradient])[:, 0] * _flatten([v])[:, 0]
                    slopes[:, k] += torch.stack([slope, terms.sum(), terms.abs().sum()])
                    yield k, *found
        self.restore()

    @of_all_processes
    def total_and_size(self, batches: Iterable[Batch]) -> Tensor:
        """What these batches add to the loss at the network's own parameters, with and without sign:
        (2,) float64.
        """
        parameters, total = self.parameters_at(self.theta), self.theta.new_zeros(2).double()
        for batch in batches:
            if self.loss.weight(batch):
                share = self.share_of_loss(parameters, batch).detach()
                total += torch.stack([share, share.abs()])
        self.restore()
        return total

    def foldings(self, parameters: Parameters) -> dict[int, Folding]:
        """The normalisations that may be folded, seen in a pass over two samples."""
        leaves = {name: p.requires_grad_() for name, p in parameters.items()}
        batch = next(iter(self.batches(2)))

        def call() -> None:
            with torch.enable_grad():
                self.share_of_loss(leaves, batch)

        return foldings(self._program, call)

    def restore(self) -> None:
        """Let go of what was put into the network, and of what it kept of a pass."""
        self._program.restore()

    # --- one batch ------------------------------------------------------------------------------

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """All samples of this process; batches of which the loss ignores every target are left out."""
        size = size or self.samples_at_once
        for batch in self.samples.batches(size, self.ways.smallest_batch):
            if self.loss.weight(batch):
                yield self._cast(batch)

    def share_of_loss(
        self,
        parameters: Parameters,
        batch: Batch,
        fast: bool = False,
        watch: Watch | None = None,
    ) -> Tensor:
        """The batch's part of the loss of all samples.

        `fast`: also in a second backward pass. `watch` is called with outputs and targets.
        """
        own, share = self._own(batch)
        with self._prepared(parameters, fast):
            loss = self._loss_of(own, watch)
            return loss.reshape(()) * share if loss.ndim else loss * share

    def outputs_and_loss(
        self, parameters: Parameters, batch: Batch, fast: bool = False
    ) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Tensor]]:
        """The network's outputs for a batch, and the batch's part of the loss as their function.

        Raises:
            ModelError: The outputs are not real tensors, or tuples, lists or dictionaries of them.
        """
        (inputs, targets), share = self._own(batch)
        with self._prepared(parameters, fast, linear=True):
            outputs = convention(self._program.module)(inputs)
        leaves, structure = tree_flatten(outputs)
        variable = [i for i, leaf in enumerate(leaves) if _is_real(leaf)]
        loss_of_outputs = self.loss.of_outputs(self._program.module)

        def loss(values: Sequence[Tensor]) -> Tensor:
            filled = list(leaves)
            for i, value in zip(variable, values, strict=True):
                filled[i] = value.clone()  # a loss may change its arguments
            value = loss_of_outputs(tree_unflatten(filled, structure), targets)
            return value.reshape(()) * share

        return [leaves[i] for i in variable], loss

    def _own(self, batch: Batch) -> tuple[Batch, float]:
        """A batch that the network may change, and its weight in the loss of all samples."""
        # Batches are parts of the user's arrays, which a network in place would change.
        own = tree_map(Tensor.clone, batch) if self.ways.copies_samples else batch
        return own, self.loss.weight(own) / self._weight

    @contextlib.contextmanager
    def _prepared(self, parameters: Parameters, fast: bool, linear: bool = False) -> Iterator[None]:
        """The network at these parameters, ready for a pass."""
        self._program.acts_in_place = self.ways.acts_in_place
        mode = DoubleBackward(self.ways.foldings, self._program.tensor, linear)
        with mode if fast else contextlib.nullcontext():
            self._program.put(parameters)
            yield

    def _share_and_right(self, parameters: Parameters, batch: Batch) -> Tensor:
        """The batch's part of the loss, how many of its samples are classified correctly, and of
        how many: (3,) float64.
        """
        # No batch has classes where one has none.
        counts = torch.full((2,), torch.nan, dtype=torch.float64, device=self.device)

        def count(outputs: Any, targets: Any) -> None:
            nonlocal counts
            counted = self.loss.counted(outputs, targets)
            if counted is not None:
                right = (outputs.argmax(1) == targets) & counted
                counts = torch.stack([right.sum(), counted.sum()]).double()

        share = self.share_of_loss(parameters, batch, watch=count)
        return torch.cat([share.double()[None], counts])

    def _without_folding(
        self, mode: Callable[..., Any], function: Callable[..., Any], *arguments: Any
    ) -> Any:
        """A mode of a function; without folding where a network takes an unproven path."""
        try:
            return mode(function, *arguments)
        except FoldingError:
            self.ways.foldings = {}
            return mode(function, *arguments)

    def _choose_samples_at_once(self) -> int:
        """On the CPU, as many samples as keep the largest result of a layer in the cache.

        Tuned on a ResNet-20 with two cores: with 64 images of 32 × 32 at once a forward pass takes
        0.23 ms an image, with 256 a third more; in float64, whose kernels unfold the images, 2.5 ms
        with 8 and 5.4 ms with 32.
        """
        if self.device.type != "cpu":
            return self._batch_size
        batch = next(iter(self.samples.batches(2, self.ways.smallest_batch)))
        few, largest = self._cast(tree_map(Tensor.clone, batch)), 1  # which the network may change

        def watch(module: nn.Module, inputs: object, output: object) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.numel() // n_rows(few))

        handles = [m.register_forward_hook(watch) for m in self._program.module.modules()]
        # With a graph, which a network that differentiates by itself may need.
        leaves = {name: p.requires_grad_() for name, p in self.parameters_at(self.theta).items()}
        try:
            with torch.enable_grad():
                self._program.put(leaves)
                self._loss_of(few)
        finally:
            for handle in handles:
                handle.remove()
        numbers = 2**20 if self.dtype == torch.float32 else 2**17
        return min(self._batch_size, max(8, numbers // largest))

    def _refuse_branches(self, columns: Sequence[Parameters]) -> None:
        """Raise where a network branches at these points by what a batch has in common.

        Networks that turn tensors into numbers may; the self-test saw two points.
        """
        if not self.ways.reads_numbers or self.samples.count == 1:
            return
        for column in columns:
            if self._branches(column) and not self._agrees_in_float64(column):
                raise depends_on_batches(is_sum=False)

    def _branches(self, column: Parameters) -> bool:
        together, singly = (
            torch.stack([self.share_of_loss(column, b).detach() for b in batches]).double()
            for batches in (self.batches(), self.batches(self.ways.smallest_batch))
        )
        allowed = 1e-9 if self.dtype == torch.float64 else 1e-4
        return float((together.sum() - singly.sum()).abs()) > allowed * float(singly.abs().sum())

    def _agrees_in_float64(self, column: Parameters) -> bool:
        """Whether float64 shows no branch: the loss of a trained network may be all rounding."""
        if self.dtype == torch.float64:
            return False
        wide = self.to(torch.float64, samples_at_once=self.samples_at_once)
        try:
            return not wide._branches({n: p.detach().double() for n, p in column.items()})
        except RuntimeError:  # the network computes in float32 alone
            return False

    @contextlib.contextmanager
    def _unchanged(self, columns: Sequence[Parameters]) -> Iterator[None]:
        """Raise where a pass leaves other parameters than it was given.

        The self-test looks for this at two points; a constraint that a network imposes on its
        weights (`weight.data.clamp_(0)`) may act at others alone, where PyTorch's gradient is not
        the slope.
        """
        # In every pass of every network, because a first pass cannot tell: whether a constraint
        # acts may depend on the weights, or on the number of samples, and `.data` and NumPy write
        # unseen by the dispatcher. It costs 1/500 of a product of a ResNet-20 with 64 images.
        before = _checksum(columns)
        yield
        if not torch.equal(_checksum(columns), before):
            raise ModelError("The network changes its own parameters in a forward pass.")

    # --- memory ---------------------------------------------------------------------------------

    def _cast(self, batch: Batch) -> Batch:
        batch = cast(batch, self.dtype, self.device)
        if self.loss.takes_model:
            return tree_map(self._laid_out, batch)
        inputs, targets = batch
        return tree_map(self._laid_out, inputs), targets

    def _laid_out(self, x: Tensor) -> Tensor:
        """In the memory layout that convolutions are fastest in, where the network takes it.

        ResNet-56 in float32 takes 0.46 s in channels-last and 3.1 s in the default layout on a CPU,
        in float64 it is the slower one.
        """
        fastest = x.ndim == 4 and self.dtype == torch.float32 and self.device.type == "cpu"
        if fastest and self.ways.channels_last:
            return x.contiguous(memory_format=torch.channels_last)
        return aligned(x)

    def parameters_at(self, theta: Tensor) -> Parameters:
        """(N,) → parameters by name."""
        return self._as_points(self._unflatten(theta[:, None])[0])

    def _as_points(self, parameters: Parameters) -> Parameters:
        """Parameters as the network takes them (directions are none)."""
        for parameter in parameters.values():
            parameter.requires_grad_(self.ways.takes_gradients)
        return parameters

    def _unflatten(self, vectors: Tensor) -> list[Parameters]:
        """(N, K) → K times parameters by name."""
        with torch.inference_mode(False):
            # Copies, each in a place of its own: whatever the network does to its parameters, the
            # caller's stay; and pairs of real numbers can be seen as complex ones, which must begin
            # at an even place.
            return [
                {
                    name: self._laid_out(part.clone(memory_format=_DENSE).view(shape))
                    for (name, shape), part in zip(self.shapes.items(), column.split(self.sizes))
                }
                for column in vectors.detach().T
            ]

    def _zeros(self, count: int) -> list[Parameters]:
        return self._unflatten(self.theta.new_zeros(self.n_parameters, count))


def depends_on_batches(is_sum: bool) -> ModelError:
    """What is said of a loss that cannot be put together from batches."""
    why = (
        "it is a sum, not a mean over samples, which is to be said by reduction='sum'"
        if is_sum
        else "it is not a mean over samples (what else it is a mean over is known of PyTorch's own "
        "losses alone, and said by ModelLoss(function, weight=…)), or the network mixes the samples of "
        "a batch"
    )
    return ModelError(f"The loss depends on how the samples are split into batches: {why}.")


def _refuse_coarse_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Frozen ones of less precision make the network compute in theirs, beside the trainable ones."""
    for name, parameter in model.named_parameters():
        coarse = parameter.is_floating_point() and parameter.dtype.itemsize < dtype.itemsize
        if coarse and parameter.numel():
            raise ModelError(
                f"The frozen parameter {name!r} is {parameter.dtype}, the trainable ones are {dtype}: "
                "give the network all of its parameters in one precision."
            )


def _is_real(leaf: Any) -> bool:
    """Whether a part of the outputs is a real tensor; what has no gradient is constant.

    Raises:
        ModelError: It is something else, which may hide tensors that the loss depends on.
    """
    if isinstance(leaf, Tensor):
        if leaf.is_floating_point():
            return True
        if not leaf.is_complex():
            return False
    elif leaf is None or isinstance(leaf, bool | int | float | str):
        return False
    what = "complex" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
    raise ModelError(
        f"The Gauss–Newton matrix needs outputs that are real tensors, or tuples, lists or "
        f"dictionaries of them, but one is {what}."
    )


def _add(total: Parameters, part: Parameters) -> None:
    for name, tensor in total.items():
        tensor.add_(part[name])


def _checksum(columns: Sequence[Parameters]) -> Tensor:
    """Sums of the bits of parameters, one each, modulo 2⁶⁴."""
    return torch.stack(
        [
            p.detach().view(torch.int64 if p.dtype == torch.float64 else torch.int32).sum()
            for column in columns
            for p in column.values()
        ]
    )


def _flatten(columns: Sequence[Parameters]) -> Tensor:
    """K times parameters by name → (N, K)."""
    rows = [torch.cat([part.reshape(-1) for part in column.values()]) for column in columns]
    return torch.stack(rows, 1)
