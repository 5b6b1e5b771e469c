"""What networks are wrapped in, hold and call their methods; the oracle is plain autograd."""

from __future__ import annotations

import functools
import logging
import math
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import hessian_directions as hd
from hessian_directions.errors import HessianDirectionsError, ModelError

Loss = Callable[[Any], Tensor]


def data(n: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = body()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def require_right(
    objective: hd.Objective, model: nn.Module, loss: Callable[[], Tensor], to: float = 1e-9
) -> None:
    """Compare with the user's own network and double backward, here and at another point.

    `loss` is that of all samples, of the network as it stands.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    theta = nn.utils.parameters_to_vector(parameters).detach().clone()
    assert torch.equal(objective.theta, theta)
    for at in (theta, theta + 0.1 * torch.randn_like(theta)):
        nn.utils.vector_to_parameters(at, parameters)
        value = loss()
        slopes = torch.autograd.grad(value, parameters, create_graph=True)
        slope = torch.cat([part.reshape(-1) for part in slopes])
        rows = [
            torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
            for entry in slope
        ]
        hessian = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
        assert float(objective.value(at)) == pytest.approx(float(value.detach()), rel=to)
        torch.testing.assert_close(objective.gradient(at), slope.detach(), rtol=to, atol=to)
        eye = torch.eye(len(theta), dtype=theta.dtype)
        torch.testing.assert_close(objective.hessian(at) @ eye, hessian, rtol=to, atol=to)
        curvatures = objective.second_directional_derivative(eye, at)
        torch.testing.assert_close(curvatures, hessian.diagonal(), rtol=to, atol=to)
    nn.utils.vector_to_parameters(theta, parameters)


def require_network_right(model: nn.Module) -> None:
    x, y = data()
    objective = hd.Objective(model, functional.cross_entropy, x, y)
    require_right(objective, model, lambda: functional.cross_entropy(model(x), y))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# --- methods that put networks into a mode ----------------------------------------------------------


class ReturnsNothing(Net):
    """As networks of some frameworks are: their train() freezes parts and returns nothing."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)

    def eval(self) -> None:  # type: ignore[override]
        super().train(False)


@pytest.mark.parametrize("inside", [True, False])
def test_methods_for_modes_may_return_nothing(inside: bool) -> None:
    model = ReturnsNothing()
    require_network_right(nn.Sequential(model, nn.Tanh()) if inside else model)


class TrainsOnALoader(Net):
    def train(self, loader: Any, epochs: int) -> None:  # type: ignore[override]
        raise AssertionError("never called")


class EvaluatesOnALoader(Net):
    def eval(self, loader: Any) -> float:  # type: ignore[override]
        raise AssertionError("never called")


class Fails(Net):
    def train(self, mode: bool = True) -> Fails:
        raise KeyError("optimizer")


class TrainsByItself(Net):
    """Arguments have defaults, so that nothing fails."""

    def train(self, epochs: int = 2) -> None:  # type: ignore[override]
        for _ in range(epochs):
            for parameter in self.parameters():
                parameter.data.mul_(0.9)


@pytest.mark.parametrize("kind", [TrainsOnALoader, EvaluatesOnALoader, Fails, TrainsByItself])
def test_methods_of_these_names_that_do_something_else_are_refused(kind: type[Net]) -> None:
    with pytest.raises(ModelError, match=r"methods train\(\) and eval\(\)") as refused:
        hd.Objective(kind(), functional.cross_entropy, *data())
    assert "\n" not in str(refused.value)


class FreezesItsFirstLayer(ReturnsNothing):
    """As backbones do whose first stages are not trained."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.body[0].requires_grad_(False)


def test_what_these_methods_freeze_is_frozen_before_or_refused() -> None:
    model = FreezesItsFirstLayer()
    with pytest.raises(ModelError, match="freeze other parameters"):
        hd.Objective(model, functional.cross_entropy, *data())
    model.train()
    require_network_right(model)


# --- wrappers that compute something ------------------------------------------------------------------


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


class Forwarding(nn.Module):
    """Normalises its inputs, and lends the attributes that it lacks from the network inside."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - 0.5) / 2.0)


class Halving(nn.DataParallel):
    def forward(self, *inputs: Any, **options: Any) -> Any:
        return super().forward(*(x / 2 for x in inputs), **options)


class HalvingToo(Halving):
    """Its `forward` is that of the class between."""


def _halving_by_an_attribute() -> nn.Module:
    model = nn.DataParallel(body())
    plain = model.forward
    model.forward = _Half(plain)  # type: ignore[method-assign]
    return model


class _Half:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, x: Tensor) -> Any:
        return self.function(x / 2)


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "lends _orig_mod": lambda: Forwarding(compiled(body())),
    "a subclass of DataParallel": lambda: Halving(body()),
    "a subclass of that": lambda: HalvingToo(body()),
    "around a compiled network": lambda: Halving(compiled(body())),
    "has an _orig_mod of its own": lambda: _Doubled(),
    "compiled": lambda: compiled(body()),
    "compiled twice": lambda: compiled(_Child(compiled(body()))),
    "DataParallel": lambda: nn.DataParallel(body()),
}


