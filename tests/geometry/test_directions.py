import math

import numpy as np
import pytest
import torch
from matrices import generator
from torch import nn

from hessian_directions.errors import ArgumentError, HessianDirectionsError
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
    with pytest.raises(ValueError, match=r"shape \(3,\), the network \d+ parameters"):
        directions.filter_normalised(torch.zeros(3), network())


def weights():
    return [torch.ones(2, 3, dtype=torch.float64)]


ASKED = {
    "unit": directions.unit,
    "lengths": directions.lengths,
    "orthonormalise": directions.orthonormalise,
    "filter_normalised": lambda V: directions.filter_normalised(V, weights()),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.float16, torch.bfloat16])
def test_integers_and_halves_are_read_as_float32(ask, dtype):
    V = torch.tensor([[3, 1], [4, 1], [0, 2], [1, 0], [0, 1], [1, 1]]).to(dtype)
    torch.testing.assert_close(ask(V), ask(V.float()))


def test_halves_do_not_overflow():
    v = torch.full((100,), 60000.0, dtype=torch.float16)
    assert float(directions.unit(v).norm()) == pytest.approx(1)


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_complex_directions_are_refused(ask):
    with pytest.raises(ArgumentError, match="complex, but must be real"):
        ask(torch.ones(6, 2, dtype=torch.complex128))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: directions.unit([math.nan, 1.0]), "not finite"),
        (lambda: directions.orthonormalise(math.nan * torch.eye(3)), "not finite"),
        (lambda: directions.orthonormalise(torch.ones(3)), r"shape \(3,\), not \(N, K\)"),
        (lambda: directions.filter_normalised(math.nan * torch.ones(6), weights()), "not finite"),
        (lambda: directions.filter_normalised(3.0, weights()), r"the shape \(\)"),
        (lambda: directions.filter_normalised(torch.ones(6, 1, 1), weights()), r"the shape \(6, 1"),
        (lambda: directions.filter_normalised(torch.ones(6), None), "A NoneType has no weights"),
        (lambda: directions.filter_normalised(torch.ones(6), "abc"), "no array of numbers"),
        (lambda: directions.gaussian(-1, 2), "n must be a whole number"),
        (lambda: directions.gaussian(5, 2.0), "k must be a whole number"),
        (lambda: directions.gaussian(5, 2, dtype=torch.int64), "dtype is torch.int64, but"),
        (lambda: directions.rademacher(5, 2, dtype="float32"), "dtype is 'float32', but"),
    ],
)
def test_what_is_no_direction(ask, message):
    with pytest.raises(HessianDirectionsError, match=message):
        ask()


def test_weights_as_arrays_have_filters_too():
    d = directions.gaussian(6, 2, generator())
    expected = directions.filter_normalised(d, weights())
    torch.testing.assert_close(directions.filter_normalised(d, [np.ones((2, 3))]), expected)


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
