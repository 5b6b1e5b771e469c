"""Studies of a network, against its dense Hessian."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from hessian_directions.objective import Objective
from hessian_directions.studies import sampled_projections, trace_comparison

INPUTS = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(0, 3, (50,), generator=torch.Generator().manual_seed(2))
SAMPLING = {"n_samples": 200, "n_reference": 200, "n_spectrum_samples": 100, "exact_trace": False}


@pytest.fixture(scope="module")
def objective() -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    return Objective(model, nn.functional.cross_entropy, INPUTS, TARGETS, batch_size=20)


@pytest.fixture(scope="module")
def hessian(objective: Objective) -> Tensor:
    return objective.hessian() @ torch.eye(objective.n_parameters, dtype=torch.float64)


def sampled(objective: Objective, hessian: Tensor, n_sketch: int, **changes: object) -> xr.Dataset:
    values, vectors = torch.linalg.eigh(hessian)
    found = xr.Dataset({"value": ("pair", values[[0, -1]].numpy())})
    settings = SAMPLING | {"n_sketch": n_sketch} | changes
    return sampled_projections.study(
        objective, found, vectors[:, [0, -1]], settings, 3, lambda text: None
    )


@pytest.mark.parametrize("exact", [False, True])
def test_projections_deflated_by_everything_are_exact(
    objective: Objective, hessian: Tensor, exact: bool
) -> None:
    """A sketch that spans the whole space leaves nothing to be sampled."""
    dataset = sampled(objective, hessian, 10_000, exact_trace=exact)
    trace, frobenius = float(hessian.trace()), float(hessian.norm())
    assert float(dataset["trace"]) == pytest.approx(trace, rel=1e-9)
    assert float(dataset["trace_standard_error"]) < 1e-9 * trace
    assert float(dataset["frobenius_norm"]) == pytest.approx(frobenius, rel=1e-9)
    assert dataset["deflated_curvature"].values == pytest.approx(trace, rel=1e-9)


@pytest.mark.parametrize("n_sketch", [0, 5])
def test_deflated_curvatures_have_the_same_mean(
    objective: Objective, hessian: Tensor, n_sketch: int
) -> None:
    dataset = sampled(objective, hessian, n_sketch)
    trace = float(hessian.trace())
    raw = np.diagonal(dataset["projected_hessian"].values, axis1=1, axis2=2)
    deflated = dataset["deflated_curvature"].values
    for curvatures in (raw, deflated):
        error = curvatures.std(ddof=1) / curvatures.size**0.5
        assert abs(curvatures.mean() - trace) < 4 * error
    # Var v'PHPv = 2‖PHP‖² for Gaussian v; off the two eigenvectors that is 2(‖H‖² − Σλ²).
    values = torch.linalg.eigvalsh(hessian)
    expected = float((2 * values[1:-1].square().sum()).sqrt())
    if n_sketch == 0:
        assert deflated.std() == pytest.approx(expected, rel=0.15)
    else:
        assert deflated.std() < 0.8 * expected
    # The control variate is a part of the same directions' curvature.
    assert np.corrcoef(raw.ravel(), deflated.ravel())[0, 1] > 0.1
    error = float(dataset["trace_standard_error"])
    assert 0 < abs(float(dataset["trace"]) - trace) < 4 * error
    frobenius = float(dataset["frobenius_norm"])
    error = float(dataset["frobenius_standard_error"])
    assert abs(frobenius - float(hessian.norm())) < 4 * error + 1e-12


def test_a_larger_sketch_narrows_the_reference(objective: Objective, hessian: Tensor) -> None:
    errors = [float(sampled(objective, hessian, n)["trace_standard_error"]) for n in (0, 5, 20)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_differences_go_on_beyond_the_shared_directions(objective: Objective) -> None:
    settings = {"n_samples": 6, "n_paired": 30, "fit_points": 5}
    dataset, seconds = trace_comparison.compare(objective, None, settings, 0)
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
