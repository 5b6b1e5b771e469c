"""Small programs as users write them, and what must become of each: followed exactly, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_autograd import derivatives_in_place
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

import hessian_directions as hd
from hessian_directions.errors import HessianDirectionsError

Loss = Callable[[Any, Any], Tensor]


def vectors(
    n: int = 24, n_classes: int = 3, width: int = 5, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(n_classes, (n,), generator=generator)


def perceptron(n_classes: int = 3) -> nn.Sequential:
    return built(lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, n_classes)), seed=0)


def images(n: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, 5, 5, generator=generator, dtype=torch.float64)


def classes(n: int = 12) -> Tensor:
    return torch.arange(n) % 3


def built(make: Callable[[], nn.Module], seed: int = 1) -> Any:
    """The same at every call, in float64, with running statistics unlike 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return model


class Between(nn.Module):
    """Of images: a convolution, what a program does with its output, normalisation, head."""

    def __init__(self, between: Callable[[Tensor], Tensor | None] = lambda y: None) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        changed = self.between(y)
        y = self.norm(y if changed is None else changed)
        return self.head(gelu(y).mean((2, 3)))


class Net(nn.Module):
    """Layers and other attributes by name, and what is computed of this network and its input."""

    def __init__(self, function: Callable[[Any, Any], Any], **attributes: Any) -> None:
        super().__init__()
        self.function = function
        for name, attribute in attributes.items():
            setattr(self, name, attribute)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def net(function: Callable[[Any, Any], Any], **attributes: Callable[[], Any]) -> Any:
    """Such a network, built."""
    return built(lambda: Net(function, **{name: make() for name, make in attributes.items()}))


def compiled(what: Any) -> Any:
    return torch.compile(what, backend="eager")


def objective_of(model: nn.Module, *samples: Any, **options: Any) -> hd.Objective:
    """The cross-entropy; over the images unless samples are given."""
    return hd.Objective(model, cross_entropy, *(samples or (images(), classes())), **options)


def require_right(
    objective: hd.Objective, model: nn.Module, total: Callable[[nn.Module], Tensor]
) -> None:
    """Every derivative, at the network's own parameters and beside them, in float64.

    `total` is the loss of all samples. It is asked of the user's own network, which cannot always
    be copied, and which is left in evaluation mode.
    """
    model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad and p.numel()]
    own = nn.utils.parameters_to_vector(parameters).detach().clone()
    assert torch.equal(objective.theta, own)
    generator, n = torch.Generator().manual_seed(2), len(own)
    beside = own + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    some = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    V = torch.eye(n, dtype=torch.float64) if n <= 64 else some
    try:
        for theta in (own, beside):
            nn.utils.vector_to_parameters(theta.clone(), parameters)
            value, slope, HV = derivatives_in_place(model, total, V)
            assert float(objective.value(theta)) == pytest.approx(value, rel=1e-10)
            for found, truth in (
                (objective.gradient(theta), slope),
                (objective.hessian(theta) @ V, HV),
                (objective.hessian_vector_product(V[:, 0], theta), HV[:, 0]),
                (objective.second_directional_derivative(V, theta), (V * HV).sum(0)),
                (objective.second_directional_derivative(V[:, 0], theta), V[:, 0] @ HV[:, 0]),
            ):
                absolute = 1e-10 * min(1.0, float(truth.norm()))
                torch.testing.assert_close(found, truth, rtol=1e-9, atol=absolute)
    finally:
        nn.utils.vector_to_parameters(own, parameters)


def require_followed(
    model: nn.Module,
    loss: Loss = cross_entropy,
    inputs: Any = None,
    targets: Any = None,
    batch_size: int = 5,
) -> None:
    """In batches as over all samples at once; over the images unless others are given."""
    inputs = images() if inputs is None else inputs
    targets = classes() if targets is None else targets

    def total(model: nn.Module) -> Tensor:
        if isinstance(inputs, tuple):
            return loss(model(*inputs), targets)
        return loss(model(**inputs) if isinstance(inputs, dict) else model(inputs), targets)

    require_right(hd.Objective(model, loss, inputs, targets, batch_size), model, total)


def require_refused(
    match: str,
    model: nn.Module,
    loss: Loss = cross_entropy,
    inputs: Any = None,
    targets: Any = None,
    values_too: bool = True,
    kind: type[HessianDirectionsError] = HessianDirectionsError,
) -> None:
    """Every number, each of an objective of its own, in one line; the network is left as it was."""
    inputs = images() if inputs is None else inputs
    targets = classes() if targets is None else targets
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def number(ask: Callable[[hd.Objective, Tensor], object]) -> None:
        objective = hd.Objective(model, loss, inputs, targets, batch_size=5)
        ask(objective, torch.ones(objective.n_parameters, dtype=objective.dtype))

    def both(v: Tensor) -> Tensor:
        return torch.stack([v, -v], 1)

    of_values: list[Callable[[hd.Objective, Tensor], object]] = [
        lambda o, v: o.value(),
        lambda o, v: hd.slices.surface(o, both(v), [0.0, 1.0], [0.0, 1.0]),
        lambda o, v: hd.trace.finite_difference(o, directions=both(v)),
    ]
    for ask in [
        *(of_values if values_too else []),
        lambda o, v: o.gradient(),
        lambda o, v: o.hessian() @ v,
        lambda o, v: o.second_directional_derivative(v),
    ]:
        with pytest.raises(kind, match=match) as caught:
            number(ask)
        assert "\n" not in str(caught.value)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
