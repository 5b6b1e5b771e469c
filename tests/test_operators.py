import torch

from hessian_directions.operators import DiagonalOperator


def test_diagonal_operator_equals_its_dense_matrix():
    H = DiagonalOperator(torch.tensor([3.0, 0.0, -1e-9, 1e9], dtype=torch.float64))
    dense = torch.diag(H.diagonal)
    V = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert H.shape == dense.shape
    assert (H.dtype, H.device) == (dense.dtype, dense.device)
    torch.testing.assert_close(H @ V, dense @ V)
    torch.testing.assert_close(H @ V[:, 0], dense @ V[:, 0])
