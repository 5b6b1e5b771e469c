"""Tiny networks with the layers that curvature tools stumble over, and dense matrices of each."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import torch
from numpy.typing import ArrayLike
from plain_autograd import derivatives, hardsigmoid
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from hessian_directions.geometry import synthetic
from hessian_directions.objectives.objective import Objective

Loss = Callable[[Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """A network in float64 with its loss and ten samples."""

    model: nn.Module
    loss: Loss
    inputs: Tensor
    targets: Tensor


class Residual(nn.Module):
    """Convolutions with BatchNorm, ReLU in place, strides and a 1 × 1 shortcut, as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.convolution = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(4)
        self.shortcut = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2, bias=False), nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        y = self.inner_norm(self.convolution(x))
        y += self.shortcut(x)
        return self.head(functional.avg_pool2d(self.relu(y), 3).flatten(1))


class Dense(nn.Module):
    """BatchNorm and ReLU before convolutions, and concatenation, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.convolution = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.last_norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.convolution(functional.relu(self.norm(x)))], 1)
        x = functional.relu(self.last_norm(x))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Attention(nn.Module):
    """LayerNorm, multi-head attention and GELU, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.position = nn.Parameter(torch.randn(1, 5, 4))
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head(functional.gelu(x).mean(1))


class SharedFrozenUnused(nn.Module):
    """One layer used twice, a frozen scale, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.scale = nn.Parameter(torch.rand(4) + 0.5, requires_grad=False)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.again(self.scale * torch.tanh(self.first(x)))))


class Tied(nn.Module):
    """Two layers with one weight matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.decoder(torch.tanh(self.encoder(x)))))


def _mobile() -> nn.Module:
    """Depthwise convolution, a bias before BatchNorm, hard activations, maximum pooling."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Hardswish(),
        nn.Conv2d(4, 4, 3, padding="same", groups=4), nn.BatchNorm2d(4), nn.Hardsigmoid(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


def _normalised(norm: nn.Module, activation: nn.Module) -> nn.Module:
    layers = [nn.Conv2d(2, 4, 3), norm, activation, nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def _perceptron(activation: Callable[[], nn.Module], *norms: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), *norms, activation(), nn.Linear(6, 3))


# name -> model, shape of an input
_MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "tanh perceptron": (lambda: _perceptron(nn.Tanh), (4,)),
    "ReLU perceptron": (lambda: _perceptron(nn.ReLU), (4,)),
    "LayerNorm GELU": (lambda: _perceptron(nn.GELU, nn.LayerNorm(6)), (4,)),
    "BatchNorm1d softplus": (lambda: _perceptron(nn.Softplus, nn.BatchNorm1d(6)), (4,)),
    "shared, frozen and unused": (SharedFrozenUnused, (4,)),
    "tied weights": (Tied, (4,)),
    "residual": (Residual, (2, 6, 6)),
    "dense": (Dense, (2, 6, 6)),
    "mobile": (_mobile, (2, 6, 6)),
    "GroupNorm SiLU": (lambda: _normalised(nn.GroupNorm(2, 4), nn.SiLU()), (2, 6, 6)),
    "InstanceNorm ELU": (
        lambda: _normalised(nn.InstanceNorm2d(4, affine=True), nn.ELU()),
        (2, 6, 6),
    ),
    "attention": (Attention, (5, 2)),
}
NETWORKS = list(_MODELS)


def problem(name: str, regression: bool = False, n_samples: int = 10) -> Problem:
    """The network with running statistics unlike 0 and 1, in evaluation mode, and its samples."""
    make, shape = _MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        model = make().double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
        inputs = torch.randn(n_samples, *shape, dtype=torch.float64)
        if regression:
            targets = torch.randn(n_samples, 3, dtype=torch.float64)
            return Problem(model, functional.mse_loss, inputs, targets)
        return Problem(model, nn.CrossEntropyLoss(), inputs, torch.randint(3, (n_samples,)))


def objective_of(case: Problem, **options: Any) -> Objective:
    return Objective(case.model, case.loss, case.inputs, case.targets, **options)


def vectors(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_close(actual: Tensor, expected: Tensor, relative: float) -> None:
    """Relative in the norm: entries that cancel to nothing are held to the size of the others."""
    assert actual.shape == expected.shape
    error = float((actual.double() - expected.double()).norm())
    assert error <= relative * float(expected.double().norm()), (error, expected.norm())


def dense_hessian(problem: Problem) -> Tensor:
    """∇²L over all samples at once, entry by entry, by PyTorch's own second backward pass."""

    def total(model: nn.Module) -> Tensor:
        return problem.loss(model(problem.inputs), problem.targets)

    with mock.patch.object(functional, "hardsigmoid", hardsigmoid):
        return derivatives(problem.model, total)[2]


def dense_gauss_newton(problem: Problem, theta: Tensor | None = None) -> Tensor:
    """J'(∇²ℓ)J over all samples at once, (N, N), by `jacrev` and a dense Hessian of the loss."""
    parameters = {n: p.detach() for n, p in problem.model.named_parameters() if p.requires_grad}
    if theta is not None:
        parts = theta.split([p.numel() for p in parameters.values()])
        parameters = {n: v.view_as(p) for (n, p), v in zip(parameters.items(), parts, strict=True)}

    def outputs(parameters: dict[str, Tensor]) -> list[Tensor]:
        # A copy, because functional_call leaves shared modules changed behind.
        found = functional_call(copy.deepcopy(problem.model), parameters, (problem.inputs,))
        return tree_flatten(found)[0]

    replaced = mock.patch.object(functional, "hardsigmoid", hardsigmoid)
    with sdpa_kernel(SDPBackend.MATH), replaced:
        values = [z.detach() for z in outputs(parameters)]
        jacobians = jacrev(outputs)(parameters)
    structure = tree_flatten(problem.model(problem.inputs))[1]
    flat = torch.cat([z.reshape(-1) for z in values])
    J = torch.cat(
        [
            torch.cat([part.reshape(z.numel(), -1) for part in jacobian.values()], 1)
            for z, jacobian in zip(values, jacobians, strict=True)
        ]
    )

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([z.numel() for z in values])
        shaped = [part.view_as(z) for part, z in zip(parts, values, strict=True)]
        return problem.loss(tree_unflatten(shaped, structure), problem.targets)

    return J.T @ hessian(loss)(flat) @ J


# --- losses of their parameters alone -------------------------------------------------------------


class Function(nn.Module):
    """A loss that is a given function of one parameter vector, whatever the samples."""

    def __init__(self, function: Callable[[Tensor], Tensor], theta: ArrayLike | Tensor) -> None:
        super().__init__()
        self.function = function
        self.theta = nn.Parameter(torch.as_tensor(theta, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.theta).expand(len(inputs))


def _alone(model: nn.Module) -> Objective:
    inputs = synthetic.inputs()
    return Objective(model, synthetic.mean_of_outputs, inputs, inputs)


def objective_of_function(
    function: Callable[[Tensor], Tensor], theta: ArrayLike | Tensor
) -> Objective:
    return _alone(Function(function, theta))


def saddle(n: int, n_positive: int) -> Objective:
    """The synthetic saddle."""
    return _alone(synthetic.SaddleModel(n, n_positive))
