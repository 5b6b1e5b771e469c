import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from matrices import generator
from networks import objective_of, objective_of_function, problem

from hessian_directions.errors import (
    ArgumentError,
    ArtifactError,
    ConfigurationError,
    HessianDirectionsError,
)
from hessian_directions.geometry import directions, flatness, slices
from hessian_directions.geometry.directions import gaussian, unit
from hessian_directions.objectives.objective import Objective
from hessian_directions.progress import Status
from hessian_directions.spectral.eigenpairs import extreme_eigenpairs
from hessian_directions.traces import estimators as trace


def network() -> Objective:
    return objective_of(problem("tanh perceptron", n_samples=30), batch_size=7)


def bowl(n: int = 40) -> Objective:
    """L(θ) = ½‖θ − θ*‖², whose weights are at the minimum θ*."""
    lowest = torch.arange(1.0, n + 1, dtype=torch.float64)
    return objective_of_function(lambda theta: 0.5 * (theta - lowest).square().sum(), lowest)


GRID = slices.grid(1.0, 9)


@pytest.mark.parametrize(("radius", "n_points"), [(0.1, 51), (1 / 3, 7), (2.0, 1), (1e-5, 3)])
def test_grid_holds_zero_and_both_ends_exactly(radius, n_points):
    points = slices.grid(radius, n_points)
    assert len(points) == n_points
    assert points[n_points // 2] == 0
    assert (points == -points[::-1]).all()
    if n_points > 1:
        assert points[-1] == radius


@pytest.mark.parametrize(("radius", "n_points"), [(1.0, 50), (1.0, 0), (0.0, 3), (-1.0, 3)])
def test_impossible_grids(radius, n_points):
    with pytest.raises(ConfigurationError):
        slices.grid(radius, n_points)


def test_values_equal_single_evaluations():
    objective = network()
    V = gaussian(objective.n_parameters, 2, generator())
    alphas, betas = slices.grid(0.5, 5), slices.grid(0.2, 7)
    surface = slices.surface(objective, V, alphas, betas)
    assert surface.dims == ("alpha", "beta")
    assert surface.shape == (5, 7)
    for alpha in alphas:
        for beta in betas:
            single = float(objective.value(objective.theta + alpha * V[:, 0] + beta * V[:, 1]))
            assert float(surface.sel(alpha=alpha, beta=beta)) == pytest.approx(single, rel=1e-14)


def test_accuracy_is_a_coordinate_of_surfaces_and_lines():
    objective = network()
    V = gaussian(objective.n_parameters, 2, generator())
    along = slices.grid(0.5, 3)
    surface = slices.surface(objective, V, along, along)
    line = slices.line(objective, V, along)
    assert surface["accuracy"].dims == ("alpha", "beta")
    assert line["accuracy"].dims == ("direction", "alpha")
    for i, alpha in enumerate(along):
        for j, beta in enumerate(along):
            point = objective.theta + alpha * V[:, 0] + beta * V[:, 1]
            assert float(surface["accuracy"][i, j]) == objective.accuracy(point)
        assert float(line["accuracy"][1, i]) == objective.accuracy(
            objective.theta + alpha * V[:, 1]
        )
    assert len(np.unique(surface["accuracy"])) > 1


def test_without_classes_or_a_finite_loss_there_is_no_accuracy():
    surface = slices.surface(bowl(3), torch.eye(3, 2, dtype=torch.float64), GRID, GRID)
    assert np.isfinite(surface).all()
    assert np.isnan(surface["accuracy"]).all()


def test_attributes_describe_the_slice():
    objective = network()
    V = gaussian(objective.n_parameters, 2, generator())
    surface = slices.surface(objective, V, GRID, GRID)
    attrs = surface.attrs
    assert attrs["length_alpha"] == pytest.approx(float(V[:, 0].norm()))
    assert attrs["length_beta"] == pytest.approx(float(V[:, 1].norm()))
    assert attrs["cosine"] == pytest.approx(float(unit(V)[:, 0] @ unit(V)[:, 1]))
    assert attrs["normalisation"] == "gaussian"
    assert attrs["loss_at_origin"] == pytest.approx(float(objective.value()), rel=1e-14)
    assert attrs["lowest_loss"] == float(surface.min())
    a, b = attrs["lowest_alpha"], attrs["lowest_beta"]
    assert float(surface.sel(alpha=a, beta=b)) == attrs["lowest_loss"]
    distance = float((a * V[:, 0] + b * V[:, 1]).norm())
    assert attrs["lowest_distance"] == pytest.approx(distance, rel=1e-12)


@pytest.mark.parametrize(
    "shards", [[[4, 0], [1], [8, 2, 3], [5, 6, 7]], [[0, 1, 2, 3, 4, 5, 6, 7, 8]]]
)
def test_shards_gather_to_the_surface(shards):
    objective = network()
    V = gaussian(objective.n_parameters, 2, generator())
    whole = slices.surface(objective, V, GRID, GRID[2:7])
    parts = [slices.surface_rows(objective, V, GRID, GRID[2:7], rows) for rows in shards]
    xr.testing.assert_identical(slices.gather(parts), whole)


def test_shards_survive_a_file(tmp_path):
    objective = network()
    V = gaussian(objective.n_parameters, 2, generator())
    parts = []
    for i, rows in enumerate([[0, 1, 2, 3], [4, 5, 6, 7, 8]]):
        shard = slices.surface_rows(objective, V, GRID, GRID, rows)
        shard.attrs["provenance"] = f"made by job {i}"
        shard.to_netcdf(tmp_path / f"{i}.nc", engine="h5netcdf")
        parts.append(xr.load_dataarray(tmp_path / f"{i}.nc", engine="h5netcdf"))
    whole = slices.surface(objective, V, GRID, GRID)
    xr.testing.assert_identical(slices.gather(parts), whole)


def test_shards_that_do_not_make_a_surface():
    objective = network()
    V = gaussian(objective.n_parameters, 4, generator())

    def rows(picked, directions=V[:, :2], betas=GRID):
        return slices.surface_rows(objective, directions, GRID, betas, picked)

    with pytest.raises(ArtifactError, match="8 rows of 9"):
        slices.gather([rows(range(8))])
    with pytest.raises(ArtifactError, match="10 rows of 9"):
        slices.gather([rows(range(9)), rows([3])])
    with pytest.raises(ArtifactError, match="once"):
        slices.gather([rows(range(8)), rows([3])])
    with pytest.raises(ArtifactError, match="one surface"):
        slices.gather([rows(range(8)), rows([8], V[:, 2:])])
    with pytest.raises(ArtifactError, match="one surface"):
        slices.gather([rows(range(8)), rows([8], betas=2 * GRID)])


@pytest.mark.parametrize("points", [[-1.0, 1.0], [0.1, 0.3], [1.0, 0.0, -1.0], [[0.0]], [0.0, 0.0]])
def test_the_network_must_lie_at_a_grid_point(points):
    objective = bowl(3)
    V = gaussian(3, 2, generator())
    with pytest.raises(ConfigurationError, match="alphas"):
        slices.surface(objective, V, points, GRID)
    with pytest.raises(ConfigurationError, match="betas"):
        slices.surface(objective, V, GRID, points)
    with pytest.raises(ConfigurationError, match="alphas"):
        slices.line(objective, V, points)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 2), (3, 3)])
