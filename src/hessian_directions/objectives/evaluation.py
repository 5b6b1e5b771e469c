"""Passes of a network over samples: values, gradients, products and second derivatives.

Nothing here is checked against anything or counted: `self_test` decides which ways are right, and
`objective` is what people use.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves, tree_map

from hessian_directions.autodiff.double_backward import DoubleBackward, FoldingError
from hessian_directions.autodiff.folding import Folding, foldings
from hessian_directions.autodiff.modes import (
    FAST,
    PRODUCTS,
    SECOND_DERIVATIVES,
    Parameters,
    gradient,
    stack,
)
from hessian_directions.autodiff.program import Program, convention
from hessian_directions.autodiff.referee import cast
from hessian_directions.errors import DataError, ModelError
from hessian_directions.objectives.losses import BatchLoss
from hessian_directions.objectives.samples import Batch, Samples


@dataclass
class Ways:
    """How passes are made: settled by the self-test, for all copies of an objective at once.

    Attributes:
        vectorised: Over vectors and points: many small matrix products become few large ones.
        acts_in_place: Modules change their inputs where the user asked them to.
        copies_samples: Every pass gets a copy of its batch, which the network may change.
        smallest_batch: The fewest samples that the network takes.
        reads_numbers: The network turns tensors into numbers, which it may branch on.
        fast_gradients: Gradients by the fast backward pass (`double_backward`), too.
        foldings: Batch normalisations that are folded into the convolution before them.
    """

    vectorised: bool
    acts_in_place: bool = False
    copies_samples: bool = True
    smallest_batch: int = 1
    reads_numbers: bool = False
    fast_gradients: bool = True
    foldings: dict[int, Folding] = field(default_factory=dict)


class Evaluation:
    """L(θ) over samples and its derivatives, θ flat in the order of the parameters.

    Args:
        model: A private copy in evaluation mode; it is not run itself, but a copy of it.
        names: The parameters that make up θ; all others are constant.
        loss: The loss of a batch.
        samples: What it is a mean over.
        batch_size: The most samples per pass.
        ways: How passes are made; when None as they are tried first.
        samples_at_once: As many per pass; chosen by the first pass when None.

    Raises:
        ModelError: The parameters are not of one precision on one device, or there are none.
        DataError: The loss ignores every target.
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
        self._weight = samples.weight(self.loss)
        if not self._weight:
            raise DataError("The loss ignores every target.")

    @property
    def n_parameters(self) -> int:
        return len(self.theta)

    @property
    def sizes(self) -> list[int]:
        """The number of entries of each parameter."""
        return [shape.numel() for shape in self.shapes.values()]

    def to(
        self,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        samples: Samples | None = None,
        samples_at_once: int | None = None,
    ) -> Evaluation:
        """In another precision, on another device, over other samples; by the same ways."""
        model = self.model
        if dtype is not None or device is not None:
            model = copy.deepcopy(model).to(dtype=dtype, device=device)
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
        columns = self._unflatten(points)
        self._refuse_branches(columns)
        total = points.new_zeros(len(columns), dtype=torch.float64)
        together = stack(columns) if self.ways.vectorised and len(columns) > 1 else None
        # No parameter asks for a graph; a network that differentiates by itself may.
        with self._unchanged(columns if together is None else [together]), torch.enable_grad():
            for batch in self.batches():
                loss = partial(self.share_of_loss, batch=batch)
                if together is None:
                    total += torch.stack([loss(column).detach() for column in columns])
                    continue
                try:
                    total += vmap(loss)(together).detach()
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError:  # the network branches on its parameters, for instance
                    self.ways.vectorised = False
                    return self.values(points)
        self.restore()
        return total.to(self.dtype)

    def gradient(self, parameters: Parameters) -> Tensor:
        """∇L, (N,)."""
        self._refuse_branches([parameters])
        total = self._zeros(1)
        fast = self.ways.fast_gradients and not self.ways.vectorised
        with self._unchanged([parameters]):
            for batch in self.batches():
                _add(total[0], self._folded(gradient, fast, batch, parameters))
        return _flatten(total)[:, 0]

    def products(self, parameters: Parameters, vectors: Tensor, mode: str) -> Tensor:
        """∇²L v for K vectors: (N, K) → (N, K)."""
        self._refuse_branches([parameters])
        directions = self._unflatten(vectors)
        total = self._zeros(len(directions))
        fast = mode == FAST and not self.ways.vectorised
        with self._unchanged([parameters]):
            for batch in self.batches():
                arguments = (parameters, directions, self.ways.vectorised)
                products = self._folded(PRODUCTS[mode], fast, batch, *arguments)
                for part, product in zip(total, products):
                    _add(part, product)
        self.restore()
        return _flatten(total)

    def second_derivatives(self, parameters: Parameters, vectors: Tensor, mode: str) -> Tensor:
        """v'∇²L v for K vectors: (N, K) → (K,)."""
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
        return total.to(self.dtype)

    def accuracy(self, parameters: Parameters) -> float:
        """Share of the samples whose largest output is their class; NaN where there are none."""
        if self.loss.takes_model:
            return math.nan
        call, right, counted = convention(self._program.module), 0, 0
        # No parameter asks for a graph; a network that differentiates by itself may.
        with torch.enable_grad():
            for inputs, targets in self.batches():
                self._program.put(parameters)
                outputs = call(tree_map(Tensor.clone, inputs))
                if not _are_classes(outputs, targets):
                    return math.nan
                known = (targets >= 0) & (targets < outputs.shape[1])
                right += int((outputs.argmax(1) == targets)[known].sum())
                counted += int(known.sum())
        return right / counted if counted else math.nan

    def value_in_batches(self, size: int) -> float:
        """The loss of all samples at the network's own parameters, at most half of them at once."""
        parameters, total = self.parameters_at(self.theta), 0.0
        for batch in self.batches(max(1, min(size, self.samples.count // 2))):
            total += float(self.share_of_loss(parameters, batch).detach())
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
        """All samples; batches of which the loss ignores every target are left out."""
        if size is None and self._samples_at_once is None:
            self._samples_at_once = self._choose_samples_at_once()
        size = size or self._samples_at_once or 1
        for batch in self.samples.batches(size, self.ways.smallest_batch):
            if self.loss.weight(batch):
                yield self._cast(batch)

    def share_of_loss(self, parameters: Parameters, batch: Batch, fast: bool = False) -> Tensor:
        """The batch's part of the loss of all samples; `fast`: also in a second backward pass."""
        # Batches are parts of the user's arrays, which a network in place would change.
        own = tree_map(Tensor.clone, batch) if self.ways.copies_samples else batch
        share = self.loss.weight(own) / self._weight
        self._program.acts_in_place = self.ways.acts_in_place
        mode: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if fast:
            mode = DoubleBackward(self.ways.foldings, self._program.tensor)
        with mode:
            self._program.put(parameters)
            loss = self._loss_of(own)
            return loss.reshape(()) * share if loss.ndim else loss * share

    def _folded(self, mode: Callable[..., Any], fast: bool, batch: Batch, *arguments: Any) -> Any:
        """A mode of the batch's loss; without folding where a network takes an unproven path."""
        loss = partial(self.share_of_loss, batch=batch, fast=fast)
        try:
            return mode(loss, *arguments)
        except FoldingError:
            self.ways.foldings = {}
            return mode(loss, *arguments)

    def _choose_samples_at_once(self) -> int:
        """On the CPU, as many samples as keep the largest result of a layer in the cache.

        Tuned on a ResNet-20 with two cores: with 64 images of 32 × 32 at once a forward pass takes
        0.23 ms an image, with 256 a third more; in float64, whose kernels unfold the images, 2.5 ms
        with 8 and 5.4 ms with 32.
        """
        if self.device.type != "cpu":
            return self._batch_size
        few, largest = self._cast(self.samples.take([0, -1]).batch), 1

        def watch(module: nn.Module, inputs: object, output: object) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.numel() // 2)

        handles = [m.register_forward_hook(watch) for m in self._program.module.modules()]
        try:
            self._program.put(self.parameters_at(self.theta))
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
            together, singly = (
                torch.stack([self.share_of_loss(column, b).detach() for b in batches]).double()
                for batches in (self.batches(), self.batches(self.ways.smallest_batch))
            )
            allowed = 1e-9 if self.dtype == torch.float64 else 1e-4
            if float((together.sum() - singly.sum()).abs()) > allowed * float(singly.abs().sum()):
                raise depends_on_batches(is_sum=False)

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
        """The memory layout that convolutions are fastest in: ResNet-56 in float32 takes 0.46 s in
        channels-last and 3.1 s in the default layout on a CPU, in float64 it is the slower one.
        """
        channels_last = x.ndim == 4 and self.dtype == torch.float32 and self.device.type == "cpu"
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x

    def parameters_at(self, theta: Tensor) -> Parameters:
        """(N,) → parameters by name."""
        return self._unflatten(theta[:, None])[0]

    def _unflatten(self, vectors: Tensor) -> list[Parameters]:
        """(N, K) → K times parameters by name."""
        with torch.inference_mode(False):
            # A copy: whatever the network does to its parameters, the caller's stay.
            rows = vectors.detach().T.clone(memory_format=torch.contiguous_format)
            return [
                {
                    name: self._laid_out(part.view(shape))
                    for (name, shape), part in zip(self.shapes.items(), row.split(self.sizes))
                }
                for row in rows
            ]

    def _zeros(self, count: int) -> list[Parameters]:
        return self._unflatten(self.theta.new_zeros(self.n_parameters, count))


def depends_on_batches(is_sum: bool) -> ModelError:
    """What is said of a loss that cannot be put together from batches."""
    why = (
        "it is a sum, not a mean over samples, which is to be said by reduction='sum'"
        if is_sum
        else "it is not a mean over samples, or the network mixes the samples of a batch"
    )
    return ModelError(f"The loss depends on how the samples are split into batches: {why}.")


def n_rows(batch: Batch) -> int:
    """The number of samples in a batch."""
    return len(tree_leaves(batch)[0])


def _are_classes(outputs: Any, targets: Any) -> bool:
    """Whether integers choose among the second axis of the outputs."""
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return False
    integers = not (targets.is_floating_point() or targets.is_complex())
    return integers and outputs.ndim > 1 and outputs[:, 0].shape == targets.shape


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
