"""Measures of flatness and the rescaling counter-example, against dense Hessians."""

import copy

import numpy as np
import pytest
import torch
from networks import Problem, dense_hessian, objective_of_function
from scipy.optimize import brentq
from torch import nn
from torch.nn.utils import parametrizations

from hessian_directions import seeds
from hessian_directions.errors import ArgumentError, DataError, ModelError
from hessian_directions.geometry.directions import filter_normalised
from hessian_directions.geometry.flatness import (
    ScaledOperator,
    average_increase,
    m_sharpness,
    normalised_measures,
    relative_flatness,
    rescale,
    worst_increase,
)
from hessian_directions.models.mlp import mlp
from hessian_directions.objectives.objective import Objective


def network(activation="relu", hidden_layers=2):
    model = mlp(
        input_shape=(3,), n_outputs=4, width=6, hidden_layers=hidden_layers, activation=activation
    )
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    return model


def case(model):
    draw = torch.Generator().manual_seed(2)
    inputs = torch.randn(50, 3, generator=draw, dtype=torch.float64)
    targets = torch.randint(4, (50,), generator=draw)
    return Problem(model, nn.functional.cross_entropy, inputs, targets)


def objective(model):
    return Objective(*case(model))


@pytest.mark.parametrize("scale", [0.125, 4.0, 3.7])
def test_dinh_rescaling_keeps_the_function_and_changes_the_hessian_as_predicted(scale):
    model = network()
    rescaled = rescale(model, scale)
    inputs = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    outputs, others = model(inputs), rescaled(inputs)
    if scale == 3.7:
        torch.testing.assert_close(others, outputs, rtol=1e-12, atol=1e-12)
    else:
        assert torch.equal(others, outputs)
    assert float(objective(rescaled).value()) == pytest.approx(float(objective(model).value()))

    d = objective(rescaled).theta / objective(model).theta
    H, H_rescaled = dense_hessian(case(model)), dense_hessian(case(rescaled))
    torch.testing.assert_close(H_rescaled, H / torch.outer(d, d), rtol=1e-9, atol=1e-11)
    predicted = float((H.diagonal() / d**2).sum())
    assert float(H_rescaled.trace()) == pytest.approx(predicted)
    assert abs(predicted / float(H.trace()) - 1) > 0.5


def test_factors_of_the_first_two_layers_only():
    model = network(hidden_layers=3)
    d = objective(rescale(model, 5.0)).theta / objective(model).theta
    sizes = [parameter.numel() for parameter in model.parameters()]
    expected = [5.0, 5.0, 0.2, 1.0, 1.0, 1.0, 1.0, 1.0]
    for part, value in zip(d.split(sizes), expected, strict=True):
        assert part.tolist() == pytest.approx([value] * len(part))


def test_rescaling_leaves_the_model_as_it_is():
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    rescale(model, 3.0)
    assert all(map(torch.equal, before, model.parameters()))


def test_frozen_parameters_are_rescaled():
    model = network()
    model[1].bias.requires_grad_(False)
    rescaled = rescale(model, 2.0)
    assert torch.equal(rescaled[1].bias, 2 * model[1].bias)


def test_nested_sequences_and_missing_biases():
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU()), nn.Linear(5, 2)
    ).double()
    inputs = torch.randn(7, 3, generator=draw, dtype=torch.float64)
    assert torch.equal(rescale(model, 8.0)(inputs), model(inputs))


@pytest.mark.parametrize(
    "model",
    [
        network("tanh"),
        nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3)),
        nn.ModuleList([nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)]),
        nn.Linear(3, 3),
    ],
)
def test_models_without_such_layers(model):
    with pytest.raises(ModelError, match="Linear, ReLU, Linear"):
        rescale(model, 2.0)


class Shifted(nn.ReLU):
    def forward(self, x):
        return super().forward(x) - 0.1


class Skipping(nn.Sequential):
    def forward(self, x):
        h = self[0](x)
        return self[2](self[1](h)) + h


def linear():
    return nn.Linear(5, 5)


def hooked(module):
    module.register_forward_hook(lambda module, inputs, output: output + 1)
    return module


def tied(name):
    first, last = linear(), linear()
    setattr(last, name, getattr(first, name))
    return nn.Sequential(first, nn.ReLU(), linear(), nn.ReLU(), last)


def replaced():
    layer = nn.ReLU()
    layer.forward = lambda x: x.tanh()
    return layer


def again(second):
    """With its first or its second layer once more at the end."""
    first, last = linear(), linear()
    used = last if second else first
    return nn.Sequential(first, nn.ReLU(), last, nn.Sequential(nn.ReLU(), used))