def test_a_plane_needs_two_directions(shape):
    with pytest.raises(ValueError, match="shape"):
        slices.surface(bowl(3), torch.ones(shape, dtype=torch.float64), GRID, GRID)


@pytest.mark.parametrize("k", [1, 3])
def test_lines_equal_single_evaluations(k):
    objective = network()
    V = gaussian(objective.n_parameters, k, generator())
    line = slices.line(objective, V, GRID, normalisation="gaussian")
    assert line.dims == ("direction", "alpha")
    assert line.shape == (k, 9)
    np.testing.assert_allclose(line["length"], V.norm(dim=0))
    for i in range(k):
        for alpha in GRID:
            single = float(objective.value(objective.theta + alpha * V[:, i]))
            assert float(line[i].sel(alpha=alpha)) == pytest.approx(single, rel=1e-14)


def test_points_where_the_loss_is_not_finite_are_nan():
    objective = objective_of_function(lambda theta: -torch.log(theta).sum(), [0.5, 0.5])
    surface = slices.surface(objective, torch.eye(2, dtype=torch.float64), GRID, GRID)
    outside = (surface["alpha"] <= -0.5) | (surface["beta"] <= -0.5)
    assert (surface.isnull() == outside).all()
    assert surface.attrs["lowest_alpha"] == surface.attrs["lowest_beta"] == 1


