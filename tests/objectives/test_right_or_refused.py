"""Programs that people describe in public reports: each is followed exactly, or refused in a sentence.

Named after what goes wrong with them in curvature tools. The reference is the user's network run by
PyTorch over all samples at once, in float64.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from random_networks import Forgetful, OnceDifferentiable
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from hessian_directions.errors import (
    DataError,
    DifferentiationError,
    HessianDirectionsError,
    ModelError,
)
from hessian_directions.geometry import slices
from hessian_directions.objectives.objective import Objective
from hessian_directions.traces import estimators

Loss = Callable[[Any, Any], Tensor]
N_SAMPLES = 12


def images(n: int = N_SAMPLES) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, 5, 5, generator=generator, dtype=torch.float64)


def classes(n: int = N_SAMPLES) -> Tensor:
    return torch.arange(n) % 3


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = make().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model


class Between(nn.Module):
    """Convolution, what a program does with its output, normalisation, head."""

    def __init__(self, between: Callable[[Tensor], Tensor | None] = lambda y: None) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        changed = self.between(y)
        y = self.norm(y if changed is None else changed)
        return self.head(functional.gelu(y).mean((2, 3)))


class Net(nn.Module):
    """Layers by name, and a function of this network and its input that says what they do."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class WeightNorm(TorchFunctionMode):
    """PyTorch's own second derivative of it is wrong (2.13: the Hessian is not symmetric)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._weight_norm:
            v, g, dim = args
            return v * (g / v.norm(dim=[d for d in range(v.ndim) if d != dim], keepdim=True))
        return func(*args, **(kwargs or {}))


class Plain:
    """L, its gradient and Hv by PyTorch alone, with the parameters set in place."""

    def __init__(self, model: nn.Module, loss: Loss, inputs: Any, targets: Any) -> None:
        self.model, self.loss = copy.deepcopy(model).eval(), loss
        self.inputs, self.targets = inputs, targets
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def at(self, theta: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(theta.clone(), self.parameters)
        with sdpa_kernel(SDPBackend.MATH), WeightNorm():
            if isinstance(self.inputs, tuple):
                return self.loss(self.model(*self.inputs), self.targets)
            if isinstance(self.inputs, dict):
                return self.loss(self.model(**self.inputs), self.targets)
            return self.loss(self.model(self.inputs), self.targets)

    def derivatives(self, theta: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = self.at(theta)
        slope = self._flat(value, create_graph=True)
        return value.detach(), slope.detach(), self._flat(slope @ v)

    def _flat(self, scalar: Tensor, create_graph: bool = False) -> Tensor:
        parts = torch.autograd.grad(
            scalar,
            self.parameters,
            allow_unused=True,
            materialize_grads=True,
            create_graph=create_graph,
        )
        return torch.cat([part.reshape(-1) for part in parts])


def assert_right(
    model: nn.Module, loss: Loss = functional.cross_entropy, inputs: Any = None, targets: Any = None
) -> None:
    """Value, gradient, product and v'Hv at the network's own parameters and at others."""
    inputs = images() if inputs is None else inputs
    targets = classes() if targets is None else targets
    objective = Objective(model, loss, inputs, targets, batch_size=5)
    plain = Plain(model, loss, inputs, targets)
    generator = torch.Generator().manual_seed(2)
    v = torch.randn(objective.n_parameters, generator=generator, dtype=torch.float64)
    for theta in (objective.theta, objective.theta + 0.1 * v):
        value, slope, product = plain.derivatives(theta, v)
        close = functools.partial(torch.testing.assert_close, rtol=1e-8)
        close(objective.value(theta), value, atol=1e-12)
        scale = 1e-9 * float(slope.norm())
        close(objective.gradient(theta), slope, atol=scale)
        scale = 1e-9 * float(product.norm())
        close(objective.hessian_vector_product(v, theta), product, atol=scale)
        curvature = objective.second_directional_derivative(v, theta)
        close(curvature, v @ product, atol=scale * float(v.norm()))


def assert_refused(
    match: str,
    model: nn.Module,
    loss: Loss = functional.cross_entropy,
    inputs: Any = None,
    targets: Any = None,
    values_too: bool = True,
) -> None:
    inputs = images() if inputs is None else inputs
    targets = classes() if targets is None else targets
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def numbers() -> list[Callable[[], object]]:
        """What is asked first decides nothing: every number has an objective of its own."""
        made = [Objective(model, loss, inputs, targets, batch_size=5) for _ in range(6)]
        v = torch.ones(made[0].n_parameters, dtype=made[0].dtype)
        V = torch.stack([v, -v], 1)
        of_values: list[Callable[[], object]] = [
            lambda: made[0].value(),
            lambda: slices.surface(made[1], V, [0.0, 1.0], [0.0, 1.0]),
            lambda: estimators.finite_difference(made[2], directions=V),
        ]
        return [
            *(of_values if values_too else []),
            lambda: made[3].gradient(),
            lambda: made[4].hessian() @ v,
            lambda: made[5].second_directional_derivative(v),
        ]

    try:
        asked = numbers()
    except HessianDirectionsError as error:
        refusal = error
        asked = []
    else:
        refusal = None
    assert refusal is None or match in str(refusal), refusal
    for number in asked:
        with pytest.raises(HessianDirectionsError, match=match) as caught:
            number()
        assert "\n" not in str(caught.value)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# --- the output of a convolution, before its normalisation ---------------------------------------

IN_PLACE: dict[str, Callable[[Tensor], Tensor | None]] = {
    "y.sigmoid_()": lambda y: (y.sigmoid_(), None)[1],
    "relu(y, inplace=True)": lambda y: (functional.relu(y, inplace=True), None)[1],
    "y[:, :1] = 0": lambda y: y.__setitem__((slice(None), slice(1)), 0),
    "y += 1": lambda y: y.__iadd__(1),
    "a view in place": lambda y: (y.view(-1).tanh_(), None)[1],
    "a part in place": lambda y: (y.narrow(1, 0, 2).exp_(), None)[1],
    "clamp_": lambda y: (y.clamp_(-0.5, 0.5), None)[1],
    "an out argument of another function": lambda y: torch.cat([y[:, 1:], y[:, :1]], 1),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_convolution_changed_in_place(name: str) -> None:
    model = built(lambda: Between(IN_PLACE[name]))
    assert_right(model)


def test_a_convolution_changed_by_a_hook() -> None:
    model = built(Between)
    model.convolution.register_forward_hook(lambda module, inputs, y: (y.sigmoid_(), None)[1])
    assert_right(model)


def test_a_convolution_replaced_by_a_hook() -> None:
    model = built(Between)
    model.convolution.register_forward_hook(lambda module, inputs, y: y.tanh())
    assert_right(model)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def test_a_custom_function_behind_a_convolution() -> None:
    model = built(lambda: Between(Cube.apply))
    assert_right(model)
    model.head.requires_grad_(False)
    assert_right(model)


def test_a_custom_function_whose_backward_pass_is_no_derivative() -> None:
    model = built(lambda: Between(StraightThrough.apply))
    assert_refused("not the slope of its loss", model, values_too=False)


def test_a_custom_function_that_is_differentiable_once() -> None:
    model = built(lambda: Between(OnceDifferentiable.apply))
    objective = Objective(model, functional.cross_entropy, images(), classes())
    assert objective.gradient().norm() > 0
    with pytest.raises(DifferentiationError, match="No mode of Hessian-vector products"):
        objective.hessian() @ objective.theta


def test_a_custom_function_whose_second_derivative_lacks_a_term() -> None:
    model = built(lambda: Between(Forgetful.apply))
    objective = Objective(model, functional.cross_entropy, images(), classes())
    with pytest.raises(DifferentiationError, match="differences of gradients"):
        objective.hessian() @ objective.theta


# --- graphs that are cut --------------------------------------------------------------------------


def cut(where: str) -> tuple[nn.Module, Loss]:
    def forward(net: Any, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and where not in ("no_grad", "body")):
            y = functional.gelu(net.norm(net.convolution(x))).mean((2, 3))
            if where == "no_grad":
                return net.head(y)
        y = net.head(torch.from_numpy(y.detach().numpy()) if where == "numpy" else y)
        return y.detach() if where == "detach" else y

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.data if where == ".data" else outputs, targets)

    return built(lambda: Net(forward, **dict(Between().named_children()))), loss


@pytest.mark.parametrize("where", ["no_grad", "detach", ".data", "body", "numpy"])
def test_a_graph_that_is_cut_gives_no_zero(where: str) -> None:
    model, loss = cut(where)
    assert_refused("not the slope of its loss", model, loss, values_too=False)
    theta = Objective(model, loss, images(), classes()).theta
    expected = Plain(model, loss, images(), classes()).at(theta).detach()
    torch.testing.assert_close(Objective(model, loss, images(), classes()).value(), expected)


@pytest.mark.parametrize(
    "switch",
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.set_default_device("cpu") or (lambda: torch.device("cpu")),
    ],
)
def test_what_is_switched_on_around_an_analysis(switch: Callable[[], Any]) -> None:
    model = built(Between)
    expected = Objective(model, functional.cross_entropy, images(), classes())
    with switch():
        objective = Objective(model, functional.cross_entropy, images(), classes())
        v = torch.ones(objective.n_parameters, dtype=torch.float64)
        numbers = [objective.value(), objective.gradient(), objective.hessian() @ v]
        curvature = objective.second_directional_derivative(v)
    v = torch.ones(objective.n_parameters, dtype=torch.float64)
    assert torch.equal(numbers[0], expected.value())
    assert torch.equal(numbers[1], expected.gradient())
    assert torch.equal(numbers[2], expected.hessian() @ v)
    assert torch.equal(curvature, expected.second_directional_derivative(v))
    assert numbers[1].norm() > 0


def test_a_loss_that_depends_on_nothing_has_derivative_zero() -> None:
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 3)))

    def constant(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0 * outputs.sum() + 3

    objective = Objective(model, constant, images(), classes())
    v = torch.ones(objective.n_parameters, dtype=torch.float64)
    assert float(objective.value()) == 3
    assert not objective.gradient().any()
    assert not (objective.hessian() @ v).any()


# --- losses that are no plain mean ----------------------------------------------------------------

WEIGHT = torch.tensor([1.0, 10.0, 90.0], dtype=torch.float64)
cross_entropy = functional.cross_entropy
LOSSES: dict[str, Loss] = {
    "class weights, module": nn.CrossEntropyLoss(WEIGHT),
    "class weights, partial": functools.partial(cross_entropy, weight=WEIGHT),
    "class weights, smoothed": nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1),
    "ignored class": nn.CrossEntropyLoss(ignore_index=1),
    "ignored class, partial": functools.partial(cross_entropy, ignore_index=1),
    "ignored class, weights, smoothed": functools.partial(
        cross_entropy, weight=WEIGHT, ignore_index=1, label_smoothing=0.2
    ),
    "sum, module": nn.CrossEntropyLoss(reduction="sum"),
    "sum, partial": functools.partial(cross_entropy, reduction="sum"),
    "weighted sum": functools.partial(cross_entropy, weight=WEIGHT, reduction="sum"),
    "likelihood with weights": lambda outputs, targets: outputs.sum(),
}


def problems(targets: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 4), nn.Tanh(), nn.Linear(4, 3)))
    return model, images(len(targets)), targets


@pytest.mark.parametrize("name", [name for name in LOSSES if "likelihood" not in name])
@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_losses_that_are_no_plain_mean(name: str, order: str) -> None:
    targets = torch.tensor([0] * 9 + [1] * 6 + [2] * 2)  # whole batches of one class, when sorted
    if order == "shuffled":
        targets = targets[torch.randperm(17, generator=torch.Generator().manual_seed(3))]
    model, inputs, targets = problems(targets)
    assert_right(model, LOSSES[name], inputs, targets)


def test_targets_that_are_ignored_by_their_number() -> None:
    targets = classes(18).where(torch.arange(18) % 6 != 0, -100)
    targets[:5] = -100  # a whole batch
    model, inputs, targets = problems(targets)
    assert_right(model, functional.cross_entropy, inputs, targets)
    assert_right(model, nn.CrossEntropyLoss(), inputs, targets)
    with pytest.raises(DataError, match="ignores every target"):
        Objective(model, nn.CrossEntropyLoss(), inputs, torch.full((18,), -100))


def test_pixels_that_are_ignored_and_weighted() -> None:
    model = built(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh()))
    targets = torch.randint(3, (N_SAMPLES, 5, 5), generator=torch.Generator().manual_seed(4))
    targets[:4] = 2
    for loss in (nn.CrossEntropyLoss(WEIGHT, ignore_index=0), functional.cross_entropy):
        assert_right(model, loss, images(), targets)


def test_negative_log_likelihood_with_weights() -> None:
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 3), nn.LogSoftmax(1)))
    assert_right(model, nn.NLLLoss(WEIGHT), images(), classes().sort().values)
    assert_right(model, functools.partial(functional.nll_loss, weight=WEIGHT), images(), classes())


def test_classes_given_as_probabilities() -> None:
    model, inputs, _ = problems(classes())
    targets = torch.rand(N_SAMPLES, 3, generator=torch.Generator().manual_seed(5)).double()
    assert_right(model, nn.CrossEntropyLoss(WEIGHT), inputs, targets)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_a_weighted_mean_that_nothing_tells_of(order: str) -> None:
    targets = torch.tensor([0] * 20 + [1] * 7 + [2] * 3)
    if order == "shuffled":
        targets = targets[torch.randperm(30, generator=torch.Generator().manual_seed(3))]
    model, inputs, targets = problems(targets)

    def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, WEIGHT)

    assert_refused("split into batches", model, weighted, inputs, targets)


def test_a_sum_that_nothing_tells_of() -> None:
    model, inputs, targets = problems(classes())

    def summed(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, reduction="sum")

    assert_refused("reduction='sum'", model, summed, inputs, targets)


def test_rare_targets_are_looked_at() -> None:
    targets = torch.zeros(600, dtype=torch.long)
    targets[431] = -100  # one in six hundred
    model, inputs, targets = problems(targets)

    def ignoring(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets)

    assert_refused("split into batches", model, ignoring, inputs, targets)


def test_outputs_of_one_column_against_flat_targets() -> None:
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 1)))
    targets = torch.randn(N_SAMPLES, generator=torch.Generator().manual_seed(6)).double()
    for loss in (lambda outputs, targets: (outputs - targets).square().mean(), nn.MSELoss()):
        with pytest.warns() if isinstance(loss, nn.MSELoss) else _nothing():
            assert_refused("split into batches", model, loss, images(), targets)


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_a_loss_that_is_no_number() -> None:
    model, inputs, targets = problems(classes())
    none = functools.partial(functional.cross_entropy, reduction="none")
    with pytest.raises(ModelError, match="reduction 'none'"):
        Objective(model, none, inputs, targets)
    assert_refused("one real number", model, lambda outputs, targets: outputs, inputs, targets)
    assert_refused("one real number", model, lambda outputs, targets: 1.0, inputs, targets)


def test_a_penalty_that_reads_the_network_beside_its_outputs() -> None:
    model, inputs, targets = problems(classes())

    def penalised(outputs: Tensor, targets: Tensor) -> Tensor:
        weights = sum(p.square().sum() for p in model.parameters())
        return functional.cross_entropy(outputs, targets) + 1e-3 * weights

    assert_refused("refers to the network itself", model, penalised, inputs, targets)

    class Penalised:
        def __init__(self) -> None:
            self.networks = {"mine": [model]}  # deeper than is searched

        def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
            weights = sum(p.square().sum() for p in self.networks["mine"][0].parameters())
            return functional.cross_entropy(outputs, targets) + 1e-3 * weights

    assert_refused("by another way", model, Penalised(), inputs, targets)


# --- networks that are no function of their inputs and parameters ---------------------------------


def test_dropout_left_on() -> None:
    model = built(lambda: Net(lambda net, x: functional.dropout(net.body(x)), body=Between()))
    assert_refused("random in evaluation mode", model)


def test_a_network_that_asks_whether_a_graph_is_recorded() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.body(x) if torch.is_grad_enabled() else 2 * net.body(x)

    assert_refused("no graph is recorded", built(lambda: Net(forward, body=Between())))


def test_a_network_that_counts_its_passes() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        net.calls += 1
        return net.body(x) * net.calls

    assert_refused("state from pass to pass", built(lambda: Net(forward, body=Between(), calls=0)))


def test_a_network_that_branches_on_what_a_batch_has_in_common() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.body(x)
        return y.tanh() if float(y.detach().mean()) > 3 else y

    model = built(lambda: Net(forward, body=Between()))
    objective = Objective(model, functional.cross_entropy, images(), classes(), batch_size=5)
    assert objective.value() > 0  # far from the branch
    theta = objective.theta
    theta[-3:] += 3.0 - float(copy.deepcopy(model).eval()(images()).mean())  # at it
    for ask in (objective.value, objective.gradient, lambda at: objective.hessian(at) @ at):
        with pytest.raises(ModelError, match="split into batches"):
            ask(theta)


def test_a_network_that_differentiates_by_itself() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        y = net.body(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y + slope.flatten(1)[:, :3]

    assert_right(built(lambda: Net(forward, body=Between())))


def test_normalisation_without_running_statistics() -> None:
    model = built(Between)
    model.norm = nn.BatchNorm2d(4, track_running_stats=False).double()
    assert_refused("split into batches", model)


def renormalised(largest: float) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            net.body.head.weight.renorm_(2, 0, largest)
        return net.body(x)

    return built(lambda: Net(forward, body=Between()))


def test_weights_that_are_renormalised_in_place() -> None:
    assert_refused("changes its own parameters", renormalised(0.1))


def test_weights_that_are_renormalised_elsewhere_alone() -> None:
    """At the network's own parameters nothing is seen of it."""
    objective = Objective(renormalised(50), functional.cross_entropy, images(), classes())
    theta = objective.theta * 1000
    before = theta.clone()
    with pytest.raises(ModelError, match="changes its own parameters"):
        objective.value(theta)
    assert torch.equal(theta, before)