@pytest.mark.parametrize(
    "make",
    [
        lambda: tied("weight"),
        lambda: tied("bias"),
        lambda: again(False),
        lambda: again(True),
        lambda: nn.Sequential(parametrizations.weight_norm(linear()), nn.ReLU(), linear()),
        lambda: nn.Sequential(parametrizations.spectral_norm(linear()), nn.ReLU(), linear()),
        lambda: nn.Sequential(linear(), Shifted(), linear()),
        lambda: nn.Sequential(linear(), replaced(), linear()),
        lambda: nn.Sequential(linear(), hooked(nn.ReLU()), linear()),
        lambda: nn.Sequential(hooked(linear()), nn.ReLU(), linear()),
        lambda: nn.Sequential(linear(), nn.ReLU(), hooked(linear())),
        lambda: nn.Sequential(hooked(nn.Sequential(linear())), nn.ReLU(), linear()),
        lambda: Skipping(linear(), nn.ReLU(), linear()),
        lambda: nn.Sequential(Skipping(linear(), nn.ReLU(), linear()), nn.ReLU()),
    ],
)
def test_rescaling_keeps_the_function_or_is_refused(make):
    with pytest.raises(ModelError, match="must be plain"):
        rescale(make(), 2.0)


def test_parameters_that_only_share_memory_are_rescaled_apart():
    model = tied("weight")
    model[4].weight = nn.Parameter(model[0].weight.data)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rescale(model, 2.0)(x), model(x))


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), float("nan"), "1", None, 1j, [1.0, 2]])
def test_scales_and_radii_that_are_not_positive(wrong):
    loss = objective(network())
    for name, ask in {
        "scale": lambda: rescale(network(), wrong),
        "radius": lambda: average_increase(loss, wrong, 2),
        "radius ": lambda: worst_increase(loss, wrong, 1),
        "radius  ": lambda: m_sharpness(loss, wrong, 1),
    }.items():
        with pytest.raises(ArgumentError, match=f"{name.strip()} must be a positive and finite"):
            ask()


def test_what_is_no_network_is_not_rescaled():
    with pytest.raises(ModelError, match="The network is a Objective, but"):
        rescale(objective(network()), 2.0)


def test_scaled_measures_do_not_change_with_a_common_factor_of_all_weights():
    """f(cθ) = f(θ) implies H(cθ) = H(θ)/c²."""
    before = normalised_measures(trace=12.0, largest=5.0, theta_norm=3.0, n_parameters=60)
    after = normalised_measures(trace=12.0 / 4, largest=5.0 / 4, theta_norm=6.0, n_parameters=60)
    assert before == {"mean_curvature": 0.2, "trace_scaled": 1.8, "largest_scaled": 45.0}
    assert after["trace_scaled"] == pytest.approx(before["trace_scaled"])
    assert after["largest_scaled"] == pytest.approx(before["largest_scaled"])
    assert after["mean_curvature"] == pytest.approx(before["mean_curvature"] / 4)


# --- adaptive curvature and relative flatness ---