def test_float32_objectives_give_their_own_losses():
    objective = network().to(dtype=torch.float32)
    V = gaussian(objective.n_parameters, 2, generator())
    surface = slices.surface(objective, V, GRID, GRID)
    assert surface.dtype == np.float64
    # Many points at once share their matrix products: equal to rounding of float32, not to the bit.
    assert surface.attrs["loss_at_origin"] == pytest.approx(float(objective.value()), rel=1e-6)


def test_progress_tells_what_is_left():
    told = []
    slices.surface(bowl(3), gaussian(3, 2, generator()), GRID, GRID, progress=told.append)
    assert (told[0].done, told[0].total) == (9, 81)
    assert told[0].seconds_left > 0
    assert told[-1] == Status(81, 81, "points", 0)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_projected_hessian(k):
    H = gaussian(12, 12, generator())
    H = H + H.T
    V = gaussian(12, k, generator(1))
    M = slices.projected_hessian(H, V)
    torch.testing.assert_close(M, V.T @ H @ V)
    assert torch.equal(M, M.T)
    single = slices.projected_hessian(H.float(), V)
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, M, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_grids_and_directions_may_be_of_any_kind(kind: Callable[..., Any]) -> None:
    """A grid by torch.linspace was a TypeError."""
    objective = network()
    V = torch.randn(objective.n_parameters, 2, dtype=torch.float64)
    points = [-1.0, 0.0, 0.5]
    given = {list: V.tolist(), np.array: V.numpy(), torch.tensor: V}[kind]
    expected = slices.surface(objective, V, points, points)
    xr.testing.assert_equal(slices.surface(objective, given, kind(points), kind(points)), expected)
    rows = slices.surface_rows(objective, given, kind(points), points, kind([0, 2]))
    assert np.array_equal(rows["alpha"], [-1.0, 0.5])
    lines = slices.line(objective, given, kind(points))
    xr.testing.assert_equal(lines, slices.line(objective, V, points))
    H = objective.hessian()
    assert torch.equal(slices.projected_hessian(H, given), slices.projected_hessian(H, V))
    for function in (directions.unit, directions.lengths, directions.orthonormalise):
        assert torch.equal(function(given), function(V))
    with pytest.raises(ValueError, match="shape"):
        slices.line(objective, V[:3], points)


# --- Without directions and grids -----------------------------------------------------------------


def quadratic(values: list[float]) -> Objective:
    """L(θ) = 1 + ½Σ λ_i (θ_i − 3)² at θ = 3."""
    eigenvalues = torch.tensor(values, dtype=torch.float64)
    return objective_of_function(
        lambda theta: 1 + 0.5 * (eigenvalues * (theta - 3).square()).sum(), [3.0] * len(values)
    )


def test_the_default_plane_is_that_of_both_ends_with_half_widths_of_the_curvature():
    """At the edges the loss has changed by half of itself, up and down: a saddle as one sees it."""
    objective = quadratic([4.0, 0.1, 0.0, -0.25])
    surface = slices.surface(objective, n_points=5)
    alpha, beta = surface["alpha"].values, surface["beta"].values
    np.testing.assert_allclose([alpha[-1], beta[-1]], [0.5, 2.0], rtol=1e-6)
    expected = 1 + 2 * alpha[:, None] ** 2 - 0.125 * beta[None, :] ** 2
    np.testing.assert_allclose(surface, expected, atol=1e-6)
    np.testing.assert_allclose([surface[-1, 2], surface[2, -1]], [1.5, 0.5], rtol=1e-6)
    assert surface.attrs["normalisation"] == "unit"
    again = slices.surface(objective, n_points=5, seed=torch.Generator().manual_seed(4))
    np.testing.assert_allclose(again, surface, atol=1e-6)
    xr.testing.assert_identical(slices.surface(objective, n_points=5), surface)


def test_eigenpairs_serve_as_directions():
    objective = quadratic([4.0, 0.1, 0.0, -0.25])
    pairs = extreme_eigenpairs(objective, 2, 2)
    xr.testing.assert_allclose(
        slices.surface(objective, pairs, n_points=3), slices.surface(objective, n_points=3)
    )


def test_half_widths_end_at_the_length_of_the_weights():
    objective = quadratic([4.0, 0.1, 0.0, -0.25])
    V = torch.eye(4, dtype=torch.float64) * torch.tensor([1.0, 5.0, 1.0, 2.0])
    widths = slices.half_widths(objective, V)
    np.testing.assert_allclose(widths, [0.5, 10**0.5, 6.0, 2.0])  # ‖θ‖ = 6


