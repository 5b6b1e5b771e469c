"""Objective against dense Hessians, and the mistakes that other curvature tools make."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import (
    NETWORKS,
    Problem,
    assert_close,
    dense_hessian,
    objective_of,
    problem,
    vectors,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hessian_directions.autodiff import modes
from hessian_directions.cost import Cost
from hessian_directions.errors import DifferentiationError, ModelError, NonFiniteError
from hessian_directions.objectives.losses import mean_squared_error
from hessian_directions.objectives.objective import Objective
from hessian_directions.objectives.surroundings import kernels

# --- values and derivatives ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("regression", [False, True])
def test_derivatives_equal_the_dense_hessian(name: str, regression: bool) -> None:
    case = problem(name, regression)
    objective = objective_of(case, batch_size=4, vectors_at_once=2)  # batches of 4, 4 and 2
    H = dense_hessian(case)
    V = vectors(objective.n_parameters, 3)
    assert_close(objective.hessian_vector_product(V), H @ V, 1e-10)
    assert_close(objective.hessian_vector_product(V[:, 0]), H @ V[:, 0], 1e-10)
    curvatures = (V * (H @ V)).sum(0)
    assert_close(objective.second_directional_derivative(V), curvatures, 1e-10)
    assert_close(objective.second_directional_derivative(V[:, 2]), curvatures[2], 1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives_in_float32(name: str) -> None:
    case = problem(name)
    H = dense_hessian(case)
    single = Objective(case.model.float(), case.loss, case.inputs.float(), case.targets, 4)
    V = vectors(single.n_parameters, 3).float()
    assert single.dtype == single.theta.dtype == single.value().dtype == torch.float32
    expected = H @ V.double()
    assert_close(single.hessian_vector_product(V), expected, 1e-4)
    scale = float((V.double().norm(dim=0) * expected.norm(dim=0)).norm())
    error = single.second_directional_derivative(V) - (V.double() * expected).sum(0)
    assert float(error.norm()) <= 1e-4 * scale


@pytest.mark.parametrize("name", NETWORKS)
def test_no_fallback_is_needed(name: str) -> None:
    report = objective_of(problem(name)).self_test()
    assert report.product_mode == "reverse over reverse"
    assert report.second_derivative_mode == "Taylor mode"


@pytest.mark.parametrize("name", ["residual", "attention", "shared, frozen and unused"])
def test_gradient_and_values_equal_plain_autograd(name: str) -> None:
    case = problem(name)
    objective = objective_of(case, batch_size=4, vectors_at_once=2)
    loss = case.loss(case.model(case.inputs), case.targets)
    trainable = [p for p in case.model.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(loss, trainable, allow_unused=True, materialize_grads=True)
    assert_close(objective.value(), loss.detach(), 1e-14)
    assert_close(objective.gradient(), torch.cat([g.reshape(-1) for g in slopes]), 1e-12)
    points = objective.theta[:, None] + 0.1 * vectors(objective.n_parameters, 5)
    singly = torch.stack([objective.value(point) for point in points.T])
    assert_close(objective.values(points), singly, 1e-14)
    assert not torch.allclose(singly[0], objective.value())


@pytest.mark.parametrize("name", ["residual", "tanh perceptron"])
def test_derivatives_at_another_point(name: str) -> None:
    case = problem(name)
    objective = objective_of(case)
    theta = objective.theta + 0.1 * vectors(objective.n_parameters, 1, seed=1)[:, 0]
    moved = problem(name)
    trainable = [p for p in moved.model.parameters() if p.requires_grad]
    nn.utils.vector_to_parameters(theta, trainable)
    v = vectors(objective.n_parameters, 1)[:, 0]
    H = dense_hessian(moved)
    there = objective_of(moved)
    assert_close(objective.value(theta), there.value(), 1e-14)
    assert_close(objective.gradient(theta), there.gradient(), 1e-12)
    assert_close(objective.hessian_vector_product(v, theta), H @ v, 1e-10)
    assert_close(objective.hessian(theta) @ v, H @ v, 1e-10)
    assert_close(objective.second_directional_derivative(v, theta), v @ H @ v, 1e-10)


def test_hessian_is_an_operator() -> None:
    objective = objective_of(problem("residual"))
    H = objective.hessian()
    n = objective.n_parameters
    assert (H.shape, H.dtype, H.device) == ((n, n), torch.float64, torch.device("cpu"))
    dense = H @ torch.eye(n, dtype=torch.float64)
    assert_close(dense, dense.T, 1e-13)
    assert H.cost == objective.cost


def test_a_loss_without_curvature() -> None:
    model = nn.Linear(3, 1).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    objective = Objective(model, lambda outputs, _: outputs.mean(), x, x)
    V = vectors(4, 2)
    assert torch.equal(objective.hessian_vector_product(V), torch.zeros_like(V))
    assert torch.equal(objective.second_directional_derivative(V), torch.zeros(2).double())


def test_a_subset_and_another_precision() -> None:
    case = problem("residual")
    objective = objective_of(case)
    report = objective.self_test()
    part = objective.subset([1, 3, 8])
    assert part.n_samples == 3
    rows = [1, 3, 8]
    alone = case._replace(inputs=case.inputs[rows], targets=case.targets[rows])
    assert_close(part.gradient(), objective_of(alone).gradient(), 1e-13)
    single = objective.to(dtype=torch.float32)
    assert single.dtype == torch.float32
    assert objective.dtype == torch.float64
    assert_close(single.value(), objective.value(), 1e-6)
    assert_close(single.to(dtype=torch.float64).value(), objective.value(), 1e-6)
    assert part.self_test() is report is single.self_test()
    assert single.cost.passes == {"value float32": 1}


def test_class_weights_follow_the_precision() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0])
    case = problem("tanh perceptron")
    balanced = case._replace(targets=torch.ones(10, dtype=torch.long))
    loss = nn.CrossEntropyLoss(weight)  # one class: its weight cancels, batch by batch
    single = Objective(case.model.float(), loss, case.inputs, balanced.targets, batch_size=4)
    plain = objective_of(balanced._replace(model=case.model.double()))
    assert_close(single.to(dtype=torch.float64).value(), plain.value(), 1e-6)
    assert loss.weight.dtype == torch.float32


# --- mistakes of other tools --------------------------------------------------------------------


def n_tensors() -> int:
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("name", ["residual", "attention", "shared, frozen and unused"])
def test_repeated_products_leave_no_memory_behind_as_pyhessian_does(name: str) -> None:
    objective = objective_of(problem(name))
    V = vectors(objective.n_parameters, 2)
    objective.self_test()
    gc.collect()
    before = n_tensors()
    gc.disable()  # memory is freed at once, not when the collector comes round
    try:
        for _ in range(2):
            objective.hessian_vector_product(V)
            objective.second_directional_derivative(V)
            objective.gradient()
            objective.values(objective.theta[:, None] + V)
            assert n_tensors() == before
    finally:
        gc.enable()
    assert objective.subset([0]).n_parameters == objective.n_parameters


def test_the_model_of_the_caller_is_untouched() -> None:
    case = problem("residual")
    model = case.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs, strides = case.inputs.clone(), case.inputs.stride()
    objective = objective_of(case)
    v = vectors(objective.n_parameters, 1)
    objective.hessian_vector_product(v, objective.theta + 1)
    objective.second_directional_derivative(v, objective.theta + 1)
    objective.values(objective.theta[:, None] + v)
    assert model.training
    assert model.relu.inplace
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.is_leaf and p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(case.inputs, inputs)
    assert case.inputs.stride() == strides
    with torch.no_grad():
        model.head.bias.add_(1)  # nor does the objective follow the model
    assert not torch.equal(objective.theta[-3:], model.head.bias.detach())


def test_batch_normalisation_is_evaluated_with_its_running_statistics() -> None:
    case = problem("residual")
    expected = objective_of(case).value()
    assert torch.equal(objective_of(case._replace(model=case.model.train())).value(), expected)


# --- self-test ----------------------------------------------------------------------------------


def test_description_of_the_self_test() -> None:
    line = objective_of(problem("residual")).self_test().describe()
    assert "\n" not in line
    for part in ("reverse over reverse", "Taylor mode", "two passes", "two batches"):
        assert part in line


def _missing(*arguments: Any) -> Any:
    raise RuntimeError("no such derivative")


@pytest.mark.parametrize("name", ["LayerNorm GELU", "InstanceNorm ELU", "attention"])
def test_silently_wrong_nested_forward_mode_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested_mode = {"nested forward mode": modes.nested_forward_mode}
    monkeypatch.setattr("hessian_directions.objectives.self_test.SECOND_DERIVATIVES", nested_mode)
    case = problem(name)
    objective = objective_of(case)
    v = vectors(objective.n_parameters, 1)
    exact = (v * (dense_hessian(case) @ v)).sum(0)
    with kernels():
        evaluation = objective._evaluation
        at = evaluation.parameters_at(objective.theta)
        nested = evaluation.second_derivatives(at, v, "nested forward mode")
    wrong = not torch.allclose(nested, exact, rtol=1e-6)  # it is, up to PyTorch 2.13
    report = objective.self_test()
    assert ("nested forward mode" in report.fallbacks) == wrong
    assert ("nested forward mode not taken: deviates" in report.describe()) == wrong
    assert (report.second_derivative_mode == "Hessian-vector product") == wrong
    assert_close(objective.second_directional_derivative(v), exact, 1e-10)


@pytest.mark.parametrize("name", ["residual", "tanh perceptron"])
def test_fallback_where_taylor_mode_lacks_a_rule(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case = problem(name)
    monkeypatch.setitem(modes.SECOND_DERIVATIVES, "Taylor mode", _missing)
    monkeypatch.setitem(modes.SECOND_DERIVATIVES, "nested forward mode", _missing)
    objective = objective_of(case)
    v = vectors(objective.n_parameters, 2)
    expected = (v * (dense_hessian(case) @ v)).sum(0)
    assert_close(objective.second_directional_derivative(v), expected, 1e-10)
    assert objective.self_test().second_derivative_mode == "Hessian-vector product"
    assert "no such derivative" in objective.self_test().describe()
    # What a mode lacks is no reason to give up that the others are vectorised.
    assert objective.vectorised == (name != "residual")
    assert objective.cost.passes == {"second_directional_derivative float64": 2}


def test_differences_of_gradients_decide_where_nothing_else_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Forward over reverse is missing for SiLU.
    monkeypatch.setattr("hessian_directions.objectives.self_test.SECOND_DERIVATIVES", {})
    report = objective_of(problem("GroupNorm SiLU")).self_test()
    assert report.product_mode == "reverse over reverse"
    assert 0 < report.deviations["differences of gradients and reverse over reverse"] < 1e-6


def _too_large(*arguments: Any) -> Any:
    for product in modes.reverse_over_reverse(*arguments):
        yield {name: 1.001 * part for name, part in product.items()}


def _too_large_in_one_layer(*arguments: Any) -> Any:
    for product in modes.reverse_over_reverse(*arguments):
        yield {**product, "stem.weight": 1.001 * product["stem.weight"]}


@pytest.mark.parametrize("defect", [_missing, _too_large, _too_large_in_one_layer])
@pytest.mark.parametrize("n_wrong", [1, 2])
def test_fallback_to_the_next_mode(
    monkeypatch: pytest.MonkeyPatch, defect: Callable[..., Any], n_wrong: int
) -> None:
    names = list(modes.PRODUCTS)
    for mode in names[:n_wrong]:
        monkeypatch.setitem(modes.PRODUCTS, mode, defect)
    case = problem("residual")
    objective = objective_of(case, batch_size=4)
    V = vectors(objective.n_parameters, 2)
    assert_close(objective.hessian_vector_product(V), dense_hessian(case) @ V, 1e-10)
    assert objective.self_test().product_mode == names[n_wrong]
    assert set(names[:n_wrong]) <= objective.self_test().fallbacks.keys()


def test_no_mode_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in modes.PRODUCTS:
        monkeypatch.setitem(modes.PRODUCTS, mode, _missing)
    objective = objective_of(problem("residual"))
    with pytest.raises(DifferentiationError, match="no such derivative"):
        objective.hessian() @ vectors(objective.n_parameters, 1)


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.sin() if float(self.weight) > 0 else x.cos()


def test_vectorisation_is_given_up_where_a_network_branches_on_its_parameters() -> None:
    case = problem("tanh perceptron")
    case = case._replace(model=nn.Sequential(case.model, _Branching()).double())
    objective = objective_of(case)
    points = objective.theta[:, None] + vectors(objective.n_parameters, 3)
    singly = torch.stack([objective.value(point) for point in points.T])
    assert_close(objective.values(points), singly, 1e-14)


# --- errors, cost, memory -----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_named() -> None:
    objective = objective_of(problem("tanh perceptron"))
    points = objective.theta[:, None].repeat(1, 3)
    points[0, 1] = torch.nan
    with pytest.raises(NonFiniteError, match=r"nan at point 2 of 3"):
        objective.values(points)
    v = torch.ones(objective.n_parameters, dtype=torch.float64)
    objective.self_test()
    for derivative in (objective.hessian_vector_product, objective.second_directional_derivative):
        with pytest.raises(NonFiniteError, match=r"not finite"):
            derivative(v, points[:, 1])
    with pytest.raises(NonFiniteError, match="gradient"):
        objective.gradient(points[:, 1])


def test_wrong_arguments() -> None:
    case = problem("tanh perceptron")
    objective = objective_of(case)
    n = objective.n_parameters
    with pytest.raises(ModelError, match=r"v has shape \(3,\)"):
        objective.hessian_vector_product(torch.ones(3, dtype=torch.float64))
    with pytest.raises(ModelError, match=r"thetas has shape"):
        objective.values(objective.theta)
    with pytest.raises(ModelError, match="float32"):
        objective.second_directional_derivative(torch.ones(n))
    with pytest.raises(ModelError, match="do not go with"):
        Objective(case.model, case.loss, case.inputs, case.targets[:3])
    with pytest.raises(ModelError, match="float16"):
        Objective(case.model.half(), case.loss, case.inputs, case.targets)
    with pytest.raises(ModelError, match="at least one"):
        Objective(case.model.requires_grad_(False), case.loss, case.inputs, case.targets)
    mixed = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3).double())
    with pytest.raises(ModelError, match="one precision"):
        Objective(mixed, case.loss, case.inputs, case.targets)


def test_cost_counts_passes_for_each_vector() -> None:
    objective = objective_of(problem("tanh perceptron"), vectors_at_once=2, batch_size=4)
    V = vectors(objective.n_parameters, 5)
    objective.self_test()
    assert objective.cost == Cost()
    objective.hessian_vector_product(V)
    before = objective.cost
    objective.second_directional_derivative(V[:, 0])
    objective.values(V)
    objective.gradient()
    spent = objective.cost - before
    assert spent.passes == {
        "gradient float64": 1,
        "second_directional_derivative float64": 1,
        "value float64": 5,
    }
    assert before.passes == {"hessian_vector_product float64": 5}
    assert 0 < spent.seconds < objective.cost.seconds


def test_mean_squared_error_is_the_usual_one() -> None:
    a, b = vectors(4, 3), vectors(4, 3, seed=1)
    torch.testing.assert_close(mean_squared_error(a, b), functional.mse_loss(a, b))
    case = problem("tanh perceptron", regression=True)
    for loss in (nn.MSELoss(), functional.mse_loss, mean_squared_error):
        objective = objective_of(case._replace(loss=loss))
        v = vectors(objective.n_parameters, 1)
        assert_close(objective.hessian_vector_product(v), dense_hessian(case) @ v, 1e-10)


def test_samples_are_taken_in_pieces_that_fit_the_cache() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(40, 2, 48, 48, generator=generator)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 46**2, 1))
    double = Objective(model.double(), mean_squared_error, images, torch.zeros(40, 1))
    single = double.to(dtype=torch.float32)
    largest = 3 * 46**2
    assert [len(inputs) for inputs, _ in double._evaluation.batches()] == [2**17 // largest] * 2
    assert [len(inputs) for inputs, _ in single._evaluation.batches()] == [40]
    whole = mean_squared_error(model(images.double()), torch.zeros(40, 1))
    assert_close(double.value(), whole.detach(), 1e-13)


class _Memory(TorchDispatchMode):
    """The numbers that live in tensors made inside this mode, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.total = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage(), count=False)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage(), count=True)
        return result

    def _watch(self, storage: torch.UntypedStorage, count: bool) -> None:
        key, size = storage._cdata, count * storage.nbytes() // 8
        if key in self._seen:
            return
        self._seen.add(key)
        self.total += size
        self.live += size
        self.peak = max(self.peak, self.live)

        def release() -> None:
            self._seen.discard(key)
            self.live -= size

        weakref.finalize(storage, release)


