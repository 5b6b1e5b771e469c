"""Gauss–Newton products against dense matrices by forward differentiation of single samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from networks import NETWORKS, Problem, assert_close, objective_of, problem, vectors
from networks import dense_gauss_newton as dense
from torch import Tensor, nn
from torch.nn import functional

from hessian_directions.autodiff import gauss_newton
from hessian_directions.autodiff.modes import Parameters
from hessian_directions.errors import DifferentiationError, ModelError
from hessian_directions.objectives.losses import ModelLoss
from hessian_directions.objectives.objective import Objective
from hessian_directions.spectral.eigenpairs import extreme_eigenpairs

# --- right --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("regression", [False, True])
def test_products_equal_the_dense_matrix(name: str, regression: bool) -> None:
    case = problem(name, regression)
    objective = objective_of(case, batch_size=4, vectors_at_once=2)  # batches of 4, 4 and 2
    G, V = objective.gauss_newton(), vectors(objective.n_parameters, 3)
    expected = dense(case)
    assert float(torch.linalg.eigvalsh(expected)[0]) >= -1e-12 * float(expected.norm())
    assert_close(G @ V, expected @ V, 1e-10)
    assert_close(G @ V[:, 0], expected @ V[:, 0], 1e-10)
    test = objective.gauss_newton_test()
    assert test.mode == "reverse over reverse"
    assert not test.fallbacks
    assert test.deviation < 1e-12


@pytest.mark.parametrize("mode", gauss_newton.GAUSS_NEWTON)
@pytest.mark.parametrize("name", ["residual", "dense", "attention", "tanh perceptron"])
def test_every_mode_is_right(name: str, mode: str) -> None:
    case = problem(name)
    objective = objective_of(case, batch_size=4)
    V = vectors(objective.n_parameters, 3)
    modes = gauss_newton.GAUSS_NEWTON
    # Afterwards all are back in their order, which is that of preference.
    with mock.patch.dict(modes, {mode: modes[mode]}, clear=True):
        assert_close(objective.gauss_newton() @ V, dense(case) @ V, 1e-10)
        assert objective.gauss_newton_test().mode == mode


@pytest.mark.parametrize("name", ["residual", "mobile", "attention", "ReLU perceptron"])
def test_products_in_float32(name: str) -> None:
    case = problem(name)
    expected = dense(case)
    single = Objective(case.model.float(), case.loss, case.inputs.float(), case.targets, 4)
    V = vectors(single.n_parameters, 3).float()
    products = single.gauss_newton() @ V
    assert products.dtype == torch.float32
    assert_close(products, expected @ V.double(), 1e-4)


def test_products_elsewhere_and_over_a_block() -> None:
    case = problem("residual")
    objective = objective_of(case)
    theta = objective.theta + 0.1 * vectors(objective.n_parameters, 1, seed=1)[:, 0]
    v = vectors(objective.n_parameters, 1)[:, 0]
    expected = dense(case, theta)
    assert_close(objective.gauss_newton(theta) @ v, expected @ v, 1e-10)
    assert_close(objective.gauss_newton_vector_product(v, theta), expected @ v, 1e-10)
    block = objective_of(case, parameters="head.*")
    n = block.n_parameters
    rows = dense(case)[-n:, -n:]
    assert_close(block.gauss_newton() @ v[-n:], rows @ v[-n:], 1e-10)
    wrapped = case._replace(model=nn.DataParallel(case.model))
    assert_close(objective_of(wrapped).gauss_newton() @ v, objective.gauss_newton() @ v, 1e-12)


class Pixels(nn.Module):
    """A class for every pixel, and a second head for the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 4, 3, padding=1)
        self.pixels = nn.Conv2d(4, 3, 1)
        self.image = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = torch.tanh(self.body(x))
        return {"pixels": self.pixels(y), "image": self.image(y.mean((2, 3)))}


