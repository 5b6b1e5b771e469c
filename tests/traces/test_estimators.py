import itertools
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from matrices import generator, matrix
from networks import dense_hessian, objective_of, problem
from torch import Tensor, nn

from hessian_directions.cost import Cost
from hessian_directions.errors import ConfigurationError, NonFiniteError
from hessian_directions.geometry.directions import gaussian
from hessian_directions.objectives.objective import Objective
from hessian_directions.progress import Status
from hessian_directions.traces import estimators
from hessian_directions.traces.finite_differences import LossCurvature

SPECTRA = {
    "flat": torch.linspace(0.5, 1.5, 30),
    "outliers": torch.cat([torch.tensor([10.0, 5.0, -3.0]), 0.1 * torch.linspace(-1, 2, 27)]),
    "trace zero": torch.linspace(-1, 1, 30),
}

SIGNS = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8)), dtype=torch.float64).T

NETWORK = problem("tanh perceptron", n_samples=50)
INPUTS, TARGETS = NETWORK.inputs, NETWORK.targets


def network() -> Objective:
    return objective_of(NETWORK, batch_size=20)


def hessian() -> Tensor:
    return dense_hessian(NETWORK)


# --- Unbiased, with the variance that theory says and an honest standard error -------------------


@pytest.fixture(
    scope="module", params=itertools.product(SPECTRA, ["gaussian", "rademacher"]), ids="-".join
)
def sampled(request):
    """A matrix, a distribution, and fifty thousand samples."""
    spectrum, distribution = request.param
    H = matrix(SPECTRA[spectrum])
    return (
        H,
        distribution,
        estimators.hutchinson(H, 50_000, generator(), distribution, chunk=10_000),
    )


def test_hutchinson_is_unbiased_with_the_variance_of_theory(sampled):
    H, distribution, estimate = sampled
    squares = H.square().sum()
    if distribution == "rademacher":
        squares -= H.diagonal().square().sum()
    assert abs(estimate.mean - float(H.trace())) < 4.5 * estimate.standard_error
    assert float(estimate.samples.var()) == pytest.approx(float(2 * squares), rel=0.08)
    assert estimate.standard_error == pytest.approx(math.sqrt(2 * squares / 50_000), rel=0.04)
    assert estimate.n_samples == len(estimate.samples) == 50_000


def test_standard_errors_cover(sampled):
    H, _, whole = sampled
    parts = whole.samples.reshape(1000, 50)
    estimates = [estimators.estimate_from_samples(part, Cost()) for part in parts]
    errors = [abs(e.mean - float(H.trace())) / e.standard_error for e in estimates]
    covered = sum(error < 1.96 for error in errors) / 1000
    assert 0.90 < covered < 0.97


def test_standard_errors_of_hutch_plus_plus_cover():
    H = matrix(SPECTRA["outliers"])
    drawing = generator()
    estimates = [estimators.hutch_plus_plus(H, 45, drawing) for _ in range(400)]
    errors = [abs(e.mean - float(H.trace())) / e.standard_error for e in estimates]
    assert 0.88 < sum(error < 1.96 for error in errors) / 400 < 0.98
    z = torch.tensor([e.mean for e in estimates], dtype=torch.float64) - H.trace()
    assert abs(float(z.mean())) < 4.5 * float(z.std()) / math.sqrt(400)


def test_mean_over_all_signs_is_the_trace():
    H = matrix(torch.linspace(-2, 5, 8))
    estimate = estimators.hutchinson(H, directions=SIGNS, chunk=7)
    assert estimate.mean == pytest.approx(float(H.trace()), rel=1e-13)
    assert estimate.n_samples == 256


# --- Stopping ------------------------------------------------------------------------------------


def stops_as_pyhessian(samples: Tensor, tolerance: float = 1e-3) -> int:
    """Samples that PyHessian takes: it stops when the mean moves by little."""
    mean = 0.0
    for i in range(1, len(samples) + 1):
        moved = float(samples[:i].mean())
        if abs(moved - mean) / (abs(mean) + 1e-6) < tolerance:
            return i
        mean = moved
    return len(samples)


