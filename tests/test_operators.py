import numpy as np
import pytest
import torch
from matrices import generator, matrix
from torch import nn

import hessian_directions as hd
from hessian_directions.errors import HessianDirectionsError
from hessian_directions.operators import DiagonalOperator

# All that is asked of a matrix, each with what it says of diag(1, 2, 3).
ASKED = {
    "extreme_eigenpairs": lambda H: float(hd.extreme_eigenpairs(H).values[-1]),
    "spectral_density": lambda H: float(hd.spectral_density(H, 2, 3).nodes.max()),
    "exact": lambda H: hd.trace.exact(H).mean / 2,
    "hutchinson": lambda H: hd.trace.hutchinson(H, 4).mean / 2,
    "hutch_plus_plus": lambda H: hd.trace.hutch_plus_plus(H, 9).mean / 2,
    "deflated": lambda H: hd.trace.deflated(H, torch.eye(3, dtype=torch.float64)).mean / 2,
    "projected_hessian": lambda H: float(
        hd.slices.projected_hessian(H, torch.eye(3, dtype=torch.float64)).max()
    ),
}


def test_diagonal_operator_equals_its_dense_matrix():
    H = DiagonalOperator(torch.tensor([3.0, 0.0, -1e-9, 1e9], dtype=torch.float64))
    dense = torch.diag(H.diagonal)
    V = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert H.shape == dense.shape
    assert (H.dtype, H.device) == (dense.dtype, dense.device)
    torch.testing.assert_close(H @ V, dense @ V)
    torch.testing.assert_close(H @ V[:, 0], dense @ V[:, 0])


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(
    "H",
    [
        np.diag([1.0, 2.0, 3.0]),
        np.diag([1.0, 2.0, 3.0]).astype(">f8"),
        np.diag([1.0, 2.0, 3.0]).astype(np.float32),
        torch.diag(torch.tensor([1.0, 2.0, 3.0])).requires_grad_(),
    ],
)
def test_matrices_as_people_have_them(ask, H):
    assert ask(H) == pytest.approx(3, rel=1e-5)


class AsOperator:
    """A matrix of which only products are known."""

    def __init__(self, matrix):
        self.matrix = matrix
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, v):
        return self.matrix @ v


CROOKED = torch.diag(torch.tensor([1.0, 2.0, 3.0])) + torch.tensor([[0.0, 1, 0], [0] * 3, [0] * 3])


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(
    ("H", "message"),
    [
        (torch.eye(3).half(), "H is torch.float16, but must be float32 or float64"),
        (np.eye(3, dtype=int), "H is torch.int64, but must be float32 or float64"),
        (torch.eye(3, dtype=torch.complex128), "H is torch.complex128"),
        (AsOperator(torch.eye(3).bfloat16()), "H is torch.bfloat16"),
        (torch.eye(3)[:2], r"H has the shape \(2, 3\), but must be a square matrix"),
        (np.eye(3)[None], r"H has the shape \(1, 3, 3\)"),
        (torch.ones(3), r"H has the shape \(3,\)"),
        (torch.empty(0, 0), r"H has the shape \(0, 0\)"),
        (CROOKED, "H is not symmetric: entries across its diagonal differ by 1.0e"),
        (CROOKED.numpy(), "H is not symmetric"),
        (nn.Linear(3, 3), "A Linear has no Hessian"),
        ([[1.0]], "A list has no Hessian"),
    ],
)
def test_what_is_no_symmetric_matrix_is_refused(ask, H, message):
    with pytest.raises(HessianDirectionsError, match=message):
        ask(H)


def test_products_that_are_not_symmetric_have_no_spectrum():
    H = AsOperator(torch.randn(30, 30, generator=generator()).double())
    for ask in (hd.extreme_eigenpairs, lambda H: hd.spectral_density(H, 1, 20)):
        with pytest.raises(HessianDirectionsError, match="H is not symmetric"):
            ask(H)


def test_rounding_is_no_asymmetry():
    H = matrix(np.linspace(-1, 1, 40)).float()
    H[0, 1] += 1e-7
    assert float(hd.extreme_eigenpairs(H).values[-1]) == pytest.approx(1, rel=1e-4)


def test_one_step_has_no_norm():
    found = hd.spectral_density(torch.diag(torch.tensor([1.0, -1.0, 2.0])), 4, 1)
    with pytest.raises(HessianDirectionsError, match="at least two Lanczos steps"):
        found.moments()
    assert hd.spectral_density(torch.eye(1), 4, 1).moments().frobenius_norm == 1
