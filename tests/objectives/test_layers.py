"""Layers of PyTorch's that curvature tools stumble over: recurrent, embedding, reparametrised."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_autograd import derivatives
from programs import (
    Between,
    built,
    classes,
    images,
    net,
    objective_of,
    require_followed,
    require_right,
    vectors,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode

from hessian_directions.errors import DifferentiationError, HessianDirectionsError


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks(kind: type[nn.RNNBase]) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(net.layer(x.flatten(1, 2))[0][:, -1])

    layers = {"layer": lambda: kind(5, 4, batch_first=True), "head": lambda: nn.Linear(4, 3)}
    require_followed(net(forward, **layers))


def test_a_transformer_layer() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(net.layer(net.embed(x.flatten(1, 2))).mean(1))

    require_followed(
        net(
            forward,
            layer=lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True),
            embed=lambda: nn.Linear(5, 4),
            head=lambda: nn.Linear(4, 3),
        )
    )


# --- weights that are computed ------------------------------------------------------------------------


class WeightNorm(TorchFunctionMode):
    """PyTorch's own second derivative of it is wrong (2.13: the Hessian is not symmetric)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._weight_norm:
            v, g, dim = args
            return v * (g / v.norm(dim=[d for d in range(v.ndim) if d != dim], keepdim=True))
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
    ],
)
def test_weights_that_are_computed(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = built(Between)
    wrap(model.head)
    with torch.no_grad():
        model.train()(images())  # a hook has stored its result
    model.eval()

    def total(model: nn.Module) -> Tensor:
        with WeightNorm():
            return cross_entropy(model(images()), classes())

    require_right(objective_of(model, batch_size=5), model, total)


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
    model, (x, y) = kind(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)).double(), vectors()
    parametrize.register_parametrization(model[0], "weight", _Symmetric())
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    truth = derivatives(other, lambda m: cross_entropy(m(x), y))
    with around():
        model(x)
        objective = objective_of(model, x, y)
        theta = 1.5 * objective.theta
        product = objective.hessian(theta) @ torch.eye(len(theta), dtype=theta.dtype)
        found = float(objective.value(theta)), objective.gradient(theta), product
        before = model(x)
    torch.testing.assert_close(found, truth)
    assert torch.equal(model(x), before)


# --- embeddings ---------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("padding", [None, 0, 2])
def test_bags_of_embeddings(mode: str, frozen: bool, padding: int | None) -> None:
    """PyTorch has no second derivative of them."""
    options = {"mode": mode, "padding_idx": padding}
    tokens = torch.randint(5, (14, 4), generator=torch.Generator().manual_seed(0))
    tokens[3] = 2
    weights = torch.rand(14, 4, dtype=torch.float64) if mode == "sum" else None
    model, by_hand = _Bags(False, **options), _Bags(True, **options)
    torch.testing.assert_close(model(tokens, weights), by_hand(tokens, weights))
    for m in (model, by_hand):
        m.bag.requires_grad_(not frozen)
    y, inputs = classes(14), tokens if weights is None else (tokens, weights)
    objective = objective_of(model, inputs, y)
    require_right(objective, by_hand, lambda m: cross_entropy(m(tokens, weights), y))


@pytest.mark.parametrize("options", [{"padding_idx": 0}, {"scale_grad_by_freq": True}], ids=str)
def test_embeddings_whose_gradient_is_no_slope(options: dict[str, Any]) -> None:
    """PyTorch changes it on purpose."""
    embedding, tokens = nn.Embedding(5, 3, **options), torch.arange(40).view(10, 4) % 5
    model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(12, 3)).double()
    objective = objective_of(model, tokens, classes(10))
    assert objective.value().isfinite()
    with pytest.raises(DifferentiationError, match=next(iter(options))):
        objective.gradient()
    embedding.requires_grad_(False)
    assert bool(objective_of(model, tokens, classes(10)).gradient().isfinite().all())


def test_a_sparse_gradient_is_refused() -> None:
    model = built(lambda: nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten()))
    objective = objective_of(model, torch.arange(12)[:, None] % 5, classes())
    assert objective.value() > 0
    with pytest.raises(HessianDirectionsError):
        objective.gradient()