def _peak(function: Callable[..., Any], *arguments: Tensor) -> int:
    with _Memory() as memory:
        function(*arguments)
    return memory.peak


def _assert_memory_is_bounded(case: Problem, n_vectors: int, batch_size: int) -> None:
    """The bounds are those of the docstring of `Objective`."""
    objective = objective_of(case, batch_size=batch_size, vectors_at_once=4)
    objective.self_test()
    N, K, m = objective.n_parameters, n_vectors, min(n_vectors, 4)
    points = objective.theta[:, None] + vectors(N, K)
    objective.second_directional_derivative(points[:, :1])  # the first is compared with a product
    with _Memory() as memory, torch.no_grad():
        case.loss(case.model(case.inputs[:1]), case.targets[:1])
    ab = memory.total * batch_size
    convolutions = any(isinstance(module, nn.Conv2d) for module in case.model.modules())
    shared = 1 if convolutions else m
    bounds = {
        objective.values: (2 * m + 2) * N + ab * shared,
        objective.hessian_vector_product: (2 * K + 3 * m + 6) * N + 4 * ab * shared,
        objective.second_directional_derivative: (2 * m + 3) * N + 2 * (m + 1) * ab,
    }
    for function, bound in bounds.items():
        peak = _peak(function, points)
        assert bound / 6 < peak <= bound, (function.__name__, peak / bound)
    assert _peak(objective.gradient) <= 4 * N + 2 * ab


