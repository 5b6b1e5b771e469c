"""Both ends of the spectrum, trace and Frobenius norm of one objective, by few products."""

from hessian_directions import seeds
from hessian_directions.analyses.job import SAVE_SECONDS, Job
from hessian_directions.objectives.objective import Objective
from hessian_directions.spectral.eigenpairs import extreme_eigenpairs
from hessian_directions.traces.deflation import deflated_rest


def summarize(
    objective: Objective, tolerance: float, n_samples: int, seed: int, job: Job | None = None
) -> dict[str, float]:
    """λ_min and λ_max with residuals; trace and Frobenius norm, deflated by their directions.

    `tolerance` is that of the eigenpairs, `n_samples` the number of Rademacher directions. With a
    job, the search says how far it is and keeps its state. It makes no second search for lost
    members of a cluster, which would double the products.
    """
    H = objective.hessian()
    pairs = extreme_eigenpairs(
        H,
        tolerance=tolerance,
        missed_probability=1.0,
        seed=seeds.generator(seed, "start"),
        state_path=job.state_path if job else None,
        save_seconds=job.save_seconds if job else SAVE_SECONDS,
        progress=(lambda status: job.announce(str(status))) if job else None,
    )
    rest = deflated_rest(H, pairs.vectors, n_samples, seeds.generator(seed, "trace"))
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
        "trace": float(values.sum()) + rest.trace,
        "trace_standard_error": rest.trace_standard_error,
        "frobenius_norm": float((values.square().sum() + rest.frobenius_norm**2).sqrt()),
    }
