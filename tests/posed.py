"""Networks as analyses get them, and what they read of other analyses, from a dense Hessian."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from hessian_directions.analyses.problem import Problem
from hessian_directions.data.dataset import Dataset, Split
from hessian_directions.objectives.losses import Loss


def samples(inputs: Tensor, targets: Tensor) -> Split:
    return Split(inputs, targets, torch.arange(len(inputs)))


def posed(
    model: nn.Module,
    train: Split,
    test: Split | None = None,
    *,
    loss: Loss = nn.functional.cross_entropy,
    n_classes: int | None = 3,
    batch_size: int = 20,
    n_images: int | None = None,
) -> Problem:
    """A network and its samples, on the CPU and in float64."""
    data = Dataset("nothing", train, test or train, n_classes, {})
    return Problem(model, loss, data, torch.device("cpu"), torch.float64, batch_size, n_images)


def known_of(H: Tensor) -> dict[str, Any]:
    """The extreme eigenpairs of a Hessian and its trace, as the analyses that read them get them."""
    values, vectors = torch.linalg.eigh(H)
    ends = {"value": values[[0, -1]].numpy(), "residual": np.zeros(2)}
    trace = {"trace": float(H.trace()), "trace_standard_error": 0.0}
    return {
        "eigenpairs": xr.Dataset({name: ("pair", end) for name, end in ends.items()}),
        "eigenvectors": {"vectors": vectors[:, [0, -1]].numpy()},
        "trace": xr.Dataset(trace, attrs={"reference_kind": "exact"}),
    }
