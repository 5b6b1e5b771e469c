import math

import pytest
import torch
from matrices import generator
from torch import nn

from hessian_directions.geometry import directions


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_directions_do_not_depend_on_how_they_are_chunked(distribution):
    at_once = directions.draw(distribution, 37, 8, generator())
    drawing = generator()
    in_parts = [directions.draw(distribution, 37, k, drawing) for k in (3, 0, 5)]
    assert torch.equal(torch.cat(in_parts, 1), at_once)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_directions_are_the_same_in_every_precision(distribution):
    double = directions.draw(distribution, 100, 4, generator(), torch.float64)
    single = directions.draw(distribution, 100, 4, generator(), torch.float32)
    assert torch.equal(double.float(), single)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_entries_have_mean_0_and_variance_1(distribution):
    v = directions.draw(distribution, 100_000, 1, generator())
    assert abs(float(v.mean())) < 5 / math.sqrt(100_000)
    assert float(v.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / 100_000))


def test_rademacher_entries_are_signs():
    assert directions.rademacher(1000, 2, generator()).unique().tolist() == [-1.0, 1.0]


def test_loss_landscapes_uniform_directions_have_cosine_three_quarters():
    """Directions uniform on [0, 1] are nearly parallel; ours are nearly orthogonal."""
    n = 10_000
    u, v = directions.unit(directions.gaussian(n, 2, generator())).T
    assert abs(float(u @ v)) < 5 / math.sqrt(n)
    uniform = directions.unit(torch.rand(n, 2, generator=generator()))
    assert float(uniform[:, 0] @ uniform[:, 1]) == pytest.approx(0.75, abs=0.01)


def test_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    directions.gaussian(10, 2, generator())
    directions.rademacher(10, 2, generator())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_unknown_distribution():
    with pytest.raises(ValueError, match="uniform"):
        directions.draw("uniform", 3, 1, generator())


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3), (1,)])
def test_unit_directions(shape):
    v = torch.randn(shape, generator=generator(), dtype=torch.float64)
    u = directions.unit(v)
    torch.testing.assert_close(u.norm(dim=0), torch.ones(shape[1:], dtype=torch.float64))
    torch.testing.assert_close(u * v.norm(dim=0), v)


def test_zero_has_no_unit_direction():
    with pytest.raises(ValueError, match="zero"):
        directions.unit(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2)
    )
    model[4].weight.requires_grad_(False)
    return model


def test_every_filter_gets_the_length_of_the_networks_filter():
    model = network()
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    d = directions.filter_normalised(directions.gaussian(n, 2, generator(), torch.float32), model)
    start = 0
    for p in (p for p in model.parameters() if p.requires_grad):
        part = d[start : start + p.numel()]
        start += p.numel()
        if p.ndim == 1:
            assert not part.any()
            continue
        for column in part.T:
            torch.testing.assert_close(
                column.reshape(p.shape).flatten(1).norm(dim=1), p.detach().flatten(1).norm(dim=1)
            )


def test_loss_landscapes_filter_normalisation_scales_twice():
    """Each parameter is scaled exactly once, so a second application changes nothing."""
    model = network()
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    d = directions.filter_normalised(directions.gaussian(n, 1, generator(), torch.float32), model)
    torch.testing.assert_close(directions.filter_normalised(d, model), d)
    torch.testing.assert_close(directions.filter_normalised(d[:, 0], model), d[:, 0])


def test_filter_normalisation_keeps_the_direction_within_a_filter():
    model = nn.Linear(5, 1, bias=False)
    d = directions.gaussian(5, 1, generator(), torch.float32)
    scaled = directions.filter_normalised(d, model)
    torch.testing.assert_close(directions.unit(scaled), directions.unit(d))


def test_filter_normalisation_refuses_other_models():
    with pytest.raises(ValueError, match="3 entries"):
        directions.filter_normalised(torch.zeros(3), network())


def test_orthonormalise_ill_conditioned_columns():
    V = directions.gaussian(50, 3, generator())
    V = torch.cat([V, V[:, :1] + 1e-9 * V[:, 1:2] + 1e-9 * torch.eye(50, 1)], 1)
    Q = directions.orthonormalise(V)
    torch.testing.assert_close(Q.T @ Q, torch.eye(4, dtype=Q.dtype), rtol=0, atol=1e-14)
    torch.testing.assert_close(Q @ (Q.T @ V), V)
    assert bool(((Q * V).sum(0) > 0).all())


def test_orthonormal_columns_come_back():
    Q = directions.orthonormalise(directions.gaussian(20, 5, generator()))
    torch.testing.assert_close(directions.orthonormalise(Q), Q)


@pytest.mark.parametrize("V", [torch.ones(4, 2), torch.zeros(3, 1), torch.eye(2, 3)])
def test_dependent_directions_are_refused(V):
    with pytest.raises(ValueError, match="dependent"):
        directions.orthonormalise(V)


def test_no_directions():
    assert directions.orthonormalise(torch.empty(5, 0)).shape == (5, 0)
    assert directions.gaussian(5, 0, generator()).shape == (5, 0)