class _Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = body()

    def forward(self, x: Tensor) -> Tensor:
        return self._orig_mod(x) + self._orig_mod(2 * x)


class _Child(nn.Module):
    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child, self.scale = child, nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.child(x)


@pytest.mark.parametrize("place", ["whole", "in a Sequential", "child"])
@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_taken_off_where_they_compute_nothing(name: str, place: str) -> None:
    model = WRAPPED[name]()
    model = {"whole": lambda m: m, "in a Sequential": nn.Sequential, "child": _Child}[place](model)
    with torch.compiler.set_stance("force_eager"):
        require_network_right(model)


def test_a_forward_that_is_set_on_a_wrapper_is_never_ignored() -> None:
    """A bound method within it would go on reading the user's network."""
    model, (x, y) = _halving_by_an_attribute(), data()
    expected = float(functional.cross_entropy(model(x), y).detach())
    try:
        value = float(hd.Objective(model, functional.cross_entropy, x, y).value())
    except HessianDirectionsError:
        return
    assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("inside", [body, nn.Tanh])
def test_a_wrapper_that_lends_its_way_to_be_copied_is_refused(
    inside: Callable[[], nn.Module],
) -> None:
    """Symbolically traced networks have a `__deepcopy__`, which copies what is inside alone."""
    model = Forwarding(torch.fx.symbolic_trace(inside()))
    for given in (model, nn.Sequential(nn.Linear(5, 5).double(), model)):
        with pytest.raises(ModelError, match="Forwarding lends the __deepcopy__"):
            hd.Objective(given, functional.cross_entropy, *data())


def test_a_copy_that_leaves_parameters_out_is_refused() -> None:
    class Forgetful(Net):
        def __deepcopy__(self, memo: Any) -> nn.Module:
            return body()

    with pytest.raises(ModelError, match="other parameters"):
        hd.Objective(Forgetful(), functional.cross_entropy, *data())