def test_an_embedding_with_a_largest_norm() -> None:
    model = built(lambda: nn.Sequential(nn.Embedding(5, 3, max_norm=1.0), nn.Flatten()))
    tokens = torch.arange(N_SAMPLES)[:, None] % 5
    assert_refused("max_norm", model, inputs=tokens)


class Keeping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(50, 3)
        self.kept = [self.layer.weight]

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.flatten(1), self.kept[0], self.layer.bias)


def test_weights_that_are_kept_elsewhere_too() -> None:
    assert_refused("keeps weights elsewhere", built(Keeping))


def test_weights_kept_elsewhere_where_parameters_must_be_positive() -> None:
    """At a point of other signs the loss is no number, and tells nothing."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.body(x) * (1 + net.spread.log().sum())

    spread = nn.Parameter(torch.ones(4))
    assert_refused(
        "keeps weights elsewhere", built(lambda: Net(forward, body=Keeping(), spread=spread))
    )


def test_a_network_whose_own_loss_is_no_number() -> None:
    """Nothing can be compared there: neither is anything returned elsewhere."""
    model, inputs, targets = problems(classes(17))
    theta = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    nn.init.constant_(model[1].weight, torch.nan)
    with pytest.raises(HessianDirectionsError, match="not finite at the network's own"):
        Objective(model, functional.cross_entropy, inputs, targets).value(theta)
    with pytest.raises(HessianDirectionsError, match="is nan at point 1"):
        Objective(model, functional.cross_entropy, inputs, targets).value()
    with pytest.raises(HessianDirectionsError, match="not finite"):
        Objective(model, functional.cross_entropy, inputs, targets).gradient(theta)


def test_a_function_that_refers_to_the_network() -> None:
    model = built(Between)
    model.between = lambda y: y * model.head.bias.sum()
    assert_refused("refers to the network itself", model)


def test_activations_in_place_whose_input_is_read_again() -> None:
    """With inplace=True the shortcut is rectified too: another network than without it."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.convolution(x)
        return (net.relu(y) + y).mean((2, 3))

    relu = nn.ReLU(inplace=True)
    assert_right(built(lambda: Net(forward, convolution=nn.Conv2d(2, 3, 3), relu=relu)))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten())
        self.head = nn.Linear(36, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(self.body, x.requires_grad_(), use_reentrant=self.reentrant)
        return self.head(y)


def test_activation_checkpointing() -> None:
    assert_right(built(lambda: Checkpointed(False)))


def test_reentrant_activation_checkpointing() -> None:
    assert_refused("use_reentrant", built(lambda: Checkpointed(True)), values_too=False)


# --- what wraps and instruments networks ----------------------------------------------------------


def test_backward_hooks_that_look() -> None:
    model, seen = built(Between), []
    model.norm.register_full_backward_hook(lambda module, inputs, outputs: seen.append(1))
    assert_right(model)


def test_backward_hooks_that_change_the_gradient() -> None:
    model = built(Between)
    model.norm.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 2,))
    assert_refused("not the slope of its loss", model, values_too=False)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
    ],
)
def test_weights_that_are_computed(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = built(Between)
    wrap(model.head)
    with torch.no_grad():
        model.train()(images())  # a hook has stored its result
    assert_right(model.eval())


def test_wrappers_are_taken_off() -> None:
    model = built(Between)
    wrapped = nn.DataParallel(model)
    compiled = copy.deepcopy(model)
    compiled.norm = torch.compile(compiled.norm, backend="eager")
    expected = Objective(model, functional.cross_entropy, images(), classes())
    for other in (wrapped, torch.compile(model, backend="eager"), compiled):
        objective = Objective(other, functional.cross_entropy, images(), classes())
        assert torch.equal(objective.gradient(), expected.gradient())
        assert torch.equal(
            objective.hessian() @ objective.theta, expected.hessian() @ expected.theta
        )


@pytest.mark.filterwarnings("ignore:.*jit.*deprecated.*")
def test_scripted_networks_are_refused() -> None:
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 3)))
    assert_refused("is scripted", torch.jit.script(model))
    assert_refused("'0' is scripted", nn.Sequential(torch.jit.script(model)))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks(kind: type[nn.RNNBase]) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(net.layer(x.flatten(1, 2))[0][:, -1])

    assert_right(
        built(lambda: Net(forward, layer=kind(5, 4, batch_first=True), head=nn.Linear(4, 3)))
    )


