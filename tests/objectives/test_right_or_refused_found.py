"""What random networks brought to light (`test_any_network`), one small program each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from random_networks import Apply
from torch import Tensor, nn
from torch.nn import functional

from hessian_directions.errors import DifferentiationError, ModelError
from hessian_directions.objectives.objective import Objective


class Through(nn.Module):
    """A linear layer, then a function, then another linear layer."""

    def __init__(self, function: Callable[[Tensor], Any], first: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6) if first is None else first
        self.function, self.last = function, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def samples(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, 4, generator=generator, dtype=torch.float64),
        torch.randint(3, (n,), generator=generator),
    )


def objective_of(model: nn.Module, *data: Any, **options: Any) -> Objective:
    return Objective(model.double(), nn.CrossEntropyLoss(), *(data or samples()), **options)


def slope_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    loss = functional.cross_entropy(model(inputs), targets)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters)])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# --- errors of our own kind -----------------------------------------------------------------------


@torch.jit.script
def _scripted(x: Tensor) -> Tensor:
    return torch.tanh(x)


def test_a_network_that_holds_what_cannot_be_pickled_is_right() -> None:
    model, (inputs, targets) = Through(_scripted).double(), samples()
    objective = objective_of(model, inputs, targets)
    torch.testing.assert_close(objective.gradient(), slope_of(model, inputs, targets))


def _one_of_several_views(x: Tensor) -> Tensor:
    left, right = (x * 1.0).split(3, 1)
    return torch.cat([left.sin_(), right], 1)


def test_a_network_that_runs_but_cannot_be_recorded_is_refused() -> None:
    with torch.no_grad():
        Through(_one_of_several_views).double()(samples()[0])
    with pytest.raises(ModelError, match="does not run"):
        objective_of(Through(_one_of_several_views)).value()


def test_whatever_the_self_test_meets_is_an_error_of_ours() -> None:
    seen: list[float] = []

    def here_alone(x: Tensor) -> Tensor:
        seen.append(float(x.detach().sum()))
        if seen[-1] != seen[0]:
            raise ArithmeticError("too far out")
        return x.tanh()

    with pytest.raises(ModelError, match="too far out"):
        objective_of(Through(here_alone), *samples(6)).value()


# --- in place on what the user handed over --------------------------------------------------------


def _doubled_through_data(x: Tensor) -> Tensor:
    x.data.mul_(2)
    return x


CLAMPED = Apply(lambda x: x.clamp_(-0.5, 0.5))
DOUBLED = Apply(lambda x: x.mul_(2))


@pytest.mark.parametrize(
    "first",
    [nn.ELU(inplace=True), nn.ReLU(inplace=True), CLAMPED, DOUBLED, Apply(_doubled_through_data)],
)
@pytest.mark.parametrize("vectors_at_once", [1, 16])
def test_inputs_changed_in_place_are_the_networks_own(
    first: nn.Module, vectors_at_once: int
) -> None:
    model, (inputs, targets) = nn.Sequential(first, nn.Linear(4, 3)).double(), samples()
    before = inputs.clone()
    loss = functional.cross_entropy(model(inputs.clone()), targets)
    slope = slope_of(model, inputs.clone(), targets)
    objective = objective_of(model, inputs, targets, batch_size=3, vectors_at_once=vectors_at_once)
    V = torch.randn(objective.n_parameters, 3, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(objective.value(), loss.detach())
        torch.testing.assert_close(objective.gradient(), slope)
        values = objective.values(objective.theta[:, None].repeat(1, 3))
        torch.testing.assert_close(values, loss.detach().repeat(3))
        products = objective.hessian_vector_product(V)
        second = objective.second_directional_derivative(V)
        torch.testing.assert_close(second, (V * products).sum(0))
    assert torch.equal(inputs, before)


def test_a_rare_sample_is_not_changed_in_place_either() -> None:
    inputs, targets = samples(200)
    inputs.clamp_(-0.4, 0.4)
    inputs[137] = 5.0  # no sample of the self-test
    before = inputs.clone()
    objective_of(nn.Sequential(CLAMPED, nn.Linear(4, 3)), inputs, targets).gradient()
    assert torch.equal(inputs, before)


def test_a_loss_that_changes_its_targets_in_place() -> None:
    inputs, _ = samples()
    targets = torch.randn(8, 3, dtype=torch.float64)
    before, model = targets.clone(), nn.Linear(4, 3).double()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs, targets.mul_(0.5))

    expected = functional.mse_loss(model(inputs), targets / 2).detach()
    objective = Objective(model, loss, inputs, targets, batch_size=3)
    for _ in range(2):
        torch.testing.assert_close(objective.value(), expected)
        objective.gradient()
    assert torch.equal(targets, before)


# --- weights that are changed, but not at the network's own ---------------------------------------


class _Positive(nn.Module):
    """Weights that are kept positive in the forward pass, and are so where the network stands."""

    def __init__(self, floor: float = 0.1) -> None:
        super().__init__()
        self.weight, self.floor = nn.Parameter(torch.rand(3, 4) + 0.2), floor

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.clamp_(min=self.floor)
        return x @ self.weight.T


def test_weights_that_are_clamped_in_the_forward_pass_are_refused() -> None:
    with pytest.raises(ModelError, match="changes its own parameters"):
        objective_of(_Positive()).value()


@pytest.mark.parametrize("n_points", [1, 2])
def test_weights_that_are_clamped_far_away_are_refused_there(n_points: int) -> None:
    objective = objective_of(_Positive(floor=-9.0))
    objective.self_test()
    there = objective.theta - 20
    V = torch.randn(12, 2, dtype=torch.float64)
    for ask in (
        lambda: objective.values(torch.stack([there, objective.theta], 1)[:, :n_points]),
        lambda: objective.gradient(there),
        lambda: objective.hessian_vector_product(V, there),
        lambda: objective.second_directional_derivative(V, there),
    ):
        with pytest.raises(ModelError, match="changes its own parameters"):
            ask()
    assert bool(objective.gradient().isfinite().all())


# --- graphs of which a small part is cut ----------------------------------------------------------


class _PartlyDetached(nn.Module):
    """A share of what the network does leaves no graph."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.first, self.last, self.share = nn.Linear(4, 6), nn.Linear(6, 3), share

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).tanh()
        return self.last(y + self.share * y.detach().sin())


