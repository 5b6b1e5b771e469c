"""The samples that a loss is a mean over: arrays in memory, or batches that are read anew each pass.

Several processes may hold a share of them each.

A batch is a tree, a tensor, or a tuple or dictionary of trees, whose tensors have a row for each
sample: a pair (inputs, targets), or whatever a loss of the network and a batch takes. Batches may
differ in the shape of a row, as those do that are padded to their own longest sequence: samples are
of one kind where their rows can be joined, and no batch has samples of several kinds.
"""

from __future__ import annotations

import array
import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from hessian_directions.arrays import as_tensor, memory
from hessian_directions.errors import DataError, ModelError, first_line
from hessian_directions.objectives.losses import BatchLoss
from hessian_directions.objectives.processes import ALONE, Processes

Batch = Any

_DIFFERENT = (
    "Two passes over the data bring different samples: they are augmented, padded or chosen at "
    "random; fix them, or keep one pass with in_memory=True."
)


class Samples(Protocol):
    """A batch at a time, the same samples in every pass.

    Attributes:
        count: How many there are.
        labels: One integer a sample where targets have one, else None.
        kinds: One integer a sample; samples with the same one can be joined to a batch.
        processes: Those that hold them.
    """

    count: int
    labels: Tensor | None
    kinds: Tensor
    processes: Processes = ALONE

    def batches(self, size: int, smallest: int = 1) -> Iterator[Batch]:
        """All that this process holds, those of one kind together.

        At most `size` at once and, where possible, at least `smallest`, for which there may be
        fewer than `smallest` more.
        """
        ...

    def take(self, indices: Sequence[int]) -> InMemory:
        """The samples with these indices, in this order."""
        ...

    def weight(self, loss: BatchLoss) -> float:
        """What a loss weighs all samples with."""
        ...

    def subset(self, indices: Sequence[int]) -> Samples:
        """As `take`, but held by the same processes."""
        return self.take(indices)


class InMemory(Samples):
    """Samples that stay where they are, those of each kind as one piece.

    Args:
        batches: All of them.
        indices: Of the samples of each batch; when None in their order, one batch after the other.

    Attributes:
        pieces: A batch of each kind.
        indices: Of the samples of each piece.
    """

    def __init__(self, batches: Sequence[Batch], indices: Sequence[Tensor] | None = None) -> None:
        counts = [n_rows(batch) for batch in batches]
        self.count = sum(counts)
        if indices is None:
            indices = torch.arange(self.count, device="cpu").split(counts)
        alike: dict[int, list[int]] = {}
        for i, batch in enumerate(batches):
            alike.setdefault(_kind(batch), []).append(i)
        self.pieces = [_joined([batches[i] for i in group]) for group in alike.values()]
        self.indices = [torch.cat([indices[i] for i in group]) for group in alike.values()]
        # Where each sample lies among the rows of all pieces, laid end to end.
        self._places = torch.cat(self.indices).argsort()
        held = torch.tensor([len(part) for part in self.indices], device="cpu")
        self.kinds = torch.tensor(list(alike), device="cpu").repeat_interleave(held)[self._places]
        labels = [_labels(piece) for piece in self.pieces]
        present = [part.cpu() for part in labels if part is not None]
        self.labels = torch.cat(present)[self._places] if len(present) == len(labels) else None
        self._versions = self._present_versions()

    def __deepcopy__(self, memo: dict[int, Any]) -> InMemory:
        """What is copied was changed by nobody yet."""
        self._refuse_changes()
        return InMemory(copy.deepcopy(self.pieces, memo), self.indices)

    def batches(self, size: int, smallest: int = 1) -> Iterator[Batch]:
        self._refuse_changes()
        for piece in self.pieces:
            yield from split(piece, size, smallest)

    def take(self, indices: Sequence[int]) -> InMemory:
        self._refuse_changes()
        chosen = torch.as_tensor(indices, dtype=torch.long, device="cpu")
        _refuse_strangers(chosen.tolist(), self.count)
        places, first = self._places[chosen], 0
        batches, found = [], []
        for piece, held in zip(self.pieces, self.indices, strict=True):
            here = ((places >= first) & (places < first + len(held))).nonzero()[:, 0]
            if len(here):
                batches.append(_rows(piece, places[here] - first))
                found.append(here)
            first += len(held)
        return InMemory(batches, found)

    def weight(self, loss: BatchLoss) -> float:
        return sum(loss.weight(piece) for piece in self.pieces)

    def _present_versions(self) -> list[int]:
        return [leaf._version for leaf in tree_leaves(self.pieces)]

    def _refuse_changes(self) -> None:
        if self._versions != self._present_versions():
            raise DataError("Inputs or targets were changed in place after they were handed over.")


