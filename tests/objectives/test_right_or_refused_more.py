"""Habits of other tools and settings of PyTorch, beside the plain-autograd oracle or refused."""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from plain_autograd import derivatives
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, TensorDataset

import hessian_directions as hd
from hessian_directions.autodiff.precision import FULL_PRECISION
from hessian_directions.errors import ArgumentError, DataError, DeviceError, ModelError
from hessian_directions.geometry.principal_curvatures import distribution_smallest


def data(n: int = 14, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), torch.randint(3, (n,), generator=generator)


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def assert_right(
    objective: hd.Objective, model: nn.Module, total: Callable[[nn.Module], Tensor]
) -> None:
    value, gradient, hessian = derivatives(model, total)
    torch.testing.assert_close(float(objective.value()), value)
    torch.testing.assert_close(objective.gradient(), gradient)
    product = objective.hessian_vector_product(torch.eye(len(gradient), dtype=gradient.dtype))
    torch.testing.assert_close(product, hessian)


# --- what the kernels compute in ------------------------------------------------------------------

BACKEND: Any = torch.backends.mkldnn
COARSE: dict[str, Callable[[], None]] = {
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "products and convolutions": lambda: (
        [setattr(p, "fp32_precision", "bf16") for p in _parts()] and None
    ),
}


def _parts() -> list[Any]:
    return [BACKEND.matmul, BACKEND.conv, BACKEND.rnn]


@pytest.fixture
def _coarse(request: pytest.FixtureRequest) -> Iterator[None]:
    before = [part.fp32_precision for part in _parts()]
    COARSE[request.param]()
    yield
    torch.set_float32_matmul_precision("highest")
    for part, precision in zip(_parts(), before, strict=True):
        part.fp32_precision = precision


def _numbers_in_float32() -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16 * 36, 3))
    x, y = torch.randn(64, 3, 8, 8), torch.randint(3, (64,))
    objective = hd.Objective(model, functional.cross_entropy, x, y)
    pairs = hd.extreme_eigenpairs(objective, tolerance=1e-2)
    return {
        "value": objective.value(),
        "gradient": objective.gradient(),
        "eigenvalues": pairs.values,
        "eigenvectors": pairs.vectors,
        "deflated": hd.trace.deflated(objective, pairs, 4).samples,
        "density": hd.spectral_density(objective, 2, 6).nodes,
    }


@pytest.fixture(scope="module")
def fine() -> dict[str, Any]:
    return _numbers_in_float32()


@pytest.mark.parametrize("_coarse", COARSE, indirect=True)
def test_float32_is_float32_whatever_the_caller_allows(fine: dict[str, Any], _coarse: None) -> None:
    """Kernels in bfloat16, on processors that have them, keep three digits."""
    allowed = [part.fp32_precision for part in _parts()]
    found = _numbers_in_float32()
    assert [part.fp32_precision for part in _parts()] == allowed
    for name, number in fine.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(number)), name


def test_the_last_thread_restores_what_the_first_one_found() -> None:
    before, inside, left = BACKEND.conv.fp32_precision, threading.Event(), threading.Event()

    def work() -> None:
        with FULL_PRECISION:
            inside.set()
            left.wait(10)

    other = threading.Thread(target=work)
    with FULL_PRECISION:
        other.start()
        inside.wait(10)
    assert BACKEND.conv.fp32_precision == "ieee"
    left.set()
    other.join()
    assert BACKEND.conv.fp32_precision == before


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "0"])
def test_a_network_that_is_compiled_in_place(part: str) -> None:
    model, (x, y) = network(), data()
    model.get_submodule(part).compile(backend="eager")
    objective = hd.Objective(model, functional.cross_entropy, x, y)
    assert_right(objective, network(), lambda m: functional.cross_entropy(m(x), y))


@pytest.mark.parametrize("part", ["", "0"])
def test_a_forward_that_is_replaced_by_itself_compiled(part: str) -> None:
    model, (x, y) = network(), data()
    module = model.get_submodule(part)
    module.forward = torch.compile(module.forward, backend="eager")  # type: ignore[method-assign]
    with warnings.catch_warnings(action="ignore"):
        objective = hd.Objective(model, functional.cross_entropy, x, y)
        assert_right(objective, network(), lambda m: functional.cross_entropy(m(x), y))