def test_pyhessian_stops_by_chance():
    """Two successive means may agree by chance; a standard error that is small may not."""
    H = matrix(SPECTRA["outliers"])
    true, spread = float(H.trace()), math.sqrt(2) * float(H.norm())
    theirs, errors = [], []
    for seed in range(100):
        samples = estimators.hutchinson(H, 100, generator(seed), "gaussian").samples
        theirs.append(stops_as_pyhessian(samples))
        ours = estimators.hutchinson(
            H, 5000, generator(seed), "gaussian", relative_error=0.1, chunk=32
        )
        assert estimators.MIN_SAMPLES <= ours.n_samples < 5000
        assert ours.standard_error <= 0.1 * abs(ours.mean)
        errors.append(abs(ours.mean - true) / ours.standard_error)
        # what the rule promises holds for the true error too
        assert spread / math.sqrt(ours.n_samples) < 0.2 * true
    needed = (spread / (0.1 * true)) ** 2
    assert min(theirs) < needed / 10
    assert sum(error < 1.96 for error in errors) >= 86


def test_a_trace_of_zero_stops_at_the_absolute_floor():
    H = matrix(SPECTRA["trace zero"])
    with pytest.warns(estimators.PrecisionWarning, match="After 640 samples"):
        relative = estimators.hutchinson(H, 640, generator(), relative_error=0.05)
    assert relative.n_samples == 640
    estimate = estimators.hutchinson(
        H, 20_000, generator(), relative_error=0.05, absolute_error=0.2
    )
    assert 32 <= estimate.n_samples < 1000
    assert estimate.standard_error <= 0.2


def test_samples_without_spread_do_not_stop_before_the_minimum():
    H = torch.eye(6, dtype=torch.float64)
    estimate = estimators.hutchinson(H, 100, generator(), relative_error=0.1, chunk=1)
    assert estimate.n_samples == 32


@pytest.mark.parametrize("spectrum", ["flat", "outliers"])
def test_standard_errors_cover_where_they_decide_when_to_stop(spectrum):
    """What stopping costs: two of a hundred intervals, as the module says."""
    H = matrix(SPECTRA[spectrum])
    true, drawing = float(H.trace()), generator()
    wanted = 0.3 * math.sqrt(2) * float(H.norm()) / math.sqrt(32)  # about 350 samples
    estimates = [
        estimators.hutchinson(H, None, drawing, "gaussian", absolute_error=wanted)
        for _ in range(1000)
    ]
    counts = [e.n_samples for e in estimates]
    assert 32 < min(counts) < max(counts) < 1000
    covered = sum(abs(e.mean - true) < 1.96 * e.standard_error for e in estimates) / 1000

    assert 0.91 < covered < 0.97


def test_without_a_number_five_percent_are_reached():
    H = matrix(SPECTRA["flat"])
    estimate = estimators.hutchinson(H, seed=3, chunk=8)
    assert estimate.standard_error <= 0.05 * estimate.mean
    assert 32 <= estimate.n_samples < estimators.MAX_SAMPLES
    assert estimate.seed == 3
    assert estimators.hutchinson(H, 40, generator()).seed is None
    assert estimators.hutchinson(H, directions=torch.ones(30, 2)).seed is None


# --- Deflation and Hutch++ -----------------------------------------------------------------------


@pytest.mark.parametrize("k", range(9))
def test_deflation_is_exact_for_any_directions(k):
    """Over all sign vectors the mean is the trace, whatever was deflated."""
    H = matrix(torch.linspace(-2, 5, 8))
    V = gaussian(8, k, generator())  # neither eigenvectors nor orthonormal
    estimate = estimators.deflated(H, V, directions=SIGNS)
    assert estimate.mean == pytest.approx(float(H.trace()), rel=1e-12)


def test_deflation_by_eigenvectors_removes_their_variance():
    H = matrix(SPECTRA["outliers"])
    pairs = SimpleNamespace(vectors=torch.linalg.eigh(H).eigenvectors[:, [0, -2, -1]])
    plain = estimators.hutchinson(H, 400, generator(), chunk=100)
    estimate = estimators.deflated(H, pairs, 400, generator(), chunk=100)
    assert estimate.standard_error < 0.1 * plain.standard_error
    assert abs(estimate.mean - float(H.trace())) < 4.5 * estimate.standard_error


def test_deflation_by_vectors_of_low_precision():
    """Vectors stored in float32 are orthonormal to 1e-7 only; the trace is exact all the same."""
    H = matrix(torch.tensor([1e6, *torch.linspace(0, 1, 7).tolist()]))
    V = torch.linalg.eigh(H).eigenvectors[:, -2:].float()
    estimate = estimators.deflated(H, V, directions=SIGNS)
    assert estimate.mean == pytest.approx(float(H.trace()), rel=1e-12)