@pytest.mark.parametrize(("n_vectors", "batch_size"), [(2, 100), (2, 200), (8, 100), (8, 200)])
@pytest.mark.parametrize("name", ["residual", "LayerNorm GELU"])
def test_memory_with_many_samples(name: str, n_vectors: int, batch_size: int) -> None:
    _assert_memory_is_bounded(problem(name, n_samples=400), n_vectors, batch_size)


@pytest.mark.parametrize("n_vectors", [2, 8])
@pytest.mark.parametrize("width", [100, 200])
def test_memory_with_many_parameters(width: int, n_vectors: int) -> None:
    model = nn.Sequential(nn.Linear(100, width), nn.Tanh(), nn.Linear(width, 3)).double()
    x = torch.ones(2, 100, dtype=torch.float64)
    case = Problem(model, nn.CrossEntropyLoss(), x, torch.tensor([0, 1]))
    _assert_memory_is_bounded(case, n_vectors, 1)


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_accuracies_come_from_the_same_passes(kind: str, dtype: torch.dtype) -> None:
    """Losses with the bits of `values`, accuracies those of a plain loop over points and samples."""
    torch.manual_seed(0)
    if kind == "dense":  # all points at once
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        inputs = torch.randn(33, 4, dtype=dtype)
    else:
        features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        model = nn.Sequential(features, nn.Linear(16, 3))
        inputs = torch.randn(33, 1, 4, 4, dtype=dtype)
    model = model.to(dtype).eval()
    targets = torch.randint(3, (33,))
    targets[5:9] = -100  # ignored
    objective = Objective(model, nn.functional.cross_entropy, inputs, targets, batch_size=7)
    points = objective.theta[:, None] + 0.3 * torch.randn(objective.n_parameters, 5, dtype=dtype)
    losses, accuracies = objective.values_and_accuracies(points)
    assert torch.equal(losses, objective.values(points))
    assert objective.cost.passes == {f"value {str(dtype)[6:]}": 10}
    for point, accuracy in zip(points.T, accuracies.tolist(), strict=True):
        nn.utils.vector_to_parameters(point, model.parameters())
        right = [
            int(model(x[None]).argmax()) == int(y)
            for x, y in zip(inputs, targets, strict=True)
            if y >= 0
        ]
        assert accuracy == sum(right) / 29


