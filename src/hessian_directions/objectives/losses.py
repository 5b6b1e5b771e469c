"""Losses, and what their value over a batch is a mean over.

The loss of all samples is put together from batches: a mean over samples by the number of samples
of each, a mean weighted by class (or without the targets to be ignored) by the weights of each, a
sum by adding. A loss that is none of these is found out by the self-test.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from hessian_directions.autodiff.precision import moved, of_kind
from hessian_directions.autodiff.program import convention, path_in_copy
from hessian_directions.errors import ModelError, first_line

Loss = Callable[[Any, Any], Tensor]
Watch = Callable[[Any, Any], None]


class ModelLoss:
    """A loss of the network and a batch, for `Objective`: function(model, batch) → scalar.

    Both kinds of loss take two arguments, so that only a name of its own tells them apart. The
    function calls the model as it likes (several times, by keyword, other methods than `forward`)
    and reads its outputs, whatever they are. Its value is the mean over the samples of the batch,
    or over what `weight` counts, or their sum where it has an attribute `reduction` that is "sum".

    Args:
        function: function(model, batch). The model is a copy at the parameters in question; a batch
            is what the data give, as tensors on the model's device, real numbers in its precision.
        batch_is_sample: A batch of the data is one sample, a graph for instance, whose arrays need
            have nothing in common: the function is given one at a time, as it is, and the loss is
            the mean over them, or their sum.
        weight: weight(batch) is how much of that a batch has which its value is a mean over, where
            that are not its samples: tokens that are no padding, say. A batch with none is left out.
    """

    def __init__(
        self,
        function: Callable[[Any, Any], Tensor],
        batch_is_sample: bool = False,
        weight: Callable[[Any], Any] | None = None,
    ) -> None:
        self.function, self.batch_is_sample, self.weight = function, batch_is_sample, weight


class OwnMethod:
    """A method of the network or of a part of it, as a function of the copy that is studied.

    Args:
        function: function(part, *arguments).
        part: Where the part stands in the copy; "" is the network.
    """

    def __init__(self, function: Callable[..., Any], part: str) -> None:
        self.function, self.part = function, part
        self.reduction = getattr(function, "reduction", "mean")

    def __call__(self, model: nn.Module, *arguments: Any, **options: Any) -> Any:
        return self.function(model.get_submodule(self.part), *arguments, **options)


def with_own_methods(loss: Any, model: nn.Module, owned: set[int]) -> Any:
    """A loss whose methods of the network's parts that are `owned` are those of the copy."""
    if isinstance(loss, ModelLoss):
        function = with_own_methods(loss.function, model, owned)
        return ModelLoss(function, loss.batch_is_sample, loss.weight)
    if isinstance(loss, partial):
        function = with_own_methods(loss.func, model, owned)
        return partial(function, *loss.args, **loss.keywords)
    if _is_of_module(loss) and id(loss.__self__) in owned:
        return OwnMethod(loss.__func__, path_in_copy(model, loss.__self__))
    return loss


# Their mean over classes given as numbers is weighted, and leaves out the targets to be ignored.
_CLASSIFYING = {nn.CrossEntropyLoss, nn.NLLLoss, functional.cross_entropy, functional.nll_loss}
_OF_CLASSES = _CLASSIFYING | {nn.MultiMarginLoss, functional.multi_margin_loss}
_OF_PYTORCH = {
    value
    for part in (functional, nn.modules.loss)
    for value in vars(part).values()
    if callable(value)
}
_SQUARED = {nn.MSELoss, functional.mse_loss}


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over all entries of (outputs − targets)².

    `torch.nn.functional.mse_loss` has no second derivative by forward mode over reverse mode, so
    the mean of squares is written out; an `Objective` puts it in place of that loss by itself.
    """
    return _residuals(outputs, targets).square().mean()


def summed_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over all entries of (outputs − targets)², for the same reason."""
    return _residuals(outputs, targets).square().sum()


def _residuals(outputs: Tensor, targets: Tensor) -> Tensor:
    """Truth values count as 0 and 1, as in PyTorch's loss; they cannot be subtracted."""
    return outputs - (targets.to(outputs.dtype) if targets.dtype == torch.bool else targets)