@pytest.mark.parametrize(
    ("plane", "normalisation"), [("random", "gaussian"), ("filter", "filter"), ("hessian", "unit")]
)
def test_named_planes(plane, normalisation):
    objective = network()
    surface = slices.surface(objective, plane=plane, n_points=3)
    V = slices.plane_directions(objective, plane)
    assert surface.attrs["normalisation"] == normalisation
    assert surface.attrs["length_alpha"] == pytest.approx(float(V[:, 0].norm()))
    widths = slices.half_widths(objective, V)
    length = V.norm(dim=0).numpy()
    reached = np.array([surface["alpha"][-1], surface["beta"][-1]])
    np.testing.assert_allclose(reached * length, widths)
    same = slices.surface(objective, plane=plane, n_points=3, radius=0.3)
    np.testing.assert_allclose(np.array([same["alpha"][-1], same["beta"][-1]]) * length, 0.3)
    if plane == "filter":
        rows = V[:24].reshape(6, 4, 2).norm(dim=1)
        weights = objective.theta[:24].reshape(6, 4).norm(dim=1)
        torch.testing.assert_close(rows, weights[:, None].expand(6, 2))
        assert not V[24:30].any()
    if plane != "hessian":
        other = slices.plane_directions(objective, plane, seed=1)
        assert abs(float(unit(V)[:, 0] @ unit(other)[:, 0])) < 0.6


def test_unknown_planes():
    with pytest.raises(ConfigurationError, match="'hessain'"):
        slices.surface(network(), plane="hessain")
    with pytest.raises(ConfigurationError, match="two parameters"):
        slices.surface(quadratic([1.0]))


def test_default_lines():
    objective = quadratic([4.0, 0.1, 0.0, -0.25])
    line = slices.line(objective, n_points=3)
    assert line["direction"].values.tolist() == ["smallest", "largest"]
    assert float(line["alpha"][-1]) == pytest.approx(1.0)  # √(0.5·2)
    np.testing.assert_allclose(line.sel(direction="largest"), [3, 1, 3], rtol=1e-6)
    np.testing.assert_allclose(line.sel(direction="smallest"), [0.875, 1, 0.875], rtol=1e-6)
    single = slices.line(objective, torch.eye(4, dtype=torch.float64)[0], radius=0.5, n_points=3)
    np.testing.assert_allclose(single, [[1.5, 1, 1.5]], rtol=1e-12)
    assert slices.line(quadratic([1.0]), n_points=3)["direction"].values.tolist() == ["largest"]


# --- grids and directions as people have them -------------------------------------------------------


@pytest.mark.parametrize(
    "points",
    [
        torch.linspace(-1, 1, 21),
        torch.linspace(-0.3, 0.3, 7),
        np.linspace(-0.7, 0.7, 57),
        np.arange(-1, 1.01, 0.1),
        np.arange(-0.3, 0.35, 0.1, dtype=np.float32),
        1e-9 * np.arange(-1, 1.01, 0.1),
    ],
)
def test_symmetric_grids_hold_the_network(points):
    objective, v = bowl(), torch.ones(40, dtype=torch.float64)
    line = slices.line(objective, v, points)
    assert (line["alpha"] == 0).sum() == 1
    assert float(line.sel(alpha=0.0)[0]) == float(objective.value())
    surface = slices.surface(objective, torch.eye(40, 2), points, points)
    assert surface.attrs["loss_at_origin"] == float(objective.value())
    np.testing.assert_allclose(surface["alpha"], points, atol=1e-6 * float(points[-1]))


@pytest.mark.parametrize("points", [[-1.0, 1e-5, 1.0], [-1.0, -1e-3, 1.0], [1e-300], [-1.0, 1.0]])
def test_grids_beside_the_network(points):
    with pytest.raises(ConfigurationError, match="must contain 0"):
        slices.line(bowl(), torch.ones(40), points)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": "1"}, "radius must be a positive and finite number, not '1'"),
        ({"radius": (1, 2)}, r"radius must be a positive and finite number, not \(1, 2\)"),
        ({"radius": 0}, "radius must be a positive"),
        ({"radius": -1.0}, "radius must be a positive"),
        ({"radius": math.nan}, "radius must be a positive"),
        ({"n_points": "3"}, "n_points must be a whole number"),
        ({"n_points": 4.5}, "n_points must be a whole number"),
        ({"n_points": -3}, "n_points must be a whole number"),
        ({"n_points": 4}, "odd number"),
        ({"alphas": "abc"}, "no array of numbers"),
        ({"alphas": [0j, 1j]}, "complex, but must be real"),
        ({"alphas": 0.0}, "must ascend"),
    ],
)
def test_grids_that_are_none(options, message):
    """One sentence each, that says what was given where a number was wanted."""
    v = torch.ones(40, dtype=torch.float64)
    for ask in (
        lambda: slices.line(bowl(), v, **options),
        lambda: slices.surface(bowl(), torch.eye(40, 2), **options),
    ):
        with pytest.raises(HessianDirectionsError, match=message):
            ask()


