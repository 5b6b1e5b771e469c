"""The analyses: what each declares, that it makes equal bytes twice, and numbers against a dense Hessian."""

import dataclasses

import fabricate
import networks
import numpy as np
import pytest
import torch
import xarray as xr
from posed import known_of, samples
from posed import posed as of_samples
from torch import Tensor, nn

from hessian_directions import seeds
from hessian_directions.analyses import estimates, problem, registry
from hessian_directions.analyses.job import Job
from hessian_directions.analyses.problem import Problem
from hessian_directions.data.dataset import Split
from hessian_directions.errors import ConfigurationError
from hessian_directions.geometry import visibility
from hessian_directions.geometry.principal_curvatures import principal_curvatures
from hessian_directions.reproduction import artifacts

ANALYSES = [registry.analysis(name) for name in (*registry.OF_NETWORKS, *registry.OF_PROFILES)]


# Every analysis.


@pytest.mark.parametrize("analysis", ANALYSES, ids=lambda analysis: analysis.name)
def test_an_analysis_is_whole(analysis: registry.Analysis, tmp_path) -> None:
    """Its settings have defaults, it reads what is made before it, and makes equal bytes twice."""
    assert analysis.module.__doc__
    needed = {key for key, field in analysis.settings.model_fields.items() if field.is_required()}
    assert needed == ({"data", "model", "training", "factors"} if analysis.has_data else set())
    before = {other.tensors or other.name for other in ANALYSES[: ANALYSES.index(analysis)]}
    before |= {other.name for other in ANALYSES[: ANALYSES.index(analysis)]} | {"snapshots"}
    assert {*analysis.reads, *analysis.gather_reads} <= before
    assert not analysis.is_sharded or "n_shards" in analysis.settings.model_fields
    settings = fabricate.settings(analysis.name)
    part = analysis.parts(settings.model_dump())[0]
    runs = [make(analysis.name, "relu", 0, part) for make in (fabricate.run, fabricate._run)]
    assert [dataset is not None for dataset, *_ in runs] == [analysis.has_dataset] * 2
    if analysis.has_dataset:
        for number, (dataset, arrays, _) in enumerate(runs):
            artifacts.write_dataset(tmp_path / f"{number}.nc", dataset, {})
            artifacts.write_tensors(tmp_path / f"{number}.safetensors", arrays, {})
        for suffix in ("nc", "safetensors"):
            first, second = ((tmp_path / f"{number}.{suffix}").read_bytes() for number in (0, 1))
            assert first == second
    else:
        assert runs[0][2].keys() == runs[1][2].keys() != set()


def test_accuracy_stands_beside_the_loss_on_every_grid() -> None:
    """At the network it is that of the scores, which come from a plain loop; elsewhere another."""
    scores = fabricate.made("scores")
    slices, lines = fabricate.made("slices", part="hessian"), fabricate.made("lines")
    trajectory = fabricate.made("trajectory")
    for split in ("train", "test"):
        accuracy = slices[f"{split}_accuracy"]
        assert accuracy.dims == slices[split].dims
        assert float(accuracy.sel(alpha=0, beta=0)) == float(scores[f"{split}_accuracy"])
        assert float(accuracy.min()) < float(accuracy.max()) <= 1
        assert "accuracy" not in slices[split].coords
    assert (lines["accuracy"].sel(distance=0) == scores["train_accuracy"]).all()
    assert float(trajectory["accuracy"][-1]) == float(scores["train_accuracy"])
    assert float(trajectory["test_accuracy"][-1]) == float(scores["test_accuracy"])
    middle = trajectory["accuracy_surface"].sel(alpha_grid=0, beta_grid=0)
    assert float(middle) == float(scores["train_accuracy"])


@pytest.mark.parametrize(
    ("name", "part"), [("slices", "random"), ("lines", ""), ("trajectory", "")]
)
def test_regression_has_no_accuracy(name: str, part: str) -> None:
    variables = fabricate.made(name, "regression", part=part).variables
    assert not [variable for variable in variables if "accuracy" in str(variable)]


# One network, and its dense Hessian.


