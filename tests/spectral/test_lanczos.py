"""The Krylov process against its defining identities, on matrices with chosen eigenvalues."""

import numpy as np
import pytest
import torch
from matrices import generator, matrix

from hessian_directions.errors import NonFiniteError
from hessian_directions.operators import DiagonalOperator
from hessian_directions.spectral.lanczos import (
    Lanczos,
    inner,
    orthogonalise,
    probability_of_less,
    random_start,
)


def run(H, n_steps, seed=0, deflated=None):
    rows = [] if deflated is None else [deflated.T]
    process = Lanczos(random_start(H, generator(seed), rows), deflated)
    for _ in range(n_steps):
        process.advance(H @ process.current)
    return process


def tridiagonal(process):
    m = process.n_steps
    T = torch.diag(torch.tensor(process.alphas, dtype=torch.float64))
    for i, beta in enumerate(process.betas[: m - 1]):
        T[i, i + 1] = T[i + 1, i] = beta
    return T


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("n_steps", [1, 2, 15, 16, 17, 60])
def test_three_term_relation_and_orthonormal_basis(dtype, tolerance, n_steps):
    H = matrix(np.random.default_rng(0).normal(size=150)).to(dtype)
    process = run(H, n_steps)
    Q = torch.cat(process.basis.blocks).double().T  # (N, m + 1)
    relation = H.double() @ Q[:, :-1] - Q[:, :-1] @ tridiagonal(process)
    relation[:, -1] -= process.betas[-1] * Q[:, -1]
    assert Q.shape == (150, n_steps + 1)
    assert float(relation.abs().max()) < tolerance * 3
    assert float((Q.T @ Q - torch.eye(n_steps + 1)).abs().max()) < tolerance


def test_deflated_process_is_that_of_the_projected_matrix():
    H = matrix(np.linspace(-1, 5, 40))
    V = torch.linalg.eigh(H).eigenvectors[:, -3:]
    process = run(H, 20, deflated=V)
    P = torch.eye(40) - V @ V.T
    start = process.basis.blocks[0][0]
    projected = Lanczos(start)
    for _ in range(20):
        projected.advance(P @ (H @ (P @ projected.current)))
    assert process.alphas == pytest.approx(projected.alphas, abs=1e-12)
    assert process.betas == pytest.approx(projected.betas, abs=1e-12)
    assert float((torch.cat(process.basis.blocks) @ V).abs().max()) < 1e-14


def test_basis_in_float32_stays_orthogonal_in_large_dimensions():
    """Summed in float32, products lose digits in 10⁶ dimensions; ours are summed in float64."""
    n = 1_000_000
    equal = torch.full((1, n), n**-0.5)
    assert float(inner(equal, equal[0])) == pytest.approx(float(equal.double().square().sum()))

    values = torch.cat([torch.tensor([30.0, 10.0, -1.0]), torch.linspace(0, 0.1, 200_000)])
    process = run(DiagonalOperator(values), 30)
    Q = torch.cat(process.basis.blocks).double()
    assert float((Q @ Q.T - torch.eye(31)).abs().max()) < 5e-6


def test_orthogonalise_removes_what_lies_in_the_rows():
    rows = torch.linalg.qr(torch.randn(50, 7, generator=generator()).double())[0].T
    vector = torch.randn(50, generator=generator(1)).double()
    nearly_inside = rows.T @ torch.ones(7).double() + 1e-9 * vector
    for v in (vector, nearly_inside):
        kept = v.clone()
        remainder, removed, norm = orthogonalise(v, [rows[:4], rows[4:]])
        assert torch.equal(v, kept)
        assert float((rows @ remainder).abs().max()) < 1e-15 * max(1.0, norm)
        assert norm == pytest.approx(float(remainder.norm()))
        torch.testing.assert_close(rows.T @ torch.as_tensor(removed) + remainder, v)


def test_invariant_subspace_ends_the_process_and_a_restart_goes_on():
    H = DiagonalOperator(torch.tensor([2.0] * 5 + [-1.0] * 4 + [0.0], dtype=torch.float64))
    process = run(H, 3)
    assert process.invariant
    assert not process.complete
    assert process.betas[-1] == 0
    drawing = generator(5)
    while not process.complete:
        if process.invariant:
            process.restart(H, drawing)
        process.advance(H @ process.current)
    values, residuals, norm = process.ritz_values(10, 0)
    assert values == pytest.approx([-1.0] * 4 + [0.0] + [2.0] * 5, abs=1e-13)
    assert residuals.max() == 0
    assert norm == pytest.approx(2)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 30])
