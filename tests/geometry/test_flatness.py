"""Measures of flatness and the rescaling counter-example, against dense Hessians."""

import pytest
import torch
from torch import nn

from hessian_directions.errors import ModelError
from hessian_directions.geometry.flatness import normalised_measures, rescale, rescaling_factors
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


def objective(model):
    draw = torch.Generator().manual_seed(2)
    inputs = torch.randn(50, 3, generator=draw, dtype=torch.float64)
    targets = torch.randint(4, (50,), generator=draw)
    return Objective(model, nn.functional.cross_entropy, inputs, targets)


def dense_hessian(model):
    """By double backward, independently of the library's forward over reverse."""
    draw = torch.Generator().manual_seed(2)
    inputs = torch.randn(50, 3, generator=draw, dtype=torch.float64)
    targets = torch.randint(4, (50,), generator=draw)
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]

    def loss(theta):
        parts = theta.split([shape.numel() for shape in shapes])
        weights = {name: p.reshape(s) for name, p, s in zip(names, parts, shapes)}
        outputs = torch.func.functional_call(model, weights, (inputs,))
        return nn.functional.cross_entropy(outputs, targets)

    theta = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    return torch.autograd.functional.hessian(loss, theta)


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

    d = rescaling_factors(model, scale)
    torch.testing.assert_close(objective(rescaled).theta, d * objective(model).theta)
    H, H_rescaled = dense_hessian(model), dense_hessian(rescaled)
    torch.testing.assert_close(H_rescaled, H / torch.outer(d, d), rtol=1e-9, atol=1e-11)
    predicted = float((H.diagonal() / d**2).sum())
    assert float(H_rescaled.trace()) == pytest.approx(predicted)
    assert abs(predicted / float(H.trace()) - 1) > 0.5


def test_trace_can_be_made_as_large_as_one_likes():
    model = network()
    traces = [float(dense_hessian(rescale(model, 2.0**-i)).trace()) for i in (0, 3, 6)]
    assert traces[2] > 8 * traces[1] > 64 * traces[0]


def test_factors_of_the_first_two_layers_only():
    model = network(hidden_layers=3)
    d = rescaling_factors(model, 5.0)
    sizes = [parameter.numel() for parameter in model.parameters()]
    expected = [5.0, 5.0, 0.2, 1.0, 1.0, 1.0, 1.0, 1.0]
    for part, value in zip(d.split(sizes), expected, strict=True):
        assert part.tolist() == pytest.approx([value] * len(part))


def test_rescaling_leaves_the_model_as_it_is():
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    rescale(model, 3.0)
    rescaling_factors(model, 3.0)
    assert all(map(torch.equal, before, model.parameters()))


def test_frozen_parameters_are_rescaled_but_have_no_factor():
    model = network()
    model[1].bias.requires_grad_(False)
    rescaled = rescale(model, 2.0)
    assert torch.equal(rescaled[1].bias, 2 * model[1].bias)
    assert len(rescaling_factors(model, 2.0)) == objective(model).n_parameters


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


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_scales_that_are_not_positive(scale):
    with pytest.raises(ModelError, match="positive"):
        rescale(network(), scale)


def test_scaled_measures_do_not_change_with_a_common_factor_of_all_weights():
    """f(cθ) = f(θ) implies H(cθ) = H(θ)/c²."""
    before = normalised_measures(trace=12.0, largest=5.0, theta_norm=3.0, n_parameters=60)
    after = normalised_measures(trace=12.0 / 4, largest=5.0 / 4, theta_norm=6.0, n_parameters=60)
    assert before == {"mean_curvature": 0.2, "trace_scaled": 1.8, "largest_scaled": 45.0}
    assert after["trace_scaled"] == pytest.approx(before["trace_scaled"])
    assert after["largest_scaled"] == pytest.approx(before["largest_scaled"])
    assert after["mean_curvature"] == pytest.approx(before["mean_curvature"] / 4)
