"""The extreme eigenpairs of a network's Hessian, each checked in two other ways."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from hessian_directions.objectives.objective import Objective
from hessian_directions.spectral.eigenpairs import Progress, extreme_eigenpairs
from hessian_directions.traces.finite_differences import in_float64


def analyze(
    objective: Objective,
    settings: Mapping[str, Any],
    generator: torch.Generator,
    state_path: str | None = None,
    progress: Progress | None = None,
) -> tuple[xr.Dataset, Tensor]:
    """Eigenpairs in ascending order and their vectors (N, k).

    `exact_curvature` is v'Hv in float64 without a Hessian-vector product: what it differs from the eigenvalue by is
    rounding of the products. On a network with kinks `surface_curvature`, the second difference of the loss along v at
    finite steps, need not equal either.
    """
    self_test = objective.self_test()
    pairs = extreme_eigenpairs(
        objective.hessian(),
        k_smallest=settings["k_smallest"],
        k_largest=settings["k_largest"],
        tolerance=settings["tolerance"],
        max_products=settings["max_products"],
        seed=generator,
        state_path=state_path,
        progress=progress,
    )
    # An eigenvector has no sign; its largest entry is made positive, so that slices keep their orientation.
    largest_entries = pairs.vectors.gather(0, pairs.vectors.abs().argmax(0, keepdim=True))
    vectors = pairs.vectors * largest_entries.sign()
    steps = np.asarray(settings["surface_steps"], dtype=float)
    precise = in_float64(objective)
    dataset = xr.Dataset(
        {
            "value": ("pair", pairs.values.cpu()),
            "residual": ("pair", pairs.residuals.cpu()),
            "converged": ("pair", pairs.converged.cpu()),
            "below_noise": ("pair", pairs.below_noise.cpu()),
            "exact_curvature": (
                "pair",
                precise.second_directional_derivative(vectors.double()).cpu(),
            ),
            "surface_curvature": (("pair", "step"), second_differences(precise, vectors, steps)),
        },
        coords={"step": steps},
        attrs={
            "n_products": pairs.n_products,
            "n_check_products": pairs.n_check_products,
            "missed_probability": float(pairs.missed_probability),
            "noise_floor": float(pairs.noise_floor),
            "self_test": self_test.describe(),
        },
    )
    return dataset, vectors


def second_differences(objective: Objective, vectors: Tensor, steps: np.ndarray) -> np.ndarray:
    """(L(θ+εv) − 2L(θ) + L(θ−εv))/ε² along each of (N, K) vectors at each of S steps: (K, S).

    In float64: divided by ε², the rounding of float32 is as large as the curvature itself.
    """
    objective, vectors = in_float64(objective), vectors.double()
    theta = objective.theta[:, None]
    centre = objective.value()
    differences = []
    for step in steps:
        plus = objective.values(theta + step * vectors)
        minus = objective.values(theta - step * vectors)
        differences.append(((plus - centre) + (minus - centre)) / step**2)
    return torch.stack(differences, dim=1).cpu().numpy()
