"""What callers switch on around an analysis has no part in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import hessian_directions as hd

CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no graph": torch.no_grad,
    "anomalies": torch.autograd.detect_anomaly,
    "graph elsewhere": torch.autograd.graph.save_on_cpu,
    "default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def _objective(n_outputs: int = 3) -> hd.Objective:
    torch.manual_seed(0)
    inputs, targets = 30 + torch.randn(40, 5), torch.randint(n_outputs, (40,))
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, n_outputs))
    return hd.Objective(model, functional.cross_entropy, inputs, targets)


def _numbers(objective: hd.Objective) -> dict[str, Tensor]:
    """Of every kind of pass, and of analyses that compute something by themselves."""
    v, theta = torch.ones(objective.n_parameters, device="cpu"), objective.theta
    pairs = hd.extreme_eigenpairs(objective)
    part = objective.subset(range(9))
    found: dict[str, Any] = {
        "value": objective.value(theta + 0.1 * v),
        "gradient": objective.gradient(),
        "product": objective.hessian_vector_product(v),
        "Gauss-Newton": objective.gauss_newton_vector_product(v),
        "second derivative": objective.second_directional_derivative(v),
        "subset": part.value(),
        "float64": objective.to(torch.float64).value(),
        "eigenvalues": pairs.values,
        "eigenvectors": pairs.vectors.abs(),
        "density": hd.spectral_density(objective, 2, 8).nodes,
        "directional": hd.trace.directional(objective, 20).mean,
        "hutchinson": hd.trace.hutchinson(objective, 20).mean,
        "deflated": hd.trace.deflated(objective, pairs, 20).mean,
        "hutch++": hd.trace.hutch_plus_plus(objective, 6, 6).mean,
        "m-sharpness": hd.flatness.m_sharpness(objective, 0.1, 10).mean,
        "plane": hd.slices.projected_hessian(objective, pairs.vectors),
    }
    return {name: torch.as_tensor(value, device="cpu") for name, value in found.items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return _numbers(_objective())


@pytest.mark.parametrize("name", CONTEXTS)
def test_numbers_are_the_same_inside(name: str, expected: dict[str, Tensor]) -> None:
    objective = _objective()
    with warnings.catch_warnings(action="ignore"), CONTEXTS[name]():
        found = _numbers(objective)
    for kind, number in expected.items():
        assert found[kind].dtype == number.dtype, kind
        assert torch.equal(found[kind], number), kind


def test_hooks_of_the_caller_are_left_as_they_were() -> None:
    """And those of the network's own have their part: checkpoints keep nothing of a pass."""
    objective, packed = _objective(), []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        objective.self_test()
        assert not packed
        torch.ones(3, requires_grad=True).exp().sum().backward()
        assert packed