def test_compilation_is_not_imported_for_nothing() -> None:
    program = (
        "import sys, torch; from hessian_directions.autodiff.program import private_copy;"
        "private_copy(torch.nn.Linear(2, 2)); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- losses that are the network's own methods --------------------------------------------------------


class Lit(Net):
    """A network that brings its loss, as modules of Lightning do."""

    def __init__(self) -> None:
        super().__init__()
        self.eps, self.decay, self.criterion = 0.1, 0.05, nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        h = self.body[1](self.body[0](x))
        self.activity = h.square().mean()
        return self.body[2](h)

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(z, y, label_smoothing=self.eps)

    def with_decay(self, z: Tensor, y: Tensor, decay: float | None = None) -> Tensor:
        decay = self.decay if decay is None else decay
        return self.loss(z, y) + decay * sum(p.square().sum() for p in self.parameters())

    def with_activity(self, z: Tensor, y: Tensor) -> Tensor:
        return self.criterion(z, y) + self.activity

    def calling_itself(self, z: Tensor, y: Tensor) -> Tensor:
        return self.criterion(z + self(z @ torch.ones(3, 5, dtype=z.dtype)), y)

    def step(self, model: nn.Module, batch: Any) -> Tensor:
        return self.with_decay(model(batch[0]), batch[1])

    def summed(self, z: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(z, y, reduction="sum")

    summed.reduction = "sum"  # type: ignore[attr-defined]


OWN: dict[str, Callable[[Lit], Any]] = {
    "settings": lambda lit: lit.loss,
    "parameters": lambda lit: lit.with_decay,
    "what it keeps": lambda lit: lit.with_activity,
    "modules": lambda lit: lit.calling_itself,
    "partial": lambda lit: functools.partial(lit.with_decay, decay=0.2),
    "sum": lambda lit: lit.summed,
}


@pytest.mark.parametrize("name", OWN)
def test_a_network_s_own_method_is_that_of_the_copy(name: str) -> None:
    model, (x, y) = Lit(), data()
    model(x)  # keeps something of a pass
    loss = OWN[name](model)
    require_right(hd.Objective(model, loss, x, y), model, lambda: loss(model(x), y))


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, lambda m: nn.Sequential(compiled(m))])
def test_a_method_of_a_part_is_found_below_wrappers(wrap: Any) -> None:
    lit, (x, y) = Lit(), data()
    model = wrap(lit)
    with torch.compiler.set_stance("force_eager"):
        objective = hd.Objective(model, lit.with_decay, x, y)
        require_right(objective, model, lambda: lit.with_decay(model(x), y))


def test_a_network_s_own_method_of_network_and_batch() -> None:
    model, (x, y) = Lit(), data()
    objective = hd.Objective(model, hd.ModelLoss(model.step), [(x, y)])
    require_right(objective, model, lambda: model.step(model, (x, y)))


def test_a_network_may_hold_a_partial_of_its_own_method() -> None:
    """It is copied with the network, as methods are."""

    class Partly(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.scaled = functools.partial(self.times, factor=2.0)

        def times(self, x: Tensor, factor: float) -> Tensor:
            return factor * self.body(x)

        def forward(self, x: Tensor) -> Tensor:
            return self.scaled(x)

    require_network_right(Partly())


def test_another_network_s_method_and_a_closure_over_this_one() -> None:
    model, other, (x, y) = Lit(), Lit(), data()
    require_right(
        hd.Objective(model, other.with_decay, x, y), model, lambda: other.with_decay(model(x), y)
    )
    with pytest.raises(ModelError, match="refers to the network itself"):
        hd.Objective(model, lambda z, y: model.with_decay(z, y), x, y)


def test_a_method_whose_code_reads_the_user_s_network_elsewhere_is_refused() -> None:
    model, (x, y) = Lit(), data()

    def loss(self: Lit, z: Tensor, y: Tensor) -> Tensor:
        return self.loss(z, y) + model.activity

    with pytest.raises(ModelError, match="refers to the network itself"):
        hd.Objective(model, loss.__get__(model), x, y)


def test_gauss_newton_products_of_a_network_s_own_method() -> None:
    model, (x, y) = Lit(), data()
    own = hd.Objective(model, model.loss, x, y)
    plain = functools.partial(functional.cross_entropy, label_smoothing=0.1)
    v = torch.randn(own.n_parameters, dtype=torch.float64)
    torch.testing.assert_close(
        own.gauss_newton() @ v, hd.Objective(model, plain, x, y).gauss_newton() @ v
    )
    with pytest.raises(ModelError, match="reads parameters of the network"):
        hd.Objective(model, model.with_decay, x, y).gauss_newton_vector_product(v)


# --- losses that differentiate with respect to the parameters -----------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 2).double(), nn.Linear(2, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


def adapted(model: nn.Module, batch: Any) -> Tensor:
    """The loss of every sample after a step of gradient descent on it (MAML)."""
    parameters, losses = dict(model.named_parameters()), []
    for x, y in zip(*batch, strict=True):
        before = functional.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])
        slopes = torch.autograd.grad(before, list(parameters.values()), create_graph=True)
        moved = {name: p - 0.2 * g for (name, p), g in zip(parameters.items(), slopes, strict=True)}
        losses.append(functional.cross_entropy(functional_call(model, moved, (x[None],)), y[None]))
    return torch.stack(losses).mean()


