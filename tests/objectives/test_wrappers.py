"""What networks are wrapped in, compiled by or traced to, and methods that put them into a mode."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs import (
    built,
    classes,
    compiled,
    images,
    objective_of,
    perceptron,
    require_followed,
    require_refused,
    require_right,
    vectors,
)
from random_networks import Apply
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hessian_directions.errors import ModelError


class Body(nn.Module):
    """A perceptron whose subclasses have methods of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


# --- methods that put networks into a mode ------------------------------------------------------------


class ReturnsNothing(Body):
    """As networks of some frameworks are: their train() freezes parts and returns nothing."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)

    def eval(self) -> None:  # type: ignore[override]
        super().train(False)


@pytest.mark.parametrize("inside", [True, False])
def test_methods_for_modes_may_return_nothing(inside: bool) -> None:
    model = ReturnsNothing()
    model = nn.Sequential(model, nn.Tanh()) if inside else model
    require_followed(model, cross_entropy, *vectors())


class TrainsOnALoader(Body):
    def train(self, loader: Any, epochs: int) -> None:  # type: ignore[override]
        raise AssertionError("never called")


class EvaluatesOnALoader(Body):
    def eval(self, loader: Any) -> float:  # type: ignore[override]
        raise AssertionError("never called")


class Fails(Body):
    def train(self, mode: bool = True) -> Fails:
        raise KeyError("optimizer")


class TrainsByItself(Body):
    """Arguments have defaults, so that nothing fails."""

    def train(self, epochs: int = 2) -> None:  # type: ignore[override]
        for _ in range(epochs):
            for parameter in self.parameters():
                parameter.data.mul_(0.9)


@pytest.mark.parametrize("kind", [TrainsOnALoader, EvaluatesOnALoader, Fails, TrainsByItself])
def test_methods_of_these_names_that_do_something_else_are_refused(kind: type[Body]) -> None:
    with pytest.raises(ModelError, match=r"methods train\(\) and eval\(\)") as refused:
        objective_of(kind(), *vectors())
    assert "\n" not in str(refused.value)


class FreezesItsFirstLayer(ReturnsNothing):
    """As backbones do whose first stages are not trained."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.body[0].requires_grad_(False)


def test_what_these_methods_freeze_is_frozen_before_or_refused() -> None:
    model = FreezesItsFirstLayer()
    with pytest.raises(ModelError, match="freeze other parameters"):
        objective_of(model, *vectors())
    model.train()
    require_followed(model, cross_entropy, *vectors())


# --- compilation ----------------------------------------------------------------------------------------


def _compiled_in_place(model: nn.Module, part: str) -> nn.Module:
    model.get_submodule(part).compile(backend="eager")
    return model


def _with_compiled_forward(model: nn.Module, part: str) -> nn.Module:
    module = model.get_submodule(part)
    module.forward = compiled(module.forward)  # type: ignore[method-assign]
    return model


def _with_compiled_part(model: Any) -> nn.Module:
    model[1] = compiled(model[1])
    return model


SAME: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "compiled": compiled,
    "a part compiled": _with_compiled_part,
    "compiled in place": lambda model: _compiled_in_place(model, ""),
    "a part compiled in place": lambda model: _compiled_in_place(model, "0"),
    "its forward compiled": lambda model: _with_compiled_forward(model, ""),
    "a part's forward compiled": lambda model: _with_compiled_forward(model, "0"),
}