def test_grids_that_want_a_gradient():
    points = torch.linspace(-1, 1, 3, requires_grad=True)
    assert slices.line(bowl(), torch.ones(40), points).sizes == {"direction": 1, "alpha": 3}


@pytest.mark.parametrize("kind", ["line", "surface", "half_widths", "projected_hessian"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda V: V * torch.tensor([1, 0]), "length zero or is not finite"),
        (lambda V: V * torch.tensor([1, np.nan]), "length zero or is not finite"),
        (lambda V: V * torch.tensor([1, np.inf]), "length zero or is not finite"),
        (lambda V: V * 1j, "complex, but must be real"),
        (lambda V: V.numpy() * 1j, "complex, but must be real"),
        (lambda V: V[:-1], r"the shape \(39, 2\), not \(40, "),
        (lambda V: V[None], r"the shape \(1, 40, 2\), not \(40, "),
    ],
)
def test_directions_that_are_none(kind, change, message):
    grid = [-1.0, 0.0, 1.0]
    ask = {
        "line": lambda V: slices.line(bowl(), V, grid),
        "surface": lambda V: slices.surface(bowl(), V, grid, grid),
        "half_widths": lambda V: slices.half_widths(bowl(), V),
        "projected_hessian": lambda V: slices.projected_hessian(bowl(), V),
    }[kind]
    V = torch.eye(40, 2, dtype=torch.float64)
    with pytest.raises(ArgumentError, match=message):
        ask(change(V))


def test_eigenpairs_serve_as_lines():
    pairs = extreme_eigenpairs(bowl())
    found = slices.line(bowl(), pairs, [-1.0, 0.0, 1.0])
    expected = slices.line(bowl(), pairs.vectors, [-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(found, expected)


def test_biases_have_no_filters():
    model = torch.nn.Linear(3, 2)
    X, Y = torch.randn(20, 3), torch.randint(2, (20,))
    loss = torch.nn.functional.cross_entropy
    objective = Objective(model, loss, X, Y, parameters="bias")
    with pytest.raises(ConfigurationError, match="no parameter here has filters"):
        slices.surface(objective, plane="filter", radius=1.0)


def test_the_lowest_point_along_parallel_directions_has_a_distance():
    """Along v twice, α = −β is the network itself: its distance is 0, never less by rounding."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(30):
        v = torch.randn(40, dtype=torch.float64, generator=draw)
        surface = slices.surface(bowl(), torch.stack([v, v], 1), [-1, 0, 1], [-1, 0, 1])
        surface[:] = 1.0
        surface[0, 2] = 0.0
        assert slices.gather([surface.assign_attrs(n_rows=3)]).attrs["lowest_distance"] < 1e-6


@pytest.mark.parametrize(
    "ask",
    [
        lambda o: slices.surface(o),
        lambda o: slices.surface(o, torch.eye(3, 2), [0.0], [0.0]),
        lambda o: slices.line(o),
        lambda o: slices.half_widths(o, torch.eye(3, 1)),
        lambda o: trace.directional(o),
        lambda o: trace.finite_difference(o),
        lambda o: trace.finite_difference(o, kinks="correct"),
        lambda o: trace.quadratic_fit(o),
        lambda o: flatness.relative_flatness(o, 4),
        lambda o: flatness.average_increase(o, 0.1, 4),
        lambda o: flatness.worst_increase(o, 0.1, 4),
        lambda o: flatness.m_sharpness(o, 0.1, 4),
    ],
)
@pytest.mark.parametrize("other", [torch.nn.Linear(1, 3), torch.eye(3), bowl().hessian()])
def test_only_an_objective_has_losses(ask, other):
    with pytest.raises(ArgumentError, match="knows no loss at other weights: give an Objective"):
        ask(other)
