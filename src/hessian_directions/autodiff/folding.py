"""Batch normalisations that can be folded into the convolution before them: proven by a first pass.

A folding is safe if nothing but that normalisation ever reads what the convolution returns. The
first pass runs the network with real tensors and watches every operation below autograd, custom
functions, hooks and scripted pieces included; what it has seen once is checked again, as far as
functions of PyTorch are concerned, in every later pass (`double_backward`).
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from hessian_directions.autodiff.normalisation import BatchNorm
from hessian_directions.autodiff.program import Place, Program
from hessian_directions.autodiff.watching import Watching


@dataclass(frozen=True)
class Folding:
    """A batch normalisation in evaluation mode.

    Attributes:
        places: Where the network keeps running mean, running variance, weight and bias, if any.
        eps: Added to the variance.
    """

    places: tuple[Place | None, ...]
    eps: float


def foldings(program: Program, call: Callable[[], object]) -> dict[int, Folding]:
    """The foldings of a network, by the number of the convolution in the order of its calls.

    Args:
        call: Runs it once, as later passes do, with parameters that the program then holds.
    """
    watch = _Watch()
    recorder = _Recorder(program, watch)
    with recorder, watch:
        call()
    found = {}
    for number, (output, storage) in enumerate(recorder.convolutions):
        readers = watch.readers[storage]
        normalisation = recorder.normalisations.get(next(iter(readers)) if readers else None)
        if len(readers) == 1 and normalisation is not None and normalisation[0] == number:
            found[number] = (normalisation[1], weakref.ref(output))
        del output
    recorder.convolutions.clear()
    # Who still holds an output may read it later.
    return {number: folding for number, (folding, alive) in found.items() if alive() is None}


class _Watch(Watching):
    """Which normalisation (or None: anything else) read a tensor, by its storage."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: defaultdict[int, set[int | None]] = defaultdict(set)
        self.normalisation: int | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                self.readers[leaf.untyped_storage()._cdata].add(self.normalisation)
        return func(*args, **(kwargs or {}))


class _Recorder(TorchFunctionMode):
    """The convolutions and normalisations of a pass, in the order of their calls."""

    def __init__(self, program: Program, watch: _Watch) -> None:
        super().__init__()
        self._program, self._watch = program, watch
        # Outputs are held, so that no other tensor gets their storage.
        self.convolutions: list[tuple[Tensor, int]] = []
        self.normalisations: dict[int | None, tuple[int, Folding]] = {}
        self._calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.conv2d:
            y = func(*args, **kwargs)
            storage = y.untyped_storage()._cdata
            self._watch.readers.pop(storage, None)
            self.convolutions.append((y, storage))
            return y
        if func is functional.batch_norm:
            self._calls += 1
            norm = BatchNorm(*args, **kwargs)
            folding, number = _folding(norm, self._program.places()), self._number(norm.x)
            if folding is not None and number is not None:
                self.normalisations[self._calls] = (number, folding)
                self._watch.normalisation = self._calls
            try:
                return func(*args, **kwargs)
            finally:
                self._watch.normalisation = None
        return func(*args, **kwargs)

    def _number(self, x: Any) -> int | None:
        return next((n for n, (output, _) in enumerate(self.convolutions) if output is x), None)


def _folding(norm: BatchNorm, places: dict[int, Place]) -> Folding | None:
    """None where it cannot be folded: by a batch's own statistics, or with tensors from elsewhere."""
    used = tuple(places.get(id(tensor)) for tensor in norm[1:5])
    known = all(tensor is None or place for tensor, place in zip(norm[1:5], used))
    return Folding(used, norm.eps) if norm.is_fixed and known else None
