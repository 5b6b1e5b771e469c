"""Studies of a network, against its dense Hessian."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from hessian_directions.objective import Objective
from hessian_directions.studies import reference_trace, sampled_projections, trace_comparison

INPUTS = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(0, 3, (50,), generator=torch.Generator().manual_seed(2))
SETTINGS = {"n_samples": 100, "n_reference": 200}


@pytest.fixture(scope="module")
def objective() -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    return Objective(model, nn.functional.cross_entropy, INPUTS, TARGETS, batch_size=20)


@pytest.fixture(scope="module")
def hessian(objective: Objective) -> Tensor:
    return objective.hessian() @ torch.eye(objective.n_parameters, dtype=torch.float64)


def sampled(objective: Objective, hessian: Tensor, n_sketch: int, exact: bool) -> xr.Dataset:
    values, vectors = torch.linalg.eigh(hessian)
    found = xr.Dataset({"value": ("pair", values[[0, -1]].numpy())})
    settings = SETTINGS | {"n_sketch": n_sketch, "exact_trace": exact}
    parts = [sampled_projections.sample(objective, SETTINGS, seed, print) for seed in (4, 5)]
    reference = reference_trace.estimate(objective, found, vectors[:, [0, -1]], settings, 3, print)
    return sampled_projections.study(parts, reference, found, 100, 3)


@pytest.mark.parametrize("exact", [False, True])
def test_projections_deflated_by_everything_are_exact(
    objective: Objective, hessian: Tensor, exact: bool
) -> None:
    """A sketch that spans the whole space leaves nothing to be sampled."""
    dataset = sampled(objective, hessian, 10_000, exact)
    trace, values = float(hessian.trace()), torch.linalg.eigvalsh(hessian)
    assert float(dataset["trace"]) == pytest.approx(trace, rel=1e-9)
    assert float(dataset["trace_standard_error"]) < 1e-9 * trace
    assert float(dataset["frobenius_norm"]) == pytest.approx(float(hessian.norm()), rel=1e-9)
    rest = float(values[1:-1].norm())
    assert float(dataset["rest_frobenius_norm"]) == pytest.approx(rest, rel=1e-9)


@pytest.mark.parametrize("n_sketch", [0, 5])
def test_projections_have_the_mean_and_the_variance_of_gaussian_ones(
    objective: Objective, hessian: Tensor, n_sketch: int
) -> None:
    dataset = sampled(objective, hessian, n_sketch, False)
    assert dataset.sizes["sample"] == 200
    curvatures = np.diagonal(dataset["projected_hessian"].values, axis1=1, axis2=2)
    trace, frobenius = float(hessian.trace()), float(hessian.norm())
    deviation = 2**0.5 * frobenius
    assert abs(curvatures.mean() - trace) < 4 * deviation / curvatures.size**0.5
    assert curvatures.std() == pytest.approx(deviation, rel=0.2)
    error = float(dataset["trace_standard_error"])
    assert 0 < abs(float(dataset["trace"]) - trace) < 4 * error
    error = float(dataset["frobenius_standard_error"])
    assert 0 < abs(float(dataset["frobenius_norm"]) - frobenius) < 4 * error


def test_a_larger_sketch_narrows_the_reference(objective: Objective, hessian: Tensor) -> None:
    narrow = [sampled(objective, hessian, n, False) for n in (0, 5, 20)]
    errors = [float(dataset["trace_standard_error"]) for dataset in narrow]
    assert errors[0] > errors[1] > errors[2] > 0


def test_the_rest_of_a_dominant_pair_keeps_its_digits(
    objective: Objective, hessian: Tensor
) -> None:
    """‖PHP‖ is not a difference of large numbers: one eigenvalue is 10⁶ times the others here."""
    values, vectors = torch.linalg.eigh(hessian)
    largest = vectors[:, -1:]
    stretched = (hessian + 1e6 * values[-1] * largest @ largest.T).float()
    expected = float(values[:-1].norm())
    for n_sketch in (0, 8):
        rest = reference_trace.sketched_rest(stretched, largest.float(), n_sketch, 400, 0)
        assert rest["frobenius_norm"] == pytest.approx(expected, rel=0.1)
        assert rest["trace"] == pytest.approx(float(values[:-1].sum()), rel=0.1)


def test_differences_go_on_beyond_the_shared_directions(objective: Objective) -> None:
    settings = {"n_samples": 6, "n_paired": 30, "fit_points": 5}
    dataset, seconds = trace_comparison.compare(objective, None, settings, 0, print)
    counts = dict(zip(dataset["estimator"].values, dataset["n_samples"].values))
    assert counts["finite_difference"] == counts["directional"] == 30
    assert counts["quadratic_fit"] == counts["hutchinson"] == 6
    samples = dataset["samples"].sel(estimator=["directional", "hutchinson"]).values
    # Along the same directions both are v'Hv, exactly.
    np.testing.assert_allclose(samples[0, :6], samples[1, :6], rtol=1e-9)
    assert np.isnan(samples[1, 6:]).all()
    passes = dict(zip(dataset["estimator"].values, dataset["passes"].values))
    # A centre and two or four points a direction, and for both the choice of the common step.
    choice = passes["finite_difference"] - (1 + 2 * 30)
    assert choice > 10
    assert passes["quadratic_fit"] == choice + 1 + 4 * 6
    steps = dataset["step"].sel(estimator=["finite_difference", "quadratic_fit"]).values
    assert steps[0] == steps[1] > 0
    assert set(seconds) == set(counts)
