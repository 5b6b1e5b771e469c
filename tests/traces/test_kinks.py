"""What kinks add to second differences, and differences without it, against exact derivatives."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hessian_directions.errors import ConfigurationError, KinkError
from hessian_directions.geometry.directions import gaussian
from hessian_directions.objectives.objective import Objective
from hessian_directions.traces import estimators, kinks
from hessian_directions.traces.finite_differences import LossCurvature, second_differences

MLP = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "leaky relu": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(),
    "relu6": nn.ReLU6(),
    "hardswish": nn.Hardswish(),
    "hardtanh": nn.Hardtanh(),
    "selu": nn.SELU(),
}


def trained(model: nn.Module, inputs: Tensor, dtype: torch.dtype = torch.float64) -> Objective:
    """Fifty steps of descent on three classes that a linear map of the inputs tells apart."""
    generator = torch.Generator().manual_seed(5)
    inputs, flat = inputs.to(dtype), inputs.flatten(1)
    targets = (flat @ torch.randn(flat.shape[1], 3, generator=generator).to(flat)).argmax(1)
    model = model.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return Objective(model, nn.functional.cross_entropy, inputs, targets, batch_size=40)


def perceptron(activation: nn.Module, dtype: torch.dtype = torch.float64) -> Objective:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 12), activation, nn.Linear(12, 8), activation, nn.Linear(8, 3)]
    # The kinks of hardswish lie at −3 and 3.
    scale = 4.0 if isinstance(activation, nn.Hardswish) else 1.0
    return trained(nn.Sequential(*layers), scale * torch.randn(100, 5), dtype)


def convolutional() -> Objective:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    layers += [nn.Conv2d(4, 6, 3), nn.LeakyReLU(0.1), nn.AdaptiveMaxPool2d(1), nn.Flatten()]
    return trained(nn.Sequential(*layers, nn.Linear(6, 3)), torch.randn(60, 1, 10, 10))


def test_one_unit_and_many_images() -> None:
    """L = mean relu(x θ) at θ = 1 along v = 1 has kinks at x = −1 alone, for positive inputs; a bias
    moves them to −b/x: a closed form."""
    unit = nn.Linear(1, 1).double()
    with torch.no_grad():
        unit.weight.fill_(0.0)
        unit.bias.fill_(0.05)
    inputs = torch.linspace(-2, 2, 401).double()[:, None]
    objective = Objective(
        nn.Sequential(unit, nn.ReLU()), lambda y, t: (3 * y).mean(), inputs, inputs
    )
    v = torch.tensor([[1.0], [0.0]]).double()  # the weight: z = 0.05 + x·input
    slopes = inputs[:, 0].numpy()
    places = [-0.05 / s for s in slopes if s]
    jumps = [3 / 401 * abs(s) for s in slopes if s]
    steps = [1.0, 0.1, 0.03]
    expected = [
        sum(j * max(step - abs(x), 0) / step**2 for x, j in zip(places, jumps)) for step in steps
    ]
    predicted = kinks.predicted_excess(objective, v, steps)[0].tolist()
    assert predicted == pytest.approx(expected, rel=1e-12)
    # The loss is linear but for its kinks: differences are nothing else.
    assert second_differences(objective, v, np.array(steps))[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", [*MLP, "convolutions and pooling"])
def test_corrected_differences_are_exact_derivatives(name: str) -> None:
    objective = perceptron(MLP[name]) if name in MLP else convolutional()
    V = gaussian(objective.n_parameters, 24, 1)
    exact = objective.second_directional_derivative(V)
    step = 1e-3
    measured = LossCurvature(objective, step)(V)
    correct = kinks.corrected_differences
    corrected = LossCurvature(objective, step, without_kinks=correct)(V)
    excess, rest = float((measured - exact).norm()), float((corrected - exact).norm())
    assert excess > 0.04 * float(exact.norm())
    assert rest < 0.03 * excess


@pytest.mark.parametrize("name", [*MLP, "convolutions and pooling"])
def test_the_step_that_is_chosen_suits_the_correction(name: str) -> None:
    """Kinks, which keep the step of plain differences long, do not count."""
    objective = perceptron(MLP[name]) if name in MLP else convolutional()
    V = gaussian(objective.n_parameters, 48, 1)
    exact = objective.second_directional_derivative(V)
    found = estimators.finite_difference(objective, directions=V, kinks="correct")
    rest = found.samples - exact
    assert float(rest.norm()) < 0.02 * float(exact.norm())
    assert abs(float(rest.mean())) < 0.01 * float(exact.mean().abs())
    plain = LossCurvature(objective)
    assert float((plain(V) - exact).norm()) > 3 * float(rest.norm())
    assert found.step <= plain.step


def test_what_is_left_falls_with_the_step() -> None:
    """Its root mean square like √ε: of ever rarer kinks, each leaves a rest that does not grow."""
    objective = perceptron(nn.ReLU())
    V = gaussian(objective.n_parameters, 64, 1)
    steps = [1e-2, 1e-3, 1e-4]
    exact = objective.second_directional_derivative(V)[:, None]
    measured = torch.from_numpy(second_differences(objective, V, np.array(steps))) - exact
    rest = (measured - kinks.predicted_excess(objective, V, steps)).square().mean(0).sqrt()
    assert float(measured.square().mean(0).sqrt().min()) > 0.3 * float(exact.mean())
    assert rest[1] < rest[0] / 2
    assert rest[2] < rest[1] / 2


def test_the_estimate_and_its_error() -> None:
    """Sixty estimates of twenty directions each: the exact trace lies in as many intervals as it should."""
    objective = perceptron(nn.ReLU())
    trace = estimators.exact(objective).mean
    V = gaussian(objective.n_parameters, 1200, 3)
    whole = estimators.finite_difference(objective, directions=V, step=1e-4, kinks="correct")
    plain = LossCurvature(objective, 1e-4)(V)
    assert abs(whole.mean - trace) < 4 * whole.standard_error
    assert abs(float(plain.mean()) - trace) > 8 * whole.standard_error
    blocks = whole.samples.view(60, 20)
    scores = (blocks.mean(1) - trace) / (blocks.std(1) / math.sqrt(20))
    # |t| of 19 degrees of freedom is below 2.093 in 95 % of cases: 51 or more of 60 but in 0.4 %.
    assert int((scores.abs() < 2.093).sum()) >= 51
    passes = whole.cost.passes
    assert passes["directional_derivative float64"] == 1200
    assert passes["gradient float64"] == 1200 / 16
    assert passes["value float64"] == 2401


def test_nothing_changes_where_nothing_is_asked_for_or_nothing_is_kinked() -> None:
    smooth = perceptron(nn.Tanh())
    V = gaussian(smooth.n_parameters, 4, 1)
    for objective, chosen in ((smooth, "correct"), (perceptron(nn.ReLU()), "keep")):
        with pytest.warns() if chosen == "keep" else _no_warning():
            found = estimators.finite_difference(objective, directions=V, step=1e-3, kinks=chosen)
        assert torch.equal(found.samples, LossCurvature(objective, 1e-3)(V))
        assert set(found.cost.passes) == {"value float64"}


def _no_warning():
    import warnings

    return warnings.catch_warnings(action="error")


def test_float32_is_computed_in_float64() -> None:
    objective = perceptron(nn.ReLU(), torch.float32)
    V = gaussian(objective.n_parameters, 8, 1, torch.float32)
    exact = objective.to(dtype=torch.float64).second_directional_derivative(V.double())
    found = estimators.finite_difference(objective, directions=V, step=1e-4, kinks="correct")
    torch.testing.assert_close(found.samples, exact, rtol=0.01, atol=0.01 * float(exact.max()))


def test_kinks_that_are_not_known_are_refused() -> None:
    objective = perceptron(nn.Hardshrink(0.1))
    with pytest.raises(KinkError, match="the slope of Hardshrink"):
        estimators.finite_difference(objective, 4, step=1e-3, kinks="correct")
    with pytest.raises(ConfigurationError, match=r"kinks is 'no'"):
        estimators.finite_difference(objective, 4, kinks="no")  # type: ignore[arg-type]


def test_the_survey_is_of_the_same_kinks() -> None:
    objective = perceptron(nn.ReLU())
    V = gaussian(objective.n_parameters, 5, 1)
    steps, edges = [1e-1, 1e-2], np.linspace(-8, 0, 9).tolist()
    found = kinks.survey(objective, V, steps, edges)
    torch.testing.assert_close(found.excess.T, kinks.predicted_excess(objective, V, steps))
    listed: dict[int, list[tuple[float, float]]] = {k: [] for k in range(5)}
    objective.kinks_along(V, 0.1, lambda k, x, j: listed[k].extend(zip(x.tolist(), j.tolist())))
    for k, those in listed.items():
        for i, step in enumerate(steps):
            jumps = np.array([jump for place, jump in those if abs(place) < step])
            assert float(found.count[0, i, k]) == (jumps < 0).sum()
            assert float(found.count[1, i, k]) == (jumps > 0).sum()
            assert float(found.jump[1, i, k]) == pytest.approx(jumps[jumps > 0].sum())
        assert float(found.nearest[k]) == min(abs(place) for place, _ in those)
    sizes = [abs(jump) for those in listed.values() for _, jump in those]
    expected = np.histogram(np.clip(np.log10(sizes), -7.99, -0.01), edges)[0]
    assert found.sizes[:, 0].sum(0).tolist() == expected.tolist()
