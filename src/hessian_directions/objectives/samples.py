"""The samples that a loss is a mean over: arrays in memory, or batches that are read anew each pass.

Several processes may hold a share of them each.

A batch is a tree, a tensor, or a tuple or dictionary of trees, whose tensors have a row for each
sample: a pair (inputs, targets), or whatever a loss of the network and a batch takes.
"""

from __future__ import annotations

import array
import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from hessian_directions.arrays import as_tensor, memory
from hessian_directions.errors import DataError, ModelError, first_line
from hessian_directions.objectives.losses import BatchLoss
from hessian_directions.objectives.processes import ALONE, Processes

Batch = Any

_DIFFERENT = (
    "Two passes over the data bring different samples: they are augmented or chosen at random; fix "
    "them, or keep one pass with in_memory=True."
)


class Samples(Protocol):
    """A batch at a time, the same samples in every pass.

    Attributes:
        count: How many there are.
        processes: Those that hold them.
    """

    count: int
    processes: Processes = ALONE

    def batches(self, size: int, smallest: int = 1) -> Iterator[Batch]:
        """All that this process holds, at most `size` of them at once and, where possible, at least
        `smallest`.
        """
        ...

    def take(self, indices: Sequence[int]) -> InMemory:
        """The samples with these indices, in this order."""
        ...

    def weight(self, loss: BatchLoss) -> float:
        """What a loss weighs all samples with."""
        ...

    def labels(self) -> Tensor | None:
        """One integer a sample where targets have one, else None."""
        ...

    def subset(self, indices: Sequence[int]) -> Samples:
        """As `take`, but held by the same processes."""
        return self.take(indices)

    def own(self) -> Samples:
        """Those that this process holds."""
        return self


