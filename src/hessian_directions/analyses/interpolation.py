"""Between trained networks: the loss along lines and in the plane through several of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import xarray as xr
from pydantic import AfterValidator

from hessian_directions import settings as typed
from hessian_directions.settings import Allowed, NotNegative, Odd, setting

if TYPE_CHECKING:
    from torch import nn

    from hessian_directions.analyses.job import Job
    from hessian_directions.analyses.problem import Problem

SPLITS = ("train", "test")
STATISTICS = ("interpolated", "re-estimated")

Names = Annotated[
    list[str], AfterValidator(typed.all_different), Allowed("a list of different networks")
]


class Settings(typed.Settings):
    others: Names = setting(
        [], "networks of the profile with the same model, data and loss as this one, trained apart"
    )
    n_points: Odd = setting(21, "points of each line, both networks among them")
    n_plane_points: Odd = setting(15, "points a side of the plane through the first three networks")
    margin: NotNegative = setting(
        0.2, "how far the plane exceeds its networks", unit="their distance"
    )


def other_networks(settings: Settings) -> list[str]:
    """The networks whose checkpoints are read beside the own one."""
    return settings.others


def passes(settings: Settings) -> dict[str, float]:
    """Over training and test images a point, twice on lines; statistics are taken from all images."""
    n = len(settings.others) + 1
    points = settings.n_points * n * (n - 1) // 2
    plane = settings.n_plane_points**2 if n > 2 else 0
    over_a_split = 2 * points + plane
    return {"value": over_a_split, "test value": over_a_split, "all value": points + plane}


def run(problem: Problem, settings: Settings, job: Job) -> xr.Dataset:
    """Loss and accuracy at θ = (1 − x)θ_a + xθ_b for every pair of networks, and in their plane.

    BatchNorm statistics are `interpolated` like the weights, or `re-estimated` on all training
    images at every point; a network that keeps none has the first kind alone. Losses are over the
    images whose curvature is analysed. `barrier` is max_x [L(x) − (1 − x)L(0) − xL(1)],
    `accuracy_drop` the same of falling accuracy. In the plane, where weights may be negative,
    statistics are re-estimated. Coordinates are distances in parameter space; networks beyond three
    are projected on the plane, with their off-plane residual.
    """
    import copy
    import itertools

    import torch

    from hessian_directions.data.identity import differing
    from hessian_directions.errors import DataError
    from hessian_directions.geometry import planes
    from hessian_directions.learning import checkpoints
    from hessian_directions.learning.interpolation import normalisations

    names = [job.network, *settings.others]
    networks = [problem.model.to(problem.device, problem.dtype).eval()]
    for name in settings.others:
        networks.append(copy.deepcopy(networks[0]))
        made_with = checkpoints.load(job.checkpoints[name], networks[-1]).get("data", {})
        if differing(problem.dataset.identity, made_with):
            raise DataError(
                f"{name} was trained on other data than {job.network}, of the same name"
            )
    kinds = STATISTICS if normalisations(networks[0]) else STATISTICS[:1]
    pairs = list(itertools.combinations(range(len(networks)), 2))
    x = np.linspace(0, 1, settings.n_points)
    n_points = len(pairs) * len(x) * len(kinds)
    scores = np.empty((len(pairs), len(kinds), len(x), len(SPLITS), 2))
    for i, (a, b) in enumerate(pairs):
        ends = [networks[a], networks[b]]
        for j, kind in enumerate(kinds):
            for k, weights in enumerate(zip(1 - x, x)):
                scores[i, j, k] = list(_scores(problem, ends, weights, kind))
                done = (i * len(kinds) + j) * len(x) + k + 1
                job.announce(f"{done} of {n_points} points of lines")
    loss, accuracy = np.moveaxis(scores, -1, 0)  # (line, statistics, x, split)
    excess = loss - _straight(loss, x)
    dimensions = ("line", "statistics", "split")
    theta = torch.stack([_flat(network) for network in networks], 1)
    result = xr.Dataset(
        {
            "loss": (("line", "statistics", "x", "split"), loss),
            "accuracy": (("line", "statistics", "x", "split"), accuracy),
            "barrier": (dimensions, excess.max(2)),
            "barrier_x": (dimensions, x[excess.argmax(2)]),
            "accuracy_drop": (dimensions, (_straight(accuracy, x) - accuracy).max(2)),
            "distance": ("line", [float((theta[:, a] - theta[:, b]).norm()) for a, b in pairs]),
        },
        coords={
            "start": ("line", [names[a] for a, _ in pairs]),
            "end": ("line", [names[b] for _, b in pairs]),
            "statistics": list(kinds),
            "x": x,
            "split": list(SPLITS),
        },
    )
    if len(networks) < 3:
        return result
    origin, basis = planes.plane_through(theta[:, :3])
    coordinates, off_plane = planes.project(theta, origin, basis)
    corners = coordinates[:, :3].cpu().numpy()
    margin = settings.margin * float(result["distance"].max())
    alpha, beta = (
        np.linspace(along.min() - margin, along.max() + margin, settings.n_plane_points)
        for along in corners
    )
    surface = np.empty((len(alpha), len(beta), len(SPLITS), 2))
    for i, j in np.ndindex(len(alpha), len(beta)):
        mixed = barycentric(corners, alpha[i], beta[j])
        surface[i, j] = list(_scores(problem, networks[:3], mixed, kinds[-1]))
        job.announce(f"{i * len(beta) + j + 1} of {len(alpha) * len(beta)} points of the plane")
    return result.assign(
        {
            "plane_loss": (("alpha", "beta", "split"), surface[..., 0]),
            "plane_accuracy": (("alpha", "beta", "split"), surface[..., 1]),
            "network_alpha": ("network", coordinates[0].cpu().numpy()),
            "network_beta": ("network", coordinates[1].cpu().numpy()),
            "network_off_plane": ("network", off_plane.cpu().numpy()),
        }
    ).assign_coords(alpha=alpha, beta=beta, network=names)


def barycentric(corners: Any, alpha: Any, beta: Any) -> np.ndarray[Any, Any]:
    """Weights of three corners (2, 3) whose mean is the point (α, β); they add up to 1."""
    return np.linalg.solve(np.vstack([corners, np.ones(3)]), [alpha, beta, 1.0])


def _straight(values: Any, x: Any) -> Any:
    """What lies on straight lines between the ends of axis 2, which has the coordinate x."""
    along = x[:, None]
    return (1 - along) * values[:, :, :1] + along * values[:, :, -1:]


def _scores(
    problem: Problem, networks: Sequence[nn.Module], weights: Any, statistics: str
) -> Iterator[tuple[float, float]]:
    """Loss and accuracy over the images of each split of a mixture of networks."""
    from hessian_directions.learning.interpolation import mixture, reestimate_statistics
    from hessian_directions.learning.training import evaluate

    mixed = mixture(networks, [float(weight) for weight in weights])
    if statistics == "re-estimated":
        inputs = problem.dataset.train.inputs_on(problem.device, problem.dtype)
        reestimate_statistics(mixed, inputs, problem.batch_size)
    for split in SPLITS:
        yield evaluate(mixed, problem.loss, problem.split(split), problem.batch_size)


def _flat(network: nn.Module) -> Any:
    import torch

    parts = [p.detach().reshape(-1) for p in network.parameters() if p.requires_grad]
    return torch.cat(parts).double()