def test_a_transformer_layer() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(net.layer(net.embed(x.flatten(1, 2))).mean(1))

    def network() -> nn.Module:
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        return Net(forward, layer=layer, embed=nn.Linear(5, 4), head=nn.Linear(4, 3))

    assert_right(built(network))


def test_constants_in_float32_where_they_cannot_be_reached() -> None:
    scale = torch.linspace(0.5, 1.5, 50).diag()

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.second(net.first(x.flatten(1) @ scale).tanh())

    torch.manual_seed(0)
    model = Net(forward, first=nn.Linear(50, 4), second=nn.Linear(4, 3))
    objective = Objective(model, functional.cross_entropy, images().float(), classes())
    v = torch.randn(objective.n_parameters)
    plain = Plain(model, functional.cross_entropy, images().float(), classes())
    _, slope, product = plain.derivatives(objective.theta, v)
    torch.testing.assert_close(objective.gradient(), slope, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(objective.hessian() @ v, product, rtol=1e-3, atol=1e-4)
    assert "float32" in objective.self_test().describe()


def test_a_network_that_does_not_run_is_one_sentence() -> None:
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(49, 3)))
    assert_refused("does not run on its samples", model)
    targets = classes() + 2
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 3)))
    assert_refused("does not run on its samples", model, targets=targets)


