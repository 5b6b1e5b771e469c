"""Kinks of the loss by whatever name a program makes them: warned of, never corrected wrongly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from programs import objective_of, vectors
from random_networks import Apply, function
from torch import Tensor, nn
from torch.nn import functional

import hessian_directions as hd
from hessian_directions.errors import KinkError


def objective_through(function: Callable[[Tensor], Tensor], n: int = 40) -> hd.Objective:
    model = nn.Sequential(nn.Linear(5, 6), Apply(function), nn.Linear(6, 3)).double()
    return objective_of(model, *vectors(n))


def parabola(z: Tensor) -> Tensor:
    """A picture of 6 × 6 for every sample."""
    points = torch.linspace(0, 1, 36, dtype=z.dtype).square()
    return points.view(1, 1, 6, 6).expand(len(z), -1, -1, -1)


def outer(z: Tensor) -> Tensor:
    return z.view(-1, 6, 1) * z.view(-1, 1, 6) + 2 * torch.eye(6)


KINKED = {
    "times a comparison": lambda z: z * (z > 0),
    "where": lambda z: torch.where(z > 0, z, 0 * z),
    "masked_fill": lambda z: z.masked_fill(z < 0, 0.0),
    "sort": lambda z: z.sort(1).values * torch.arange(1.0, z.shape[1] + 1, dtype=z.dtype),
    "top-k mask": lambda z: z * (z >= z.topk(3, 1).values[:, -1:]),
    "cummax": lambda z: z.cummax(1).values,
    "median": lambda z: z - z.median(1, keepdim=True).values,
    "copysign": lambda z: torch.copysign(z, z.flip(1)),
    "sign": lambda z: z * z.sign(),
    "gather(argmax)": lambda z: z - z.gather(1, z.argmax(1, keepdim=True)),
    "in place": lambda z: z.clone().index_put_((z < 0,), torch.zeros((), dtype=z.dtype)),
    # Where no gradient goes.
    "detached mask": lambda z: z * (z.detach() > 0),
    "mask of .data": lambda z: z * (z.data > 0),
    "detached sign": lambda z: z * z.detach().sign(),
    "detached where": lambda z: torch.where(z.detach() > 0, z, 0.1 * z),
    "detached top-k": lambda z: z * torch.zeros_like(z).scatter_(1, z.detach().topk(3)[1], 1.0),
    "mask of NumPy": lambda z: z * torch.from_numpy((z.detach().numpy() > 0).astype(float)),
    "detached relu": lambda z: z * z.detach().relu().bool(),
    "truth of a clamp": lambda z: z * z.clamp_min(0).bool(),
    "equal to the largest": lambda z: z * (z == z.amax(1, keepdim=True)),
    "places of the largest": lambda z: z * functional.one_hot(z.max(1).indices, z.shape[1]),
    "whole part": lambda z: z - z.long(),
    "rounded quotient": lambda z: z - torch.div(z, 0.5, rounding_mode="floor"),
    "own function": function(lambda z: z.clamp(min=0), lambda z: z > 0),
    "atan2": lambda z: torch.atan2(z, z.flip(1)),
    "angle": lambda z: torch.complex(z, z.flip(1)).angle(),
    # In the graph, by other names.
    "grid_sample": lambda z: (
        functional.grid_sample(parabola(z), z.view(len(z), 1, 3, 2), align_corners=False)
        .expand(-1, 2, -1, -1)
        .reshape(len(z), 6)
    ),
    "scatter_reduce": lambda z: z.scatter_reduce(
        1, torch.zeros(z.shape, dtype=torch.long), z.flip(1), "amax"
    ),
    "index_reduce": lambda z: z.index_reduce(
        1, torch.zeros(6, dtype=torch.long), z.flip(1), "amin"
    ),
    "distance": lambda z: z * functional.pairwise_distance(z, z.flip(1), p=1)[:, None],
    "cdist": lambda z: torch.cdist(z, torch.eye(6, dtype=z.dtype), p=1),
    "renorm": lambda z: torch.renorm(z, 2, 0, 1.0),
    "nuclear norm": lambda z: z * torch.linalg.matrix_norm(z.view(-1, 2, 3), "nuc")[:, None],
}


@pytest.mark.parametrize("name", KINKED)
def test_every_kink_is_warned_of_and_none_is_corrected_wrongly(name: str) -> None:
    objective = objective_through(KINKED[name])
    assert objective.kinks()
    with pytest.warns(hd.trace.KinkWarning):
        hd.trace.finite_difference(objective, 4)
    with pytest.raises(KinkError):
        hd.trace.finite_difference(objective, 4, kinks="correct")


SMOOTH = {
    "finite": lambda z: z.tanh() if torch.isfinite(z).all() else z,
    "no NaN": lambda z: torch.nan_to_num(z).sin(),
    "determinant": lambda z: z * torch.linalg.det(outer(z))[:, None],
    "solution": lambda z: torch.linalg.solve(outer(z), z),
    "sampled": lambda z: functional.grid_sample(
        z.view(len(z), 1, 3, 2),
        torch.linspace(-0.9, 0.9, 12, dtype=z.dtype).view(1, 2, 3, 2).expand(len(z), -1, -1, -1),
        align_corners=False,
    ).reshape(len(z), 6),
    "distance": lambda z: z * functional.pairwise_distance(z, torch.full_like(z, 9.0))[:, None],
    "summed": lambda z: z.scatter_reduce(
        1, torch.zeros(z.shape, dtype=torch.long), z.flip(1).sin(), "sum"
    ),
    "own function": function(lambda z: z * z, lambda z: 2 * z),
    "number of the data": lambda z: z * torch.tensor([2.0, -1.0]).max().item(),
    "comparison of the data": lambda z: z * (torch.arange(6) > 2),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_what_is_smooth_has_no_kinks(name: str) -> None:
    assert objective_through(SMOOTH[name]).kinks() == []


def test_the_larger_of_two_is_corrected_by_whatever_name() -> None:
    objective = objective_through(lambda z: torch.fmax(z, 0 * z), 200)
    V = hd.directions.gaussian(objective.n_parameters, 8, 0)
    with pytest.warns(hd.trace.KinkWarning):
        plain = hd.trace.finite_difference(objective, directions=V, step=0.02).mean
    corrected = hd.trace.finite_difference(objective, directions=V, step=1e-3, kinks="correct").mean
    exact = hd.trace.directional(objective, directions=V).mean
    assert abs(corrected - exact) < 0.05 * abs(plain - exact)


def test_a_branch_on_a_detached_number_is_a_kink() -> None:
    class Gated(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            scale = 2.0 if self.weight.data.norm().item() > 1 else 1.0
            return scale * super().forward(x)

    objective = objective_of(Gated(5, 3).double(), *vectors(40))
    assert objective.kinks() == ["item"]
    with pytest.raises(KinkError, match="slope of item"):
        hd.trace.finite_difference(objective, 4, kinks="correct")