@pytest.mark.parametrize("share", [1e-2, 1e-3, 1e-4, 1e-5])
def test_a_small_part_of_the_graph_that_is_cut(share: float) -> None:
    with pytest.raises(DifferentiationError, match="not the slope"):
        objective_of(_PartlyDetached(share)).gradient()


class _WrongByLittle(torch.autograd.Function):
    """A first derivative that is right, and whose own is not by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        wrong = x * (1 - 1e-4) + 1e-4 * x.detach()
        return 2 * wrong * gradient


def test_a_second_derivative_that_is_wrong_by_little() -> None:
    objective = objective_of(Through(lambda x: _WrongByLittle.apply(x)))
    objective.gradient()
    with pytest.raises(DifferentiationError, match="No mode"):
        objective.self_test()


# --- gradients that PyTorch changes on purpose ----------------------------------------------------


def _tokens() -> tuple[Tensor, Tensor]:
    return torch.arange(40).view(10, 4) % 5, torch.arange(10) % 3


@pytest.mark.parametrize("options", [{"padding_idx": 0}, {"scale_grad_by_freq": True}], ids=str)
def test_embeddings_whose_gradient_is_no_slope(options: dict[str, Any]) -> None:
    embedding = nn.Embedding(5, 3, **options)
    model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(12, 3))
    objective = objective_of(model, *_tokens())
    assert objective.value().isfinite()
    with pytest.raises(DifferentiationError, match=next(iter(options))):
        objective.gradient()
    embedding.requires_grad_(False)
    assert bool(objective_of(model, *_tokens()).gradient().isfinite().all())


def test_a_bag_leaves_its_padding_out() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(5, 3, padding_idx=0)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.bag(tokens)

    model = Bag().double()
    slope = slope_of(model, *_tokens())
    torch.testing.assert_close(objective_of(model, *_tokens()).gradient(), slope)


def test_few_samples_are_all_tested() -> None:
    """One of nine takes another path, on which the graph is cut."""

    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return torch.where(x[:, :1] > 4, y.detach().sin(), y)

    inputs, targets = samples(9)
    for rare in range(9):
        one = inputs.clone()
        one[rare, 0] = 5
        with pytest.raises(DifferentiationError, match="not the slope"):
            objective_of(Rare(), one, targets).gradient()


# --- curvature below rounding ---------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 200.0, 300.0, 500.0])
def test_a_saturated_network_has_products_of_rounding(scale: float) -> None:
    """Probabilities of 1 and 10⁻⁴⁰: what is left of the curvature is not symmetric."""
    torch.manual_seed(2)
    model, (inputs, targets) = nn.Linear(4, 3).double(), samples()
    with torch.no_grad():
        model.weight.mul_(scale)
    objective = objective_of(model, inputs, targets)
    V = torch.randn(objective.n_parameters, 2, dtype=torch.float64)
    HV = objective.hessian_vector_product(V)
    slope = objective.gradient()

    def at(theta: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(theta, model.parameters())
        return slope_of(model, inputs, targets)

    h = 1e-6
    theta = objective.theta
    differences = torch.stack([(at(theta + h * v) - at(theta - h * v)) / (2 * h) for v in V.T], 1)
    torch.testing.assert_close(HV, differences, rtol=1e-4, atol=1e-7 * float(slope.norm()))
    second = objective.second_directional_derivative(V)
    torch.testing.assert_close(second, (V * HV).sum(0), atol=1e-10, rtol=1e-8)


# --- networks that count their passes -------------------------------------------------------------


@pytest.mark.parametrize("period", [4, 7, 40])
def test_what_a_network_does_in_some_later_pass_is_no_part_of_its_loss(period: int) -> None:
    """As plain PyTorch has it in the first."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(4, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x if self.calls % period else x.sin())

    inputs, targets = samples()
    objective = objective_of(Counting(), inputs, targets, batch_size=3)
    loss = objective.value()
    model = Counting().double()
    nn.utils.vector_to_parameters(objective.theta, model.parameters())
    torch.testing.assert_close(loss, functional.cross_entropy(model(inputs), targets).detach())
    slope = objective.gradient()
    for _ in range(period):
        assert torch.equal(objective.value(), loss)
        assert torch.equal(objective.gradient(), slope)


def test_hooks_of_a_wrapper_are_not_lost() -> None:
    """Wrappers for compilation are taken off, and PyTorch copies them without their hooks."""
    wrapped = torch.compile(nn.Hardtanh(), backend="eager")
    wrapped.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    x = torch.randn(5, 3)
    for model in (wrapped, nn.Sequential(nn.Linear(3, 3), wrapped)):
        with pytest.raises(ModelError, match="has hooks on a wrapper"):
            Objective(model, nn.MSELoss(), x, x)