def posed(model: nn.Module, n: int = 50, n_classes: int = 3) -> Problem:
    """A network of four inputs, and classes that follow from nothing."""
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.randint(0, n_classes, (n,), generator=torch.Generator().manual_seed(2))
    return of_samples(model, samples(inputs, targets), n_classes=n_classes)


@pytest.fixture(scope="module")
def studied() -> Problem:
    torch.manual_seed(0)
    return posed(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)).double())


@pytest.fixture(scope="module")
def hessian(studied: Problem) -> Tensor:
    objective = studied.objective()
    return objective.hessian() @ torch.eye(objective.n_parameters, dtype=torch.float64)


def run(name: str, studied: Problem, seed: int = 3, shard: int = 0, **settings) -> xr.Dataset:
    """An analysis, told what it reads of the dense Hessian."""
    analysis, read = registry.analysis(name), {}
    if analysis.reads:
        H = studied.objective().hessian()
        read = known_of((H @ torch.eye(H.shape[0], dtype=H.dtype)).double())
    job = Job(seed, read, shard=shard, announce=lambda line: None)
    return analysis.module.run(studied, analysis.settings(**settings), job)


def gathered(shards: list[xr.Dataset], n_spectrum_samples: int, **read: xr.Dataset) -> xr.Dataset:
    analysis = registry.analysis("visibility")
    settings = analysis.settings(n_spectrum_samples=n_spectrum_samples)
    return analysis.module.gather(shards, settings, Job(3, read))


def sampled(studied: Problem, n_sketch: int, exact: bool = False) -> xr.Dataset:
    """200 random planes, beside a trace."""
    shards = [run("visibility", studied, n_planes=100, shard=shard) for shard in (0, 1)]
    trace = run("trace", studied, n_samples=200, n_sketch=n_sketch, exact=exact)
    pairs = xr.Dataset({"value": ("pair", np.empty(0))})
    return gathered(shards, 100, trace=trace, eigenpairs=pairs)


@pytest.mark.parametrize("exact", [False, True])
def test_a_trace_deflated_by_everything_is_exact(
    studied: Problem, hessian: Tensor, exact: bool
) -> None:
    """A sketch that spans the whole space leaves nothing to be sampled."""
    dataset = run("trace", studied, n_sketch=10_000, exact=exact)
    trace, values = float(hessian.trace()), torch.linalg.eigvalsh(hessian)
    assert float(dataset["trace"]) == pytest.approx(trace, rel=1e-9)
    assert float(dataset["trace_standard_error"]) < 1e-9 * trace
    assert float(dataset["frobenius_norm"]) == pytest.approx(float(hessian.norm()), rel=1e-9)
    np.testing.assert_allclose(dataset["ritz_value"], values[1:-1], atol=1e-9 * float(values[-1]))
    for left in ("ritz_residual", "rest_trace", "rest_frobenius_norm"):
        np.testing.assert_allclose(dataset[left], 0, atol=1e-9 * trace)


def test_exact_curvature_along_eigenvectors_is_that_of_float64(
    studied: Problem, hessian: Tensor
) -> None:
    """Products in float32 round; the second look at what they found must not."""
    single = dataclasses.replace(studied, dtype=torch.float32)
    found, arrays = run("eigenpairs", single, k_largest=2, max_products=200, steps=[1e-2])
    studied.objective()  # the model goes back to float64
    assert arrays["vectors"].dtype == np.float32
    V = torch.from_numpy(arrays["vectors"]).double()
    np.testing.assert_allclose(found["exact_curvature"], (V * (hessian @ V)).sum(0), rtol=1e-12)
    np.testing.assert_allclose(
        found["value"], torch.linalg.eigvalsh(hessian)[[0, -2, -1]], rtol=1e-4
    )


@pytest.mark.parametrize("n_sketch", [0, 5])
def test_planes_have_the_mean_and_the_variance_of_gaussian_ones(
    studied: Problem, hessian: Tensor, n_sketch: int
) -> None:
    dataset = sampled(studied, n_sketch)
    assert dataset.sizes["sample"] == 200
    curvatures = np.diagonal(dataset["projected_hessian"].values, axis1=1, axis2=2)
    trace, frobenius = float(hessian.trace()), float(hessian.norm())
    deviation = 2**0.5 * frobenius
    assert abs(curvatures.mean() - trace) < 4 * deviation / curvatures.size**0.5
    assert curvatures.std() == pytest.approx(deviation, rel=0.2)
    for name, exact in (("trace", trace), ("frobenius_norm", frobenius)):
        error = float(dataset[name.replace("_norm", "") + "_standard_error"])
        assert 0 < abs(float(dataset[name]) - exact) < 4 * error