def test_a_forward_that_is_another_one_compiled_is_refused() -> None:
    model = network()
    model.forward = torch.compile(lambda x: nn.Sequential.forward(model, x) / 2, backend="eager")
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(ModelError, match="refers to the network"),
    ):
        hd.Objective(model, functional.cross_entropy, *data()).value()


def test_a_scripted_loss() -> None:
    x, y = data()
    loss = torch.jit.script(nn.CrossEntropyLoss(label_smoothing=0.1))
    objective = hd.Objective(network(), loss, x, y)
    plain = nn.CrossEntropyLoss(label_smoothing=0.1)
    assert_right(objective, network(), lambda m: plain(m(x), y))


def test_weights_that_are_not_loaded_are_named() -> None:
    x, y = data()
    with pytest.raises(ModelError, match="without numbers"):
        hd.Objective(network().to("meta"), functional.cross_entropy, x, y)
    with pytest.raises(DeviceError, match="meta"):
        hd.Objective(network(), functional.cross_entropy, x, y).to(device="meta")


@pytest.mark.parametrize("wrap", [nn.Identity, torch.compile, nn.DataParallel])
def test_a_block_given_by_its_parameters_as_an_optimiser_takes_it(
    wrap: Callable[[nn.Module], Any],
) -> None:
    model, (x, y) = network(), data()
    wrapped = model if wrap is nn.Identity else wrap(model)
    block = model[2].parameters()
    objective = hd.Objective(wrapped, functional.cross_entropy, x, y, parameters=block)
    alone = network()
    alone[0].requires_grad_(False)
    assert list(objective.parameters) == ["2.weight", "2.bias"]
    assert_right(objective, alone, lambda m: functional.cross_entropy(m(x), y))


@pytest.mark.parametrize("block", [[nn.Parameter(torch.ones(3))], [3], iter([None])])
def test_a_block_of_what_is_no_part_of_the_network(block: Any) -> None:
    with pytest.raises(ModelError, match="no name or parameter of this network"):
        hd.Objective(network(), functional.cross_entropy, *data(), parameters=block)


class _Bags(nn.Module):
    """Of tokens; by PyTorch's bag, or by embeddings that are summed."""

    def __init__(self, by_hand: bool, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(5, 3, dtype=torch.float64, **options)
        self.last, self.by_hand = nn.Linear(3, 3, dtype=torch.float64), by_hand

    def forward(self, tokens: Tensor, weights: Tensor | None = None) -> Tensor:
        if not self.by_hand:
            return self.last(self.bag(tokens, per_sample_weights=weights).tanh())
        padding = self.bag.padding_idx
        counted = tokens >= 0 if padding is None else tokens != padding
        rows = self.bag.weight[tokens] * counted[..., None]
        total = (rows if weights is None else rows * weights[..., None]).sum(1)
        number = counted.sum(1, keepdim=True).clamp(min=1)
        return self.last((total / number if self.bag.mode == "mean" else total).tanh())


@pytest.mark.parametrize("mode", ["mean", "sum"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("padding", [None, 2])
def test_bags_of_embeddings(mode: str, frozen: bool, padding: int | None) -> None:
    """PyTorch has no second derivative of them."""
    options = {"mode": mode, "padding_idx": padding}
    _, y = data()
    tokens = torch.randint(5, (14, 4), generator=torch.Generator().manual_seed(0))
    tokens[3] = 2
    weights = torch.rand(14, 4, dtype=torch.float64) if mode == "sum" else None
    model, by_hand = _Bags(False, **options), _Bags(True, **options)
    torch.testing.assert_close(model(tokens, weights), by_hand(tokens, weights))
    for m in (model, by_hand):
        m.bag.requires_grad_(not frozen)
    inputs = tokens if weights is None else (tokens, weights)
    objective = hd.Objective(model, functional.cross_entropy, inputs, y)
    assert_right(objective, by_hand, lambda m: functional.cross_entropy(m(tokens, weights), y))


class _Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).T


class _Looping(nn.Sequential):
    """Computes its parametrized weight once a pass, as recurrent networks should."""

    def forward(self, x: Tensor) -> Tensor:
        with parametrize.cached():
            return super().forward(self[0](x))


@pytest.mark.parametrize("around", [parametrize.cached, contextlib.nullcontext])
@pytest.mark.parametrize("kind", [nn.Sequential, _Looping])
def test_weights_that_the_caller_keeps_computed(
    around: Callable[[], contextlib.AbstractContextManager[None]], kind: type[nn.Sequential]
) -> None:
    torch.manual_seed(0)
    model, (x, y) = kind(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double(), data()
    parametrize.register_parametrization(model[0], "weight", _Symmetric())
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    truth = derivatives(other, lambda m: functional.cross_entropy(m(x), y))
    with around():
        model(x)
        objective = hd.Objective(model, functional.cross_entropy, x, y)
        theta = 1.5 * objective.theta
        product = objective.hessian(theta) @ torch.eye(len(theta), dtype=theta.dtype)
        found = float(objective.value(theta)), objective.gradient(theta), product
        before = model(x)
    torch.testing.assert_close(found, truth)
    assert torch.equal(model(x), before)


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, None, "cross_entropy"])
def test_what_cannot_be_called_with_outputs_is_no_loss(loss: Any) -> None:
    with pytest.raises(ModelError, match="a function or an instance is needed"):
        hd.Objective(network(), loss, *data())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [12, 14])