# --- data as people have them ---------------------------------------------------------------------


def data_problem() -> tuple[nn.Module, Tensor, Tensor]:
    return built(Between), images(17), classes(17)


class Pairs(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 17

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i >= 17:
            raise IndexError
        return images(17)[i], int(classes(17)[i])


def sources() -> dict[str, Any]:
    x, y = images(17), classes(17)
    loader = torch.utils.data.DataLoader
    dataset = torch.utils.data.TensorDataset(x, y)
    return {
        "loader": loader(dataset, batch_size=5),
        "loader that shuffles": loader(dataset, batch_size=5, shuffle=True),
        "dataset of tensors": dataset,
        "dataset of pairs": Pairs(),
        "list of batches": list(zip(x.split(4), y.split(4))),
        "generator of batches": zip(x.split(4), y.split(4)),
        "NumPy batches": [(a.numpy(), b.numpy().astype(np.int32)) for a, b in zip([x], [y])],
    }


@pytest.mark.parametrize("in_memory", [None, True, False])
@pytest.mark.parametrize("name", sources())
def test_data_as_people_have_them(name: str, in_memory: bool | None) -> None:
    model, inputs, targets = data_problem()
    expected = Objective(model, functional.cross_entropy, inputs, targets, batch_size=6)
    source = sources()[name]
    if in_memory is False and "generator" in name:
        with pytest.raises(DataError, match="only once"):
            Objective(model, functional.cross_entropy, source, in_memory=False)
        return
    objective = Objective(
        model, functional.cross_entropy, source, batch_size=6, in_memory=in_memory
    )
    assert objective.n_samples == 17
    close = functools.partial(torch.testing.assert_close, rtol=1e-11, atol=1e-13)
    close(objective.value(), expected.value())
    close(objective.gradient(), expected.gradient())
    v = torch.ones(objective.n_parameters, dtype=torch.float64)
    close(objective.hessian() @ v, expected.hessian() @ v)
    if "shuffles" not in name:
        close(objective.subset([3, 16, 0]).value(), expected.subset([3, 16, 0]).value())


def test_arrays_and_lists() -> None:
    model, x, y = data_problem()
    expected = Objective(model, functional.cross_entropy, x, y)
    for inputs, targets in ((x.numpy(), y.numpy()), (x.tolist(), y.tolist()), (list(x), list(y))):
        objective = Objective(model, functional.cross_entropy, inputs, targets)
        assert torch.equal(objective.value(), expected.value())
    theta = expected.theta
    for point in (theta.numpy(), theta.tolist()):
        assert torch.equal(expected.value(point), expected.value(theta))
        assert torch.equal(expected.gradient(point), expected.gradient(theta))
        assert torch.equal(expected.hessian() @ point, expected.hessian() @ theta)
        assert torch.equal(expected.hessian(point) @ theta, expected.hessian() @ theta)
    assert torch.equal(expected.subset(np.array([1, 2])).value(), expected.subset([1, 2]).value())
    assert torch.equal(expected.subset(range(3)).value(), expected.subset([0, 1, 2]).value())


def test_data_that_change_from_pass_to_pass() -> None:
    class Augmented(Pairs):
        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            x, y = super().__getitem__(i)
            return x + torch.randn(()), y

    model, _, _ = data_problem()
    streamed = Objective(model, functional.cross_entropy, Augmented(), in_memory=False)
    with pytest.raises(DataError, match="different samples"):
        streamed.value()
    frozen = Objective(model, functional.cross_entropy, Augmented())
    assert torch.equal(frozen.value(), frozen.value())
    assert frozen.gradient().isfinite().all()


def test_weighted_losses_over_data_that_are_read_anew() -> None:
    model, x, y = data_problem()
    loss = nn.CrossEntropyLoss(WEIGHT, ignore_index=1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 5)
    streamed = Objective(model, loss, loader, in_memory=False)
    expected = Objective(model, loss, x, y)
    torch.testing.assert_close(streamed.gradient(), expected.gradient(), rtol=1e-11, atol=1e-13)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.of_image, self.of_vector = nn.Linear(50, 3), nn.Linear(4, 3)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        return self.of_image(image.flatten(1)).tanh() * self.of_vector(vector)


class OneOfTwo(Two):
    def forward(self, both: Any) -> Tensor:  # type: ignore[override]
        parts = both.values() if isinstance(both, dict) else both
        return super().forward(*parts)


@pytest.mark.parametrize("kind", [Two, OneOfTwo])
def test_inputs_that_are_several_tensors(kind: type[nn.Module]) -> None:
    model = built(kind)
    vectors = torch.randn(N_SAMPLES, 4, generator=torch.Generator().manual_seed(7)).double()
    pair, named = (images(), vectors), {"image": images(), "vector": vectors}
    values = [
        Objective(model, functional.cross_entropy, inputs, classes(), batch_size=5)
        for inputs in (pair, named)
    ]
    dataset = torch.utils.data.StackDataset(
        torch.utils.data.StackDataset(images(), vectors), classes()
    )
    values.append(Objective(model, functional.cross_entropy, dataset))
    if kind is Two:
        assert_right(model, functional.cross_entropy, pair, classes())
        assert_right(model, functional.cross_entropy, named, classes())
    for objective in values:
        v = torch.ones(objective.n_parameters, dtype=torch.float64)
        torch.testing.assert_close(objective.hessian() @ v, values[0].hessian() @ v)


def test_data_that_are_none() -> None:
    model, x, y = data_problem()
    loss = functional.cross_entropy
    for data, match in (
        (x, "without targets"),
        ([x], "pair"),
        ([], "no samples"),
        (3, "neither arrays nor batches"),
        ([(x, y[:3])], "do not go with"),
    ):
        with pytest.raises((DataError, ModelError), match=match):
            Objective(model, loss, data)
    with pytest.raises(ModelError, match="do not go with"):
        Objective(model, loss, x[:0], y[:0])
    with pytest.raises(DataError, match="not among"):
        Objective(model, loss, x, y).subset([17])
    for indices in ([], [0.5], [True, False], "all", [[1], [2, 3]]):
        with pytest.raises(DataError, match=r"needs indices|no array"):
            Objective(model, loss, x, y).subset(indices)  # type: ignore[arg-type]


def test_a_subset_by_a_mask() -> None:
    model, x, y = data_problem()
    objective = Objective(model, functional.cross_entropy, x, y)
    mask = y == 1
    expected = objective.subset(mask.nonzero().reshape(-1)).value()
    for given in (mask, mask.numpy(), mask.tolist()):
        assert torch.equal(objective.subset(given).value(), expected)


def test_outputs_that_are_a_tuple_or_a_dictionary_and_a_loss_of_one_entry() -> None:
    def forward(net: Any, x: Tensor) -> dict[str, Tensor]:
        y = net.layer(x.flatten(1))
        return {"logits": y, "features": y.tanh()}

    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        entropy = functional.cross_entropy(outputs["logits"], targets)
        return (entropy + outputs["features"].square().mean()).reshape(1)

    model = built(lambda: Net(forward, layer=nn.Linear(50, 3)))
    objective = Objective(model, loss, images(), classes(), batch_size=5)
    plain = Plain(model, lambda o, t: loss(o, t)[0], images(), classes())
    v = torch.ones(objective.n_parameters, dtype=torch.float64)
    value, slope, product = plain.derivatives(objective.theta, v)
    torch.testing.assert_close(objective.values(objective.theta[:, None])[0], value)
    torch.testing.assert_close(objective.gradient(), slope, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(objective.hessian() @ v, product, rtol=1e-8, atol=1e-11)


def test_networks_that_cannot_be_copied_or_run_are_one_sentence() -> None:
    loss = functional.cross_entropy
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ModelError, match="no shape yet"):
        Objective(lazy, loss, images().float(), classes())
    tokens = torch.arange(N_SAMPLES)[:, None] % 5
    sparse = built(lambda: nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten()))
    objective = Objective(sparse, loss, tokens, classes())
    assert objective.value() > 0
    with pytest.raises(HessianDirectionsError):
        objective.gradient()