def test_trace_adds_up_and_its_errors_are_those_of_repeated_estimates(
    studied: Problem, hessian: Tensor
) -> None:
    runs = [run("trace", studied, seed, n_samples=50, n_sketch=5) for seed in range(30)]
    ends = torch.linalg.eigvalsh(hessian)[[0, -1]]
    for one in (*runs[:3], run("trace", studied, n_sketch=0)):
        known = np.concatenate([ends, one["ritz_value"]])
        assert float(one["trace"]) == pytest.approx(known.sum() + float(one["rest_trace"]))
        squares = np.square(known).sum() + float(one["rest_frobenius_norm"]) ** 2
        assert float(one["frobenius_norm"]) ** 2 == pytest.approx(squares)
    for name, error, exact in (
        ("trace", "trace_standard_error", hessian.trace()),
        ("frobenius_norm", "frobenius_standard_error", hessian.norm()),
    ):
        scores = [(float(one[name]) - float(exact)) / float(one[error]) for one in runs]
        # The scatter of 30 scores is known to an eighth.
        assert np.std(scores) == pytest.approx(1, abs=0.5)
        assert abs(np.mean(scores)) < 4 / len(scores) ** 0.5


def test_a_larger_sketch_narrows_the_trace(studied: Problem) -> None:
    errors = [float(run("trace", studied, n_sketch=n)["trace_standard_error"]) for n in (0, 5, 20)]
    assert errors[0] > errors[1] > errors[2] > 0


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
        }
    )
    found = xr.Dataset({"value": ("pair", outliers[:n_pairs])})
    matrices = visibility.sample_from_spectrum(
        np.concatenate([outliers, bulk]), 0.0, 0.0, 2000, seeds.generator(0, "slices")
    )
    samples = xr.Dataset({"projected_hessian": (("sample", "row", "column"), matrices)})
    dataset = gathered([samples], 200_000, trace=reference, eigenpairs=found)
    # The kept quantiles are those that the one at 5 % is counted by.
    quantile = dataset["spectrum_quantile"]
    assert (np.diff(quantile) > 0).all()
    at_twentieth = np.interp(0.05, dataset["level"], quantile)
    below = (principal_curvatures(matrices)[0] < at_twentieth).mean()
    assert below == pytest.approx(float(dataset["lowest_twentieth"]), abs=2e-3)
    low, high = (float(dataset[f"lowest_twentieth_{end}"]) for end in ("low", "high"))
    assert (low < 0.05 < high) == fits
    assert fits or high < 0.01


def test_differences_go_on_beyond_the_shared_directions() -> None:
    dataset, _, record = fabricate.run("trace_estimators", n_samples=6, n_paired=30)
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
    assert set(record["seconds"]) == set(counts)


def test_estimators_on_fewer_images_have_a_reference_of_their_own(smooth: Problem) -> None:
    """The trace of a Hessian that PyTorch's second backward pass makes of the same images."""
    found = run("trace_estimators", smooth, n_samples=6, n_paired=40, n_images=21)
    assert found.attrs["n_images"] == 21
    images = dataclasses.replace(smooth, n_images=21).split("train")
    network = networks.Problem(smooth.model, smooth.loss, images.inputs.double(), images.targets)
    expected = float(networks.dense_hessian(network).trace())
    error = float(found["reference_standard_error"])
    assert 0 < error < 0.1 * expected
    assert abs(float(found["reference"]) - expected) < 4 * error
    exact = found.sel(estimator="directional")
    assert abs(float(exact["mean"]) - expected) < 4 * float(exact["standard_error"])
    whole = run("trace_estimators", smooth, n_samples=6, n_paired=40)
    assert whole.attrs["n_images"] == 50
    assert float(whole["reference_standard_error"]) == 0  # that of the analysis `trace`


# Discs in random planes.


