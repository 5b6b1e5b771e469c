"""Curvature along training, and the path of the weights in the Hessian plane of the last ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from hessian_directions import settings as typed
from hessian_directions.settings import NotNegative, Odd, Positive, Several, setting

if TYPE_CHECKING:
    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

READS = ("snapshots", "eigenvectors")


class Settings(typed.Settings):
    tolerance: Positive = setting(1e-2, "residual of the extreme eigenpairs", unit="|λ|")
    n_samples: Several = setting(24, "Rademacher samples of each trace")
    n_points: Odd = setting(21, "points a side of the slice behind the path")
    margin: NotNegative = setting(0.2, "how far the slice exceeds the path", unit="its reach")


def passes(settings: Settings) -> dict[str, float]:
    """At a dozen snapshots, each with a search of some 36 products."""
    return {"product": 12 * 36, "products": 12 * settings.n_samples, "values": settings.n_points**2}


def vectors(settings: Settings) -> float:
    return 50


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """λ_max, λ_min, t, loss, accuracy and ‖∇L‖ at the snapshots, with the BatchNorm statistics of each.

    The path is given in coordinates of the plane through the final weights, α along the direction
    of the largest and β along that of the smallest eigenvalue, in units of parameter-space length;
    `off_plane` is the part of the distance from the final weights that lies off the plane.
    The slice behind it has the final BatchNorm statistics, so off the end of the path it is not the
    loss that training saw.
    """
    from hessian_directions import seeds
    from hessian_directions.geometry import planes, slices
    from hessian_directions.learning.training import restore_snapshot
    from hessian_directions.spectral.eigenpairs import extreme_eigenpairs
    from hessian_directions.traces import estimators

    seed = seeds.derive(job.seed, "trajectory")
    snapshots = job.read["snapshots"]
    epochs = snapshots["epoch"]
    vectors = problem.vectors(job.read["eigenvectors"]["vectors"])
    final = problem.objective("train")
    rows = []
    for number, epoch in enumerate(epochs):
        restore_snapshot(snapshots, number, problem.model)
        train, test = problem.objective("train"), problem.objective("test")
        train.self_test()
        loss, accuracy = train.values_and_accuracies(train.theta[:, None])
        test_loss, test_accuracy = test.values_and_accuracies(test.theta[:, None])
        H = train.hessian()
        pairs = extreme_eigenpairs(
            H,
            tolerance=settings.tolerance,
            missed_probability=1.0,  # the check would double the cost of every epoch
            seed=seeds.generator(seed, "start", number),
        )
        # The same directions at every epoch: their scatter is common to all, and is no change.
        estimate = estimators.hutchinson(H, settings.n_samples, seeds.generator(seed, "trace"))
        rows.append(
            {
                "loss": float(loss),
                "test_loss": float(test_loss),
                "accuracy": float(accuracy),
                "test_accuracy": float(test_accuracy),
                "gradient_norm": float(train.gradient().norm()),
                "smallest": float(pairs.values[0]),
                "smallest_residual": float(pairs.residuals[0]),
                "largest": float(pairs.values[-1]),
                "largest_residual": float(pairs.residuals[-1]),
                "trace": estimate.mean,
                "trace_standard_error": estimate.standard_error,
            }
        )
        job.announce(f"epoch {epoch}, {number + 1} of {len(epochs)}")
    directions = slices.both_ends(vectors)
    theta = problem.vectors(snapshots["theta"])
    path = (theta - final.theta) @ directions
    _, off_plane = planes.project(theta.T, final.theta, directions)
    reach = float(path.abs().max()) * (1 + settings.margin)
    points = slices.grid(max(reach, 1e-3), settings.n_points)
    background = slices.surface(final, directions, points, points, "unit")
    trajectory = xr.Dataset(
        {name: ("epoch", [row[name] for row in rows]) for name in rows[0]}
        | {
            "alpha": ("epoch", path[:, 0].cpu()),
            "beta": ("epoch", path[:, 1].cpu()),
            "off_plane": ("epoch", off_plane.cpu()),
            "loss_surface": (("alpha_grid", "beta_grid"), background.values),
            "accuracy_surface": (("alpha_grid", "beta_grid"), background["accuracy"].values),
        },
        coords={"epoch": epochs, "alpha_grid": points, "beta_grid": points},
    )
    if problem.dataset.n_classes is None:
        return trajectory.drop_vars(["accuracy", "test_accuracy", "accuracy_surface"])
    return trajectory