def penalised(model: nn.Module, batch: Any) -> Tensor:
    """The loss of every sample and the squared norm of its gradient."""
    parameters, losses = list(model.parameters()), []
    for x, y in zip(*batch, strict=True):
        loss = functional.cross_entropy(model(x[None]), y[None])
        slopes = torch.autograd.grad(loss, parameters, create_graph=True)
        losses.append(loss + 0.1 * sum(g.square().sum() for g in slopes))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("loss", [adapted, penalised])
def test_losses_that_differentiate_with_respect_to_the_parameters(
    loss: Callable[[Any, Any], Tensor],
) -> None:
    model, (x, y) = Small(), data(6)
    objective = hd.Objective(model, hd.ModelLoss(loss), [(x, y)])
    with torch.no_grad():
        assert objective.samples_at_once >= 6
    require_right(objective, model, lambda: loss(model, (x, y)))
    assert not any(p.requires_grad for p in objective.parameters.values())
    points = torch.stack([objective.theta, 0.5 * objective.theta], 1)
    torch.testing.assert_close(objective.values(points)[0], loss(model, (x, y)).detach())


# --- attributes of parameters -------------------------------------------------------------------------


class Shape:
    """As the `infshape` of muP."""

    def __init__(self, width: float) -> None:
        self.width = width