@pytest.fixture(scope="module")
def smooth() -> Problem:
    torch.manual_seed(0)
    return posed(nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)).double())


def test_apparent_curvature_starts_at_the_exact_one_and_goes_as_far_as_rounding(
    smooth: Problem,
) -> None:
    radii = {"smallest_radius": 1e-3, "largest_radius": 10.0, "n_radii": 5}
    found = run("apparent_curvature", smooth, n_planes=30, **radii)
    near = found["mean_curvature"].sel(radius=1e-3)
    np.testing.assert_allclose(near, found["exact_curvature"], rtol=1e-3)
    assert (found["smallest"] <= found["mean_curvature"]).all()
    middle = (found["smallest"] + found["largest"]) / 2
    np.testing.assert_allclose(middle, found["mean_curvature"], rtol=1e-9, atol=1e-12)
    # The planes' mean is t/N within their scatter.
    error = float(found["exact_curvature"].std(ddof=1)) / 30**0.5
    assert abs(float(found["exact_curvature"].mean() - found["reference"])) < 4 * error
    assert found.attrs["n_images"] == 50
    # Tenfold radii, a hundredth of the rounding: what is left of it at 10⁻³ is 10⁻¹⁶/ρ².
    falls = found["rounding"].values[:-1] / found["rounding"].values[1:]
    assert (falls > 100).all()
    assert 1e-11 < float(found["rounding"][0]) < 1e-8


def test_apparent_curvature_of_fewer_images_has_a_reference_of_its_own(smooth: Problem) -> None:
    data = dataclasses.replace(smooth.dataset, n_classes=None)  # no balanced choice is asked for
    found = run("apparent_curvature", dataclasses.replace(smooth, dataset=data), n_images=20)
    assert found.attrs["n_images"] == 20
    assert float(found["reference"]) == pytest.approx(float(found["exact_curvature"].mean()))
    assert float(found["reference_standard_error"]) > 0


def test_rounding_of_float32_is_that_of_its_curvatures(smooth: Problem) -> None:
    """Apparent curvatures of float32 scatter about those of float64 by what is said."""
    single = dataclasses.replace(smooth, dtype=torch.float32)
    radii = {"smallest_radius": 0.003, "largest_radius": 0.03, "n_radii": 3}
    found = run("apparent_curvature", single, n_planes=60, **radii)
    smooth.objective()  # the model goes back to float64
    scatter = (found["mean_curvature"] - found["exact_curvature"]).sel(radius=0.003)
    said = float(found["rounding"][0])
    assert said > 1e-4
    assert 0.3 * said < float(scatter.std()) < 3 * said


def test_lowest_losses_against_the_points_themselves(smooth: Problem) -> None:
    """The Hessian plane's search by hand, and the control that a slope is steepest along."""
    found = run("lowest_losses", smooth, n_planes=20, n_radii=3, n_angles=8)
    objective = smooth.objective()
    n = objective.n_parameters
    H = objective.hessian() @ torch.eye(n, dtype=torch.float64)
    vectors = torch.linalg.eigh(H)[1]
    lowest = float(objective.value())
    assert float(found["loss"]) == lowest
    for k, radius in enumerate([0.01, 0.1, 1.0]):
        for angle in 2 * np.pi * np.arange(8) / 8:
            step = radius * (np.cos(angle) * vectors[:, -1] + np.sin(angle) * vectors[:, 0])
            lowest = min(lowest, float(objective.value(objective.theta + step)))
        assert float(found["hessian_lowest_loss"][k]) == pytest.approx(lowest, rel=1e-12)
    norm = float(objective.gradient().norm())
    fall = float(found["loss"] - found["slope_lowest_loss"][0])
    assert fall == pytest.approx(0.01 * norm, rel=0.1)
    np.testing.assert_allclose(found["random_slope"], norm * (2 / n) ** 0.5 * found["radius"])
    assert (found["lowest_loss"].diff("radius") <= 0).all()
    assert 0 < float(found["noise"]) < 1e-15


