"""Losses: what is one, what it may read of the network, and what it may differentiate by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs import (
    Loss,
    Net,
    built,
    compiled,
    net,
    perceptron,
    require_followed,
    require_refused,
    require_right,
    vectors,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import hessian_directions as hd
from hessian_directions.errors import ModelError

# --- what is a loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, None, "cross_entropy"])
def test_what_cannot_be_called_with_outputs_is_no_loss(loss: Any) -> None:
    with pytest.raises(ModelError, match="a function or an instance is needed"):
        hd.Objective(perceptron(), loss, *vectors())


NO_NUMBER: dict[str, tuple[Any, str]] = {
    "known, of every sample": (
        functools.partial(cross_entropy, reduction="none"),
        "reduction 'none'",
    ),
    "module, of every sample": (nn.CrossEntropyLoss(reduction="none"), "reduction 'none'"),
    "of every sample": (
        lambda z, y: cross_entropy(z, y, reduction="none"),
        r"\(12,\).*one real number",
    ),
    "outputs": (lambda z, y: z, "one real number"),
    "number": (lambda z, y: 1.0, "float of Python's.*one real number"),
    "float": (lambda z, y: float(cross_entropy(z, y)), "float of Python's"),
    "item": (lambda z, y: cross_entropy(z, y).item(), "float of Python's"),
    "integer": (lambda z, y: (z.argmax(1) == y).sum(), "int64"),
}


@pytest.mark.parametrize("name", NO_NUMBER)
def test_a_loss_that_is_no_real_number_in_a_tensor(name: str) -> None:
    loss, match = NO_NUMBER[name]
    require_refused(match, perceptron(), loss, *vectors(40), kind=ModelError)


CONSTANT: dict[str, tuple[Loss, float, float]] = {  # loss, its value, how closely
    "depends on nothing": (lambda z, y: 0 * z.sum() + 3, 3.0, 0.0),
    "zero": (lambda z, y: 0 * cross_entropy(z, y), 0.0, 0.0),
    "a number in float32": (lambda z, y: torch.tensor(0.1), 0.1, 1e-6),
}


@pytest.mark.parametrize("name", CONSTANT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [12, 14])
def test_a_constant_loss_has_derivative_zero(name: str, dtype: torch.dtype, n: int) -> None:
    """One that is a number rounds as its own precision does, whatever that of the network."""
    loss, value, closely = CONSTANT[name]
    objective = hd.Objective(perceptron().to(dtype), loss, *vectors(n, dtype=dtype))
    assert float(objective.value()) == pytest.approx(value, rel=closely, abs=0)
    assert not objective.gradient().any()
    assert not objective.hessian_vector_product(objective.theta).any()
    assert hd.trace.directional(objective, 4).mean == 0.0


def test_outputs_that_are_a_dictionary_and_a_loss_of_one_entry() -> None:
    def forward(net: Any, x: Tensor) -> dict[str, Tensor]:
        y = net.layer(x)
        return {"logits": y, "features": y.tanh()}

    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        entropy = cross_entropy(outputs["logits"], targets)
        return (entropy + outputs["features"].square().mean()).reshape(1)

    model, (x, y) = net(forward, layer=lambda: nn.Linear(5, 3)), vectors()
    objective = hd.Objective(model, loss, x, y, batch_size=5)
    require_right(objective, model, lambda m: loss(m(x), y)[0])
    values = objective.values(objective.theta[:, None])
    assert values.tolist() == pytest.approx([float(loss(model(x), y).detach())], rel=1e-10)


class Focal(nn.Module):
    """Returns a mean whatever its attribute says."""

    reduction = "none"

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        each = cross_entropy(z, y, reduction="none")
        return ((1 - (-each).exp()) ** 2 * each).mean()


def test_the_reduction_of_a_loss_of_one_s_own_is_what_it_returns() -> None:
    require_followed(perceptron(), Focal(), *vectors(40))


def test_weights_changed_afterwards_are_no_longer_the_loss_s() -> None:
    weight = torch.ones(3, dtype=torch.float64)
    loss = functools.partial(cross_entropy, weight=weight)
    objective = hd.Objective(perceptron(), loss, *vectors())
    before = float(objective.value())
    weight[0] = 100.0
    assert float(objective.value()) == before


# --- what a loss reads of the user's network ------------------------------------------------------------


def keeper() -> Any:
    """Keeps a penalty of its last pass."""

    def forward(net: Any, x: Tensor) -> Tensor:
        h = torch.tanh(net.a(x))
        net.penalty = 0.5 * h.square().mean()
        return net.b(h)

    return net(forward, a=lambda: nn.Linear(5, 4), b=lambda: nn.Linear(4, 3))


class Trainer:
    def __init__(self, model: nn.Module) -> None:
        self.model, self.criterion, self.all = model, nn.CrossEntropyLoss(), {"net": model}

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        return self.criterion(z, y) + self.model.penalty

    def in_dictionary(self, z: Tensor, y: Tensor) -> Tensor:
        return self.criterion(z, y) + self.all["net"].penalty

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        return self.loss(z, y) + 0 * self.model.penalty

    def plain(self, z: Tensor, y: Tensor) -> Tensor:
        return self.criterion(z, y)


def _of_closure(model: Any) -> Loss:
    trainer = Trainer(model)
    return lambda z, y: cross_entropy(z, y) + trainer.model.penalty


def _of_dictionary(model: Any) -> Loss:
    parts = {"net": model}
    return lambda z, y: cross_entropy(z, y) + parts["net"].penalty


class OfNetwork(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(z, y) + self.model.penalty


def styled() -> Any:
    """With a module without parameters that keeps its input, as in PyTorch's style transfer."""

    def keep(net: Any, h: Tensor) -> Tensor:
        net.kept = h
        return h

    return nn.Sequential(nn.Linear(5, 4), Net(keep), nn.Linear(4, 3)).double()


