"""Deflation: what known directions and a sketch leave of trace and norm, against dense matrices."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from networks import dense_hessian, problem
from torch import Tensor

from hessian_directions import seeds
from hessian_directions.spectral.density import Moments
from hessian_directions.traces.deflation import deflated_rest, sketch_beside


@pytest.fixture(scope="module")
def hessian() -> Tensor:
    return dense_hessian(problem("ReLU perceptron", n_samples=50))


def test_the_rest_of_a_dominant_pair_keeps_its_digits(hessian: Tensor) -> None:
    """‖PHP‖ is not a difference of large numbers: one eigenvalue is 10⁶ times the others here."""
    values, vectors = torch.linalg.eigh(hessian)
    largest = vectors[:, -1:]
    stretched = (hessian + 1e6 * values[-1] * largest @ largest.T).float()
    expected = float(values[:-1].norm())
    V = largest.float()
    for n_sketch in (0, 8):
        sketch = sketch_beside(stretched, V, n_sketch, seeds.generator(0, "sketch"))
        beside = torch.cat([V, sketch.basis], dim=1)
        rest = deflated_rest(stretched, beside, 400, seeds.generator(0, "rest"))
        squares = np.square(sketch.values).sum() + 2 * np.square(sketch.residuals).sum()
        assert np.sqrt(squares + rest.frobenius_norm**2) == pytest.approx(expected, rel=0.1)
        trace, exact = sketch.values.sum() + rest.trace, float(values[:-1].sum())
        assert abs(trace - exact) < 4 * rest.trace_standard_error < 0.4 * exact


def test_sketch_finds_the_outliers_of_a_spectrum_like_that_of_a_trained_network() -> None:
    """Ten outliers of both signs stand out of a bulk with a fifth of their norm, beside a dominant pair."""
    outliers = torch.tensor(
        [11.0, 6.2, 4.8, 4.5, 3.6, 3.0, -2.8, 2.5, 2.2, 2.1], dtype=torch.float64
    )
    bulk = torch.linspace(-0.15, 0.2, 989, dtype=torch.float64)
    values = torch.cat([torch.tensor([1000.0], dtype=torch.float64), outliers, bulk])
    spread = torch.randn(1000, 1000, generator=seeds.generator(0, "test"), dtype=torch.float64)
    Q = torch.linalg.qr(spread)[0]
    H, V = (Q * values) @ Q.T, Q[:, :1]
    sketch = sketch_beside(H, V, 16, seeds.generator(1, "sketch"))
    found = sketch.values[np.argsort(-np.abs(sketch.values))][:10]
    np.testing.assert_allclose(found, outliers, rtol=0.01)
    # Some eigenvalue lies within the residual of each, and the basis leaves the known vectors out.
    distances = np.abs(sketch.values[:, None] - values.numpy()).min(axis=1)
    assert (distances <= sketch.residuals + 1e-12).all()
    torch.testing.assert_close(V.T @ sketch.basis, torch.zeros(1, 16, dtype=torch.float64))


def test_norm_beside_a_sketch_is_that_of_the_whole(hessian: Tensor) -> None:
    """Σθ², the residuals and the sampled rest add up, however poor the sketch."""
    n = len(hessian)
    V = torch.randn(n, 2, generator=seeds.generator(0, "any"), dtype=torch.float64)
    V = torch.linalg.qr(V)[0]
    P = torch.eye(n, dtype=torch.float64) - V @ V.T
    sketch = sketch_beside(hessian, V, 3, seeds.generator(0, "sketch"))
    Q = torch.cat([V, sketch.basis], dim=1)
    rest = (torch.eye(n, dtype=torch.float64) - Q @ Q.T) @ hessian
    rest = rest - rest @ Q @ Q.T
    squares = np.square(sketch.values).sum() + 2 * np.square(sketch.residuals).sum()
    assert squares + float(rest.square().sum()) == pytest.approx(
        float((P @ hessian @ P).square().sum()), rel=1e-12
    )
    assert sketch.values.sum() + float(rest.trace()) == pytest.approx(
        float((P @ hessian @ P).trace()), rel=1e-12
    )


@pytest.mark.parametrize("n_deflated", [0, 2])
@pytest.mark.parametrize(
    "values", [[-1.0, 2, 5, 10, *np.linspace(-0.1, 0.1, 56)], np.linspace(-1, 1, 60)]
)
def test_trace_and_norm_of_the_rest_are_covered_by_their_standard_errors(
    values: Sequence[float], n_deflated: int
) -> None:
    spread = torch.randn(60, 60, generator=seeds.generator(0, "test"), dtype=torch.float64)
    Q = torch.linalg.qr(spread)[0]
    exact = torch.as_tensor(values, dtype=torch.float64)
    H, rest = (Q * exact) @ Q.T, exact[n_deflated:]
    scores = {"trace": [], "frobenius": []}
    for seed in range(150):
        found = deflated_rest(H, Q[:, :n_deflated], 100, seeds.generator(seed, "samples"))
        scores["trace"].append((found.trace - rest.sum()) / found.trace_standard_error)
        scores["frobenius"].append(
            (found.frobenius_norm - rest.norm()) / found.frobenius_standard_error
        )
    for z in scores.values():
        assert abs(np.mean(z)) < 0.35
        assert 0.88 <= np.mean(np.abs(z) < 1.96) <= 0.99


def test_the_rest_of_the_identity_and_of_zero() -> None:
    def rest(H: Tensor) -> Moments:
        return deflated_rest(H, H[:, :0], 3, seeds.generator(0, "samples"))

    identity = rest(torch.eye(30, dtype=torch.float64))
    assert (identity.trace, identity.frobenius_norm) == pytest.approx((30, 30**0.5))
    assert identity.frobenius_standard_error == pytest.approx(0, abs=1e-14)
    assert rest(torch.zeros(30, 30, dtype=torch.float64)) == Moments(0.0, 0.0, 0.0, 0.0)