class Buffered:
    """A loader that fills one buffer again and again."""

    def __iter__(self) -> Any:
        buffer = torch.empty(5, 2, 5, 5, dtype=torch.float64)
        for start in range(0, 17, 5):
            x = images(17)[start : start + 5]
            buffer[: len(x)] = x
            yield buffer[: len(x)], classes(17)[start : start + 5]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_loader_that_fills_one_buffer_again(in_memory: bool) -> None:
    model, x, y = data_problem()
    expected = Objective(model, functional.cross_entropy, x, y).value()
    given = Objective(model, functional.cross_entropy, Buffered(), in_memory=in_memory).value()
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=0)


def test_arrays_that_their_owner_changes_afterwards() -> None:
    model, x, y = data_problem()
    for array in (x, y):
        objective = Objective(model, functional.cross_entropy, x, y)
        array.mul_(1)
        with pytest.raises(DataError, match="changed in place after"):
            objective.value()
    changed = x.numpy()
    objective = Objective(model, functional.cross_entropy, changed, y.numpy())
    expected = objective.value()
    changed *= 2
    assert torch.equal(objective.value(), expected)


def test_arrays_of_unusual_layouts() -> None:
    model, x, y = data_problem()
    expected = Objective(model, functional.cross_entropy, x.flip(0), y.flip(0)).value()
    backwards = x.numpy()[::-1], y.numpy()[::-1]
    swapped = tuple(a.astype(a.dtype.newbyteorder()) for a in backwards)
    for inputs, targets in (backwards, swapped):
        assert torch.equal(
            Objective(model, functional.cross_entropy, inputs, targets).value(), expected
        )
    with pytest.raises(DataError, match="make it dense"):
        Objective(model, functional.cross_entropy, x.to_sparse(), y)


