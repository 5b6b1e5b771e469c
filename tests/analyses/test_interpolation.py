"""Networks between networks: states, statistics, barriers, and the plane through three of them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from posed import posed as of_samples
from posed import samples
from torch import Tensor, nn
from torch.nn import functional

from hessian_directions.analyses import interpolation
from hessian_directions.analyses.job import Job
from hessian_directions.analyses.problem import Problem
from hessian_directions.data.dataset import Split
from hessian_directions.learning import checkpoints
from hessian_directions.learning.interpolation import mixture, reestimate_statistics


def network(seed: int, norm: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    norms = [nn.BatchNorm1d(6)] if norm else []
    model = nn.Sequential(nn.Linear(4, 6), *norms, nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.double().eval()


def test_a_mixture_is_one_of_parameters_and_statistics() -> None:
    a, b = network(0), network(1)
    before = copy.deepcopy(a.state_dict())
    mixed = mixture([a, b], [0.25, 0.75])
    for name, tensor in mixed.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        torch.testing.assert_close(
            tensor, 0.25 * a.state_dict()[name] + 0.75 * b.state_dict()[name]
        )
    assert all(torch.equal(before[name], tensor) for name, tensor in a.state_dict().items())
    same = mixture([a, b], [1.0, 0.0]).state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in before.items())


def test_statistics_are_those_of_the_inputs_of_a_layer() -> None:
    """A first pass through one normalisation: mean and variance of what the layer before it gives."""
    model, x = network(0), torch.randn(21, 4, dtype=torch.float64)
    momentum = model[1].momentum
    reestimate_statistics(model, x, 8)
    y = model[0](x).detach()
    batches = y.split([7, 7, 7])
    torch.testing.assert_close(model[1].running_mean, y.mean(0))
    expected = torch.stack([batch.var(0) for batch in batches]).mean(0)
    torch.testing.assert_close(model[1].running_var, expected)
    assert model[1].momentum == momentum
    assert not any(module.training for module in model.modules())


def posed(model: nn.Module) -> Problem:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(60, 4, generator=generator)
    both = samples(inputs, torch.randint(3, (60,), generator=generator))
    return of_samples(model, both.take(range(40)), both.take(range(40, 60)), batch_size=40)


def run(models: list[nn.Module], folder: Path, **settings: int) -> xr.Dataset:
    others = [f"other_{k}" for k in range(len(models) - 1)]
    files = {}
    for name, model in zip(others, models[1:], strict=True):
        files[name] = str(folder / f"{name}.safetensors")
        checkpoints.save(files[name], model, {})
    typed = interpolation.Settings(others=others, n_points=5, n_plane_points=5, **settings)
    job = Job(0, announce=lambda line: None, network="own", checkpoints=files)
    return interpolation.run(posed(models[0]), typed, job)


def loss_and_accuracy(theta: list[Tensor], split: Split) -> tuple[float, float]:
    """Of a network without normalisation, written out."""
    w1, b1, w2, b2 = theta
    outputs = torch.relu(split.inputs.double() @ w1.T + b1) @ w2.T + b2
    likelihood = outputs.log_softmax(1)[torch.arange(len(split)), split.targets]
    return float(-likelihood.mean()), float((outputs.argmax(1) == split.targets).double().mean())


def test_lines_and_plane_of_networks_without_statistics(tmp_path: Path) -> None:
    models = [network(seed, norm=False) for seed in range(4)]
    dataset = run(models, tmp_path)
    assert list(dataset["statistics"].values) == ["interpolated"]
    assert dataset["start"].values.tolist()[:3] == ["own"] * 3
    assert dataset["end"].values.tolist()[:3] == ["other_0", "other_1", "other_2"]
    theta = [[p.detach() for p in model.parameters()] for model in models]
    data = posed(models[0]).dataset
    flat = torch.stack([torch.cat([p.reshape(-1) for p in parts]) for parts in theta])
    for split in ("train", "test"):
        of_split = dataset.sel(split=split, statistics="interpolated")
        line = [
            loss_and_accuracy(
                [(1 - x) * p + x * q for p, q in zip(theta[1], theta[3])], getattr(data, split)
            )
            for x in dataset["x"].values
        ]
        losses, accuracies = np.array(line).T
        one = of_split.isel(line=4)  # between the second and the fourth
        np.testing.assert_allclose(one["loss"], losses, rtol=1e-12)
        np.testing.assert_allclose(one["accuracy"], accuracies)
        excess = losses - np.linspace(losses[0], losses[-1], 5)
        assert float(one["barrier"]) == pytest.approx(excess.max(), abs=1e-12)
        assert float(one["barrier_x"]) == dataset["x"].values[excess.argmax()]
        drop = np.linspace(accuracies[0], accuracies[-1], 5) - accuracies
        assert float(one["accuracy_drop"]) == pytest.approx(drop.max(), abs=1e-12)
        assert float(one["distance"]) == pytest.approx(float((flat[1] - flat[3]).norm()))
    # A point of the plane, from its place alone: the first network plus a step along each axis.
    spans = (flat[1:3] - flat[0]).T
    e, f = torch.linalg.qr(spans)[0].T
    e, f = e * (e @ spans[:, 0]).sign(), f * (f @ spans[:, 1]).sign()
    alpha, beta = dataset["alpha"].values[1], dataset["beta"].values[3]
    point = (flat[0] + alpha * e + beta * f).split([p.numel() for p in theta[0]])
    shaped = [part.view_as(p) for part, p in zip(point, theta[0])]
    expected = loss_and_accuracy(shaped, data.test)
    there = dataset.isel(alpha=1, beta=3).sel(split="test")
    assert float(there["plane_loss"]) == pytest.approx(expected[0], rel=1e-10)
    assert float(there["plane_accuracy"]) == expected[1]
    off = dataset["network_off_plane"].values
    assert np.isnan(off[0])
    assert (off[1:3] < 1e-12).all()
    assert 0 < off[3] < 1


def test_statistics_are_reestimated_at_every_point(tmp_path: Path) -> None:
    models = [network(seed) for seed in range(2)]
    dataset = run(models, tmp_path)
    assert "plane_loss" not in dataset
    data = posed(models[0]).dataset
    x = data.train.inputs.double()
    for k, weight in enumerate(dataset["x"].values):
        mixed = mixture(models, [1 - weight, weight])
        y, norm = mixed[0](x), mixed[1]
        y = (y - y.mean(0)) / torch.sqrt(y.var(0) + norm.eps) * norm.weight + norm.bias
        outputs = mixed[4](torch.relu(y))
        expected = float(functional.cross_entropy(outputs, data.train.targets))
        one = dataset.isel(line=0, x=k).sel(split="train", statistics="re-estimated")
        assert float(one["loss"]) == pytest.approx(expected, rel=1e-10)