def test_deflating_everything_leaves_nothing_to_sample():
    H = matrix(torch.linspace(-2, 5, 8))
    estimate = estimators.deflated(H, torch.eye(8, dtype=torch.float64), 10, generator())
    assert estimate.mean == pytest.approx(float(H.trace()))
    assert estimate.standard_error == 0
    assert estimate.cost.passes == {"hessian_vector_product float64": 8}


@pytest.mark.parametrize("rank", [0, 1, 5, 10])
def test_hutch_plus_plus_is_exact_at_low_rank(rank):
    H = matrix(torch.cat([torch.linspace(-3, 4, rank), torch.zeros(30 - rank)]))
    estimate = estimators.hutch_plus_plus(H, 30, generator())
    assert estimate.mean == pytest.approx(float(H.trace()), abs=1e-10)
    assert estimate.standard_error < 1e-10


@pytest.mark.parametrize("n", [1, 2, 3])
def test_hutch_plus_plus_on_tiny_matrices(n):
    H = matrix(torch.arange(1.0, n + 1))
    assert estimators.hutch_plus_plus(H, 12, generator()).mean == pytest.approx(n * (n + 1) / 2)


@pytest.mark.parametrize("n_products", [4, 10, 31, 32])
def test_hutch_plus_plus_spends_the_products_it_was_given(n_products):
    told = []
    estimate = estimators.hutch_plus_plus(
        matrix(SPECTRA["flat"]), n_products, generator(), progress=told.append
    )
    assert estimate.cost.passes == {"hessian_vector_product float64": n_products}
    assert told[-1] == Status(n_products, n_products, "products", 0)


def test_hutch_plus_plus_needs_four_products():
    with pytest.raises(ValueError, match="4 products"):
        estimators.hutch_plus_plus(torch.eye(5), 3, generator())


# --- Exact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch"), [(1, 64), (2, 1), (30, 7), (30, 30)])
def test_exact_trace_of_a_matrix(n, batch):
    H = matrix(torch.linspace(-1, 3, n))
    done = []
    estimate = estimators.exact(H, batch, progress=lambda now: done.append((now.done, now.total)))
    assert estimate.mean == pytest.approx(float(H.trace()), rel=1e-12)
    assert estimate.standard_error == 0
    assert estimate.samples.tolist() == [estimate.mean]
    assert estimate.cost.passes == {"hessian_vector_product float64": n}
    assert done[-1] == (n, n)


# --- Networks ------------------------------------------------------------------------------------


def test_exact_trace_of_a_network():
    objective = network()
    true = float(hessian().trace())
    assert estimators.exact(objective.hessian()).mean == pytest.approx(true, rel=1e-10)
    assert estimators.exact(objective).mean == pytest.approx(true, rel=1e-10)


def test_all_ways_to_the_curvature_agree_on_the_same_directions():
    """Loss values, second derivatives and products: five digits, sample by sample."""
    objective = network()
    dense = hessian()
    V = gaussian(objective.n_parameters, 40, generator())
    expected = (V * (dense @ V)).sum(0)
    scale = float(expected.abs().max())
    estimates = {
        "products": estimators.hutchinson(objective.hessian(), directions=V),
        "derivatives": estimators.directional(objective, directions=V),
        "differences": estimators.finite_difference(objective, directions=V),
        "parabolas": estimators.quadratic_fit(objective, directions=V),
    }
    for name, tolerance in zip(estimates, (1e-12, 1e-12, 1e-5, 1e-5)):
        samples = estimates[name].samples
        torch.testing.assert_close(samples, expected, rtol=0, atol=tolerance * scale)
        assert estimates[name].mean == pytest.approx(float(expected.mean()), abs=tolerance * scale)
    assert estimates["differences"].step > 0
    assert math.isnan(estimates["products"].step)


def test_one_generator_state_gives_every_estimator_the_same_directions():
    objective = network()
    differences = estimators.finite_difference(objective, 20, generator(5))
    for estimate in (
        estimators.directional(objective, 20, generator(5)),
        estimators.hutchinson(objective.hessian(), 20, generator(5), "gaussian", chunk=3),
    ):
        torch.testing.assert_close(estimate.samples, differences.samples, rtol=1e-4, atol=1e-4)