def both_heads(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    of_pixels = functional.cross_entropy(outputs["pixels"], targets)
    return of_pixels + 0.4 * functional.cross_entropy(outputs["image"], targets[:, 0, 0])


def only_pixels(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["pixels"], targets)


@pytest.mark.parametrize("loss", [both_heads, only_pixels])
def test_several_outputs_of_several_dimensions(loss: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(7, 2, 4, 4, dtype=torch.float64)
    case = Problem(Pixels().double(), loss, inputs, torch.randint(3, (7, 4, 4)))
    objective = objective_of(case, batch_size=3)
    V = vectors(objective.n_parameters, 2)
    assert_close(objective.gauss_newton() @ V, dense(case) @ V, 1e-10)


WEIGHT = torch.tensor([0.5, 1.0, 2.5], dtype=torch.float64)
LOSSES: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), lambda t: t),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHT), lambda t: t),
    "ignored": (nn.CrossEntropyLoss(ignore_index=1, weight=WEIGHT), lambda t: t),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), lambda t: t),
    "probabilities": (
        functional.cross_entropy,
        lambda t: functional.one_hot(t, 3).double() * 0.8 + 0.2 / 3,
    ),
    "binary": (
        functional.binary_cross_entropy_with_logits,
        lambda t: functional.one_hot(t, 3).double(),
    ),
    "Huber": (partial(functional.huber_loss, delta=0.3), lambda t: torch.randn(len(t), 3).double()),
    "squares, summed": (nn.MSELoss(reduction="sum"), lambda t: torch.randn(len(t), 3).double()),
    "own": (lambda z, t: (z.logsumexp(1) - z.gather(1, t[:, None])[:, 0]).mean(), lambda t: t),
}


@pytest.mark.parametrize("name", LOSSES)
def test_convex_losses(name: str) -> None:
    loss, prepare = LOSSES[name]
    torch.manual_seed(1)
    plain = problem("tanh perceptron", n_samples=11)
    case = plain._replace(loss=loss, targets=prepare(plain.targets))
    objective = objective_of(case, batch_size=4)
    identity = torch.eye(objective.n_parameters, dtype=torch.float64)
    G = objective.gauss_newton() @ identity
    assert_close(G, dense(case), 1e-10)
    assert float(torch.linalg.eigvalsh(G)[0]) > -1e-12


def test_the_rest_is_the_curvature_of_the_network() -> None:
    """H = G where outputs are linear in θ, and where a squared error vanishes."""
    torch.manual_seed(0)
    x = torch.randn(20, 4, dtype=torch.float64)
    linear = Objective(nn.Linear(4, 3).double(), functional.cross_entropy, x, torch.arange(20) % 3)
    V = vectors(15, 4)
    assert_close(linear.gauss_newton() @ V, linear.hessian() @ V, 1e-12)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    fitted = Objective(model, functional.mse_loss, x, model(x).detach())
    V = vectors(fitted.n_parameters, 4)
    assert_close(fitted.gauss_newton() @ V, fitted.hessian() @ V, 1e-12)


def test_a_loss_that_is_linear_in_the_outputs_has_none() -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 4, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.LogSoftmax(1)).double()
    objective = Objective(model, functional.nll_loss, x, torch.arange(20) % 3)
    V = vectors(objective.n_parameters, 2)
    assert torch.equal(objective.gauss_newton() @ V, torch.zeros_like(V))
    assert float((objective.hessian() @ V).norm()) > 0


def test_streamed_batches_and_subsets() -> None:
    case = problem("dense")
    batches = [(case.inputs[:3], case.targets[:3]), (case.inputs[3:], case.targets[3:])]
    streamed = Objective(case.model, case.loss, batches, in_memory=False)
    V = vectors(streamed.n_parameters, 2)
    assert_close(streamed.gauss_newton() @ V, dense(case) @ V, 1e-10)
    few = case._replace(inputs=case.inputs[[1, 4]], targets=case.targets[[1, 4]])
    assert_close(streamed.subset([1, 4]).gauss_newton() @ V, dense(few) @ V, 1e-10)


