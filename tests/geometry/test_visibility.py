import copy
import math

import numpy as np
import pytest
import torch
from matrices import diagonal, generator, matrix
from networks import saddle
from scipy import special
from torch import nn

from hessian_directions.errors import ArgumentError, HessianDirectionsError
from hessian_directions.geometry import synthetic, visibility
from hessian_directions.geometry.directions import gaussian, orthonormalise
from hessian_directions.geometry.principal_curvatures import (
    critical_dimension,
    critical_dimension_of_density,
    principal_curvatures,
)
from hessian_directions.objectives.objective import Objective
from hessian_directions.progress import Status
from hessian_directions.spectral.spectrum import spectral_density

# Ten outliers 1 … 10 over a bulk of 600 eigenvalues 0.1 and 440 eigenvalues −0.1.
OUTLIERS = np.arange(1.0, 11.0)
BULK = np.repeat([0.1, -0.1], [600, 440])
BULK_TRACE, BULK_FROBENIUS = float(BULK.sum()), float(np.linalg.norm(BULK))


def assert_moments(M: np.ndarray, trace: float, frobenius: float) -> None:
    """E M = t·I, Var A = Var C = 2f², Var B = f², to five standard errors."""
    n = len(M)
    entries = {"A": M[:, 0, 0], "C": M[:, 1, 1], "B": M[:, 0, 1]}
    for name, mean, variance in (
        ("A", trace, 2 * frobenius**2),
        ("C", trace, 2 * frobenius**2),
        ("B", 0.0, frobenius**2),
    ):
        x = entries[name]
        assert abs(x.mean() - mean) < 5 * math.sqrt(variance / n), name
        spread = ((x - x.mean()) ** 2).std() / math.sqrt(n)
        assert abs(x.var() - variance) < 5 * spread, name
    assert (M[:, 0, 1] == M[:, 1, 0]).all()


# --- The formula and its conditions --------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_positive", "sampled", "predicted"),
    [
        (500, 0.7083, 0.7071),
        (520, 0.4737, 0.4740),
        (540, 0.1428, 0.1428),
        (560, 0.0189, 0.0193),
        (580, 0.00112, 0.00117),
    ],
)
def test_visibility_of_synthetic_saddles(n_positive, sampled, predicted):
    """Values obtained once with 10⁶ directly sampled projections, n = 500."""
    eigenvalues = synthetic.eigenvalues(500, n_positive)
    formula = visibility.formula(eigenvalues)
    assert formula.probability == pytest.approx(predicted, rel=5e-3)
    assert formula.third_moment == pytest.approx(1000 / 1000**1.5)
    M = visibility.sample_from_spectrum(eigenvalues, 0.0, 0.0, 400_000, generator())
    share = visibility.share_of_saddles(M, confidence=0.9999)
    margin = 4 * math.sqrt(sampled * (1 - sampled) / 1e6)
    assert share.low - margin < sampled < share.high + margin


def test_the_formula_says_where_it_does_not_hold():
    """With ten outliers it says 0.03 where the truth is below 10⁻⁴."""
    formula = visibility.formula(OUTLIERS, BULK_TRACE, BULK_FROBENIUS)
    assert formula.probability == pytest.approx(0.03, abs=0.003)
    assert formula.third_moment > 0.3
    assert formula.tail > 1
    M = visibility.sample_from_spectrum(OUTLIERS, BULK_TRACE, BULK_FROBENIUS, 200_000, generator())
    assert visibility.share_of_saddles(M).high < 1e-4


def test_formula_from_parts_and_from_the_whole_spectrum_agree():
    parts = visibility.formula(OUTLIERS, BULK_TRACE, BULK_FROBENIUS)
    whole = visibility.formula(np.concatenate([OUTLIERS, BULK]))
    assert parts.probability == pytest.approx(whole.probability)
    assert parts.tail == pytest.approx(whole.tail)
    assert parts.third_moment <= whole.third_moment
    assert visibility.formula([], 3.0, 2.0).probability == pytest.approx(
        math.exp(-(1.5**2) / 4) / math.sqrt(2)
    )