class InMemory(Samples):
    """A batch of all samples; it stays where it is."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self.count = batch, _count(batch)
        self._versions = self._present_versions()

    def __deepcopy__(self, memo: dict[int, Any]) -> InMemory:
        """What is copied was changed by nobody yet."""
        self._refuse_changes()
        return InMemory(copy.deepcopy(self.batch, memo))

    def batches(self, size: int, smallest: int = 1) -> Iterator[Batch]:
        self._refuse_changes()
        start = 0
        while start < self.count:
            left = self.count - start
            # Rather a little less in the last batch but one than too little in the last.
            short = smallest - (left - size) if 0 < left - size < smallest < size else 0
            yield self._rows(slice(start, start + size - short))
            start += size - short

    def take(self, indices: Sequence[int]) -> InMemory:
        self._refuse_changes()
        chosen = torch.as_tensor(indices, dtype=torch.long)
        _refuse_strangers(chosen.tolist(), self.count)
        return InMemory(self._rows(chosen))

    def weight(self, loss: BatchLoss) -> float:
        return loss.weight(self.batch)

    def labels(self) -> Tensor | None:
        return _labels(self.batch)

    def _present_versions(self) -> list[int]:
        return [leaf._version for leaf in tree_leaves(self.batch)]

    def _refuse_changes(self) -> None:
        if self._versions != self._present_versions():
            raise DataError("Inputs or targets were changed in place after they were handed over.")

    def _rows(self, rows: slice | Tensor) -> Batch:
        def pick(tensor: Tensor) -> Tensor:
            return tensor[rows if isinstance(rows, slice) else rows.to(tensor.device)]

        return tree_map(pick, self.batch)


class Streamed(Samples):
    """Batches that are read anew in every pass, each of which must bring the same samples.

    The first pass, at once, counts and weighs them and takes a checksum of each; a later pass that
    brings others is refused. Their order does not matter: the first pass numbers them.
    """

    def __init__(self, source: Iterable[Any], loss: BatchLoss) -> None:
        self._source, self._of_pairs = source, not loss.takes_model
        self.count, self._weight = 0, 0.0
        self._checksums = array.array("Q")
        labels: list[Tensor] | None = []
        for batch in self._read():
            self.count += _count(batch)
            self._checksums.extend(_checksums(batch))
            self._weight += loss.weight(batch)
            of_batch = _labels(batch)
            labels = None if labels is None or of_batch is None else [*labels, of_batch.cpu()]
        if not self.count:
            raise DataError("The data hold no samples.")
        self._sum = sum(self._checksums)
        self._labels = None if labels is None else torch.cat(labels)

    def batches(self, size: int, smallest: int = 1) -> Iterator[Batch]:
        total = 0
        for batch in self._read():
            total += sum(_checksums(batch))
            yield from InMemory(batch).batches(size, smallest)
        if total != self._sum:
            raise DataError(_DIFFERENT)

    def take(self, indices: Sequence[int]) -> InMemory:
        chosen = [int(i) for i in torch.as_tensor(indices).reshape(-1)]
        _refuse_strangers(chosen, self.count)
        wanted = [self._checksums[i] for i in chosen]
        missing, found = set(wanted), {}
        for batch in self._read():
            here = InMemory(batch)
            for i, checksum in enumerate(_checksums(batch)):
                if checksum in missing:
                    missing.remove(checksum)
                    found[checksum] = next(here.take([i]).batches(1))
        if missing:
            raise DataError(_DIFFERENT)
        return InMemory(_joined([found[checksum] for checksum in wanted]))

    def weight(self, loss: BatchLoss) -> float:
        return self._weight  # of the loss that the first pass was made for

    def labels(self) -> Tensor | None:
        return self._labels

    def _read(self) -> Iterator[Batch]:
        return (_read(batch, self._of_pairs) for batch in self._source)


class Distributed(Samples):
    """Samples of which several processes hold a share each: the first's come first.

    Args:
        own: The share of this process.
        processes: All of them.
        loss: What weighs the samples.
    """

    def __init__(self, own: Samples, processes: Processes, loss: BatchLoss) -> None:
        self._own, self.processes, self._loss = own, processes, loss
        labels = own.labels()
        told = (own.count, own.weight(loss), labels)
        counts, weights, of_all = zip(*processes.gathered(told), strict=True)
        self.count, self._weight = sum(counts), sum(weights)
        self._first = sum(counts[: processes.rank])
        self._labels = None if any(part is None for part in of_all) else torch.cat(of_all)

    def batches(self, size: int, smallest: int = 1) -> Iterator[Batch]:
        """Those of this process."""
        return self._own.batches(size, smallest)

    def take(self, indices: Sequence[int]) -> InMemory:
        """In every process, whoever holds them."""
        with self.processes.agreed("samples"):
            chosen = torch.as_tensor(indices, dtype=torch.long).reshape(-1)
            _refuse_strangers(chosen.tolist(), self.count)
            places = chosen % self.count - self._first
            here = ((places >= 0) & (places < self._own.count)).nonzero()[:, 0]
            mine = self._own.take(places[here].tolist()).batch if len(here) else None
        found = self.processes.gathered((here, mine))
        order = torch.cat([positions for positions, _ in found]).argsort()
        batch = _joined([part for _, part in found if part is not None])
        return InMemory(tree_map(lambda leaf: leaf[order], batch))

    def subset(self, indices: Sequence[int]) -> Samples:
        """Shared out anew; held by every process where there are fewer of them than processes."""
        taken = self.take(indices)
        rank, count = self.processes.rank, self.processes.count
        if taken.count < count:
            return taken
        share = range(taken.count * rank // count, taken.count * (rank + 1) // count)
        return Distributed(taken.take(share), self.processes, self._loss)

    def weight(self, loss: BatchLoss) -> float:
        return self._weight  # of the loss that they were shared out for

    def labels(self) -> Tensor | None:
        return self._labels

    def own(self) -> Samples:
        return self._own


def collect(
    data: Any, targets: Any, loss: BatchLoss, batch_size: int = 256, in_memory: bool | None = None
) -> Samples:
    """Samples from whatever people have.

    Args:
        data: With `targets`, the inputs: an array, or a tuple or dictionary of arrays (tensors,
            NumPy arrays, lists). Without, a DataLoader, a Dataset, or any other iterable of batches:
            pairs (inputs, targets), or what a loss of network and batch takes; for such a loss one
            array or dictionary of arrays, too.
        loss: What weighs them.
        batch_size: Samples read at once from a Dataset.
        in_memory: True keeps one pass over batches as it came (of a loader that shuffles or
            augments, too), False reads them anew in every pass; None keeps them unless they take
            more than a quarter of the machine's memory.

    Raises:
        DataError: There are no samples, or a batch is no pair.
        ModelError: Inputs and targets differ in number.
    """
    of_pairs = not loss.takes_model
    if targets is not None:
        return InMemory((_tensors(data), _long(_tensors(targets))))
    if loss.takes_model and isinstance(data, Tensor | np.ndarray | Mapping):
        return InMemory(_tensors(data))
    if isinstance(data, Tensor | np.ndarray):
        raise DataError("The inputs come without targets.")
    if isinstance(data, torch.utils.data.Dataset):
        data = _OfDataset(data, batch_size)
    if not isinstance(data, Iterable):
        raise DataError(f"{type(data).__name__} is neither arrays nor batches of samples.")
    once = iter(data) is data
    if in_memory is False:
        if once:
            raise DataError("The data can be read only once, so that they must be in memory.")
        return Streamed(data, loss)
    kept, size, limit = [], 0, (memory() // 2 if once else memory() // 4)
    for batch in data:
        # A copy, unless they are there all at once: a loader may fill the same memory again.
        read = _read(batch, of_pairs)
        kept.append(read if isinstance(data, list | tuple) else tree_map(torch.clone, read))
        size += sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(kept[-1]))
        if size > limit and once:
            raise DataError(
                f"The data can be read only once and did not end after {size / 1e9:.0f} GB, half of "
                "this machine's memory: give a loader that can be read again."
            )
        if size > limit and in_memory is None:
            return Streamed(data, loss)
    if not kept:
        raise DataError("The data hold no samples.")
    return InMemory(_joined(kept))


class _OfDataset:
    """The samples of a Dataset in batches."""

    def __init__(self, data: Any, batch_size: int) -> None:
        self._loader = torch.utils.data.DataLoader(data, batch_size)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._loader
        except (TypeError, RuntimeError) as error:
            raise DataError(
                f"The samples of the Dataset make no batch: {first_line(error)}."
            ) from error


def representatives(samples: Samples, count: int = 12) -> list[int]:
    """Indices of few samples that represent all: of every class, ignored ones too, where possible.

    Of more than `count` labels the first, the last and others between are taken; where there are
    fewer, samples from all over the data are added.
    """
    labels = samples.labels()
    chosen: list[int] = []
    if labels is not None:
        values = labels.unique()
        picked = values[torch.linspace(0, len(values) - 1, min(len(values), count)).long()]
        chosen = [int((labels == value).nonzero()[0]) for value in picked]
    spread = torch.linspace(0, samples.count - 1, min(samples.count, count)).long().tolist()
    return [*chosen, *(i for i in spread if i not in chosen)][:count]


def _count(batch: Batch) -> int:
    parts = batch if _is_pair(batch) else (batch,)
    counts = [{len(leaf) if leaf.ndim else -1 for leaf in tree_leaves(part)} for part in parts]
    together = set.union(*counts)
    if len(together) != 1 or together & {0, -1}:
        several = [" and ".join(map(str, sorted(count))) or "no" for count in counts]
        if len(several) == 1:
            raise ModelError(f"The arrays of a batch have {several[0]} rows.")
        raise ModelError(f"{several[0]} inputs do not go with {several[1]} targets.")
    return together.pop()


def _is_pair(batch: Batch) -> bool:
    return isinstance(batch, tuple) and len(batch) == 2


def _labels(batch: Batch) -> Tensor | None:
    """Targets that are integers; of several for one sample (pixels) the smallest."""
    targets = batch[1] if _is_pair(batch) else batch
    leaves = tree_leaves(targets)
    if len(leaves) != 1 or leaves[0].is_floating_point() or leaves[0].is_complex():
        return None
    return leaves[0].flatten(1).amin(1) if leaves[0].ndim > 1 else leaves[0]


def _read(batch: Any, as_pair: bool) -> Batch:
    """A batch as it comes from a loader, where lists are what collation makes of tuples."""
    if not as_pair:
        return _tensors(batch, lists_are_tuples=True)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            f"A batch is a {type(batch).__name__}, but a pair (inputs, targets) is needed, or a "
            "loss of network and batch (ModelLoss)."
        )
    inputs, targets = (_tensors(part, lists_are_tuples=True) for part in batch)
    return inputs, _long(targets)


def _tensors(value: Any, lists_are_tuples: bool = False) -> Any:
    """A tree of tensors from one of arrays."""

    def again(part: Any) -> Any:
        return _tensors(part, lists_are_tuples)

    if isinstance(value, Mapping):
        return {key: again(part) for key, part in value.items()}
    holds_arrays = isinstance(value, list) and any(
        isinstance(part, Tensor | np.ndarray | Mapping | tuple) for part in value
    )
    if isinstance(value, tuple) or (lists_are_tuples and holds_arrays):
        parts = [again(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return as_tensor(value)


def _long(targets: Any) -> Any:
    """Integers, which NumPy has of many kinds, as the kind in which PyTorch takes classes."""
    kinds = (torch.int8, torch.int16, torch.int32, torch.uint8)
    return tree_map(lambda leaf: leaf.long() if leaf.dtype in kinds else leaf, targets)


def _joined(batches: Sequence[Batch]) -> Batch:
    def join(*parts: Tensor) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    try:
        return tree_map(join, *batches)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"Batches do not fit together: {str(error).splitlines()[0]}") from error


def _checksums(batch: Batch) -> list[int]:
    """One of each sample."""
    leaves = [leaf.detach().cpu().contiguous() for leaf in tree_leaves(batch)]
    rows = [leaf.reshape(len(leaf), -1).view(torch.uint8).numpy() for leaf in leaves]
    checksums = []
    for i in range(len(leaves[0])):
        checksum = hashlib.blake2b(digest_size=8)
        for row in rows:
            checksum.update(row[i])
        checksums.append(int.from_bytes(checksum.digest(), "little"))
    return checksums


def _refuse_strangers(indices: Sequence[int], count: int) -> None:
    if len(indices) and not -count <= min(indices) <= max(indices) < count:
        raise DataError(f"A subset names samples that are not among the {count}.")