def test_weights_that_are_computed() -> None:
    """The fused weight normalisation, whose second backward pass is wrong in PyTorch 2.13."""
    case = problem("tanh perceptron")
    nn.utils.parametrizations.weight_norm(case.model[0])
    objective = objective_of(case)
    V = vectors(objective.n_parameters, 3)
    assert_close(objective.gauss_newton() @ V, dense(case) @ V, 1e-10)


def test_the_operator_of_extreme_eigenpairs() -> None:
    case = problem("tanh perceptron")
    objective = objective_of(case)
    G, n = objective.gauss_newton(), objective.n_parameters
    assert (G.shape, G.dtype, G.device) == ((n, n), torch.float64, torch.device("cpu"))
    pairs = extreme_eigenpairs(G, k_smallest=0, k_largest=2, tolerance=1e-8)
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(dense(case))[-2:])
    passes = objective.cost.passes["gauss_newton_vector_product float64"]
    assert passes == pairs.n_products + pairs.n_check_products
    assert G.cost == objective.cost


# --- refused ------------------------------------------------------------------------------------


def curved_down(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 − the probability of the right class."""
    return 1 - outputs.softmax(1).gather(1, targets[:, None]).mean()


def test_losses_that_are_not_convex_are_refused() -> None:
    case = problem("tanh perceptron")
    objective = objective_of(case._replace(loss=curved_down))
    with pytest.raises(ModelError, match=r"convex in the network's outputs, but .* curvatures"):
        objective.gauss_newton() @ objective.theta
    objective.hessian() @ objective.theta


def test_losses_of_the_network_are_refused() -> None:
    case = problem("tanh perceptron")
    loss = ModelLoss(lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]))
    objective = Objective(case.model, loss, [(case.inputs, case.targets)])
    with pytest.raises(ModelError, match="a loss of outputs and targets, but a ModelLoss"):
        objective.gauss_newton_test()


class Hidden:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Hiding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return Hidden(self.layer(x))


def test_outputs_that_hide_tensors_are_refused() -> None:
    case = problem("tanh perceptron")
    objective = Objective(
        Hiding().double(),
        lambda outputs, targets: functional.cross_entropy(outputs.logits, targets),
        case.inputs,
        case.targets,
    )
    with pytest.raises(ModelError, match=r"outputs that are real tensors, .* but one is a Hidden"):
        objective.gauss_newton_test()
    objective.hessian() @ objective.theta


@pytest.mark.parametrize("n_wrong", [1, 2, 3])
def test_modes_that_are_wrong_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, n_wrong: int
) -> None:
    def twice_the_bias(function: Any, parameters: Parameters, *rest: Any) -> Iterator[Parameters]:
        for product in gauss_newton.reverse_mode(function, parameters, *rest):
            yield product | {"head.bias": 1.001 * product["head.bias"]}

    modes = list(gauss_newton.GAUSS_NEWTON)
    for mode in modes[:n_wrong]:
        monkeypatch.setitem(gauss_newton.GAUSS_NEWTON, mode, twice_the_bias)
    objective = objective_of(problem("residual"))
    if n_wrong == len(modes):
        with pytest.raises(DifferentiationError, match=r"No mode of Gauss–Newton products"):
            objective.gauss_newton_test()
        return
    test = objective.gauss_newton_test()
    assert test.mode == modes[n_wrong]
    assert list(test.fallbacks) == modes[:n_wrong]
    assert all("deviates by" in why for why in test.fallbacks.values())
    assert "not taken" in test.describe()


def test_a_confident_network_is_proven() -> None:
    """Where probabilities are nearly 1, products are small differences of large numbers."""
    case = problem("tanh perceptron")
    with torch.no_grad():
        case.model[-1].weight.mul_(100.0)
        case.model[-1].bias.mul_(100.0)
        outputs = case.model(case.inputs)
    certain = outputs.topk(2).values.diff()[:, 0].abs() > 12
    inputs, labels = case.inputs[certain], outputs.argmax(1)[certain]
    objective = objective_of(case._replace(inputs=inputs, targets=labels))
    assert 0 < float(objective.value()) < 1e-5
    assert objective.gauss_newton_test().mode == "reverse over reverse"