def exact_visibility(a: float, n_a: int, b: float, n_b: int) -> float:
    """P(κ₋ < 0 < κ₊) in closed form for n_a eigenvalues a and n_b eigenvalues −b, a, b > 0.

    M = a·W_a − b·W_b has a root of either sign where b/(a + b) lies between the two roots x < y of
    (W_a + W_b)⁻¹W_a, W Wishart matrices. Their density is that of Selberg's integral,
    (y − x)·(xy)^p·((1 − x)(1 − y))^q with p = (n_a − 3)/2 and q = (n_b − 3)/2: what lies below b/(a
    + b) in x and above it in y are incomplete beta functions.
    """
    p, q, threshold = (n_a - 1) / 2, (n_b - 1) / 2, b / (a + b)
    # Of p, and of p + 1: the integrals over x below, and over y above the threshold.
    logs = [special.betaln(p + k, q) for k in (0, 1)]
    below = [special.betainc(p + k, q, threshold) for k in (0, 1)]
    above = [special.betaincc(p + k, q, threshold) for k in (0, 1)]
    gamma = special.gammaln
    selberg = sum(
        gamma(p + j / 2) + gamma(q + j / 2) + gamma(1 + (j + 1) / 2) for j in (0, 1)
    ) - sum(gamma(p + q + (1 + j) / 2) + gamma(1.5) for j in (0, 1))
    scale = math.exp(logs[0] + logs[1] - selberg)
    return 2 * scale * (below[0] * above[1] - below[1] * above[0])


@pytest.mark.parametrize(
    ("a", "n_a", "b", "n_b", "factor"),
    [
        (1.0, 700, 0.5, 1000, 0.446),  # r = 6.49: the other two conditions are 0.03 and 0.21
        (0.5, 1000, 1.0, 700, 0.446),  # the same upside down, r = −6.49
        (0.5, 1000, 1.0, 400, 1.147),
        (0.5, 2000, 1.0, 700, 3.58),
        (1.0, 500, 1.0, 440, 1.0),
    ],
)
def test_the_next_order_holds_in_the_tail(a, n_a, b, n_b, factor):
    """Where the limit alone is wrong by up to 3.6, and the condition says so."""
    formula = visibility.formula(np.repeat([a, -b], [n_a, n_b]))
    exact = exact_visibility(a, n_a, b, n_b)
    assert exact / formula.probability == pytest.approx(factor, rel=0.01)
    assert formula.corrected == pytest.approx(exact, rel=0.1)
    assert formula.third_moment < 0.04
    assert formula.tail < 0.26
    assert (formula.condition > 0.5) == (abs(math.log(factor)) > 0.1)


def test_slices_from_the_spectrum_agree_with_the_closed_form():
    """In the tail, by three million samples: 8.5·10⁻⁶, where the limit says 1.9·10⁻⁵."""
    values = np.repeat([1.0, -0.5], [700, 1000])
    M = visibility.sample_from_spectrum(values, 0.0, 0.0, 3_000_000, generator())
    share = visibility.share_of_saddles(M, confidence=0.999)
    assert share.low < exact_visibility(1.0, 700, 0.5, 1000) < share.high
    assert share.high < visibility.formula(values).probability


def test_zero_hessian_has_no_visibility():
    with pytest.raises(ValueError, match="zero"):
        visibility.formula([0.0, 0.0])


# --- From the spectrum ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eigenvalues", "rest_trace", "rest_frobenius"),
    [
        ([3.0], 0.0, 0.0),
        ([3.0, -2.0, -2.0, 0.5], 0.0, 0.0),
        ([], 4.0, 1.5),
        ([3.0, -2.0], -1.0, 0.7),
    ],
)
def test_spectrum_samples_have_the_moments_of_theory(eigenvalues, rest_trace, rest_frobenius):
    M = visibility.sample_from_spectrum(
        eigenvalues, rest_trace, rest_frobenius, 100_000, generator()
    )
    trace = sum(eigenvalues) + rest_trace
    frobenius = math.hypot(*eigenvalues, rest_frobenius)
    assert_moments(M, trace, frobenius)