def _flat_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs.movedim(-1, 1), targets)


def _binary(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.to(outputs.dtype))


def _counts(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.poisson_nll_loss(outputs[:, 0], targets.to(outputs.dtype))


def _own_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets)


ENTROPY = nn.functional.cross_entropy
ACCURACIES = {  # network, loss, inputs, the largest target, the shape of targets, whether classes
    "classes": (nn.Sequential(nn.Dropout(), nn.Linear(5, 3)), ENTROPY, (50, 5), 2, (50,), True),
    "own loss": (nn.Linear(5, 3), _own_entropy, (50, 5), 2, (50,), True),
    "margins": (nn.Linear(5, 3), nn.MultiMarginLoss(), (50, 5), 2, (50,), True),
    "ignored": (nn.Linear(5, 3), nn.CrossEntropyLoss(ignore_index=0), (50, 5), 2, (50,), True),
    "segments": (nn.Conv2d(2, 4, 1), ENTROPY, (20, 2, 4, 4), 3, (20, 4, 4), True),
    "own segments": (nn.Conv2d(2, 3, 1), _own_entropy, (20, 2, 4, 4), 2, (20, 4, 4), True),
    "axes that are confused": (nn.Linear(6, 4), _flat_entropy, (30, 4, 6), 3, (30, 4), False),
    "other axes": (nn.Linear(6, 4), _flat_entropy, (30, 3, 6), 3, (30, 3), False),
    "one logit": (nn.Linear(5, 1), _binary, (50, 5), 1, (50,), False),
    "counts": (nn.Linear(5, 1), _counts, (50, 5), 6, (50,), False),
    "counts and another head": (nn.Linear(5, 2), _counts, (50, 5), 6, (50,), False),
    "regression": (nn.Linear(5, 3), nn.functional.l1_loss, (50, 5), 2, (50, 3), False),
}