@pytest.mark.parametrize(("k_smallest", "k_largest"), [(1, 1), (0, 2), (3, 0), (4, 7)])
def test_ritz_pairs_and_their_residuals(n_steps, k_smallest, k_largest):
    H = matrix(np.random.default_rng(2).normal(size=60))
    process = run(H, n_steps)
    values, residuals, norm = process.ritz_values(k_smallest, k_largest)
    vectors = process.ritz_vectors(k_smallest, k_largest)
    every = torch.linalg.eigvalsh(tridiagonal(process)).numpy()
    kept = n_steps if n_steps <= k_smallest + k_largest else k_smallest + k_largest
    expected = every if kept == n_steps else np.r_[every[:k_smallest], every[n_steps - k_largest :]]
    assert values == pytest.approx(expected, abs=1e-13)
    assert norm == pytest.approx(np.abs(every).max())
    true = (H @ vectors - vectors * torch.as_tensor(values)).norm(dim=0)
    assert true.numpy() == pytest.approx(residuals, abs=1e-13)


def test_weight_bound_holds_and_falls_geometrically():
    values = np.linspace(-1, 1, 200)
    values[-1] = 1.3
    H = matrix(values)
    u = torch.linalg.eigh(H).eigenvectors[:, -1]
    for seed in range(10):
        process = Lanczos(random_start(H, generator(seed)))
        weight = float(u @ process.current) ** 2
        while process.n_steps < 12:
            process.advance(H @ process.current)
            if process.ritz_values(0, 1)[0][-1] < 1.3:
                assert process.weight_bound(1.3) >= weight * (1 - 1e-9)
    # Without that eigenvalue the bound says so after a few steps.
    process = run(H, 12, deflated=u[:, None])
    assert process.weight_bound(1.3) < 1e-7
    assert process.weight_bound(1.3) < 1e-2 * Lanczos_bound_after(process, 8, 1.3)


def Lanczos_bound_after(process, n_steps, x):  # noqa: N802
    shorter = Lanczos(process.basis.blocks[0][0])
    shorter.alphas, shorter.betas = process.alphas[:n_steps], process.betas[:n_steps]
    return shorter.weight_bound(x)


def test_weight_bound_after_an_invariant_subspace_is_zero():
    process = run(torch.eye(5, dtype=torch.float64), 1)
    assert process.weight_bound(1.1) == 0


@pytest.mark.parametrize("n", [2, 3, 50])
def test_probability_of_a_small_weight(n):
    vectors = torch.randn(40_000, n, generator=generator()).double()
    weights = vectors[:, 0] ** 2 / vectors.square().sum(1)
    for weight in (1e-3 / n, 0.1 / n, 1 / n):
        share = float((weights < weight).double().mean())
        expected = probability_of_less(weight, n)
        assert share == pytest.approx(expected, abs=5 * (expected / 40_000) ** 0.5)
    assert probability_of_less(0.0, n) == 0
    assert probability_of_less(1.0, 1) == 0


def test_saved_process_continues_to_the_same_bits():
    H = matrix(np.random.default_rng(4).normal(size=70)).float()
    V = torch.linalg.eigh(H).eigenvectors[:, :2].contiguous()
    whole = run(H, 40, deflated=V)
    part = run(H, 17, deflated=V)
    resumed = Lanczos.from_state(part.state(), H.device, V)
    for _ in range(23):
        resumed.advance(H @ resumed.current)
    assert resumed.alphas == whole.alphas
    assert resumed.betas == whole.betas
    assert all(map(torch.equal, resumed.basis.blocks, whole.basis.blocks))
    assert resumed.asymmetry == whole.asymmetry


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_process_tells_another_matrix(dtype):
    H = matrix(np.random.default_rng(4).normal(size=30)).to(dtype)
    assert run(H, 1).made_by(H)
    assert run(H, 9).made_by(H)
    assert not run(H, 9).made_by(1.1 * H)
    assert not run(H, 9).made_by((1 + 1e-3) * H)
    zero = torch.zeros_like(H)
    assert run(zero, 1).made_by(zero)
    assert not run(zero, 1).made_by(H)


def test_asymmetry_is_seen():
    H = matrix(np.random.default_rng(5).normal(size=30))
    assert run(H, 10).asymmetry < 1e-13
    H[0, 1] += 0.5
    assert run(H, 10).asymmetry > 1e-3


def test_product_that_is_not_finite():
    H = torch.eye(4, dtype=torch.float64)
    H[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="not finite"):
        run(H, 1)


def test_random_starts_are_unit_vectors_in_the_complement():
    H = torch.eye(20, dtype=torch.float64)
    rows = torch.linalg.qr(torch.randn(20, 19, generator=generator()).double())[0].T
    start = random_start(H, generator(1), [rows])
    assert float(start.norm()) == pytest.approx(1, abs=1e-15)
    assert float((rows @ start).abs().max()) < 1e-14