class Streamed(Samples):
    """Batches that are read anew in every pass, each of which must bring the same samples.

    The first pass, at once, counts and weighs them and takes a checksum of each; a later pass that
    brings others is refused. Their order does not matter: the first pass numbers them.
    """

    def __init__(self, source: Iterable[Any], loss: BatchLoss) -> None:
        self._source, self._loss = source, loss
        self.count, self._weight = 0, 0.0
        self._checksums, kinds = array.array("Q"), array.array("q")
        labels: list[Tensor] | None = []
        for batch in self._read():
            self.count += n_rows(batch)
            self._checksums.extend(_checksums(batch))
            kinds.extend([_kind(batch)] * n_rows(batch))
            self._weight += loss.weight(batch)
            of_batch = _labels(batch)
            labels = None if labels is None or of_batch is None else [*labels, of_batch.cpu()]
        if not self.count:
            raise DataError("The data hold no samples.")
        self._sum = sum(self._checksums)
        self.labels = None if labels is None else torch.cat(labels)
        self.kinds = torch.tensor(kinds, device="cpu")

    def batches(self, size: int, smallest: int = 1) -> Iterator[Batch]:
        size, total = max(size, smallest), 0
        # What is too little for a batch of its own waits for the samples that come next.
        waiting: list[Batch] = []
        for batch in self._read():
            total += sum(_checksums(batch))
            if waiting and _kind(waiting[0]) != _kind(batch):
                yield from split(_joined(waiting), size, smallest)
                waiting = []
            left = sum(map(n_rows, waiting)) + n_rows(batch)
            if left < size + smallest:
                waiting.append(tree_map(torch.clone, batch))  # its memory may be filled again
                continue
            rows, start = _joined([*waiting, batch]), 0
            while left >= size + smallest:
                yield _rows(rows, slice(start, start + size))
                start, left = start + size, left - size
            waiting = [tree_map(torch.clone, _rows(rows, slice(start, None)))]
        if waiting:
            yield from split(_joined(waiting), size, smallest)
        if total != self._sum:
            raise DataError(_DIFFERENT)

    def take(self, indices: Sequence[int]) -> InMemory:
        _refuse_strangers(indices, self.count)
        wanted = [self._checksums[i] for i in indices]
        missing, found = set(wanted), {}
        for batch in self._read():
            for i, checksum in enumerate(_checksums(batch)):
                if checksum in missing:
                    missing.remove(checksum)
                    found[checksum] = _rows(batch, torch.tensor([i], device="cpu"))
        if missing:
            raise DataError(_DIFFERENT)
        return InMemory([found[checksum] for checksum in wanted])

    def weight(self, loss: BatchLoss) -> float:
        return self._weight  # of the loss that the first pass was made for

    def _read(self) -> Iterator[Batch]:
        return (_read(batch, self._loss) for batch in self._source)