def test_differences_of_a_float32_network_are_taken_in_float64():
    model = problem("tanh perceptron").model.float()
    objective = Objective(model, NETWORK.loss, INPUTS.float(), TARGETS)
    V = gaussian(objective.n_parameters, 10, generator())
    differences = estimators.finite_difference(objective, directions=V)
    dense = hessian()
    expected = (V * (dense @ V)).sum(0)
    torch.testing.assert_close(differences.samples, expected, rtol=1e-5, atol=1e-5)
    assert set(differences.cost.passes) == {"value float64"}


def test_deflation_combines_with_loss_values():
    """The dominant curvatures by derivatives, the rest from loss values alone."""
    objective = network()
    dense = hessian()
    V = torch.linalg.eigh(dense).eigenvectors[:, -4:]
    by_values = estimators.deflated(
        objective, V, 60, generator(), sampling=LossCurvature(objective)
    )
    by_products = estimators.deflated(objective.hessian(), V, 60, generator())
    plain = estimators.hutchinson(dense, 60, generator())
    torch.testing.assert_close(by_values.samples, by_products.samples, rtol=1e-4, atol=1e-4)
    assert by_values.standard_error < plain.standard_error
    assert abs(by_values.mean - float(dense.trace())) < 5 * by_values.standard_error
    assert by_values.cost.passes["second_directional_derivative float64"] == 4
    assert by_values.cost.passes["value float64"] >= 2 * 60 + 1
    assert by_values.step > 0


# --- Cost, progress, errors ----------------------------------------------------------------------


def test_cost_counts_passes_of_this_estimate_alone():
    objective = network()
    objective.gradient()
    estimate = estimators.hutchinson(objective.hessian(), 7, generator())
    assert estimate.cost.passes == {"hessian_vector_product float64": 7}
    assert estimators.directional(objective, 5, generator()).cost.passes == {
        "second_directional_derivative float64": 5
    }
    stepped = estimators.finite_difference(objective, 5, generator(), step=1e-4)
    assert stepped.cost.passes == {"value float64": 11}
    assert stepped.step == 1e-4
    fitted = estimators.quadratic_fit(objective, 5, generator(), step=1e-4, n_points=5)
    assert fitted.cost.passes == {"value float64": 21}
    assert 0 < stepped.cost.seconds < 10


def test_progress_is_announced_after_every_chunk():
    told = []
    estimators.hutchinson(torch.eye(3), 10, generator(), chunk=4, progress=told.append)
    assert [(now.done, now.total) for now in told] == [(4, 10), (8, 10), (10, 10)]
    assert told[-1].seconds_left == 0
    assert all(now.seconds_left >= 0 for now in told)


def test_shards_pool_to_one_estimate():
    H, drawing = matrix(SPECTRA["flat"]), generator(3)
    shards = [estimators.hutchinson(H, 10, drawing) for _ in range(3)]
    pooled = estimators.estimate_from_samples(
        torch.cat([s.samples for s in shards]), shards[0].cost + shards[1].cost + shards[2].cost
    )
    whole = estimators.hutchinson(H, 30, generator(3))
    assert pooled.mean == pytest.approx(whole.mean)
    assert pooled.standard_error == pytest.approx(whole.standard_error)
    assert pooled.cost.passes == whole.cost.passes


def test_what_is_asked_for_must_be_clear():
    H = torch.eye(3)
    with pytest.raises(ConfigurationError, match="not both"):
        estimators.hutchinson(H, 5, generator(), directions=torch.ones(3, 2))
    with pytest.raises(ConfigurationError, match=r"\(3, K\)"):
        estimators.hutchinson(H, directions=torch.ones(4, 2))
    with pytest.raises(ValueError, match="n_samples must be a whole number, at least 2"):
        estimators.hutchinson(H, 1, generator())


@pytest.mark.parametrize("n", [1, 2])
def test_smallest_matrices(n):
    H = matrix(torch.arange(1.0, n + 1))
    assert estimators.hutchinson(
        H, 2000, generator(), "gaussian", chunk=2000
    ).mean == pytest.approx(n * (n + 1) / 2, rel=0.15)