class BatchLoss:
    """The loss of a batch, and the weight of that batch in the loss of all samples.

    A batch is a pair (inputs, targets), or anything that a `ModelLoss` takes.

    Args:
        loss: A function, a module or a `functools.partial` of one, or a `ModelLoss` of one. It is
            copied where it holds tensors.

    Attributes:
        original: The loss as it was given; of a `ModelLoss` its function.
        takes_model: Whether it is one of network and batch, not of outputs and targets.
        batch_is_sample: Whether it takes one sample at a time.
        is_known: Whether it is one of PyTorch's, of which it is known what its mean is over.
        total: Whether it is a sum over samples, not a mean.

    Raises:
        ModelError: It cannot be called, has a weight that means nothing, or its reduction is "none"
            or is given in a form that is obsolete.
    """

    def __init__(self, loss: Loss | ModelLoss) -> None:
        self.takes_model, self.batch_is_sample = isinstance(loss, ModelLoss), False
        self._counts: Callable[[Any], Any] | None = None
        if isinstance(loss, ModelLoss):
            self.batch_is_sample, self._counts = loss.batch_is_sample, loss.weight
            loss = loss.function
        if isinstance(loss, type) or not callable(loss):
            raise ModelError(f"The loss is {loss!r}, but a function or an instance is needed.")
        self.original = _copied(loss, None, None)
        kind, options = _kind_and_options(self.original)
        self.is_known = kind is mean_squared_error or (
            isinstance(kind, Hashable) and kind in _OF_PYTORCH
        )
        reduction = options.get("reduction", "mean")
        obsolete = options.keys() & {"size_average", "reduce"}
        if self.is_known and (reduction not in ("mean", "sum", "batchmean") or obsolete):
            raise ModelError(
                f"The loss has reduction {reduction!r}, but 'mean' or 'sum' is needed."
            )
        self.total = reduction == "sum"
        if self._counts is not None and (self.total or self.batch_is_sample):
            raise ModelError(
                "A ModelLoss has a weight where it is a mean over parts of a batch, not where it is a "
                "sum, or a batch is a sample."
            )
        self._weight: Tensor | None = None
        self._ignored: int | None = None
        if self.is_known and kind in _CLASSIFYING:
            self._weight = options.get("weight")
            self._ignored = options.get("ignore_index", -100)
        self._has_classes = self.is_known and kind in _OF_CLASSES
        self._squared = self.is_known and kind in _SQUARED and not options.keys() - {"reduction"}

    def to(self, dtype: torch.dtype | None, device: torch.device | str | None) -> BatchLoss:
        """With its tensors in another precision or on another device."""
        other = copy.copy(self)
        other.original = _copied(self.original, dtype, device)
        return other

    @property
    def differentiable(self) -> Loss:
        """The loss as it was given, but twice differentiable by every mode of PyTorch."""
        if self._squared:
            return summed_squared_error if self.total else mean_squared_error
        return self.original

    def of_outputs(self, model: nn.Module) -> Loss:
        """The loss of outputs and targets for this network, as `differentiable`."""
        return _of_copy(self.differentiable, model)

    def of(self, model: nn.Module) -> Callable[..., Tensor]:
        """The loss of a batch for this network, twice differentiable by every mode of PyTorch.

        A second argument, if any, is called with outputs and targets before the loss is; never for
        a `ModelLoss`, whose outputs nobody but itself knows.
        """
        return self._bound(self.differentiable, model)

    def of_original(self, model: nn.Module) -> Callable[[Sequence[Any]], Tensor]:
        """The loss of all samples of some batches for this network, as it was given."""
        of_batch = self._bound(self.original, model)

        def of_batches(batches: Sequence[Any]) -> Tensor:
            if len(batches) == 1:
                return of_batch(batches[0])
            weights = [self.weight(batch) for batch in batches]
            whole = 1.0 if self.total else sum(weights)
            parts = [of_batch(b) * (w / whole) for b, w in zip(batches, weights, strict=True) if w]
            return sum(parts[1:], start=parts[0])

        return of_batches

    def _bound(self, loss: Loss, model: nn.Module) -> Callable[..., Tensor]:
        loss = _of_copy(loss, model)
        if self.batch_is_sample:

            def of_samples(batch: Any, watch: Watch | None = None) -> Tensor:
                n = len(tree_leaves(batch)[0])
                parts = [loss(model, tree_map(itemgetter(i), batch)) for i in range(n)]
                total = sum(parts[1:], start=parts[0])
                return total if self.total else total / n

            return of_samples
        if self.takes_model:
            return lambda batch, watch=None: loss(model, batch)
        call = convention(model)

        def of_batch(batch: Any, watch: Watch | None = None) -> Tensor:
            outputs, targets = call(batch[0]), batch[1]
            if watch is not None:
                watch(outputs, targets)
            return loss(outputs, targets)

        return of_batch

    def weight(self, batch: Any) -> float:
        """What the mean over its samples is divided by, up to a common factor; 1 for a sum."""
        if self.total:
            return 1.0
        if self._counts is not None:
            return _number(self._counts, batch)
        n_samples = len(tree_leaves(batch)[0])
        targets = None if self.takes_model else batch[1]
        if self._ignored is None or not isinstance(targets, Tensor) or targets.is_floating_point():
            return float(n_samples)
        valid = targets != self._ignored
        if self._weight is None:
            return float(valid.sum())
        weight = self._weight.detach().to(targets.device, torch.float64)
        return float(weight[targets[valid]].sum())

    def counted(self, outputs: Any, targets: Any) -> Tensor | None:
        """Which targets are classes along the second axis of the outputs; None where none are.

        A loss that is not known has them where integers, all of them, can be nothing but such
        classes: counts may be too large for it, and axes as long as another are confused.
        """
        if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
            return None
        if targets.is_floating_point() or targets.is_complex() or outputs.ndim < 2:
            return None
        shape, n = outputs.shape, outputs.shape[1]
        fitting = [k for k in range(1, len(shape)) if shape[:k] + shape[k + 1 :] == targets.shape]
        if 1 not in fitting or n < 2 or (self.is_known and not self._has_classes):
            return None
        classes = (targets >= 0) & (targets < n)
        if self.is_known:
            return classes if self._ignored is None else classes & (targets != self._ignored)
        # PyTorch's own losses, called by the user's, ignore -100 unless they are told otherwise.
        return classes if fitting == [1] and bool((classes | (targets == -100)).all()) else None


