"""Losses over batches: weighted and masked means, sums, what is ignored; others would depend on batches."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs import (
    Between,
    Loss,
    built,
    classes,
    images,
    objective_of,
    perceptron,
    require_followed,
    require_refused,
    require_right,
    vectors,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

import hessian_directions as hd
from hessian_directions.errors import DataError, ModelError

WEIGHT = torch.tensor([1.0, 10.0, 90.0], dtype=torch.float64)


def shuffled(targets: Tensor) -> Tensor:
    return targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(3))]


# --- weighted and ignored -------------------------------------------------------------------------------

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
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_losses_that_are_no_plain_mean(name: str, order: str) -> None:
    targets = torch.tensor([0] * 9 + [1] * 6 + [2] * 2)  # whole batches of one class, when sorted
    targets = shuffled(targets) if order == "shuffled" else targets
    require_followed(perceptron(), LOSSES[name], vectors(17)[0], targets)


def test_targets_that_are_ignored_by_their_number() -> None:
    targets = classes(18).where(torch.arange(18) % 6 != 0, -100)
    targets[:5] = -100  # a whole batch
    inputs, _ = vectors(18)
    for loss in (cross_entropy, nn.CrossEntropyLoss()):
        require_followed(perceptron(), loss, inputs, targets)
    with pytest.raises(DataError, match="ignores every target"):
        objective_of(perceptron(), inputs, torch.full((18,), -100))
    with pytest.raises(DataError, match="ignores every target"):
        hd.Objective(perceptron(), nn.CrossEntropyLoss(), inputs, torch.full((18,), -100))


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(WEIGHT, ignore_index=0), cross_entropy])
def test_pixels_that_are_ignored_and_weighted(loss: Loss) -> None:
    model = built(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh()))
    targets = torch.randint(3, (12, 5, 5), generator=torch.Generator().manual_seed(4))
    targets[:4] = 2
    require_followed(model, loss, images(), targets)


@pytest.mark.filterwarnings("ignore:.*NLLLoss2d.*:FutureWarning")
def test_pixels_with_one_rare_image() -> None:
    model = built(lambda: nn.Sequential(nn.Conv2d(1, 3, 1), nn.LogSoftmax(1)))
    x, y = torch.randn(20, 1, 2, 2).double(), torch.randint(3, (20, 2, 2))
    y[3, 0, :] = 255
    loss = nn.NLLLoss2d(ignore_index=255)
    objective = hd.Objective(model, loss, x, y, batch_size=4)
    assert float(objective.value()) == pytest.approx(float(loss(model(x), y)), rel=1e-12)


def test_negative_log_likelihood_with_weights() -> None:
    model = built(lambda: nn.Sequential(nn.Linear(5, 3), nn.LogSoftmax(1)))
    inputs, _ = vectors(12)
    require_followed(model, nn.NLLLoss(WEIGHT), inputs, classes().sort().values)
    require_followed(
        model, functools.partial(functional.nll_loss, weight=WEIGHT), inputs, classes()
    )


def test_classes_given_as_probabilities() -> None:
    targets = torch.rand(12, 3, generator=torch.Generator().manual_seed(5)).double()
    require_followed(perceptron(), nn.CrossEntropyLoss(WEIGHT), vectors(12)[0], targets)


class Same(nn.CrossEntropyLoss):
    """Nothing new."""


WEIGHTS = torch.linspace(0.5, 2.0, 30, dtype=torch.float64)
CLOTHES: dict[str, Any] = {
    "forward": nn.CrossEntropyLoss(ignore_index=8).forward,
    "partial of a module": functools.partial(nn.CrossEntropyLoss(ignore_index=8)),
    "partial of a partial": functools.partial(
        functools.partial(cross_entropy, weight=WEIGHTS), ignore_index=8
    ),
    "subclass": Same(weight=WEIGHTS, ignore_index=8),
    "weights": nn.CrossEntropyLoss(weight=WEIGHTS),
}


@pytest.mark.parametrize("name", CLOTHES)
def test_what_is_ignored_is_left_out_whatever_a_loss_is_wrapped_in(name: str) -> None:
    require_followed(perceptron(30), CLOTHES[name], *vectors(200, 30), batch_size=7)


# --- what is counted by the user ------------------------------------------------------------------------


def _tokens() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(14, 6, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (14, 6), generator=generator)
    lengths = torch.randint(1, 7, (14,), generator=generator)
    lengths[3] = 0
    return {"x": x, "labels": labels.masked_fill(torch.arange(6) >= lengths[:, None], -100)}


def _of_tokens(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """As language models have it: a mean over all tokens that are no padding."""
    return cross_entropy(model(batch["x"]).flatten(0, 1), batch["labels"].flatten())


def _real_tokens(batch: dict[str, Tensor]) -> Tensor:
    return (batch["labels"] != -100).sum()


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_mean_over_what_the_user_counts(in_memory: bool) -> None:
    tokens = _tokens()
    loss = hd.ModelLoss(_of_tokens, weight=_real_tokens)
    batches = [{name: part[i : i + 3] for name, part in tokens.items()} for i in range(0, 14, 3)]
    objective = hd.Objective(perceptron(), loss, batches, in_memory=in_memory, batch_size=5)
    require_right(objective, perceptron(), lambda m: _of_tokens(m, tokens))
    part = {name: part[4:9] for name, part in tokens.items()}
    require_right(objective.subset(range(4, 9)), perceptron(), lambda m: _of_tokens(m, part))


@pytest.mark.parametrize("weight", [None, lambda batch: batch["labels"].numel(), lambda batch: 1])
def test_a_mean_over_something_else_than_is_counted_is_refused(weight: Any) -> None:
    with pytest.raises(ModelError, match="weight=…"):
        hd.Objective(perceptron(), hd.ModelLoss(_of_tokens, weight=weight), _tokens()).value()


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
        hd.Objective(perceptron(), hd.ModelLoss(_of_tokens, weight=weight), _tokens())


def test_sums_and_samples_have_no_weight() -> None:
    def summed(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return _of_tokens(model, batch) * _real_tokens(batch)

    summed.reduction = "sum"  # type: ignore[attr-defined]
    for loss in (
        hd.ModelLoss(_of_tokens, batch_is_sample=True, weight=_real_tokens),
        hd.ModelLoss(summed, weight=_real_tokens),
    ):
        with pytest.raises(ModelError, match="not where it is a sum"):
            hd.Objective(perceptron(), loss, _tokens())


# --- means that nothing tells of ------------------------------------------------------------------------


@functools.wraps(cross_entropy)
def _named_like_pytorch_s(z: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(z, y, ignore_index=8)


def _masked(z: Tensor, y: Tensor) -> Tensor:
    known = ~y.isnan()
    return (z[known] - y[known]).square().mean()


def _few_unknown() -> tuple[Tensor, Tensor]:
    targets = torch.randn(600, 3, generator=torch.Generator().manual_seed(8)).double()
    targets[[17, 311, 599], 0] = torch.nan
    return vectors(600)[0], targets


def _one_ignored() -> tuple[Tensor, Tensor]:
    targets = torch.zeros(600, dtype=torch.long)
    targets[431] = -100  # one in six hundred
    return vectors(600)[0], targets


def _by_a_module_inside() -> Loss:
    inside = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64))
    return lambda z, y: inside(z, y)


UNEQUAL = torch.tensor([0] * 20 + [1] * 7 + [2] * 3)
UNTOLD: dict[str, tuple[str, Loss, Callable[[], tuple[Tensor, Tensor]]]] = {
    "weighted, sorted": (
        "split into batches",
        lambda z, y: cross_entropy(z, y, WEIGHT),
        lambda: (vectors(30)[0], UNEQUAL),
    ),
    "weighted, shuffled": (
        "split into batches",
        lambda z, y: cross_entropy(z, y, WEIGHT),
        lambda: (vectors(30)[0], shuffled(UNEQUAL)),
    ),
    "weighted by a module inside": (
        "weight=…",
        _by_a_module_inside(),
        lambda: vectors(14),
    ),
    "sum": (
        "reduction='sum'",
        lambda z, y: cross_entropy(z, y, reduction="sum"),
        lambda: vectors(12),
    ),
    "small sum": (
        "reduction='sum'",
        lambda z, y: 1e-16 * cross_entropy(z, y, reduction="sum"),
        lambda: vectors(12),
    ),
    "one target ignored": ("split into batches", lambda z, y: cross_entropy(z, y), _one_ignored),
    "masked": ("split into batches", _masked, _few_unknown),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_means_that_nothing_tells_of_are_refused(name: str) -> None:
    match, loss, samples = UNTOLD[name]
    require_refused(match, perceptron(), loss, *samples())


def test_a_function_that_only_bears_the_name_of_pytorch_s_is_no_known_one() -> None:
    model, samples = perceptron(30), vectors(200, 30)
    with pytest.raises(ModelError, match="depends on how the samples are split"):
        hd.Objective(model, _named_like_pytorch_s, *samples, batch_size=7).value()


@pytest.mark.parametrize(
    ("loss", "warning"),
    [
        (lambda z, y: (z - y).square().mean(), contextlib.nullcontext()),
        (nn.MSELoss(), pytest.warns(UserWarning, match="target size")),
    ],
)
def test_outputs_of_one_column_against_flat_targets(loss: Loss, warning: Any) -> None:
    targets = torch.randn(12, generator=torch.Generator().manual_seed(6)).double()
    with warning:
        require_refused("split into batches", perceptron(1), loss, vectors(12)[0], targets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [60, 250, 257, 300, 341, 342, 600])
def test_means_over_what_is_there_are_refused(n: int, dtype: torch.dtype) -> None:
    """Whatever the number of samples, of which a few lack their targets."""

    def masked(z: Tensor, t: Tensor) -> Tensor:
        there = ~t.isnan()
        return ((z - t.nan_to_num()) ** 2 * there).sum() / there.sum()

    x, targets = vectors(n, dtype=dtype)[0], torch.randn(n, 3, dtype=dtype)
    targets[n - n // 10 : n - 1] = math.nan
    objective = hd.Objective(perceptron().to(dtype), masked, x, targets)
    with pytest.raises(ModelError, match="split into batches"):
        objective.to(dtype=torch.float64).value()


def test_a_small_loss_is_a_mean_like_others() -> None:
    model, samples = perceptron(), vectors(12)
    objective = hd.Objective(model, lambda z, y: 1e-16 * cross_entropy(z, y), *samples)
    expected = 1e-16 * (objective_of(model, *samples).hessian() @ objective.theta)
    torch.testing.assert_close(objective.hessian() @ objective.theta, expected, rtol=1e-9, atol=0)


# --- networks that mix the samples of a batch -----------------------------------------------------------


def test_normalisation_without_running_statistics() -> None:
    model = built(Between)
    model.norm = nn.BatchNorm2d(4, track_running_stats=False).double()
    require_refused("split into batches", model)


class Experts(nn.Module):
    """Each takes so many samples of a batch and leaves the others out."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.route = nn.Linear(5, 2)
        self.experts = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])
        self.capacity = capacity

    def forward(self, x: Tensor) -> Tensor:
        gates = self.route(x).softmax(1)
        chosen, out = gates.argmax(1), x.new_zeros(len(x), 3)
        for k, expert in enumerate(self.experts):
            rows = (chosen == k).nonzero()[: self.capacity, 0]
            out = out.index_add(0, rows, gates[rows, k : k + 1] * expert(x[rows]))
        return out


@pytest.mark.parametrize("batch_size", [100, 256])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), lambda z, y: cross_entropy(z, y)])
def test_experts_of_limited_capacity_are_refused(batch_size: int, loss: Loss) -> None:
    samples = vectors(300)
    with pytest.raises(ModelError, match="split into batches"):
        hd.Objective(built(lambda: Experts(32)), loss, *samples, batch_size=batch_size).value()
    # With room for all of them it is a network like others.
    model, (x, y) = built(lambda: Experts(300)), samples
    objective = hd.Objective(model, loss, x, y, batch_size=batch_size)
    assert float(objective.value()) == pytest.approx(float(loss(model(x), y).detach()), rel=1e-12)