class Scaled(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body[0].weight.infshape = Shape(2.0)
        mask = (torch.arange(12) % 3 > 0).reshape(3, 4)
        self.body[2].weight.mask = mask
        self.body[2].bias.factor = 3.0
        self.body[2].bias.requires_grad = False
        self.register_buffer("shift", torch.ones(3, dtype=torch.float64))
        self.shift.direction = -1.0

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.body[0], self.body[2]
        h = torch.tanh(first(x) / first.weight.infshape.width)
        y = functional.linear(h, last.weight * last.weight.mask)
        return y + last.bias.factor * last.bias + self.shift.direction * self.shift


def test_attributes_of_parameters_are_kept() -> None:
    model = Scaled()
    require_network_right(model)
    assert model.body[0].weight.infshape.width == 2.0


def test_attributes_are_kept_in_another_precision() -> None:
    model, (x, y) = Scaled().float(), data()
    model.shift.direction = -1.0  # PyTorch itself drops that of a buffer
    objective = hd.Objective(model, functional.cross_entropy, x.float(), y)
    value = functional.cross_entropy(model(x.float()), y)
    assert float(objective.value()) == pytest.approx(float(value.detach()), rel=1e-5)
    assert "float64" in objective.self_test().describe()
    precise = objective.to(torch.float64)
    assert float(precise.value()) == pytest.approx(float(objective.value()), rel=1e-5)


class Remembering(Net):
    """Keeps on its weight what it computed of it."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.body[2].weight
        if not hasattr(weight, "norm_"):
            weight.norm_ = weight.square().sum()
        return self.body(x) / weight.norm_


def test_what_was_computed_of_a_parameter_is_no_attribute_of_it() -> None:
    model, (x, y) = Remembering(), data()
    model(x)

    def afresh() -> Tensor:
        vars(model.body[2].weight).clear()
        return functional.cross_entropy(model(x), y)

    objective = hd.Objective(model, functional.cross_entropy, x, y)
    require_right(objective, model, afresh)


# --- what cannot be copied --------------------------------------------------------------------------


class Holding(Net):
    """Computes with what it holds."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class WithLock(Holding):
    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.body(x)


class WithLibrary(Holding):
    def forward(self, x: Tensor) -> Tensor:
        return self.library.pi * self.body(x)


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


class WithWriter(Holding):
    def forward(self, x: Tensor) -> Tensor:
        self.writer.add("a pass\n")
        return self.body(x)


class Driver:
    """As trainers: it holds the network, and what cannot be copied."""

    def __init__(self, model: nn.Module, writer: Any) -> None:
        self.model, self.writer, self.lock = model, writer, threading.RLock()


class WithTrainer(Holding):
    """Reads its own weights by way of its trainer."""

    def forward(self, x: Tensor) -> Tensor:
        with self.trainer.lock:
            return self.body(x) * self.trainer.model.body[2].weight.square().sum()


def _with_trainer(path: Path) -> nn.Module:
    model = WithTrainer()
    model.trainer = Driver(model, Writer(path))
    return model


def _with_hook(path: Path) -> nn.Module:
    model, file = Holding(), path.open("w")

    class Noting:
        def __init__(self) -> None:
            self.file = file

        def note(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.file.write(str(output.shape))

    model.body[0].register_forward_hook(Noting().note)
    return model


def _with_attribute_of_a_parameter(path: Path) -> nn.Module:
    model = Holding()
    model.body[0].weight.lock = threading.Lock()
    return model


UNCOPYABLE: dict[str, Callable[[Path], nn.Module]] = {
    "lock": lambda path: WithLock(lock=threading.Lock()),
    "list of locks": lambda path: Holding(locks=[threading.Lock(), threading.Lock()]),
    "dictionary": lambda path: Holding(parts={"lock": threading.Lock(), "t": torch.ones(2)}),
    "file": lambda path: Holding(file=path.open("w")),
    "module of Python": lambda path: WithLibrary(library=math),
    "modules of Python": lambda path: Holding(functional=functional, torch=torch),
    "generator": lambda path: Holding(steps=(i for i in range(3))),
    "log": lambda path: Holding(log=logging.StreamHandler()),
    "writer": lambda path: WithWriter(writer=Writer(path)),
    "trainer": _with_trainer,
    "hook": _with_hook,
    "attribute of a parameter": _with_attribute_of_a_parameter,
}


@pytest.mark.parametrize("name", UNCOPYABLE)
def test_what_cannot_be_copied_is_shared(name: str, tmp_path: Path) -> None:
    model = UNCOPYABLE[name](tmp_path / "file")
    require_network_right(nn.Sequential(model, nn.Tanh()) if name == "lock" else model)


def test_what_is_shared_holds_no_collection_of_the_user_s() -> None:
    class Appending(Holding):
        def forward(self, x: Tensor) -> Tensor:
            self.locks.append(threading.Lock())
            return self.body(x)

    model, (x, y) = Appending(locks=[threading.Lock()]), data()
    hd.Objective(model, functional.cross_entropy, x, y).gradient()
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


HOLDING_TENSORS: dict[str, Callable[[nn.Module], Any]] = {
    "slot": lambda model: Slotted(model.body[0].weight),
    "module in a slot": lambda model: Slotted(model.body),
    "far below": lambda model: Slotted([{"a": (Slotted(torch.ones(2)),)}]),
    "generator": lambda model: _begun(_generating(model.body[0].weight)),
    "closure": lambda model: Slotted(lambda: model.body),
}


def _begun(generator: Iterator[Tensor]) -> Iterator[Tensor]:
    next(generator)
    return generator


@pytest.mark.parametrize("name", HOLDING_TENSORS)
def test_what_holds_tensors_and_cannot_be_copied_is_named(name: str) -> None:
    model = Net()
    model.body[0].held = HOLDING_TENSORS[name](model)
    with pytest.raises(
        ModelError, match=r"cannot be copied with its attribute 'body\.0\.held'"
    ) as e:
        hd.Objective(model, functional.cross_entropy, *data())
    assert "\n" not in str(e.value)


def test_a_loss_that_holds_a_lock_and_one_that_cannot_be_copied() -> None:
    class Locked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()
            self.register_buffer("scale", torch.tensor(2.0, dtype=torch.float64))

        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            with self.lock:
                return self.scale * functional.cross_entropy(z, y)

    model, loss, (x, y) = Net(), Locked(), data()
    require_right(hd.Objective(model, loss, x, y), model, lambda: loss(model(x), y))
    loss.held = Slotted(torch.ones(2))
    with pytest.raises(ModelError, match="The loss cannot be copied with its attribute 'held'"):
        hd.Objective(model, loss, x, y)
