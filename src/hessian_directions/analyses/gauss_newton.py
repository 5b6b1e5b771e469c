"""How much of a network's Hessian is its Gauss–Newton part, and what the rest is like."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import Count, Positive, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("eigenpairs", "eigenvectors")

MATRICES = ("hessian", "gauss_newton", "rest")


class Settings(typed.Settings):
    k_largest: Count = setting(
        1, "largest eigenpairs of the Gauss–Newton matrix; they deflate the traces, too"
    )
    tolerance: Positive = setting(1e-3, "residual ‖Mv − λv‖ that is enough", unit="|λ|")
    max_products: Count = setting(1000, "products with each matrix before giving up")
    n_samples: Several = setting(
        48, "Rademacher samples of all traces and norms, a product with H and one with G each"
    )


def passes(settings: Settings) -> dict[str, float]:
    """In Hessian-vector products, than which one with G is cheaper; nobody knows how many a search
    takes.
    """
    return {"product": 40 + 4 * settings.k_largest, "products": 2 * settings.n_samples}


def vectors(settings: Settings) -> float:
    return 50 + 5 * settings.k_largest


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Both ends of the spectrum, t and f of H, of its Gauss–Newton part G and of the rest H − G.

    The ends of H are those of the analysis `eigenpairs`; G is positive semidefinite, its smallest
    eigenvalue is not computed (NaN). Traces and norms are sampled along the same directions.
    `trace_share` is tr G / tr H, `square_share` 1 − ‖H − G‖_F²/‖H‖_F².
    """
    import torch

    from hessian_directions import seeds
    from hessian_directions.operators import DifferenceOperator
    from hessian_directions.spectral.eigenpairs import extreme_eigenpairs
    from hessian_directions.statistics.ratios import ratio_of_means
    from hessian_directions.traces.deflation import paired_moments

    seed = seeds.derive(job.seed, "gauss_newton")
    objective = problem.objective("train")
    H, G = objective.hessian(), objective.gauss_newton()
    test = objective.gauss_newton_test()
    search = partial(
        extreme_eigenpairs, tolerance=settings.tolerance, max_products=settings.max_products
    )
    start, progress = seeds.generator(seed, "part"), job.counted("Gauss–Newton part")
    largest = search(G, 0, settings.k_largest, seed=start, progress=progress)
    start, progress = seeds.generator(seed, "rest"), job.counted("rest")
    rest = search(DifferenceOperator(H, G), seed=start, progress=progress)
    found = job.read["eigenpairs"]
    vectors = problem.vectors(job.read["eigenvectors"]["vectors"])
    both, generator = torch.cat([vectors, largest.vectors], 1), seeds.generator(seed, "trace")
    moments = paired_moments(H, G, both, settings.n_samples, generator, job.counted("samples"))
    ends = {
        "smallest": [found["value"][0], np.nan, rest.values[0]],
        "smallest_residual": [found["residual"][0], np.nan, rest.residuals[0]],
        "largest": [found["value"][-1], largest.values[-1], rest.values[-1]],
        "largest_residual": [found["residual"][-1], largest.residuals[-1], rest.residuals[-1]],
    }
    columns = {name: np.array([float(value) for value in values]) for name, values in ends.items()}
    root = np.sqrt(settings.n_samples)
    norms = np.sqrt(moments.squares.mean(1))
    columns |= {
        "trace": moments.traces.mean(1),
        "trace_standard_error": moments.traces.std(1, ddof=1) / root,
        "frobenius_norm": norms,
        # d√x = dx/(2√x)
        "frobenius_standard_error": moments.squares.std(1, ddof=1) / (2 * root * norms),
    }
    shares = {
        "trace_share": ratio_of_means(moments.traces[1], moments.traces[0]),
        "square_share": ratio_of_means(moments.squares[0] - moments.squares[2], moments.squares[0]),
    }
    return xr.Dataset(
        {name: ("matrix", values) for name, values in columns.items()}
        | {name: value for name, (value, _) in shares.items()}
        | {f"{name}_standard_error": error for name, (_, error) in shares.items()},
        coords={"matrix": list(MATRICES)},
        attrs={
            "n_products": largest.n_products + rest.n_products,
            "n_check_products": largest.n_check_products + rest.n_check_products,
            "self_test": f"{objective.self_test().describe()}; {test.describe()}",
        },
    )