def test_equal_eigenvalues_are_drawn_as_if_they_were_apart():
    """One Wishart matrix of three degrees against three outer products: the same κ₋ and κ₊."""
    together = visibility.sample_from_spectrum([2.0] * 3, 0.0, 0.0, 100_000, generator(1))
    apart = visibility.sample_from_spectrum(
        [2.0, 2.0 + 1e-9, 2.0 - 1e-9], 0.0, 0.0, 100_000, generator(2)
    )
    for one, other in zip(principal_curvatures(together), principal_curvatures(apart)):
        probabilities = np.linspace(0.02, 0.98, 49)
        points = np.quantile(one, probabilities)
        reached = np.searchsorted(np.sort(other), points) / len(other)
        assert np.abs(reached - probabilities).max() < 2.7 * math.sqrt(2 / 100_000)


def test_a_single_eigenvalue_has_rank_one():
    M = visibility.sample_from_spectrum([2.0], 0.0, 0.0, 1000, generator())
    smallest, largest = principal_curvatures(M)
    np.testing.assert_allclose(smallest, 0, atol=1e-12 * largest.max())


def test_samples_come_from_the_generator():
    arguments = ([1.0, -2.0], 0.3, 0.1, 10)
    first = visibility.sample_from_spectrum(*arguments, generator(7))
    np.testing.assert_array_equal(visibility.sample_from_spectrum(*arguments, generator(7)), first)
    assert (visibility.sample_from_spectrum(*arguments, generator(8)) != first).all()
    drawing = generator(7)
    visibility.sample_from_spectrum(*arguments, drawing)
    assert (visibility.sample_from_spectrum(*arguments, drawing) != first).all()


# --- From projections ----------------------------------------------------------------------------


def test_projections_and_spectrum_agree():
    """Outliers of both signs over a bulk, which the spectrum replaces by two numbers."""
    outliers, bulk = np.array([6.0, 3.0, -4.0]), 0.2 * np.linspace(-1, 1.3, 300)
    H = diagonal(np.concatenate([outliers, bulk]))
    direct = visibility.sample_projections(H, 8000, generator(), chunk=500)
    spectral = visibility.sample_from_spectrum(
        outliers, float(bulk.sum()), float(np.linalg.norm(bulk)), 200_000, generator()
    )
    assert_moments(direct, float(H.diagonal.sum()), float(H.diagonal.norm()))
    seen = visibility.share_of_saddles(direct, confidence=0.9999)
    predicted = visibility.share_of_saddles(spectral, confidence=0.9999)
    assert seen.low < predicted.high
    assert predicted.low < seen.high
    # the formula is not what decides here
    formula = visibility.formula(np.concatenate([outliers, bulk])).probability
    assert not seen.low < formula < seen.high


def test_projections_do_not_depend_on_chunks_or_on_the_basis():
    values = torch.tensor([2.0, -1.0, 0.5, 0.1], dtype=torch.float64)
    Q = orthonormalise(gaussian(4, 4, generator(3)))
    dense = Q @ torch.diag(values) @ Q.T
    M = visibility.sample_projections(dense, 20, generator(), chunk=20)
    np.testing.assert_allclose(
        visibility.sample_projections(dense, 20, generator(), chunk=3), M, rtol=1e-12, atol=1e-12
    )
    V = gaussian(4, 40, generator()).reshape(4, 20, 2)
    expected = torch.einsum("nsi,nm,msj->sij", V, dense, V)
    np.testing.assert_allclose(M, expected, rtol=1e-12, atol=1e-12)


def test_projections_of_an_objective():
    objective = saddle(5, 3)
    told = []
    M = visibility.sample_projections(objective.hessian(), 10, generator(), progress=told.append)
    expected = visibility.sample_projections(synthetic.hessian(5, 3), 10, generator())
    np.testing.assert_allclose(M, expected, rtol=1e-12, atol=1e-12)
    assert objective.cost.passes == {"hessian_vector_product float64": 20}
    assert told[-1] == Status(10, 10, "planes", 0)