def _of_style(model: Any) -> Loss:
    style = model[1]
    return lambda z, y: cross_entropy(z, y) + style.kept.square().mean()


class Recorder:
    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept = output


def _of_recorder(model: Any) -> Loss:
    recorder = Recorder()
    model[1].register_forward_hook(recorder.hook)
    return lambda z, y: cross_entropy(z, y) + recorder.kept.square().mean()


STALE: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "loss": (keeper, lambda model: Trainer(model).loss),
    "in_dictionary": (keeper, lambda model: Trainer(model).in_dictionary),
    "call": (keeper, Trainer),
    "closure": (keeper, _of_closure),
    "dictionary": (keeper, _of_dictionary),
    "loss module": (keeper, OfNetwork),
    "module without parameters": (styled, _of_style),
    "recorder": (perceptron, _of_recorder),
}


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("name", STALE)
def test_what_the_user_s_network_kept_is_no_part_of_the_loss(name: str, graph: bool) -> None:
    make, of_model = STALE[name]
    model, (x, y) = make(), vectors(40)
    loss = of_model(model)
    with torch.set_grad_enabled(graph):
        model(x)  # any earlier pass
    with pytest.raises(ModelError, match="refers to the network itself"):
        hd.Objective(model, loss, x, y).gradient()


def test_what_an_earlier_pass_left_is_seen_by_its_graph() -> None:
    model, (x, y) = keeper(), vectors(40)
    model(x)
    left = [[model.penalty]]  # nothing that a search for the network finds
    with pytest.raises(ModelError, match="reads the network's own parameters"):
        hd.Objective(model, lambda z, y: cross_entropy(z, y) + left[0][0], x, y).value()