def _number(counts: Callable[[Any], Any], batch: Any) -> float:
    try:
        number = float(counts(batch))
    except Exception as error:
        raise ModelError(f"A batch has no weight: {first_line(error)}.") from error
    if not 0 <= number < float("inf"):
        raise ModelError(f"The weight of a batch is {number}, but must be a number, at least 0.")
    return number


def _of_copy(loss: Any, model: nn.Module) -> Any:
    """A loss with the methods of this copy of the network."""
    if isinstance(loss, OwnMethod):
        return partial(loss, model)
    if isinstance(loss, partial):
        return partial(_of_copy(loss.func, model), *loss.args, **loss.keywords)
    return loss


def _copied(loss: Any, dtype: torch.dtype | None, device: torch.device | str | None) -> Any:
    """A loss with copies of the tensors that it holds, in a precision, on a device."""
    if isinstance(loss, nn.Module):
        return moved(loss, dtype, device, "The loss")
    if _is_of_module(loss):
        return MethodType(loss.__func__, moved(loss.__self__, dtype, device, "The loss"))
    if isinstance(loss, partial):
        given = {key: _copied(value, dtype, device) for key, value in loss.keywords.items()}
        return partial(_copied(loss.func, dtype, device), *loss.args, **given)
    if isinstance(loss, Tensor):
        return loss.detach().to(device=device, dtype=of_kind(loss, dtype), copy=True)
    return loss


def _is_of_module(loss: Any) -> bool:
    return isinstance(loss, MethodType) and isinstance(loss.__self__, nn.Module)


def _kind_and_options(loss: Any) -> tuple[Any, Mapping[str, Any]]:
    """The plain loss and what it is given.

    Of a module the class whose `forward` it has: one that adds nothing to PyTorch's is PyTorch's.
    """
    if isinstance(loss, partial):
        kind, options = _kind_and_options(loss.func)
        return kind, {**options, **loss.keywords}
    if _is_of_module(loss) and loss.__name__ == "forward":
        return _kind_and_options(loss.__self__)
    if isinstance(loss, nn.Module):
        names = ("reduction", "weight", "ignore_index")
        options = {name: getattr(loss, name) for name in names if hasattr(loss, name)}
        return next(kind for kind in type(loss).__mro__ if "forward" in vars(kind)), options
    return loss, {"reduction": getattr(loss, "reduction", "mean")}