def test_scaled_operator_is_dhd():
    draw = torch.Generator().manual_seed(0)
    H = torch.randn(5, 5, generator=draw, dtype=torch.float64)
    d = torch.rand(5, generator=draw, dtype=torch.float64)
    operator, dense = ScaledOperator(H + H.T, d), torch.diag(d) @ (H + H.T) @ torch.diag(d)
    V = torch.randn(5, 3, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(operator @ V, dense @ V)
    torch.testing.assert_close(operator @ V[:, 0], dense @ V[:, 0])
    assert (operator.shape, operator.dtype) == ((5, 5), torch.float64)


def relative_flatness_of(H, model):
    """Σ ⟨w_s, w_s'⟩ tr H_ss', block by block of a dense Hessian."""
    found, place = {}, 0
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            rows, columns = parameter.shape
            at = place + torch.arange(rows * columns).reshape(rows, columns)
            found[name] = sum(
                float(parameter[s] @ parameter[t]) * float(H[at[s], at[t]].sum())
                for s in range(rows)
                for t in range(rows)
            )
        place += parameter.numel()
    return found


def test_relative_flatness_against_blocks_of_the_dense_hessian():
    model = network()
    expected = relative_flatness_of(dense_hessian(case(model)), model)
    found = relative_flatness(objective(model), 4000, seed=3)
    assert found.keys() == expected.keys()
    errors = []
    for name, estimate in found.items():
        assert estimate.standard_error < 0.05 * abs(expected[name])
        errors.append((estimate.mean - expected[name]) / estimate.standard_error)
    assert np.abs(errors).max() < 3.5


def as_convolution(layer):
    """The convolution that a transposed one of kernel size 1 is, group by group."""
    groups = layer.groups
    same = nn.Conv2d(layer.in_channels, layer.out_channels, 1, groups=groups, bias=False).double()
    weight = layer.weight.detach()
    parts = [part.transpose(0, 1) for part in weight.chunk(groups)]
    same.weight.data = torch.cat(parts).clone()
    return same


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_are_the_convolutions_that_they_equal(groups):
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(9, 4, 3, 3, generator=draw).double()
    T = torch.randn(9, 6, 3, 3, generator=draw).double()
    layer = nn.ConvTranspose2d(4, 6, 1, groups=groups, bias=False).double()
    same = as_convolution(layer)
    torch.testing.assert_close(layer(X), same(X))
    one, other = (Objective(m, nn.functional.mse_loss, X, T) for m in (layer, same))
    found, expected = (relative_flatness(o, 40, seed=1)["weight"] for o in (one, other))
    assert found.mean == pytest.approx(expected.mean, rel=1e-9)

    V = torch.randn(one.n_parameters, 2, generator=draw).double()
    for source in (layer, one):
        scaled = filter_normalised(V, source).unflatten(0, layer.weight.shape)
        before = V.unflatten(0, layer.weight.shape)
        for g in range(groups):
            inputs = slice(g * 4 // groups, (g + 1) * 4 // groups)
            for c in range(6 // groups):
                length = scaled[inputs, c].flatten(0, 2).norm(dim=0)
                wanted = layer.weight[inputs, c].norm().expand(2)
                torch.testing.assert_close(length, wanted, check_dtype=False)
                ratio = scaled[inputs, c] / before[inputs, c]
                torch.testing.assert_close(ratio, ratio[:1, :1, :1].expand(ratio.shape))


def test_an_embedding_is_the_linear_map_of_a_one_hot_vector():
    draw = torch.Generator().manual_seed(0)
    ids, Y = (torch.randint(k, (80,), generator=draw) for k in (6, 3))
    embedding, loss = nn.Sequential(nn.Embedding(6, 3)).double(), nn.functional.cross_entropy
    dense = nn.Sequential(nn.Linear(6, 3, bias=False)).double()
    dense[0].weight.data = embedding[0].weight.data.T.clone()
    X = nn.functional.one_hot(ids, 6).double()

    def of(flat):
        return loss(X @ flat.reshape(3, 6).T, Y)

    W = dense[0].weight.detach()
    H = torch.autograd.functional.hessian(of, W.flatten()).reshape(3, 6, 3, 6)
    expected = float(torch.einsum("st,sjtj->", W @ W.T, H))
    found = relative_flatness(Objective(embedding, loss, ids, Y), 4000)["0.weight"]
    assert abs(found.mean - expected) < 3.5 * found.standard_error < 0.1 * expected


class OwnWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x):
        return x @ self.weight.T


class TiedEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(3, 4), nn.Linear(4, 3, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(x @ self.embedding.weight.T @ self.embedding.weight)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (OwnWeight(), "OwnWeight has no outputs that are known"),
        (parametrizations.weight_norm(nn.Linear(4, 3)), "is no weight of a layer"),
        (TiedEmbedding(), "other outputs in one layer than in another"),
    ],
)
def test_weights_whose_outputs_are_not_known_have_no_relative_flatness(model, message):
    X, Y = torch.randn(8, 4), torch.randint(3, (8,))
    with pytest.raises(ModelError, match=message):
        relative_flatness(Objective(model, nn.functional.cross_entropy, X, Y), 2)


def test_standard_error_of_relative_flatness():
    """Over many small samples the errors have the size that is stated."""
    model = network()
    loss, expected = objective(model), relative_flatness_of(dense_hessian(case(model)), model)
    estimates = [relative_flatness(loss, 20, seed=k)["5.weight"] for k in range(60)]
    scatter = np.array([(e.mean - expected["5.weight"]) / e.standard_error for e in estimates])
    assert 0.75 < np.sqrt((scatter**2).mean()) < 1.35


@pytest.mark.parametrize("scale", [0.25, 5.0])
def test_invariant_measures_stay_as_they_are_for_one_function(scale):
    model = network()
    one, other = objective(model), objective(rescale(model, scale))
    before, after = (
        ScaledOperator(o.hessian(), o.theta.abs()) @ torch.eye(o.n_parameters).double()
        for o in (one, other)
    )
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-10)
    kappas = [relative_flatness(o, 6, seed=1) for o in (one, other)]
    for name in kappas[0]:
        assert kappas[1][name].mean == pytest.approx(kappas[0][name].mean, rel=1e-9)