def test_a_constant_loss_in_float32(dtype: torch.dtype, n: int) -> None:
    """It rounds as its own precision does, whatever that of the network."""
    objective = hd.Objective(network(dtype), lambda z, t: torch.tensor(0.1), *data(n, dtype))
    torch.testing.assert_close(float(objective.value()), 0.1, rtol=1e-6, atol=0)
    assert not objective.gradient().any()
    assert not objective.hessian_vector_product(objective.theta).any()


def test_a_weighted_loss_inside_a_function_is_refused_with_what_helps() -> None:
    inside = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64))
    with pytest.raises(ModelError, match="weight=…"):
        hd.Objective(network(), lambda z, t: inside(z, t), *data()).value()


def _tokens() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(14, 6, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (14, 6), generator=generator)
    lengths = torch.randint(1, 7, (14,), generator=generator)
    lengths[3] = 0
    return {"x": x, "labels": labels.masked_fill(torch.arange(6) >= lengths[:, None], -100)}


def _of_tokens(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """As language models have it: a mean over all tokens that are no padding."""
    return functional.cross_entropy(model(batch["x"]).flatten(0, 1), batch["labels"].flatten())


def _real_tokens(batch: dict[str, Tensor]) -> Tensor:
    return (batch["labels"] != -100).sum()


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_mean_over_what_the_user_counts(in_memory: bool) -> None:
    tokens = _tokens()
    loss = hd.ModelLoss(_of_tokens, weight=_real_tokens)
    batches = [{name: part[i : i + 3] for name, part in tokens.items()} for i in range(0, 14, 3)]
    objective = hd.Objective(network(), loss, batches, in_memory=in_memory, batch_size=5)
    assert_right(objective, network(), lambda m: _of_tokens(m, tokens))
    part = {name: part[4:9] for name, part in tokens.items()}
    assert_right(objective.subset(range(4, 9)), network(), lambda m: _of_tokens(m, part))


@pytest.mark.parametrize("weight", [None, lambda batch: batch["labels"].numel(), lambda batch: 1])
def test_a_mean_over_something_else_than_is_counted_is_refused(weight: Any) -> None:
    with pytest.raises(ModelError, match="weight=…"):
        hd.Objective(network(), hd.ModelLoss(_of_tokens, weight=weight), _tokens()).value()


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (lambda batch: batch["z"], "has no weight: 'z'"),
        (lambda batch: batch["labels"], "has no weight"),
        (lambda batch: -1, "at least 0"),
        (lambda batch: float("nan"), "at least 0"),
        (3, "has no weight"),
    ],
)
def test_a_weight_is_a_number(weight: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        hd.Objective(network(), hd.ModelLoss(_of_tokens, weight=weight), _tokens())


def test_sums_and_samples_have_no_weight() -> None:
    def summed(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return _of_tokens(model, batch) * _real_tokens(batch)

    summed.reduction = "sum"  # type: ignore[attr-defined]
    for loss in (
        hd.ModelLoss(_of_tokens, batch_is_sample=True, weight=_real_tokens),
        hd.ModelLoss(summed, weight=_real_tokens),
    ):
        with pytest.raises(ModelError, match="not where it is a sum"):
            hd.Objective(network(), loss, _tokens())


# --- data -----------------------------------------------------------------------------------------


def _arrays() -> tuple[Any, Any]:
    x, y = data()
    return x.numpy(), y.numpy()


@pytest.mark.parametrize(
    "batch",
    [
        data,
        lambda: list(data()),
        _arrays,
        lambda: next(iter(DataLoader(TensorDataset(*data()), 14))),
    ],
)
def test_one_batch_as_a_loader_gives_it(batch: Callable[[], Any]) -> None:
    x, y = data()
    objective = hd.Objective(network(), functional.cross_entropy, batch())
    assert objective.n_samples == len(y)
    assert_right(objective, network(), lambda m: functional.cross_entropy(m(x), y))


def test_two_arrays_are_two_batches_of_a_loss_of_network_and_batch() -> None:
    x, _ = data()
    objective = hd.Objective(
        network(), hd.ModelLoss(lambda m, b: m(b).square().mean()), [x[:6], x[6:]]
    )
    assert_right(objective, network(), lambda m: m(x).square().mean())


def test_single_samples_are_refused_with_what_helps() -> None:
    with pytest.raises(ModelError, match="become batches by a DataLoader"):
        hd.Objective(network(), functional.cross_entropy, list(zip(*data(), strict=True)))


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        (lambda x: np.ma.masked_greater(x.numpy(), 0.5), "masked"),
        (lambda x: torch.nested.nested_tensor(list(x), layout=torch.strided), "nested"),
        (lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged), "nested"),
    ],
)
def test_arrays_that_are_not_all_there(inputs: Callable[[Tensor], Any], what: str) -> None:
    x, y = data()
    with warnings.catch_warnings(action="ignore"), pytest.raises(DataError, match=what):
        hd.Objective(network(), functional.cross_entropy, inputs(x), y)