def test_a_penalty_that_reads_the_network_beside_its_outputs() -> None:
    model = perceptron()

    def penalised(z: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(z, y) + 1e-3 * sum(p.square().sum() for p in model.parameters())

    require_refused("refers to the network itself", model, penalised, *vectors())

    class Penalised:
        def __init__(self) -> None:
            self.networks = {"mine": [model]}  # deeper than is searched

        def __call__(self, z: Tensor, y: Tensor) -> Tensor:
            weights = sum(p.square().sum() for p in self.networks["mine"][0].parameters())
            return cross_entropy(z, y) + 1e-3 * weights

    require_refused("by another way", model, Penalised(), *vectors())


def test_a_function_of_the_network_that_refers_to_it() -> None:
    model = net(lambda net, x: net.between(net.body(x)), body=perceptron)
    model.between = lambda y: y * model.body[2].bias.sum()
    require_refused("refers to the network itself", model, cross_entropy, *vectors())


def test_a_loss_that_is_a_part_of_the_network_is_a_loss() -> None:
    """Networks of training frameworks hold their own."""
    model = net(lambda net, x: net.body(x), body=perceptron, criterion=Focal)
    criterion = model.criterion
    for loss in (criterion, criterion.forward, lambda z, y: criterion(z, y)):
        require_followed(model, loss, *vectors(40))


def test_a_trainer_s_method_that_leaves_the_network_alone_is_a_loss() -> None:
    model = perceptron()
    require_followed(model, Trainer(model).plain, *vectors(40))


# --- the network's own methods --------------------------------------------------------------------------


class Lit(nn.Module):
    """A network that brings its loss, as modules of Lightning do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        self.eps, self.decay, self.criterion = 0.1, 0.05, nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        h = self.body[1](self.body[0](x))
        self.activity = h.square().mean()
        return self.body[2](h)

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(z, y, label_smoothing=self.eps)

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
        return cross_entropy(z, y, reduction="sum")

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
    model, (x, y) = Lit(), vectors()
    model(x)  # keeps something of a pass
    require_followed(model, OWN[name](model), x, y, batch_size=256)


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, lambda m: nn.Sequential(compiled(m))])
def test_a_method_of_a_part_is_found_below_wrappers(wrap: Any) -> None:
    lit = Lit()
    with torch.compiler.set_stance("force_eager"):
        require_followed(wrap(lit), lit.with_decay, *vectors())


def test_a_network_s_own_method_of_network_and_batch() -> None:
    model, samples = Lit(), vectors()
    objective = hd.Objective(model, hd.ModelLoss(model.step), [samples])
    require_right(objective, model, lambda m: m.step(m, samples))


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

    require_followed(Partly(), cross_entropy, *vectors())


def test_another_network_s_method_and_a_closure_over_this_one() -> None:
    model, other = Lit(), Lit()
    require_followed(model, other.with_decay, *vectors())
    with pytest.raises(ModelError, match="refers to the network itself"):
        hd.Objective(model, lambda z, y: model.with_decay(z, y), *vectors())


def test_a_method_whose_code_reads_the_user_s_network_elsewhere_is_refused() -> None:
    model = Lit()

    def loss(self: Lit, z: Tensor, y: Tensor) -> Tensor:
        return self.loss(z, y) + model.activity

    with pytest.raises(ModelError, match="refers to the network itself"):
        hd.Objective(model, loss.__get__(model), *vectors())


def test_gauss_newton_products_of_a_network_s_own_method() -> None:
    model, samples = Lit(), vectors()
    own = hd.Objective(model, model.loss, *samples)
    plain = functools.partial(cross_entropy, label_smoothing=0.1)
    v = torch.randn(own.n_parameters, dtype=torch.float64)
    expected = hd.Objective(model, plain, *samples).gauss_newton() @ v
    torch.testing.assert_close(own.gauss_newton() @ v, expected)
    with pytest.raises(ModelError, match="reads parameters of the network"):
        hd.Objective(model, model.with_decay, *samples).gauss_newton_vector_product(v)


# --- derivatives by the parameters ----------------------------------------------------------------------


def adapted(model: nn.Module, batch: Any) -> Tensor:
    """The loss of every sample after a step of gradient descent on it (MAML)."""
    parameters, losses = dict(model.named_parameters()), []
    for x, y in zip(*batch, strict=True):
        before = cross_entropy(functional_call(model, parameters, (x[None],)), y[None])
        slopes = torch.autograd.grad(before, list(parameters.values()), create_graph=True)
        moved = {name: p - 0.2 * g for (name, p), g in zip(parameters.items(), slopes, strict=True)}
        losses.append(cross_entropy(functional_call(model, moved, (x[None],)), y[None]))
    return torch.stack(losses).mean()


def penalised(model: nn.Module, batch: Any) -> Tensor:
    """The loss of every sample and the squared norm of its gradient."""
    parameters, losses = list(model.parameters()), []
    for x, y in zip(*batch, strict=True):
        loss = cross_entropy(model(x[None]), y[None])
        slopes = torch.autograd.grad(loss, parameters, create_graph=True)
        losses.append(loss + 0.1 * sum(g.square().sum() for g in slopes))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("loss", [adapted, penalised])
def test_losses_that_differentiate_with_respect_to_the_parameters(
    loss: Callable[[Any, Any], Tensor],
) -> None:
    model, samples = (
        built(lambda: nn.Sequential(nn.Linear(5, 2), nn.Tanh(), nn.Linear(2, 3))),
        vectors(6),
    )
    objective = hd.Objective(model, hd.ModelLoss(loss), [samples])
    with torch.no_grad():
        assert objective.samples_at_once >= 6
    require_right(objective, model, lambda m: loss(m, samples))
    assert not any(p.requires_grad for p in objective.parameters.values())
    points = torch.stack([objective.theta, 0.5 * objective.theta], 1)
    torch.testing.assert_close(objective.values(points)[0], loss(model, samples).detach())
