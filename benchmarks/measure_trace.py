"""The trace of a trained network: root mean square errors at equal seconds.

PyHessian runs as it is, with its own stopping rule; ours may take as many seconds as its runs took
in the mean. Ours finds the dominant directions from a few products with random vectors, takes their
part of the trace exactly and samples the rest, both by exact second directional derivatives: half
of the seconds go to either. This was chosen before it was measured here.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from alternation import alternate
from goals import TRACE, bootstrap_ratio, finished_row
from peers import PyHessian
from subjects import LAYOUTS, SEED, Subject
from torch import Tensor

from hessian_directions.geometry import directions
from hessian_directions.objectives.objective import Objective
from hessian_directions.seeds import derive
from hessian_directions.spectral.eigenpairs import extreme_eigenpairs
from hessian_directions.traces import estimators

REPETITIONS, BLOCKS = 12, 3

# Of the seconds that are there, the share that is planned with.
MARGIN = 0.95


def measure_trace(subject: Subject) -> list[dict[str, Any]]:
    """The row for PyHessian, in the layout in which it is faster."""
    objective, peer = subject.objective(), _fastest(subject)
    reference = _reference(objective)
    theirs: dict[str, list[float]] = {"errors": [], "seconds": [], "samples": []}
    ours: dict[str, list[float]] = {"errors": [], "seconds": []}
    for block in np.array_split(np.arange(REPETITIONS), BLOCKS):
        for repetition in block:
            start = time.perf_counter()
            samples = peer.trace(derive(SEED, "PyHessian", int(repetition)))
            theirs["seconds"].append(time.perf_counter() - start)
            theirs["errors"].append(np.mean(samples) - reference.mean)
            theirs["samples"].append(len(samples))
        rank, n_samples = _plan(objective, MARGIN * np.mean(theirs["seconds"][-len(block) :]))
        for repetition in block:
            generator = torch.Generator().manual_seed(derive(SEED, "ours", int(repetition)))
            start = time.perf_counter()
            estimate = _sketched(objective, rank, n_samples, generator)
            ours["seconds"].append(time.perf_counter() - start)
            ours["errors"].append(estimate.mean - reference.mean)
    error, peer_error = (float(np.sqrt(np.mean(np.square(x["errors"])))) for x in (ours, theirs))
    low, high = bootstrap_ratio(ours["errors"], theirs["errors"])
    note = (
        f"trace {reference.mean:.4g} ± {reference.standard_error:.1g}; {REPETITIONS} runs each; "
        f"PyHessian stopped after {min(theirs['samples'])} to {max(theirs['samples'])} samples, "
        f"median {np.median(theirs['samples']):.0f}; "
        f"ours {rank} directions exactly and {n_samples} samples"
    )
    return [
        finished_row(
            TRACE,
            measure="root mean square error",
            ours=error,
            theirs=peer_error,
            ratio=error / peer_error,
            ratio_low=low,
            ratio_high=high,
            ours_seconds=float(np.mean(ours["seconds"])),
            peer_seconds=float(np.mean(theirs["seconds"])),
            peer=peer.name,
            peer_layout=peer.layout,
            decides=True,
            note=note,
            **subject.columns,
        )
    ]


def _reference(objective: Objective) -> estimators.Estimate:
    """The trace, by more products than any run that is compared with it."""
    generator = torch.Generator().manual_seed(derive(SEED, "reference"))
    pairs = extreme_eigenpairs(
        objective.hessian(), 2, 12, tolerance=0.05, missed_probability=1, seed=generator
    )
    return estimators.deflated(objective, pairs, n_samples=256, seed=generator)


def _sketched(
    objective: Objective, rank: int, n_samples: int, generator: torch.Generator
) -> estimators.Estimate:
    """tr(Q'HQ) + mean of (Pv)'H(Pv), Q = orth(HS) from `rank` random vectors S, P = I − QQ'."""
    n, dtype, device = objective.n_parameters, objective.dtype, objective.device
    S = directions.rademacher(n, rank, generator, dtype, device)
    return estimators.deflated(objective, objective.hessian() @ S, n_samples, generator)


def _plan(objective: Objective, seconds: float) -> tuple[int, int]:
    """Rank and number of samples that these seconds allow, from what eight of each take now."""
    V = _eight_vectors(objective)
    product = _seconds(lambda: objective.hessian_vector_product(V)) / V.shape[1]
    derivative = _seconds(lambda: objective.second_directional_derivative(V)) / V.shape[1]
    rank = max(1, int(seconds / 2 / (product + derivative)))
    return rank, max(2, int(seconds / 2 / derivative))


def _fastest(subject: Subject) -> PyHessian:
    """PyHessian in the layout in which its products are faster."""
    V = _eight_vectors(subject.objective())
    peers = [PyHessian(subject, layout) for layout in LAYOUTS]
    return min(peers, key=lambda peer: _seconds(peer.multiplication(V)))


def _eight_vectors(objective: Objective) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    n, dtype, device = objective.n_parameters, objective.dtype, objective.device
    return directions.rademacher(n, 8, generator, dtype, device)


def _seconds(function: Callable[[], object]) -> float:
    """Median of three calls, after one that is not counted."""
    function()
    return float(np.median(alternate({"": function}, 3)[""]))
