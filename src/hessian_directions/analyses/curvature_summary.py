"""Both ends of the spectrum, trace and Frobenius norm of one objective, by few products."""

from collections.abc import Mapping
from typing import Any

from hessian_directions import seeds
from hessian_directions.analyses.reference_trace import deflated_rest
from hessian_directions.objectives.objective import Objective
from hessian_directions.spectral.eigenpairs import Progress, extreme_eigenpairs


def summarize(
    objective: Objective,
    settings: Mapping[str, Any],
    seed: int,
    *,
    missed_probability: float = 0.01,
    state_path: str | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """λ_min and λ_max with residuals; trace and Frobenius norm, deflated by their directions.

    `settings` holds the `tolerance` of the eigenpairs and the number `n_samples` of Rademacher directions.
    """
    objective.self_test()
    H = objective.hessian()
    pairs = extreme_eigenpairs(
        H,
        tolerance=settings["tolerance"],
        missed_probability=missed_probability,
        seed=seeds.generator(seed, "start"),
        state_path=state_path,
        progress=progress,
    )
    rest = deflated_rest(H, pairs.vectors, settings["n_samples"], seeds.generator(seed, "trace"))
    values = pairs.values.double()
    return {
        "n_parameters": objective.n_parameters,
        "theta_norm": float(objective.theta.double().norm()),
        "gradient_norm": float(objective.gradient().norm()),
        "smallest": float(values[0]),
        "smallest_residual": float(pairs.residuals[0]),
        "largest": float(values[-1]),
        "largest_residual": float(pairs.residuals[-1]),
        "n_products": pairs.n_products,
        "trace": float(values.sum()) + rest["trace"],
        "trace_standard_error": rest["trace_standard_error"],
        "frobenius_norm": float((values.square().sum() + rest["frobenius_norm"] ** 2).sqrt()),
    }
