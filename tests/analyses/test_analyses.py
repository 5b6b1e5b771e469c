"""Studies of a network, against its dense Hessian."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from hessian_directions import seeds
from hessian_directions.analyses import (
    extreme_curvature,
    problem,
    reference_trace,
    sampled_projections,
    step_study,
    trace_comparison,
)
from hessian_directions.data.dataset import Dataset, Split
from hessian_directions.errors import ConfigurationError
from hessian_directions.geometry import visibility
from hessian_directions.geometry.principal_curvatures import principal_curvatures
from hessian_directions.objectives.objective import Objective

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
    np.testing.assert_allclose(dataset["ritz_value"], values[1:-1], atol=1e-9 * float(values[-1]))
    for left in ("ritz_residual", "rest_trace", "rest_frobenius_norm"):
        np.testing.assert_allclose(dataset[left], 0, atol=1e-9 * trace)


def test_exact_curvature_along_eigenvectors_is_that_of_float64(
    objective: Objective, hessian: Tensor
) -> None:
    """Products in float32 round; the second look at what they found must not."""
    settings = {"k_smallest": 1, "k_largest": 2, "tolerance": 1e-3, "max_products": 200}
    found, vectors = extreme_curvature.analyze(
        objective.to(dtype=torch.float32),
        settings | {"surface_steps": [1e-2]},
        seeds.generator(0, "eigenpairs"),
    )
    assert vectors.dtype == torch.float32
    V = vectors.double()
    exact = (V * (hessian @ V)).sum(0)
    np.testing.assert_allclose(found["exact_curvature"], exact, rtol=1e-12)
    np.testing.assert_allclose(
        found["value"], torch.linalg.eigvalsh(hessian)[[0, -2, -1]], rtol=1e-4
    )


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


@pytest.mark.parametrize("n_sketch", [0, 5])
def test_reference_adds_up_and_its_errors_are_those_of_repeated_estimates(
    objective: Objective, hessian: Tensor, n_sketch: int
) -> None:
    values, vectors = torch.linalg.eigh(hessian)
    found = xr.Dataset({"value": ("pair", values[[0, -1]].numpy())})
    settings = {"n_reference": 50, "n_sketch": n_sketch, "exact_trace": False}
    runs = [
        reference_trace.estimate(objective, found, vectors[:, [0, -1]], settings, seed, print)
        for seed in range(60)
    ]
    for run in runs[:3]:
        known = np.concatenate([found["value"], run["ritz_value"]])
        assert float(run["trace"]) == pytest.approx(known.sum() + float(run["rest_trace"]))
        squares = np.square(known).sum() + float(run["rest_frobenius_norm"]) ** 2
        assert float(run["frobenius_norm"]) ** 2 == pytest.approx(squares)
    for name, error, exact in (
        ("trace", "trace_standard_error", hessian.trace()),
        ("frobenius_norm", "frobenius_standard_error", hessian.norm()),
    ):
        scores = [(float(run[name]) - float(exact)) / float(run[error]) for run in runs]
        # The scatter of 60 scores is known to a tenth.
        assert np.std(scores) == pytest.approx(1, abs=0.4)
        assert abs(np.mean(scores)) < 4 / len(scores) ** 0.5


@pytest.mark.parametrize(
    ("n_pairs", "n_ritz", "fits"), [(0, 0, False), (10, 0, True), (1, 9, True)]
)
def test_lower_tail_tests_the_spectrum(n_pairs: int, n_ritz: int, fits: bool) -> None:
    """A rest that is taken as Gaussian, but holds large positive eigenvalues, has too heavy a lower tail."""
    outliers, bulk = np.arange(10.0, 0.0, -1.0), np.linspace(-0.1, 0.1, 1000)
    rest = np.concatenate([outliers[n_pairs + n_ritz :], bulk])
    reference = xr.Dataset(
        {
            "trace": outliers.sum() + bulk.sum(),
            "frobenius_norm": np.hypot(np.linalg.norm(outliers), np.linalg.norm(bulk)),
            "rest_trace": rest.sum(),
            "rest_frobenius_norm": np.linalg.norm(rest),
            "ritz_value": ("ritz", outliers[n_pairs : n_pairs + n_ritz]),
        },
    )
    found = xr.Dataset({"value": ("pair", outliers[:n_pairs])})
    matrices = visibility.sample_from_spectrum(
        np.concatenate([outliers, bulk]), 0.0, 0.0, 2000, seeds.generator(0, "slices")
    )
    samples = xr.Dataset({"projected_hessian": (("sample", "row", "column"), matrices)})
    dataset = sampled_projections.study([samples], reference, found, 200_000, 0)
    # The kept quantiles are those that the one at 5 % is counted by.
    quantile = dataset["spectrum_quantile"]
    assert (np.diff(quantile) > 0).all()
    at_twentieth = np.interp(0.05, dataset["level"], quantile)
    below = (principal_curvatures(matrices)[0] < at_twentieth).mean()
    assert below == pytest.approx(float(dataset["lowest_twentieth"]), abs=2e-3)
    low, high = (float(dataset[f"lowest_twentieth_{end}"]) for end in ("low", "high"))
    assert (low < 0.05 < high) == fits
    assert fits or high < 0.01


def test_a_larger_sketch_narrows_the_reference(objective: Objective, hessian: Tensor) -> None:
    narrow = [sampled(objective, hessian, n, False) for n in (0, 5, 20)]
    errors = [float(dataset["trace_standard_error"]) for dataset in narrow]
    assert errors[0] > errors[1] > errors[2] > 0


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


# Problems, and what their networks are made of.


def posed(model: nn.Module, n_images: int | None = None) -> problem.Problem:
    """Four classes of five training and, but for the last class, three test samples each."""
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(4).repeat(5)
    train = Split(inputs, labels, np.arange(20))
    test = Split(inputs[:10], labels[[0, 1, 2, 3, 0, 1, 2, 3, 0, 1]], np.arange(10))
    data = Dataset("quarters", train, test, 4, {})
    loss = nn.functional.cross_entropy
    return problem.Problem(model, loss, data, torch.device("cpu"), torch.float64, 20, n_images)


def test_the_test_split_gives_as_many_as_it_has_of_every_class() -> None:
    of_three_each = posed(nn.Linear(4, 4), n_images=12)
    assert len(of_three_each.split("train")) == 12
    assert len(posed(nn.Linear(4, 4), n_images=8).split("test")) == 8
    split = posed(nn.Linear(4, 4)).dataset.test
    assert split.n_balanced == 8
    assert len(posed(nn.Linear(4, 4)).split("test")) == 10


def test_a_loss_that_does_not_fit_the_targets_is_refused() -> None:
    dataset = posed(nn.Linear(4, 4)).dataset
    assert problem.choose_loss("cross_entropy", dataset) is nn.functional.cross_entropy
    with pytest.raises(ConfigurationError, match="mean_squared_error, but the targets of quarters"):
        problem.choose_loss("mean_squared_error", dataset)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.layer(x))


POOL = [nn.Unflatten(1, (1, 4)), nn.MaxPool1d(1), nn.Flatten()]


@pytest.mark.parametrize(
    ("layers", "kind", "softened"),
    [
        ([nn.Linear(4, 4), nn.Tanh()], "smooth", False),
        ([nn.Linear(4, 4), nn.ReLU()], "relu", True),
        ([nn.Linear(4, 4), nn.LeakyReLU()], "relu", False),
        ([Functional()], "relu", False),
        ([nn.Linear(4, 4), nn.ReLU(), *POOL], "relu", False),
    ],
)
def test_kinks_are_found_whatever_makes_them(
    layers: list[nn.Module], kind: str, softened: bool
) -> None:
    """Softplus stands in only where it leaves no kink."""
    settings = {"n_images": [20, 8, 8, 100], "steps": [0.1], "n_directions": 3, "sharpness": [10]}
    dataset = step_study.study(posed(nn.Sequential(*layers)), settings, torch.Generator())
    assert dataset.attrs["activation"] == kind
    assert ("softplus" in dataset) == softened
    assert list(dataset["n_images"].values) == [8, 20]
