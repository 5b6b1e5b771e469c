"""Both extreme eigenpairs of a trained network: products needed at equal residuals."""

import time
from typing import Any

import numpy as np
import torch
from goals import EIGENPAIRS, finished_row
from measure_vectors import require_equal
from numpy.typing import NDArray
from peers import Eigenthings, PyHessian
from scipy.sparse.linalg import LinearOperator, eigsh
from subjects import CHANNELS_LAST, SEED, Subject
from torch import Tensor

from hessian_directions.objectives.objective import HessianOperator
from hessian_directions.spectral.eigenpairs import extreme_eigenpairs

RESIDUAL = 1e-3

# Tolerances and numbers of products that the other tools are tried with, until the residual is
# small enough: only the last trial counts.
POWER_TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
KRYLOV_DIMENSIONS = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200)
MAX_PRODUCTS = 1000


def measure_eigenpairs(subject: Subject) -> list[dict[str, Any]]:
    """Rows for the number of products, against the recipe and two tools; one run each."""
    H = subject.objective().hessian()
    start = time.perf_counter()
    pairs = extreme_eigenpairs(H, tolerance=RESIDUAL, seed=_generator())
    seconds = time.perf_counter() - start
    if not pairs.converged.all():
        raise AssertionError("our eigenpairs did not converge")
    smallest, largest = pairs.values.tolist()
    ours = {
        "measure": "products",
        "ours": pairs.n_products,
        "ours_seconds": seconds,
        **subject.columns,
    }
    checked = f"ours: {pairs.n_check_products} more products check for missed eigenvalues"
    rows = []
    for measure in (recipe, pyhessian, eigenthings):
        peer, values, products, note = measure(subject, H, smallest, largest)
        for value, expected in zip(values, (largest, smallest)):
            require_equal(torch.tensor(value), torch.tensor(expected), peer)
        rows.append(
            finished_row(
                EIGENPAIRS,
                peer=peer,
                peer_layout=CHANNELS_LAST,
                theirs=products,
                # One end alone is another work.
                ratio=pairs.n_products / products if len(values) == 2 else np.nan,
                decides=measure is recipe,
                note=f"{note}; {checked}",
                **ours,
            )
        )
    return rows


# Each returns its name, the eigenvalues it reached (largest, smallest), products, and what to know.
Measured = tuple[str, list[float], int, str]


def recipe(subject: Subject, H: HessianOperator, smallest: float, largest: float) -> Measured:
    """The largest magnitude by ARPACK, then by ARPACK that of the matrix shifted by it.

    The tolerances are the largest that give the residual: ARPACK's are relative to the eigenvalue
    of the matrix that it sees, which in the second run is λ_min − λ_max.
    """
    first = _arpack(H, 0.0, RESIDUAL)
    other = smallest if abs(first[0] - largest) < abs(first[0] - smallest) else largest
    second = _arpack(H, first[0], RESIDUAL * abs(other) / abs(other - first[0]))
    residuals = [_residual(H, value, vector) for value, vector, _ in (first, second)]
    note = (
        "ARPACK, then ARPACK on the shifted matrix, with our products; residuals "
        + " and ".join(f"{residual:.0e}" for residual in residuals)
    )
    values = sorted((first[0], second[0]), reverse=True)
    return "ARPACK recipe", values, first[2] + second[2], note


def _arpack(H: HessianOperator, shift: float, tolerance: float) -> tuple[float, Tensor, int]:
    """The eigenpair of H that is farthest from `shift`; tightened until its residual is right."""
    while True:
        count = 0

        def shifted(v: NDArray[np.float32]) -> NDArray[np.float32]:
            nonlocal count
            count += 1
            vector = torch.from_numpy(np.ascontiguousarray(v.reshape(-1))).to(H.device)
            return (H @ vector - shift * vector).cpu().numpy()

        rng = np.random.default_rng(SEED)
        start = rng.standard_normal(H.shape[0]).astype(np.float32)
        operator = LinearOperator(H.shape, shifted, dtype=np.float32)
        values, vectors = eigsh(operator, k=1, which="LM", tol=tolerance, v0=start)
        value, vector = float(values[0]) + shift, torch.from_numpy(vectors[:, 0]).to(H.device)
        if _residual(H, value, vector) <= RESIDUAL:
            return value, vector, count
        tolerance /= 2


def pyhessian(subject: Subject, H: HessianOperator, smallest: float, largest: float) -> Measured:
    """Power iteration: the largest magnitude, and nothing at the other end."""
    peer = PyHessian(subject, CHANNELS_LAST)
    default = peer.largest(SEED, POWER_TOLERANCES[0], 100)
    tries = (peer.largest(SEED, tolerance, MAX_PRODUCTS) for tolerance in POWER_TOLERANCES)
    value, _, count = _first_converged(H, tries)
    note = (
        f"largest magnitude only; with its default settings {default[2]} products and a residual "
        f"of {_residual(H, default[0], default[1]):.0e}"
    )
    return peer.name, [value], count, note


def eigenthings(subject: Subject, H: HessianOperator, smallest: float, largest: float) -> Measured:
    """Lanczos for one end, then for the other."""
    peer = Eigenthings(subject, CHANNELS_LAST)
    values, total = [], 0
    for which in ("LA", "SA"):
        tries = ((*peer.extreme(which, m, SEED), m) for m in KRYLOV_DIMENSIONS)
        value, _, count = _first_converged(H, tries)
        values.append(value)
        total += count
    return peer.name, values, total, "one run an end, the smallest sufficient numbers of products"


def _first_converged(H: HessianOperator, tries: Any) -> tuple[float, Tensor, int]:
    for value, vector, count in tries:
        if _residual(H, value, vector) <= RESIDUAL:
            return value, vector, count
    raise AssertionError("no trial reached the residual")


def _residual(H: HessianOperator, value: float, vector: Tensor) -> float:
    """‖Hv − λv‖/|λ| with a product that is counted nowhere."""
    v = vector / vector.norm()
    return float((H @ v - value * v).norm()) / abs(value)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)