def test_share_of_saddles_counts_both_signs():
    M = np.array([np.diag(d) for d in ([1, -1], [1, 1], [-1, -2], [0, 1], [-3, 5.0])])
    share = visibility.share_of_saddles(M)
    assert share.probability == pytest.approx(0.4)
    assert 0 < share.low < 0.4 < share.high < 1


ONE_SIGN = {
    "rank one": [0.0] * 59 + [3.0],
    "rank one, small": [0.0] * 59 + [3e-9],
    "rank two": [0.0] * 58 + [1e-3, 5.0],
    "of full rank": np.geomspace(1e-6, 1.0, 60),
    "zero": [0.0] * 60,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ONE_SIGN)
def test_rounding_is_no_curvature(name, sign, dtype):
    """A semidefinite Hessian has no saddle in any slice, and no dimension shows it."""
    values = sign * np.array(ONE_SIGN[name])
    H = matrix(values).to(dtype)
    for M in (
        visibility.sample_projections(H, 300, generator()),
        visibility.sample_from_spectrum(values, 0.0, 0.0, 3000, generator()),
    ):
        assert visibility.share_of_saddles(M).probability == 0
    found = spectral_density(H, 3, 20, generator())
    wanted = critical_dimension_of_density(found.nodes, found.weights, 60).dimension
    assert wanted == (0 if sign < 0 and any(values) else math.inf)


@pytest.mark.parametrize(("dtype", "small"), [(torch.float64, 1e-9), (torch.float32, 0.1)])
def test_small_curvature_of_the_other_sign_is_no_rounding(dtype, small):
    """Of diag(1, −s) every slice shows a saddle, det M = −s·det[η δ]², but those that hardly do."""
    for values in ([1.0, -small], [-1.0, small]):
        M = visibility.sample_projections(diagonal(values, dtype), 300, generator())
        assert visibility.share_of_saddles(M).probability > 0.97
    found = spectral_density(diagonal([1.0, -small], dtype), 2, 2, generator())
    assert critical_dimension_of_density(found.nodes, found.weights, 2).dimension < math.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_convex_losses_show_no_saddle(dtype):
    X = torch.randn(60, 6, generator=generator()).to(dtype)
    Y = torch.randint(2, (60,), generator=generator(1))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2)).to(dtype)
    last = Objective(model, nn.functional.cross_entropy, X, Y, parameters="2.bias")
    saturated = copy.deepcopy(model)
    with torch.no_grad():
        saturated[2].weight.mul_(40)
    sure = Objective(saturated, nn.functional.cross_entropy, X, Y, parameters="2.bias")
    few = Objective(model, nn.functional.cross_entropy, X[:1], Y[:1])
    for H in (last.hessian(), sure.hessian(), few.gauss_newton()):  # all of rank one
        d = min(4, H.shape[0])
        assert (visibility.first_negative_dimension(H, d, 30, generator()) == d + 1).all()
        M = visibility.sample_projections(H, 300, generator())
        assert visibility.share_of_saddles(M).probability == 0


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: visibility.formula([1.0, math.nan]), "not finite"),
        (lambda: visibility.formula([1.0], math.inf), "not finite"),
        (lambda: visibility.formula([1.0], 1.0, -2.0), "rest_frobenius"),
        (lambda: visibility.sample_from_spectrum([1.0, math.nan], 0.0, 0.0, 5), "not finite"),
        (lambda: visibility.sample_from_spectrum([math.inf], 0.0, 0.0, 5), "not finite"),
        (lambda: visibility.sample_from_spectrum([1.0], math.inf, 0.0, 5), "not finite"),
        (lambda: visibility.sample_from_spectrum([1.0], math.nan, 0.0, 5), "rest_trace"),
        (lambda: visibility.sample_from_spectrum([1.0], "1", 0.0, 5), "rest_trace"),
        (lambda: visibility.share_of_saddles([[[1.0, 5.0], [0.0, 1.0]]]), "not symmetric"),
        (lambda: visibility.share_below(math.nan * np.zeros((3, 2, 2)), 0.0), "not finite"),
        (lambda: visibility.share_below(np.zeros((3, 2, 2)), math.nan), "bound"),
        (lambda: visibility.share_seeing_negative([1, 2], "1"), "dimension"),
        (lambda: visibility.share_of_saddles(np.zeros((0, 2, 2))), "no samples"),
        (lambda: visibility.sample_from_spectrum([1.0], 0.0, -1.0, 5), "rest_frobenius"),
        (lambda: visibility.sample_from_spectrum([1.0], 0.0, 1.0, 0), "n_samples"),
        (lambda: visibility.first_negative_dimension(torch.eye(3), 2, 0), "n_samples"),
        (lambda: visibility.first_negative_dimension(torch.eye(3), 2.5, 3), "max_dimension"),
    ],
)
def test_what_has_no_visibility(ask, message):
    with pytest.raises(ArgumentError, match=message):
        ask()


