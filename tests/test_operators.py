import math

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
        torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).to_sparse(),
        torch.diag(torch.tensor([1.0, 2.0, 3.0])).to_sparse_csr(),
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
        (torch.eye(3).half(), "H is torch.float16, but must be torch.float32 or torch.float64"),
        (np.eye(3, dtype=int), "H is torch.int64, but must be torch.float32"),
        (torch.eye(3, dtype=torch.complex128), "H is torch.complex128"),
        (AsOperator(torch.eye(3).bfloat16()), "H is torch.bfloat16"),
        (torch.eye(3)[:2], r"H has the shape \(2, 3\), but must be a square matrix"),
        (np.eye(3)[None], r"H has the shape \(1, 3, 3\)"),
        (torch.ones(3), r"H has the shape \(3,\)"),
        (torch.empty(0, 0), r"H has the shape \(0, 0\)"),
        (CROOKED, "H is not symmetric: entries across its diagonal differ by 1.0e"),
        (CROOKED.numpy(), "H is not symmetric"),
        (CROOKED.to_sparse(), "H is not symmetric: entries across its diagonal differ by 1.0e"),
        (CROOKED.to_sparse_csr(), "H is not symmetric"),
        (torch.diag(torch.tensor([1.0, math.nan, 3.0])), "H has entries that are NaN or infinite"),
        (torch.diag(torch.tensor([1.0, math.inf, 3.0])).to_sparse(), "H has entries that are NaN"),
        (nn.Linear(3, 3), "A Linear has no Hessian"),
        ([[1.0]], "A list has no Hessian"),
    ],
)
def test_what_is_no_symmetric_matrix_is_refused(ask, H, message):
    with pytest.raises(HessianDirectionsError, match=message):
        ask(H)


class Own(AsOperator):
    """diag(1, 2, 3) in float64, with something done to its products."""

    def __init__(self, change, **attributes):
        super().__init__(torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)))
        self.change = change
        vars(self).update(attributes)

    def __matmul__(self, v):
        return self.change(v, super().__matmul__(v))


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(
    "change",
    [
        lambda v, Hv: Hv,
        lambda v, Hv: Hv.requires_grad_(),
        lambda v, Hv: v.clone().mul_(torch.tensor([1.0, 2.0, 3.0]).reshape(3, *[1] * (v.ndim - 1))),
    ],
)
def test_operators_as_people_write_them(ask, change):
    assert ask(Own(change)) == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, Hv: None, "is a NoneType, but must be a tensor"),
        (lambda v, Hv: Hv.numpy(), "is a ndarray, but must be a tensor"),
        (lambda v, Hv: Hv[:2], r"has the shape \(2,.*but must have theirs"),
        (lambda v, Hv: Hv[..., None], r", 1\) and is torch.float64 on cpu"),
        (lambda v, Hv: Hv.float(), "is torch.float32 on cpu, but must .* be torch.float64"),
        (lambda v, Hv: Hv + 0j, "is torch.complex128"),
        (lambda v, Hv: math.nan * Hv, "A product with H is not finite"),
        (lambda v, Hv: Hv / 0, "A product with H is not finite"),
        (lambda v, Hv: v.mul_(2), "changes the vectors that it is given"),
        (lambda v, Hv: Hv @ torch.ones(7, 7), r"of shape \(3,.* failed: "),
    ],
)
def test_what_is_no_product_is_refused(ask, change, message):
    with pytest.raises(HessianDirectionsError, match=message):
        ask(Own(change))


def test_what_has_no_precision_of_torch_is_refused():
    H = Own(lambda v, Hv: Hv, dtype=np.dtype("float64"))
    with pytest.raises(HessianDirectionsError, match=r"H is dtype\('float64'\), but must be torch"):
        hd.trace.exact(H)


@pytest.mark.parametrize(
    "ask",
    [
        hd.extreme_eigenpairs,
        lambda H: hd.spectral_density(H, 1, 20),
        lambda H: hd.slices.projected_hessian(H, torch.eye(30)[:, :2]),
        lambda H: hd.visibility.sample_projections(H, 3),
        lambda H: hd.visibility.first_negative_dimension(H, 5, 3),
    ],
)
def test_products_that_are_not_symmetric_have_no_spectrum_and_no_slices(ask):
    H = AsOperator(torch.randn(30, 30, generator=generator()).double())
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