# --- the loss at a distance ---


def quadratic(values, theta):
    """½ Σ λ_i θ_i²."""
    curvatures = torch.tensor(values, dtype=torch.float64)
    return objective_of_function(lambda theta: 0.5 * (curvatures * theta**2).sum(), theta)


CURVATURES = [3.0, 1.0, 0.2, -0.5]


def test_average_increase_of_a_quadratic_is_that_of_its_trace():
    """E ½ρ²u'Hu = ρ²t/2N on the sphere, whatever the slope."""
    objective = quadratic(CURVATURES, [1.0, -2.0, 0.5, 0.3])
    found = average_increase(objective, 0.7, 4000, seed=0)
    assert found.standard_error < 0.01
    assert abs(found.mean - 0.7**2 * sum(CURVATURES) / 8) < 3.5 * found.standard_error


@pytest.mark.parametrize("radius", [0.01, 0.5, 3.0])
def test_largest_increase_of_a_quadratic_in_a_ball(radius):
    """The maximum of g'δ + ½δ'Λδ over a ball is at δ = (μ − Λ)⁻¹g with ‖δ‖ = ρ, μ > λ_max."""
    values, theta = np.array(CURVATURES), np.array([1.0, -2.0, 0.5, 0.3])
    g = values * theta
    excess = lambda mu: np.linalg.norm(g / (mu - values)) - radius  # noqa: E731
    mu = brentq(excess, values.max() + 1e-9, values.max() + 2 * np.linalg.norm(g) / radius)
    delta = g / (mu - values)
    expected = g @ delta + 0.5 * values @ delta**2
    found = worst_increase(quadratic(CURVATURES, theta), radius, 200)
    assert found == pytest.approx(expected, rel=1e-6)
    assert 0 < worst_increase(quadratic(CURVATURES, theta), radius, 1) <= expected * (1 + 1e-12)


def test_a_stationary_point_shows_no_way_up():
    assert worst_increase(quadratic([1.0, 1.0], [0.0, 0.0]), 1.0, 5) == 0.0


def test_m_sharpness_is_the_mean_over_batches_of_a_step_by_hand():
    model, radius, m = network(), 0.1, 20
    found = m_sharpness(objective(model), radius, m, seed=4)
    _, _, inputs, targets = case(model)
    order = torch.randperm(50, generator=seeds.as_generator(4, "m-sharpness"))
    increases = []
    for batch in (order[:20], order[20:40]):
        moved = copy.deepcopy(model)
        before = nn.functional.cross_entropy(moved(inputs[batch]), targets[batch])
        gradients = torch.autograd.grad(before, list(moved.parameters()))
        length = torch.cat([g.flatten() for g in gradients]).norm()
        with torch.no_grad():
            for parameter, g in zip(moved.parameters(), gradients):
                parameter.add_(radius * g / length)
            after = nn.functional.cross_entropy(moved(inputs[batch]), targets[batch])
        increases.append(float(after - before))
    assert found.mean == pytest.approx(np.mean(increases), rel=1e-9)
    assert found.standard_error == pytest.approx(np.std(increases, ddof=1) / np.sqrt(2), rel=1e-6)


@pytest.mark.parametrize(
    "increase",
    [
        lambda o: average_increase(o, 1e-5, 50).mean,
        lambda o: average_increase(o, 1e-5, 50).standard_error,
        lambda o: worst_increase(o, 1e-6, 3),
        lambda o: m_sharpness(o, 1e-6, 10).mean,
    ],
)
def test_increases_of_a_loss_in_float32_are_no_rounding(increase):
    """A float32 copy has the increases of the float64 network with the same numbers."""
    single = network().float()
    same = copy.deepcopy(single).double()
    draw = torch.Generator().manual_seed(2)
    X, Y = torch.randn(50, 3, generator=draw), torch.randint(4, (50,), generator=draw)
    loss = nn.functional.cross_entropy
    found = increase(Objective(single, loss, X, Y))
    expected = increase(Objective(same, loss, X.double(), Y))
    assert found == pytest.approx(expected, rel=1e-6)


def test_too_few_samples_for_two_batches():
    with pytest.raises(DataError, match="50 samples are fewer than two batches of 26"):
        m_sharpness(objective(network()), 0.1, 26)
