"""Mistakes found in newer tools on one convolutional network with batch normalisation and ReLU.

A regression test each, against the dense Hessian in float64.
"""

import numpy as np
import pytest
import torch
from matrices import generator
from networks import Problem, dense_hessian, objective_of
from torch import Tensor, nn

from hessian_directions.data.digits import digits
from hessian_directions.geometry import slices
from hessian_directions.geometry.directions import gaussian
from hessian_directions.spectral.eigenpairs import ConvergenceWarning, extreme_eigenpairs
from hessian_directions.spectral.spectrum import spectral_density
from hessian_directions.traces import estimators


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    split = digits(cache=tmp_path_factory.mktemp("cache")).train.balanced(60)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(16, 10)),
        ).double()
        with torch.no_grad():  # statistics unlike 0 and 1, and off the kinks at blank pixels
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.bias.normal_()
                    module.momentum = 1.0
            model(split.inputs.double())
    return Problem(model.eval(), nn.functional.cross_entropy, split.inputs.double(), split.targets)


@pytest.fixture(scope="module", name="H")
def _dense(case: Problem) -> Tensor:
    return dense_hessian(case)


def test_landscaper_renormalises_hessian_directions_tensor_by_tensor(
    case: Problem, H: Tensor
) -> None:
    values, vectors = torch.linalg.eigh(H)
    pairs = extreme_eigenpairs(objective_of(case).hessian(), 1, 1, 1e-6, seed=generator())
    torch.testing.assert_close(pairs.values, values[[0, -1]], rtol=1e-6, atol=0)
    for found, exact in zip(pairs.vectors.T, (vectors[:, 0], vectors[:, -1])):
        assert abs(float(found @ exact)) > 1 - 1e-6
        torch.testing.assert_close(found @ H @ found, exact @ H @ exact, rtol=1e-6, atol=0)


def test_landscaper_swaps_the_axes_and_adds_noise_to_the_maximum(case: Problem) -> None:
    objective = objective_of(case)
    V = gaussian(objective.n_parameters, 2, generator(), torch.float64)
    alphas, betas = [-0.1, 0.0, 0.2], [-0.3, 0.0, 0.1, 0.4]
    surface = slices.surface(objective, V, alphas, betas)
    for alpha in alphas:
        for beta in betas:
            expected = float(objective.value(objective.theta + alpha * V[:, 0] + beta * V[:, 1]))
            assert np.isclose(surface.sel(alpha=alpha, beta=beta), expected, rtol=1e-13)
    assert slices.surface(objective, V, alphas, betas).identical(surface)


def test_landscaper_density_weights_sum_to_fifty(case: Problem) -> None:
    density = spectral_density(objective_of(case).hessian(), 2, 20, generator())
    np.testing.assert_allclose(density.weights.sum(1), 1, rtol=1e-12)


def test_loss_landscape_3d_perturbs_running_variances(case: Problem) -> None:
    """304 of 441 points were NaN: buffers are no parameters, and directions leave them alone."""
    objective = objective_of(case)
    V = gaussian(objective.n_parameters, 2, generator(), torch.float64)
    grid = slices.grid(1.0, 5)
    assert np.isfinite(slices.surface(objective, V, grid, grid)).all()
    assert objective.n_parameters == sum(p.numel() for p in case.model.parameters())


def test_pylandscape_takes_the_first_batch_and_sums_over_probes(case: Problem, H: Tensor) -> None:
    objective = objective_of(case, batch_size=8)
    V = gaussian(objective.n_parameters, 400, generator(), torch.float64)
    line = slices.line(objective, V[:, :1], [0.0, 0.01])
    assert float(line[0, 0]) != float(line[0, 1])
    whole = case.loss(case.model(case.inputs), case.targets)
    assert np.isclose(float(line[0, 0]), float(whole), rtol=1e-13)
    estimate = estimators.hutchinson(objective.hessian(), directions=V)
    assert abs(estimate.mean - float(H.trace())) < 4 * estimate.standard_error
    torch.testing.assert_close(estimate.samples, (V * (H @ V)).sum(0), rtol=1e-8, atol=1e-8)


def test_hessian_eigenthings_counts_a_last_batch_of_one_like_all_others(
    case: Problem, H: Tensor
) -> None:
    n = len(case.inputs)
    for size in (n - 1, 7, 1):
        objective = objective_of(case, batch_size=size)
        pairs = extreme_eigenpairs(objective.hessian(), 0, 1, 1e-6, seed=generator())
        largest = torch.linalg.eigvalsh(H)[-1:]
        torch.testing.assert_close(pairs.values, largest, rtol=1e-6, atol=0)


def test_hessian_eigenthings_finds_ghosts_beyond_fifty_steps(case: Problem, H: Tensor) -> None:
    values = torch.linalg.eigvalsh(H)
    pairs = extreme_eigenpairs(objective_of(case).hessian(), 4, 8, 1e-6, seed=generator())
    assert pairs.n_products > 50
    expected = torch.cat([values[:4], values[-8:]])
    torch.testing.assert_close(pairs.values, expected, rtol=1e-5, atol=1e-9)
    density = spectral_density(objective_of(case).hessian(), 1, 90, generator())
    for value in values[-3:].tolist():  # isolated: one node each
        assert (np.abs(density.nodes[0] - value) < 1e-6 * value).sum() == 1


def test_nngeom_returns_unconverged_ritz_values_without_residuals(case: Problem, H: Tensor) -> None:
    operator = objective_of(case).hessian()
    with pytest.warns(ConvergenceWarning):
        pairs = extreme_eigenpairs(operator, 2, 2, 1e-8, seed=generator(), max_products=12)
    assert not pairs.converged.all()
    residuals = (H @ pairs.vectors - pairs.vectors * pairs.values).norm(dim=0)
    torch.testing.assert_close(pairs.residuals, residuals, rtol=1e-6, atol=1e-9)
    values = torch.linalg.eigvalsh(H)
    for value, residual in zip(pairs.values, pairs.residuals):
        assert (values - value).abs().min() <= residual + 1e-10
    assert "NOT CONVERGED" in pairs.describe()
