"""Processes that compute one loss together: sums over all of them, and errors that all of them raise.

Every process runs the same program on its share of the samples. What one of them adds up over its
own batches is summed over all, to the same bits in each, so that all go on with the same numbers.
Each such sum begins with a check that all processes came to it, without an error and with the same
points and vectors: a process that fails takes the others along, in the same sentence, and none
waits for what never comes.
"""

from __future__ import annotations

import contextlib
import pickle
import zlib
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from hessian_directions.errors import (
    HessianDirectionsError,
    LostProcessError,
    ProcessesError,
    first_line,
)


class Processes:
    """The processes of a group, or this one alone.

    Args:
        group: As `torch.distributed` has it; None for one process alone, which sums nothing.
        device: Where its tensors are: one that the group's backend takes.

    Attributes:
        rank: The number of this process.
        count: How many there are.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self._group, self._device = group, torch.device(device)
        self.rank = 0 if group is None else dist.get_rank(group)
        self.count = 1 if group is None else dist.get_world_size(group)
        if self.rank < 0:
            raise ProcessesError("This process is not in the group that it was given.")
        self._raised: BaseException | None = None

    @contextlib.contextmanager
    def agreed(self, what: str, *given: object) -> Iterator[None]:
        """A step that all processes take, of which none goes on unless all can.

        Within another step it may be taken as well.

        Args:
            what: The step; other processes must be at the same one.
            given: What it is taken with; tensors and texts must be the same in all processes, to
                the bit.

        Raises:
            ProcessesError: They are at different steps, or were given different numbers.
            LostProcessError: One of them has ended.
            Exception: In all processes what one of them raised, the first one's where several did.
        """
        if self._group is None:
            yield
            return
        self._raised = None
        try:
            yield
        except LostProcessError:
            raise
        except Exception as error:
            if error is self._raised:  # by all, in a step within this one
                raise
            self._meet(error, what, given)
        else:
            self._meet(None, what, given)

    def sum(self, total: Tensor) -> Tensor:
        """The sum of all processes' tensors, in place, in their own precision."""
        if self._group is not None:
            with self._reaching():
                dist.all_reduce(total.detach(), group=self._group)
        return total

    def gathered(self, value: Any) -> list[Any]:
        """What each process has, in their order: trees, whose tensors come on the CPU."""
        value = tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, value)
        if self._group is None:
            return [value]
        found: list[Any] = [None] * self.count
        with self._reaching():
            dist.all_gather_object(found, value, group=self._group)
        return found

    def in_turn(self, what: str, own: Iterator[Any]) -> Iterator[Any]:
        """All that the processes yield, a round at a time, as `gathered` gives it."""
        if self._group is None:
            yield from own
            return
        left = True
        while left:
            with self.agreed(what):
                item = next(own, None)
            found = [item for item in self.gathered(item) if item is not None]
            yield from found
            left = bool(found)

    def _meet(self, error: Exception | None, what: str, given: tuple[object, ...]) -> None:
        """Learn whether all processes came to the same step, and raise where one could not."""
        number = _number(what, given)
        failed = 0 if error is None else self.count - self.rank  # the first one's is the largest
        header = torch.tensor([failed, number, -number], device=self._device)
        with self._reaching():
            dist.all_reduce(header, dist.ReduceOp.MAX, group=self._group)
        failed, largest, smallest = header.tolist()
        if failed:
            first = self.gathered(None if error is None else _portable(error))[self.count - failed]
            if error is None or failed != self.count - self.rank:
                self._raise(first, error)
            self._raise(error)
        if largest != -smallest:
            self._raise(
                ProcessesError(
                    "The processes of the group do not compute the same: all must call the same "
                    "functions with the same network, points and vectors, on processors of one "
                    "kind."
                )
            )

    def _raise(self, error: BaseException, own: Exception | None = None) -> NoReturn:
        self._raised = error
        raise error from own

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = first_line(error)
            raise LostProcessError(
                f"Another process of the group has ended or does not answer: {reason}."
            ) from error


ALONE = Processes()


def _number(what: str, given: tuple[object, ...]) -> int:
    """A number that other steps, tensors and texts do not have, but for accidents: below 2⁶²."""
    number = 0
    for part in (what, *given):
        if isinstance(part, str):
            number = number * 1_000_003 + zlib.crc32(part.encode())
        elif isinstance(part, Tensor):
            number = number * 1_000_003 + checksum(part.detach())
    return number % 2**62


def checksum(part: Tensor) -> int:
    """Of all numbers in their order."""
    # Vectors are columns that lie in memory one after the other.
    numbers = (part.T if part.ndim == 2 else part).reshape(-1).contiguous().cpu()
    return zlib.crc32(numbers.view(torch.uint8).numpy().data)


def _portable(error: Exception) -> Exception:
    """The error, or one like it that other processes can be told."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return HessianDirectionsError(f"{type(error).__name__}: {error}")
    return error