@pytest.mark.parametrize(
    ("activation", "kinks"),
    [
        (nn.ReLU(), ["Relu"]),
        (nn.Hardswish(), ["Hardswish"]),
        (nn.MaxPool1d(2), ["MaxPool2DWithIndices"]),
        (nn.Softplus(), []),
        (nn.SELU(), ["Elu"]),
        (nn.ELU(), []),
        (nn.CELU(2.0), []),
        (nn.GELU(), []),
    ],
)
def test_differences_of_losses_warn_of_kinks(activation: nn.Module, kinks: list[str]) -> None:
    """They measured 232.1 ± 4.2 for a trace of 199.65, and the README showed them first."""
    model = nn.Sequential(nn.Linear(4, 6), activation, nn.LazyLinear(3)).double()
    model(INPUTS[:2])
    objective = Objective(model, nn.functional.cross_entropy, INPUTS, TARGETS)
    assert objective.kinks() == kinks
    v = torch.ones(objective.n_parameters, 2, dtype=torch.float64)
    for estimator in (estimators.finite_difference, estimators.quadratic_fit):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator(objective, directions=v, step=1e-3)
        said = [str(w.message) for w in caught if w.category is estimators.KinkWarning]
        assert len(said) == bool(kinks)
        assert all(kinks[0] in line and "trace.directional" in line for line in said)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimators.directional(objective, directions=v)


def test_directions_may_be_lists_or_numpy_arrays() -> None:
    objective = network()
    V = torch.randn(objective.n_parameters, 3, dtype=torch.float64)
    expected = estimators.directional(objective, directions=V).mean
    for directions in (V.numpy(), V.tolist(), [list(row) for row in V]):
        assert estimators.directional(objective, directions=directions).mean == expected
        assert estimators.hutchinson(objective.hessian(), directions=directions).n_samples == 3
        deflated = estimators.deflated(objective, directions, directions=directions)
        assert math.isclose(
            deflated.mean, estimators.deflated(objective, V, directions=V).mean, rel_tol=1e-12
        )


EYE = torch.eye(6, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: estimators.hutchinson(EYE, relative_error=None),
            "relative_error must be a number",
        ),
        (lambda: estimators.hutchinson(EYE, relative_error=math.nan), "at least 0, not nan"),
        (lambda: estimators.hutchinson(EYE, relative_error=-1.0), "at least 0, not -1.0"),
        (lambda: estimators.hutchinson(EYE, absolute_error="1"), "absolute_error must be a number"),
        (lambda: estimators.hutchinson(EYE, directions=1j * EYE), "complex, but must be real"),
        (lambda: estimators.hutchinson(EYE, directions=0 * EYE), "length zero or is not finite"),
        (lambda: estimators.hutchinson(EYE, directions=EYE[:5]), r"shape \(5, 6\), not \(6, K\)"),
        (lambda: estimators.deflated(EYE, 1j * EYE), "complex, but must be real"),
        (lambda: estimators.deflated(EYE, math.nan * EYE), "length zero or is not finite"),
        (lambda: estimators.deflated(EYE, EYE[:5]), r"shape \(5, 6\), not \(6, K\)"),
        (lambda: estimators.hutch_plus_plus(EYE, 10.5), "n_products must be a whole number"),
        (lambda: estimators.deflated(EYE, EYE[:, :1], sampling=EYE), "sampling is a Tensor, but"),
        (
            lambda: estimators.deflated(EYE, EYE[:, :1], sampling=network()),
            "sampling is a Objective",
        ),
        (lambda: estimators.deflated(EYE, EYE[:, :1], sampling=sum), "sampling is a builtin"),
        (
            lambda: estimators.deflated(
                EYE, EYE[:, :1], sampling=estimators.ProductCurvature(torch.eye(7))
            ),
            "sampling has 7 parameters, but the source 6",
        ),
        (lambda: estimators.estimate_from_samples(EYE, Cost()), "at least two samples, in one row"),
        (lambda: LossCurvature(None, "1"), "step must be a positive and finite number, not '1'"),
        (lambda: LossCurvature(None, math.nan), "step must be a positive"),
    ],
)
def test_arguments_that_are_none(ask, message):
    with pytest.raises(ConfigurationError, match=message):
        ask()


def test_samples_that_are_not_finite_have_no_mean():
    with pytest.raises(NonFiniteError, match="A sample is not finite"):
        estimators.estimate_from_samples([1.0, math.nan], Cost())


def test_one_vector_is_a_column():
    H = matrix(range(6))
    v = torch.linalg.eigh(H).eigenvectors[:, -1]
    one, column = (estimators.deflated(H, V, 8, generator()) for V in (v, v[:, None]))
    assert torch.equal(one.samples, column.samples)