@pytest.mark.parametrize("name", ACCURACIES)
def test_accuracy_is_of_classes_or_not_a_number(name: str) -> None:
    torch.manual_seed(0)
    model, loss, shape, largest, of_targets, has_classes = ACCURACIES[name]
    inputs, targets = torch.randn(shape), torch.randint(largest + 1, of_targets)
    objective = Objective(model, loss, inputs, targets, batch_size=7)
    with torch.no_grad():
        right = model.eval()(inputs).argmax(1) == targets if has_classes else torch.zeros(0)
    model.train()
    if name == "ignored":
        right = right[targets != 0]
    expected = float(right.double().mean())
    assert objective.accuracy() == pytest.approx(expected, nan_ok=True)
    assert objective.cost.passes == {"value float32": 1}
    losses, accuracies = objective.values_and_accuracies(objective.theta[:, None].expand(-1, 2))
    assert torch.equal(losses[:1], objective.values(objective.theta[:, None].expand(-1, 2))[:1])
    assert accuracies.tolist() == pytest.approx([expected] * 2, nan_ok=True)


def test_accuracy_is_taken_before_a_loss_that_changes_the_outputs() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(20, 4), torch.randint(3, (20,))

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.mul_(-1), targets)

    model = nn.Linear(4, 3)
    plain = Objective(model, nn.functional.cross_entropy, inputs, targets)
    changing = Objective(model, loss, inputs, targets)
    assert 0 < changing.accuracy() == plain.accuracy() < 1