class Distributed(Samples):
    """Samples of which several processes hold a share each: the first's come first."""

    def __init__(self, own: Samples, processes: Processes, loss: BatchLoss) -> None:
        self._own, self.processes, self._loss = own, processes, loss
        told = (own.count, own.weight(loss), own.labels, own.kinds)
        counts, weights, of_all, kinds = zip(*processes.gathered(told), strict=True)
        self.count, self._weight = sum(counts), sum(weights)
        self._first = sum(counts[: processes.rank])
        self.labels = None if any(part is None for part in of_all) else torch.cat(of_all)
        self.kinds = torch.cat(kinds)

    def batches(self, size: int, smallest: int = 1) -> Iterator[Batch]:
        """Those of this process."""
        return self._own.batches(size, smallest)

    def take(self, indices: Sequence[int]) -> InMemory:
        """In every process, whoever holds them."""
        with self.processes.agreed("samples"):
            chosen = torch.as_tensor(indices, dtype=torch.long, device="cpu").reshape(-1)
            _refuse_strangers(chosen.tolist(), self.count)
            places = chosen % self.count - self._first
            here = ((places >= 0) & (places < self._own.count)).nonzero()[:, 0]
            mine: list[tuple[Batch, Tensor]] = []
            if len(here):
                taken = self._own.take(places[here].tolist())
                mine = [(p, here[i]) for p, i in zip(taken.pieces, taken.indices, strict=True)]
        found = [part for parts in self.processes.gathered(mine) for part in parts]
        together = InMemory([piece for piece, _ in found], [rows for _, rows in found])
        return together.take(range(len(chosen)))  # not one process after the other

    def subset(self, indices: Sequence[int]) -> Samples:
        """Shared out anew; held by every process where there are few of them.

        A process needs two at least, since networks that squeeze their outputs take no less.
        """
        taken = self.take(indices)
        rank, count = self.processes.rank, self.processes.count
        if taken.count < 2 * count:
            return taken
        share = range(taken.count * rank // count, taken.count * (rank + 1) // count)
        return Distributed(taken.take(share), self.processes, self._loss)

    def weight(self, loss: BatchLoss) -> float:
        return self._weight  # of the loss that they were shared out for


def collect(
    data: Any, targets: Any, loss: BatchLoss, batch_size: int = 256, in_memory: bool | None = None
) -> Samples:
    """Samples from whatever people have.

    Args:
        data: With `targets`, the inputs: an array, or a tuple or dictionary of arrays (tensors,
            NumPy arrays, lists). Without, a DataLoader, a Dataset, one pair (inputs, targets)
            of arrays, or any iterable of batches: pairs, or what a loss of network and batch takes;
            for such a loss one array or dictionary of arrays, too.
        loss: What weighs them.
        batch_size: Samples read at once from a Dataset.
        in_memory: True keeps one pass over batches as it came (of a loader that shuffles or
            augments, too), False reads them anew in every pass; None keeps them unless they take
            more than a quarter of the machine's memory.

    Raises:
        DataError: There are no samples, or a batch is no pair.
        ModelError: Inputs and targets differ in number.
    """
    if targets is None and _is_one_batch(data) and not loss.takes_model:
        data, targets = data
    if targets is not None:
        return InMemory([_with_rows((_tensors(data), _long(_tensors(targets))), loss)])
    if loss.takes_model and isinstance(data, Tensor | np.ndarray | Mapping):
        return InMemory([_with_rows(_tensors(data), loss)])
    if isinstance(data, Tensor | np.ndarray | Mapping):
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
        read = _read(batch, loss)
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
    return InMemory(kept)


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
    fewer, samples from all over the data are added. Of every kind that is taken there are four,
    where the data have them: fewer do not tell whether a network mixes the samples of a batch.
    """
    labels, kinds = samples.labels, samples.kinds
    chosen: list[int] = []
    if labels is not None:
        values = labels.unique()
        picked = values[_spread(len(values), count)]
        chosen = [int((labels == value).nonzero()[0]) for value in picked]
    spread = _spread(samples.count, count)
    chosen = [*chosen, *(i for i in spread if i not in chosen)][:count]
    alike: dict[int, list[int]] = {}
    for i in chosen:
        alike.setdefault(int(kinds[i]), []).append(i)
    several: list[int] = []
    for kind, group in alike.items():
        others = [i for i in (kinds == kind).nonzero()[:, 0].tolist() if i not in group]
        whole = [*group, *others[: max(0, 4 - len(group))]]
        if len(several) + len(whole) <= count:
            several += whole
    return several


def _spread(n: int, count: int) -> list[int]:
    """At most so many of n indices, from the first to the last, evenly spread."""
    count = min(n, count)
    return [i * (n - 1) // max(1, count - 1) for i in range(count)]


def n_rows(batch: Batch) -> int:
    """The number of samples in a batch."""
    return len(tree_leaves(batch)[0])


def _rows(batch: Batch, rows: slice | Tensor) -> Batch:
    def pick(tensor: Tensor) -> Tensor:
        return tensor[rows if isinstance(rows, slice) else rows.to(tensor.device)]

    return tree_map(pick, batch)


def split(batch: Batch, size: int, smallest: int) -> Iterator[Batch]:
    """Parts of a batch, as `Samples.batches` has them."""
    size, start, left = max(size, smallest), 0, n_rows(batch)
    while left:
        n = min(size, left)
        if 0 < left - n < smallest:
            # Rather a little less in the last part but one than too little in the last; where that
            # would then have too little, a little more.
            n = left - smallest if left >= 2 * smallest else left
        yield _rows(batch, slice(start, start + n))
        start, left = start + n, left - n


def _kind(batch: Batch) -> int:
    """A number that batches share, in all processes, that fit together: 64 bits, signed."""
    leaves, structure = tree_flatten(batch)
    kind = repr((structure, [(leaf.dtype, leaf.shape[1:]) for leaf in leaves]))
    digest = hashlib.blake2b(kind.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _with_rows(batch: Batch, loss: BatchLoss) -> Batch:
    """The batch, whose tensors have a row for each sample; one row where it is a sample itself.

    Raises:
        DataError: It has no rows.
        ModelError: They have not as many rows each.
    """
    if loss.batch_is_sample:
        batch = tree_map(lambda leaf: leaf[None], batch)
    parts = (batch,) if loss.takes_model else batch
    counts = [{len(leaf) if leaf.ndim else -1 for leaf in tree_leaves(part)} for part in parts]
    together = set.union(*counts)
    if together == {0}:
        raise DataError("A batch holds no samples.")
    if len(together) == 1 and -1 not in together:
        return batch
    several = [
        " and ".join(str(n) if n > 0 else "no" for n in sorted(count)) or "no" for count in counts
    ]
    if loss.takes_model:
        named = batch.items() if isinstance(batch, dict) else ()
        numbers = [repr(k) for k, part in named if isinstance(part, Tensor) and not part.ndim]
        told = f" ({' and '.join(numbers)} none)" if numbers else ""
        raise ModelError(
            f"The arrays of a batch have {several[0]} rows{told}, but need one for each sample: a batch "
            "that is one sample, as a graph is, is handed over as such by "
            "ModelLoss(..., batch_is_sample=True)."
        )
    told = ": single samples become batches by a DataLoader" if -1 in together else ""
    raise ModelError(f"{several[0]} inputs do not go with {several[1]} targets{told}.")


def _is_one_batch(data: Any) -> bool:
    """Whether data are the inputs and targets of one batch, and no two batches."""
    arrays = Tensor | np.ndarray
    return (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(isinstance(part, arrays) for part in data)
    )


def _labels(batch: Batch) -> Tensor | None:
    """Targets that are integers; of several for one sample (pixels) the smallest."""
    targets = batch[1] if isinstance(batch, tuple) and len(batch) == 2 else batch
    leaves = tree_leaves(targets)
    if len(leaves) != 1 or leaves[0].is_floating_point() or leaves[0].is_complex():
        return None
    if not leaves[0].numel():  # empty sequences
        return None
    labels = leaves[0].long()
    return labels.flatten(1).amin(1) if labels.ndim > 1 else labels


def _read(batch: Any, loss: BatchLoss) -> Batch:
    """A batch as it comes from a loader, where lists are what collation makes of tuples."""
    if loss.takes_model:
        return _with_rows(_tensors(batch, lists_are_tuples=True), loss)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            f"A batch is a {type(batch).__name__}, but a pair (inputs, targets) is needed, or a "
            "loss of network and batch (ModelLoss)."
        )
    inputs, targets = (_tensors(part, lists_are_tuples=True) for part in batch)
    return _with_rows((inputs, _long(targets)), loss)


def _tensors(value: Any, lists_are_tuples: bool = False) -> Any:
    """A tree of tensors from one of arrays."""

    def again(part: Any) -> Any:
        return _tensors(part, lists_are_tuples)

    if isinstance(value, Mapping):
        return {key: _named(key, part, again) for key, part in value.items()}
    holds_arrays = isinstance(value, list) and any(
        isinstance(part, Tensor | np.ndarray | Mapping | tuple) for part in value
    )
    if isinstance(value, tuple) or (lists_are_tuples and holds_arrays):
        parts = [again(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return as_tensor(value)


def _named(key: Any, part: Any, convert: Callable[[Any], Any]) -> Any:
    """A part of a dictionary, as tensors; one that is none is named."""
    try:
        return convert(part)
    except DataError as error:
        raise DataError(f"{key!r} of a batch: {error} Leave it out of the batches.") from error


def _long(targets: Any) -> Any:
    """Integers, which NumPy has of many kinds, as the kind in which PyTorch takes classes."""
    signed = (torch.int8, torch.int16, torch.int32)
    kinds = (*signed, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
    return tree_map(lambda leaf: leaf.long() if leaf.dtype in kinds else leaf, targets)


def _joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several of a kind."""

    def join(*parts: Tensor) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    try:
        return tree_map(join, *batches)
    except RuntimeError as error:  # they are on several devices, for instance
        raise DataError(f"Batches do not fit together: {first_line(error)}.") from error


def _checksums(batch: Batch) -> list[int]:
    """One of each sample."""
    leaves = [leaf.detach().cpu().contiguous() for leaf in tree_leaves(batch)]
    rows = [leaf.reshape(len(leaf), leaf[0].numel()).view(torch.uint8).numpy() for leaf in leaves]
    kind, checksums = str(_kind(batch)).encode(), []
    for i in range(len(leaves[0])):
        checksum = hashlib.blake2b(kind, digest_size=8)
        for row in rows:
            checksum.update(row[i])
        checksums.append(int.from_bytes(checksum.digest(), "little"))
    return checksums


def _refuse_strangers(indices: Sequence[int], count: int) -> None:
    if len(indices) and not -count <= min(indices) <= max(indices) < count:
        raise DataError(f"A subset names samples that are not among the {count}.")
