"""Symmetric matrices with chosen eigenvalues, and the generators that tests draw from."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hessian_directions.operators import DiagonalOperator


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(eigenvalues: ArrayLike, seed: int = 1) -> Tensor:
    """Dense symmetric matrix with these eigenvalues and random eigenvectors, float64."""
    values = torch.as_tensor(np.asarray(eigenvalues), dtype=torch.float64)
    Q, _ = torch.linalg.qr(
        torch.randn(len(values), len(values), generator=generator(seed)).double()
    )
    H = (Q * values) @ Q.T
    return (H + H.T) / 2


def diagonal(eigenvalues: ArrayLike, dtype: torch.dtype = torch.float64) -> DiagonalOperator:
    return DiagonalOperator(torch.as_tensor(np.asarray(eigenvalues, dtype=float), dtype=dtype))
