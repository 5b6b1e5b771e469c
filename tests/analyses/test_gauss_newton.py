"""The Hessian, its Gauss–Newton part and the rest of a network, against dense matrices."""

import networks
import numpy as np
import pytest
import torch
import xarray as xr
from posed import known_of, posed, samples
from torch import Tensor, nn

from hessian_directions import seeds
from hessian_directions.analyses import gauss_newton
from hessian_directions.analyses.job import Job
from hessian_directions.analyses.problem import Problem
from hessian_directions.operators import DifferenceOperator
from hessian_directions.traces.deflation import paired_moments


@pytest.fixture(scope="module")
def studied() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    return posed(model, samples(torch.randn(50, 4), torch.randint(3, (50,))))


@pytest.fixture(scope="module")
def matrices(studied: Problem) -> tuple[Tensor, Tensor]:
    """H and G over all samples at once."""
    train = studied.dataset.train
    network = networks.Problem(studied.model, studied.loss, train.inputs.double(), train.targets)
    return networks.dense_hessian(network), networks.dense_gauss_newton(network)


def run(studied: Problem, H: Tensor, seed: int = 0, **settings: float) -> xr.Dataset:
    job = Job(seed, known_of(H), announce=lambda line: None)
    return gauss_newton.run(studied, gauss_newton.Settings(**settings), job)


def test_ends_and_moments(studied: Problem, matrices: tuple[Tensor, Tensor]) -> None:
    H, G = matrices
    first = run(studied, H, tolerance=1e-6, n_samples=40)
    # Moments are right whatever the vectors that are taken off: the others need not search for long.
    others = (run(studied, H, seed, tolerance=0.1, n_samples=40) for seed in range(1, 25))
    runs = [first, *others]
    for matrix, M in zip(gauss_newton.MATRICES, (H, G, H - G), strict=True):
        one, values = first.sel(matrix=matrix), torch.linalg.eigvalsh(M)
        assert float(one["largest"]) == pytest.approx(float(values[-1]), abs=1e-8)
        if matrix == "gauss_newton":
            assert np.isnan(one["smallest"])
        else:
            assert float(one["smallest"]) == pytest.approx(float(values[0]), abs=1e-8)
        for name, error, exact in (
            ("trace", "trace_standard_error", M.trace()),
            ("frobenius_norm", "frobenius_standard_error", M.norm()),
        ):
            _are_standard_scores([_score(r.sel(matrix=matrix), name, error, exact) for r in runs])
    shares = {"trace_share": G.trace() / H.trace()}
    shares["square_share"] = 1 - (H - G).square().sum() / H.square().sum()
    for name, exact in shares.items():
        error = f"{name}_standard_error"
        _are_standard_scores([_score(one, name, error, exact) for one in runs])
    # What G and H have in common is in no difference.
    trace = first["trace_standard_error"]
    assert float(trace.sel(matrix="rest")) < float(trace.sel(matrix="hessian"))


def _score(one: xr.Dataset, name: str, error: str, exact: Tensor) -> float:
    return (float(one[name]) - float(exact)) / float(one[error])


def _are_standard_scores(scores: list[float]) -> None:
    """The scatter of 25 scores is known to a seventh."""
    assert np.std(scores) == pytest.approx(1, abs=0.55)
    assert abs(np.mean(scores)) < 4 / len(scores) ** 0.5


def test_paired_moments_are_exact_where_all_is_deflated(matrices: tuple[Tensor, Tensor]) -> None:
    """Whatever the vectors, of which some may depend on others."""
    H, G = matrices
    n = len(H)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(n, n, generator=generator, dtype=torch.float64)
    moments = paired_moments(
        H, G, torch.cat([vectors, vectors[:, :3]], 1), 5, seeds.generator(0, "trace")
    )
    for row, M in enumerate((H, G, H - G)):
        np.testing.assert_allclose(moments.traces[row], float(M.trace()), rtol=1e-10)
        np.testing.assert_allclose(moments.squares[row], float(M.square().sum()), rtol=1e-10)


def test_difference_of_operators(matrices: tuple[Tensor, Tensor]) -> None:
    H, G = matrices
    R, V = DifferenceOperator(H, G), torch.randn(len(H), 3, dtype=torch.float64)
    assert (R.shape, R.dtype, R.device) == (H.shape, H.dtype, H.device)
    torch.testing.assert_close(R @ V, (H - G) @ V)
    torch.testing.assert_close(R @ V[:, 0], (H - G) @ V[:, 0])
