"""The same numbers on the GPU as on the CPU; skipped where there is none (`make check-gpu` fails instead)."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from hessian_directions.analyses.problem import choose_device
from hessian_directions.data.dataset import Split
from hessian_directions.geometry.directions import gaussian
from hessian_directions.learning.training import train
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


def objective(device: str | torch.device, group: dist.ProcessGroup | None = None) -> Objective:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 3, 32, 32, generator=generator).to(device)
    targets = torch.randint(10, (300,), generator=generator).to(device)
    model = build("resnet", {"depth": 20}, input_shape=(3, 32, 32), n_outputs=10, seed=0)
    model = model.to(device).double()
    loss = nn.functional.cross_entropy
    return Objective(model, loss, inputs, targets, batch_size=128, group=group)


@pytest.fixture
def objectives(cuda: torch.device) -> tuple[Objective, Objective]:
    on_cpu = objective("cpu")
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


def test_one_process_with_nccl_agrees(
    objectives: tuple[Objective, Objective], tmp_path: Path
) -> None:
    _, alone = objectives
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/met", rank=0, world_size=1)
    try:
        together = objective(alone.device, dist.group.WORLD)
        v = gaussian(alone.n_parameters, 2, 1).to(alone.device)
        torch.testing.assert_close(together.value(), alone.value())
        torch.testing.assert_close(together.gradient(), alone.gradient())
        for name in ("hessian_vector_product", "second_directional_derivative"):
            torch.testing.assert_close(getattr(together, name)(v), getattr(alone, name)(v))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters_and_images_of_odd_sizes(cuda: torch.device, dtype: torch.dtype) -> None:
    """They begin at addresses from which a GPU does not read several numbers at once."""
    model = build("resnet", {"depth": 8, "width": 3}, input_shape=(1, 7, 7), n_outputs=3, seed=0)
    inputs = torch.randn(20, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20) % 3
    split = Split(inputs, targets, torch.arange(20))
    on_cpu = Objective(
        model.double(), nn.functional.cross_entropy, inputs.double(), targets, batch_size=7
    )
    on_gpu = on_cpu.to(dtype=dtype, device=cuda)
    v = gaussian(on_cpu.n_parameters, 3, torch.Generator().manual_seed(1))
    w = v.to(cuda, dtype)
    tolerance = {"rtol": 0.0, "atol": 1e-3 if dtype == torch.float32 else 1e-9}
    for name in ("hessian_vector_product", "second_directional_derivative"):
        expected = getattr(on_cpu, name)(v)
        found = getattr(on_gpu, name)(w).double().cpu()
        torch.testing.assert_close(found, expected, **tolerance)
    settings = {"epochs": 2, "batch_size": 7}
    train(model, nn.functional.cross_entropy, split, None, settings, seed=0, device=cuda)