def test_optional_arguments_of_a_network() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(50, 3)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            x = x.flatten(1)
            return self.layer(x if mask is None else x * mask)

    model = built(Masked)
    mask = (images().flatten(1) > 0).double()
    assert_right(model, functional.cross_entropy, (images(), mask), classes())
    assert_right(model)


# --- what networks keep ---------------------------------------------------------------------------


def test_networks_that_keep_their_activations() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        net.kept = {"list": [net.body.convolution(x)]}
        return net.body(x)

    model = built(lambda: Net(forward, body=Between()))
    model(images())  # with its graph
    objective = Objective(model, functional.cross_entropy, images(), classes())
    for ask in (lambda o: o.value(), lambda o: o.gradient(), lambda o: o.hessian() @ o.theta):
        ask(objective)
        assert ask(objective.to(dtype=torch.float32)).isfinite().all()
        assert ask(objective.subset([0, 1, 5])).isfinite().all()


class Cached(nn.Module):
    """Keeps what it computes from its weights, as LeViT keeps its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.bias = nn.Conv2d(2, 3, 3), nn.Parameter(torch.randn(3))
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> "Cached":
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias.sin()
        return self.layer(x).mean((2, 3)) + self.cache["bias"]


def test_networks_that_keep_what_they_computed_from_their_weights() -> None:
    model = built(Cached).eval()
    with torch.no_grad():
        model(images())  # a cache without a graph
    objective = Objective(model, functional.cross_entropy, images(), classes(), batch_size=5)
    expected = Objective(built(Cached), functional.cross_entropy, images(), classes())
    for theta in (objective.theta, 2 * objective.theta):
        torch.testing.assert_close(objective.value(theta), expected.value(theta))
        torch.testing.assert_close(objective.gradient(theta), expected.gradient(theta))
    slope = objective.gradient()
    assert slope[-3:].norm() > 0
    assert slope[:3].norm() > 0


def test_two_copies_of_a_network_do_not_share_what_they_keep() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        net.calls += 1
        return net.body(x) * (1 + (net.calls > 40))

    model = built(lambda: Net(forward, body=Between(), calls=0))
    objective = Objective(model, functional.cross_entropy, images(), classes())
    objective.value()
    assert model.calls == 0


def test_autocast_within_a_network() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net.body(x).float()

    model = built(lambda: Net(forward, body=Between())).float()
    objective = Objective(model, functional.cross_entropy, images().float(), classes())
    with pytest.raises(ModelError, match="bfloat16"):
        objective.value()


def test_networks_that_squeeze_their_outputs() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.layer(x.flatten(1)).squeeze()

    model = built(lambda: Net(forward, layer=nn.Linear(50, 1)))
    targets = (classes(16) == 1).double()
    assert_right(model, nn.BCEWithLogitsLoss(), images(16), targets)  # batches of 5, 5, 4 and 2


# --- losses of which few samples tell nothing -----------------------------------------------------


def test_a_masked_mean() -> None:
    targets = torch.randn(600, 3, generator=torch.Generator().manual_seed(8)).double()
    targets[[17, 311, 599], 0] = torch.nan
    model, inputs, targets = problems(targets)

    def masked(outputs: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        return (outputs[known] - targets[known]).square().mean()

    assert_refused("split into batches", model, masked, inputs, targets)


def test_losses_that_are_small_beside_their_outputs() -> None:
    model, inputs, targets = problems(classes())

    def summed(outputs: Tensor, targets: Tensor) -> Tensor:
        return 1e-16 * functional.cross_entropy(outputs, targets, reduction="sum")

    assert_refused("reduction='sum'", model, summed, inputs, targets)

    def mean(outputs: Tensor, targets: Tensor) -> Tensor:
        return 1e-16 * functional.cross_entropy(outputs, targets)

    objective = Objective(model, mean, inputs, targets)
    unscaled = Objective(model, functional.cross_entropy, inputs, targets)
    expected = 1e-16 * (unscaled.hessian() @ unscaled.theta)
    torch.testing.assert_close(objective.hessian() @ objective.theta, expected, rtol=1e-9, atol=0)


def test_a_network_that_is_trained_to_the_end() -> None:
    """Its loss of 1e-12 is rounded as its outputs of 30 are, and it is not refused."""
    model, inputs, targets = problems(classes())
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].bias.zero_()
        model[1].weight.zero_()
    logits = 30 * functional.one_hot(targets, 3).double() + 0.1 * inputs.flatten(1)[:, :3]
    layer = built(lambda: nn.Linear(3, 3))
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3))
    objective = Objective(layer, functional.cross_entropy, logits, targets)
    assert 0 < float(objective.value()) < 1e-10
    assert objective.gradient().norm() > 0
    assert (objective.hessian() @ objective.theta).norm() > 0


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_a_graph_that_is_cut_before_weights_of_another_size(scale: float) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last((net.first(x.flatten(1) / scale).tanh()).detach())

    model = built(lambda: Net(forward, first=nn.Linear(50, 4), last=nn.Linear(4, 3)))
    with torch.no_grad():
        model.first.weight.mul_(scale)
    assert_refused("not the slope", model, values_too=False)


def test_a_graph_that_is_cut_beside_a_far_larger_gradient() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        small = net.small(x.flatten(1)).tanh()
        return net.large(1e3 * x.flatten(1)) + 1e-4 * small.detach()

    model = built(lambda: Net(forward, small=nn.Linear(50, 3), large=nn.Linear(50, 3)))
    assert_refused("not the slope", model, values_too=False)


# --- the self-test itself -------------------------------------------------------------------------


def test_the_self_test_looks_at_every_class_and_costs_little() -> None:
    targets = torch.cat([torch.zeros(500).long(), torch.arange(10), torch.tensor([-100])])
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 10)))
    objective = Objective(model, functional.cross_entropy, images(len(targets)), targets)
    report = objective.self_test()
    assert report.n_samples == 12
    assert report.cost.passes["referee's gradient"] == 2
    assert report.cost.passes["referee's value"] <= 8
    assert objective.cost.passes == {}
    assert "on 12 samples" in report.describe()


def test_what_was_refused_once_stays_refused() -> None:
    model, loss = cut("body")
    objective = Objective(model, loss, images(), classes())
    for _ in range(2):
        with pytest.raises(DifferentiationError):
            objective.subset([0, 1]).gradient()
    assert objective.value() > 0
