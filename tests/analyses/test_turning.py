"""The turned plane, on losses that are quadratic and known, and on networks."""

import fabricate
import numpy as np
import pytest
import torch
import xarray as xr
from posed import posed, samples
from torch import Tensor, nn

from hessian_directions import seeds
from hessian_directions.analyses import turning
from hessian_directions.analyses.job import Job
from hessian_directions.analyses.problem import Problem
from hessian_directions.geometry import slices
from hessian_directions.geometry.principal_curvatures import principal_curvatures

N = 40


def weighted_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (targets * outputs.square()).mean()


@pytest.fixture(scope="module")
def quadratic() -> tuple[Problem, np.ndarray]:
    """L(w) = mean of t_i (w'x_i)², the t_i of both signs, and its Hessian (2/n) Σ t_i x_i x_i'."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(100, N, generator=generator, dtype=torch.float64)
    t = torch.linspace(-1, 2, 100, dtype=torch.float64)[:, None]
    torch.manual_seed(0)
    model = nn.Linear(N, 1, bias=False).double()
    problem = posed(model, samples(X, t), loss=weighted_squares, n_classes=None, batch_size=50)
    return problem, (2 * (X * t).T @ X / 100).numpy()


@pytest.fixture(scope="module")
def turned(quadratic: tuple[Problem, np.ndarray]) -> xr.Dataset:
    problem, H = quadratic
    vectors = np.linalg.eigh(H)[1][:, [0, -1]]
    job = Job(3, {"eigenvectors": {"vectors": vectors}}, announce=lambda line: None)
    return turning.run(problem, turning.Settings(n_planes=7, n_points=5), job)


def test_its_curvatures_are_those_of_the_losses(turned: xr.Dataset) -> None:
    """The even part of a quadratic over a plane is ½ x'Mx: losses alone, no products."""
    loss = turned["loss"].values
    even = (loss + loss[:, ::-1, ::-1]) / 2 - loss[:, 2:3, 2:3]
    for surface, widths, M in zip(even, turned["half_width"], turned["projected_hessian"].values):
        alpha, beta = (float(width) * turned["alpha"].values for width in widths)
        a, b = np.meshgrid(alpha, beta, indexing="ij")
        expected = (M[0, 0] * a**2 + 2 * M[0, 1] * a * b + M[1, 1] * b**2) / 2
        np.testing.assert_allclose(surface, expected, rtol=1e-9, atol=1e-12 * abs(loss).max())


def test_it_turns_from_the_random_slice_s_plane_to_the_eigenvectors(
    turned: xr.Dataset, quadratic: tuple[Problem, np.ndarray]
) -> None:
    problem, H = quadratic
    values = np.linalg.eigvalsh(H)
    objective = problem.objective()
    random = slices.plane_directions(objective, "random", seeds.derive(3, "surface"))
    Q = np.linalg.qr(random.numpy())[0]
    matrices = turned["projected_hessian"].values
    np.testing.assert_allclose(
        np.stack(principal_curvatures(matrices[0])), np.linalg.eigvalsh(Q.T @ H @ Q)
    )
    np.testing.assert_allclose(matrices[-1], np.diag(values[[-1, 0]]), atol=1e-12)
    assert (principal_curvatures(matrices)[0] >= values[0] - 1e-12).all()
    # Both principal curvatures leave those of the random plane for the ends of the spectrum.
    assert values[0] < 0 < values[-1]
    assert turned["angle"].values.tolist() == [0, 15, 30, 45, 60, 75, 90]


def test_its_pictures_end_where_those_of_slices_do(
    turned: xr.Dataset, quadratic: tuple[Problem, np.ndarray]
) -> None:
    problem, H = quadratic
    loss, longest = (
        abs(float(problem.objective().value())),
        float(problem.model.weight.detach().norm()),
    )
    ends = np.array(
        [np.diag(turned["projected_hessian"][0]), np.linalg.eigvalsh(H)[[-1, 0]]], dtype=float
    )
    expected = np.minimum((loss / np.abs(ends)) ** 0.5, longest)
    np.testing.assert_allclose(turned["half_width"][[0, -1]], expected, rtol=1e-9)
    # Halfway each axis has the mean of both curvatures.
    middle = (expected**-2).mean(axis=0) ** -0.5
    np.testing.assert_allclose(turned["half_width"][3], middle, rtol=1e-9)


def test_a_saddle_comes_out_of_a_network() -> None:
    found = fabricate.made("turning", "smooth")
    smallest, largest = principal_curvatures(found["projected_hessian"].values)
    pairs = fabricate.made("eigenpairs", "smooth")["value"]
    assert smallest[-1] == pytest.approx(float(pairs.min()), rel=1e-4)
    assert largest[-1] == pytest.approx(float(pairs.max()), rel=1e-4)
    assert (found["loss"].sel(alpha=0, beta=0) == found["loss"][0].sel(alpha=0, beta=0)).all()
    slice_of_it = fabricate.made("slices", "smooth", part="random")
    assert float(found["loss"][0].sel(alpha=0, beta=0)) == pytest.approx(
        float(slice_of_it["train"].sel(alpha=0, beta=0))
    )