@pytest.mark.parametrize("values", ["abc", [1j], None, [[1.0], [1.0, 2.0]]])
def test_what_is_no_spectrum(values):
    for ask in (
        lambda: visibility.formula(values),
        lambda: visibility.sample_from_spectrum(values, 0.0, 1.0, 5),
    ):
        with pytest.raises(HessianDirectionsError):
            ask()


# --- More dimensions -----------------------------------------------------------------------------


def test_first_negative_dimension_is_that_of_the_smallest_eigenvalue():
    """Against the smallest eigenvalue of Q'HQ for each dimension, with the same directions."""
    H = diagonal([3.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.0, -0.2, -0.5, -1.0, 0.1])
    first = visibility.first_negative_dimension(H, 12, 60, generator())
    drawing, expected = generator(), []
    for _ in range(60):
        G = gaussian(12, 12, drawing)
        smallest = []
        for d in range(1, 13):
            Q = orthonormalise(G[:, :d])
            smallest.append(float(torch.linalg.eigvalsh(Q.T @ (H @ Q))[0]))
        expected.append(next(d for d in range(1, 13) if smallest[d - 1] < 0))
    assert first.tolist() == expected
    assert len(set(expected)) > 3


def test_one_dimension_sees_the_sign_of_one_curvature():
    """diag(1, −1): half of all directions are negative, and the plane always sees both."""
    first = visibility.first_negative_dimension(diagonal([1.0, -1.0]), 2, 4000, generator())
    share = visibility.share_seeing_negative(first, 1, confidence=0.9999)
    assert share.low < 0.5 < share.high
    assert visibility.share_seeing_negative(first, 2).probability == 1


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 0.0, 0.0], [0.0] * 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_semidefinite_matrices_show_nothing_negative(values, dtype):
    Q = orthonormalise(gaussian(4, 4, generator(5)))
    H = (Q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ Q.T).to(dtype)
    first = visibility.first_negative_dimension(H, 4, 100, generator())
    assert (first == 5).all()


def test_smallest_matrices():
    assert (
        visibility.first_negative_dimension(diagonal([-1.0]), 1, 3, generator()).tolist() == [1] * 3
    )
    for dimension in (0, 3):
        with pytest.raises(ValueError, match="between 1 and 2"):
            visibility.first_negative_dimension(diagonal([1.0, 2.0]), dimension, 1, generator())


@pytest.mark.parametrize(
    ("n_positive", "sampled", "n_samples"), [(580, 10, 300), (660, 31, 200), (900, 210, 100)]
)
def test_dimensions_needed_on_synthetic_saddles(n_positive, sampled, n_samples):
    """Half of the subspaces of the dimension sampled once see a negative direction; d* is near."""
    first = visibility.first_negative_dimension(
        synthetic.hessian(500, n_positive), sampled + 25, n_samples, generator()
    )
    assert np.median(first) == pytest.approx(sampled, abs=3)
    share = visibility.share_seeing_negative(first, sampled, confidence=0.999)
    assert share.low < 0.5 < share.high
    predicted = critical_dimension(synthetic.eigenvalues(500, n_positive))
    assert predicted < np.median(first) < 1.2 * predicted + 4