# --- analyses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16])
def test_directions_in_whole_numbers(dtype: torch.dtype) -> None:
    model, (x, y) = network(), data()
    objective = hd.Objective(model, functional.cross_entropy, x, y)
    V = torch.ones(objective.n_parameters, 2)
    V[::3, 0] = 0
    given = hd.slices.surface(objective, V.to(dtype), [-1.0, 0.0], [0.0, 1.0])
    assert given.equals(hd.slices.surface(objective, V.double(), [-1.0, 0.0], [0.0, 1.0]))
    assert given.attrs["length_beta"] == pytest.approx(len(V) ** 0.5)


@pytest.mark.parametrize("estimator", [hd.trace.finite_difference, hd.trace.quadratic_fit])
def test_a_step_that_is_lost_in_rounding_is_warned_of(
    estimator: Callable[..., hd.Estimate],
) -> None:
    """The loss at the weights is rounded once for all differences: their scatter does not show it."""
    model, (x, y) = network(), data()
    objective = hd.Objective(model, functional.cross_entropy, x, y)
    trace = float(derivatives(model, lambda m: functional.cross_entropy(m(x), y))[2].trace())
    for step in (1e-9, 1e-12, 1e-17):
        with pytest.warns(hd.trace.PrecisionWarning, match="rounding of the loss"):
            estimator(objective, 40, step=step)
    for step in (None, 1e-3, 1e-5):
        with warnings.catch_warnings(action="error"):
            estimate = estimator(objective, 40, step=step)
        assert abs(estimate.mean - trace) < 4 * estimate.standard_error


def test_what_gives_no_curvatures_is_named() -> None:
    objective = hd.Objective(network(), functional.cross_entropy, *data())
    with pytest.raises(ArgumentError, match="sampling is a Objective"):
        hd.trace.deflated(objective, torch.ones(objective.n_parameters), 4, sampling=objective)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="give an Objective"):
        hd.Report(network())  # type: ignore[arg-type]


def test_a_hessian_of_zeros_has_no_limit_and_no_warning() -> None:
    with warnings.catch_warnings(action="error"):
        assert np.isnan(distribution_smallest([0.0, 1.0], 0.0, 0.0)).all()