def test_differences_are_corrected_where_there_are_kinks() -> None:
    """On the same directions, with a shorter step; what it costs is counted."""
    dataset, _, record = fabricate.run("trace_estimators", n_samples=6, n_paired=30)
    plain, corrected, exact = (
        dataset.sel(estimator=name)
        for name in ("finite_difference", "finite_difference_corrected", "directional")
    )
    gaps = [(one["samples"] - exact["samples"]).values for one in (plain, corrected)]
    assert np.square(gaps[1]).mean() < 0.01 * np.square(gaps[0]).mean()
    assert float(corrected["step"]) < float(plain["step"])
    # Two values and a derivative of the activations a direction, a gradient for every 16, and L(θ);
    # beside that the choice of the step: for each that is tried the same along the four pilots.
    choice = float(corrected["passes"]) - (1 + 2 * 30 + 3 * 30 + 3 * 2)
    assert 10 < choice <= 10 + 17 * (2 * 4 + 3 * 4 + 3)
    assert "finite_difference_corrected" in record["seconds"]
    smooth = fabricate.run("trace_estimators", "smooth")[0]
    assert "finite_difference_corrected" not in smooth["estimator"].values


def test_kinks_that_are_not_known_leave_out_the_corrected_differences() -> None:
    said: list[str] = []
    studied = posed(nn.Sequential(nn.Linear(4, 4), nn.Threshold(0.0, 0.0)), 20, 4)
    job = Job(0, announce=said.append)
    dataset, _ = estimates.compare(studied.objective(), None, 4, 4, 5, 0, job)
    assert "finite_difference" in dataset["estimator"].values
    assert "finite_difference_corrected" not in dataset["estimator"].values
    assert any("Threshold" in line for line in said)


def test_kinks_along_the_directions_of_step_sizes() -> None:
    options = {"steps": [1e-3, 1e-4], "n_directions": 4}
    dataset = fabricate.run("kinks", **options)[0]
    others = fabricate.run("step_sizes", **options)[0].isel(n_images=-1)
    np.testing.assert_allclose(dataset["difference"], others["difference"], rtol=1e-12)
    np.testing.assert_allclose(dataset["exact"], others["exact"], rtol=1e-9)
    excess = (dataset["difference"] - dataset["exact"]).values
    assert np.abs(excess).max() > 0.1
    np.testing.assert_allclose(dataset["predicted"], excess, atol=0.02 * np.abs(excess).max())
    # Every kink is counted once at each step, under its sign and in its bin.
    assert (dataset["size"].sum("bin") == dataset["n_kinks"].sum("direction")).all()
    assert (np.sign(dataset["jump"]) == dataset["sign"] * (dataset["n_kinks"] > 0)).all()
    assert (dataset["n_kinks"].sum("sign").diff("step") <= 0).all()
    met = dataset["n_kinks"].isel(step=0).sum("sign") > 0
    assert (met == (dataset["nearest"] < 1e-3)).all()
    assert met.any()


# Problems, and what their networks are made of.


def test_the_test_split_gives_as_many_as_it_has_of_every_class() -> None:
    """Four classes of five training and, but for the last class, three test samples each."""
    whole = posed(nn.Linear(4, 4), 20, 4)
    train = Split(whole.dataset.train.inputs, torch.arange(4).repeat(5), torch.arange(20))
    data = dataclasses.replace(whole.dataset, train=train, test=train.take(range(10)))
    whole = dataclasses.replace(whole, dataset=data)
    lengths = {
        n: [len(dataclasses.replace(whole, n_images=n).split(s)) for s in ("train", "test")]
        for n in (12, 8, None)
    }
    assert lengths == {12: [12, 10], 8: [8, 8], None: [20, 10]}


def test_a_loss_that_does_not_fit_the_targets_is_refused(studied: Problem) -> None:
    assert problem.choose_loss("cross_entropy", studied.dataset) is nn.functional.cross_entropy
    with pytest.raises(ConfigurationError, match="mean_squared_error, but the targets of nothing"):
        problem.choose_loss("mean_squared_error", studied.dataset)


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
    few = {"n_images": [20, 8, 100], "steps": [0.1], "n_directions": 3, "sharpness": [10.0]}
    dataset = run("step_sizes", posed(nn.Sequential(*layers), 20, 4), **few)
    assert dataset.attrs["activation"] == kind
    assert ("softplus" in dataset) == softened
    assert list(dataset["n_images"].values) == [8, 20]
