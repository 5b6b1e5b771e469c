"""The same numbers on the GPU as on the CPU; skipped where there is none (`make check-gpu` fails instead)."""

import pytest
import torch
from torch import nn

from hessian_directions.analyses.problem import choose_device
from hessian_directions.geometry.directions import gaussian
from hessian_directions.models.registry import build
from hessian_directions.objectives.objective import Objective
from hessian_directions.spectral.eigenpairs import extreme_eigenpairs
from hessian_directions.traces import estimators


@pytest.fixture
def cuda(request: pytest.FixtureRequest) -> torch.device:
    if not torch.cuda.is_available():
        if request.config.getoption("--require-gpu"):
            pytest.fail("this machine has no GPU that PyTorch can use")
        pytest.skip("no GPU")
    return choose_device("cuda")


@pytest.fixture
def objectives(cuda: torch.device) -> tuple[Objective, Objective]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 3, 32, 32, generator=generator)
    targets = torch.randint(10, (300,), generator=generator)
    model = build("resnet", {"depth": 20}, input_shape=(3, 32, 32), n_outputs=10, seed=0).double()
    on_cpu = Objective(model, nn.functional.cross_entropy, inputs, targets, batch_size=128)
    return on_cpu, on_cpu.to(device=cuda)


def test_derivatives_agree(objectives: tuple[Objective, Objective]) -> None:
    on_cpu, on_gpu = objectives
    v = gaussian(on_cpu.n_parameters, 2, torch.Generator().manual_seed(1))
    w = v.to(on_gpu.device)
    torch.testing.assert_close(on_gpu.value().cpu(), on_cpu.value(), rtol=1e-10, atol=0)
    torch.testing.assert_close(on_gpu.gradient().cpu(), on_cpu.gradient(), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        on_gpu.hessian_vector_product(w).cpu(),
        on_cpu.hessian_vector_product(v),
        rtol=1e-7,
        atol=1e-10,
    )
    torch.testing.assert_close(
        on_gpu.second_directional_derivative(w).cpu(),
        on_cpu.second_directional_derivative(v),
        rtol=1e-8,
        atol=1e-10,
    )


def test_estimates_agree(objectives: tuple[Objective, Objective]) -> None:
    on_cpu, on_gpu = (objective.subset(torch.arange(32)) for objective in objectives)
    pairs = [
        extreme_eigenpairs(o.hessian(), seed=torch.Generator().manual_seed(2))
        for o in (on_cpu, on_gpu)
    ]
    torch.testing.assert_close(pairs[0].values.cpu(), pairs[1].values.cpu(), rtol=1e-3, atol=0)
    estimates = [
        estimators.directional(o, 8, torch.Generator().manual_seed(3)) for o in (on_cpu, on_gpu)
    ]
    torch.testing.assert_close(estimates[0].samples, estimates[1].samples, rtol=1e-7, atol=1e-9)
