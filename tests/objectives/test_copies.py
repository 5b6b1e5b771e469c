"""What networks and losses hold that cannot be copied: shared where it holds no tensors, or named."""

from __future__ import annotations

import copy
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from programs import Net, objective_of, perceptron, require_followed, vectors
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

import hessian_directions as hd
from hessian_directions.errors import ModelError


def _plain(net: Any, x: Tensor) -> Tensor:
    return net.body(x)


def holding(forward: Callable[[Any, Tensor], Tensor] = _plain, **held: Any) -> Any:
    return Net(forward, body=perceptron(), **held)


def _locked(net: Any, x: Tensor) -> Tensor:
    with net.lock:
        return net.body(x)


def _writing(net: Any, x: Tensor) -> Tensor:
    net.writer.add("a pass\n")
    return net.body(x)


def _by_way_of_its_trainer(net: Any, x: Tensor) -> Tensor:
    with net.trainer.lock:
        return net.body(x) * net.trainer.model.body[2].weight.square().sum()


class Writer:
    """As writers for TensorBoard: a file, a queue with its lock, a thread."""

    def __init__(self, path: Path) -> None:
        self.file, self.queue = path.open("w"), queue.Queue(maxsize=2)
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while True:
            self.file.write(self.queue.get())

    def add(self, text: str) -> None:
        self.queue.put(text)


class Driver:
    """As trainers: it holds the network, and what cannot be copied."""

    def __init__(self, model: nn.Module, writer: Any) -> None:
        self.model, self.writer, self.lock = model, writer, threading.RLock()


def _with_trainer(path: Path) -> nn.Module:
    model = holding(_by_way_of_its_trainer)
    model.trainer = Driver(model, Writer(path))
    return model


def _with_hook(path: Path) -> nn.Module:
    class Noting:
        def __init__(self) -> None:
            self.file = path.open("w")

        def note(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.file.write(str(output.shape))

    model = holding()
    model.body[0].register_forward_hook(Noting().note)
    return model


def _with_attribute_of_a_parameter(path: Path) -> nn.Module:
    model = holding()
    model.body[0].weight.lock = threading.Lock()
    return model


UNCOPYABLE: dict[str, Callable[[Path], nn.Module]] = {
    "lock": lambda path: holding(_locked, lock=threading.Lock()),
    "list of locks": lambda path: holding(locks=[threading.Lock(), threading.Lock()]),
    "dictionary": lambda path: holding(parts={"lock": threading.Lock(), "t": torch.ones(2)}),
    "file": lambda path: holding(file=path.open("w")),
    "module of Python": lambda path: holding(lambda net, x: net.lib.pi * net.body(x), lib=math),
    "modules of Python": lambda path: holding(functional=functional, torch=torch),
    "generator": lambda path: holding(steps=(i for i in range(3))),
    "log": lambda path: holding(log=logging.StreamHandler()),
    "writer": lambda path: holding(_writing, writer=Writer(path)),
    "trainer": _with_trainer,
    "hook": _with_hook,
    "attribute of a parameter": _with_attribute_of_a_parameter,
}


@pytest.mark.parametrize("name", UNCOPYABLE)
def test_what_cannot_be_copied_is_shared(name: str, tmp_path: Path) -> None:
    model = UNCOPYABLE[name](tmp_path / "file")
    model = nn.Sequential(model, nn.Tanh()) if name == "lock" else model
    require_followed(model, cross_entropy, *vectors())


def test_what_is_shared_holds_no_collection_of_the_user_s() -> None:
    def appending(net: Any, x: Tensor) -> Tensor:
        net.locks.append(threading.Lock())
        return net.body(x)

    model = holding(appending, locks=[threading.Lock()])
    objective_of(model, *vectors()).gradient()
    assert len(model.locks) == 1


class Slotted:
    """Holds a tensor where only a look at everything finds it."""

    __slots__ = ("inside",)

    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("no copies,\nnever")


def _generating(tensor: Tensor) -> Iterator[Tensor]:
    while True:
        yield tensor


def _begun(generator: Iterator[Tensor]) -> Iterator[Tensor]:
    next(generator)
    return generator


HOLDING_TENSORS: dict[str, Callable[[nn.Module], Any]] = {
    "slot": lambda model: Slotted(model.body[0].weight),
    "module in a slot": lambda model: Slotted(model.body),
    "far below": lambda model: Slotted([{"a": (Slotted(torch.ones(2)),)}]),
    "generator": lambda model: _begun(_generating(model.body[0].weight)),
    "closure": lambda model: Slotted(lambda: model.body),
}


@pytest.mark.parametrize("name", HOLDING_TENSORS)
def test_what_holds_tensors_and_cannot_be_copied_is_named(name: str) -> None:
    model = holding()
    model.body[0].held = HOLDING_TENSORS[name](model)
    match = r"cannot be copied with its attribute 'body\.0\.held'"
    with pytest.raises(ModelError, match=match) as caught:
        objective_of(model, *vectors())
    assert "\n" not in str(caught.value)


def test_a_loss_that_holds_a_lock_and_one_that_cannot_be_copied() -> None:
    class Locked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()
            self.register_buffer("scale", torch.tensor(2.0, dtype=torch.float64))

        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            with self.lock:
                return self.scale * cross_entropy(z, y)

    model, loss = perceptron(), Locked()
    require_followed(model, loss, *vectors())
    loss.held = Slotted(torch.ones(2))
    with pytest.raises(ModelError, match="The loss cannot be copied with its attribute 'held'"):
        hd.Objective(model, loss, *vectors())


def test_a_copy_of_an_objective_is_one() -> None:
    x, y = vectors()
    x.mul_(2.0)  # its version is no longer that of a new tensor
    objective = objective_of(perceptron(), x, y)
    assert float(copy.deepcopy(objective).value()) == float(objective.value())