class _Sequence(nn.Sequential):
    """Of the user's own code, which PyTorch's compiler wraps in another way than its own modules."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("kind", [nn.Sequential, _Sequence])
@pytest.mark.parametrize("name", SAME)
def test_the_numbers_are_those_of_the_network_inside(name: str, kind: type[nn.Sequential]) -> None:
    samples = [images().flatten(1), classes()]
    model = built(lambda: kind(nn.Linear(50, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
    expected = objective_of(model, *samples, batch_size=5)
    with warnings.catch_warnings(action="ignore"):
        objective = objective_of(SAME[name](copy.deepcopy(model)), *samples, batch_size=5)
        assert torch.equal(objective.gradient(), expected.gradient())
        theta = objective.theta
        assert torch.equal(objective.hessian() @ theta, expected.hessian() @ theta)
        require_right(objective, model, lambda m: cross_entropy(m(samples[0]), samples[1]))


def test_a_forward_that_is_another_one_compiled_is_refused() -> None:
    model = perceptron()
    model.forward = compiled(lambda x: nn.Sequential.forward(model, x) / 2)
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(ModelError, match="refers to the network"),
    ):
        objective_of(model, *vectors()).value()


@pytest.mark.filterwarnings("ignore:.*jit.*deprecated.*")
def test_scripted_networks_are_refused() -> None:
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 3)))
    require_refused("is scripted", torch.jit.script(model))
    require_refused("'0' is scripted", nn.Sequential(torch.jit.script(model)))


@torch.jit.script
def _scripted(x: Tensor) -> Tensor:
    return torch.tanh(x)


def test_a_network_that_holds_what_cannot_be_pickled_is_followed() -> None:
    model = built(lambda: nn.Sequential(nn.Linear(5, 6), Apply(_scripted), nn.Linear(6, 3)))
    require_followed(model, cross_entropy, *vectors())


def test_a_scripted_loss() -> None:
    loss = torch.jit.script(nn.CrossEntropyLoss(label_smoothing=0.1))
    require_followed(perceptron(), loss, *vectors())


def test_compilation_is_not_imported_for_nothing() -> None:
    program = (
        "import sys, torch; from hessian_directions.autodiff.program import private_copy;"
        "private_copy(torch.nn.Linear(2, 2)); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- wrappers that compute something ------------------------------------------------------------------


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


class _Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = perceptron()

    def forward(self, x: Tensor) -> Tensor:
        return self._orig_mod(x) + self._orig_mod(2 * x)


class _Child(nn.Module):
    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child, self.scale = child, nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.child(x)


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "lends _orig_mod": lambda: Forwarding(compiled(perceptron())),
    "a subclass of DataParallel": lambda: Halving(perceptron()),
    "a subclass of that": lambda: HalvingToo(perceptron()),
    "around a compiled network": lambda: Halving(compiled(perceptron())),
    "has an _orig_mod of its own": lambda: _Doubled(),
    "compiled": lambda: compiled(perceptron()),
    "compiled twice": lambda: compiled(_Child(compiled(perceptron()))),
    "DataParallel": lambda: nn.DataParallel(perceptron()),
}


@pytest.mark.parametrize("place", ["whole", "in a Sequential", "child"])
@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_taken_off_where_they_compute_nothing(name: str, place: str) -> None:
    around = {"whole": lambda m: m, "in a Sequential": nn.Sequential, "child": _Child}[place]
    with torch.compiler.set_stance("force_eager"):
        require_followed(around(WRAPPED[name]()), cross_entropy, *vectors())


def test_a_forward_that_is_set_on_a_wrapper_is_never_ignored() -> None:
    """A bound method within it would go on reading the user's network."""

    class Half:
        def __init__(self, function: Callable[..., Any]) -> None:
            self.function = function

        def __call__(self, x: Tensor) -> Any:
            return self.function(x / 2)

    model = nn.DataParallel(perceptron())
    model.forward = Half(model.forward)  # type: ignore[method-assign]
    require_followed(model, cross_entropy, *vectors())


@pytest.mark.parametrize("inside", [perceptron, nn.Tanh])
def test_a_wrapper_that_lends_its_way_to_be_copied_is_refused(
    inside: Callable[[], nn.Module],
) -> None:
    """Symbolically traced networks have a `__deepcopy__`, which copies what is inside alone."""
    model = Forwarding(torch.fx.symbolic_trace(inside()))
    for given in (model, nn.Sequential(nn.Linear(5, 5).double(), model)):
        with pytest.raises(ModelError, match="Forwarding lends the __deepcopy__"):
            objective_of(given, *vectors())


def test_a_copy_that_leaves_parameters_out_is_refused() -> None:
    class Forgetful(Body):
        def __deepcopy__(self, memo: Any) -> nn.Module:
            return perceptron()

    with pytest.raises(ModelError, match="other parameters"):
        objective_of(Forgetful(), *vectors())


def test_hooks_of_a_wrapper_are_not_lost() -> None:
    """Wrappers for compilation are taken off, and PyTorch copies them without their hooks."""
    wrapped = compiled(nn.Hardtanh())
    wrapped.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    for model in (wrapped, nn.Sequential(nn.Linear(5, 3), wrapped)):
        with pytest.raises(ModelError, match="has hooks on a wrapper"):
            objective_of(model, *vectors(dtype=torch.float32))
