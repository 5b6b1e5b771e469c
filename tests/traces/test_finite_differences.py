import math

import pytest
import torch
from matrices import generator
from networks import objective_of_function, saddle
from torch import nn

from hessian_directions.errors import NonFiniteError
from hessian_directions.geometry import synthetic
from hessian_directions.geometry.directions import gaussian
from hessian_directions.objectives.losses import mean_squared_error
from hessian_directions.objectives.objective import Objective
from hessian_directions.traces.finite_differences import LossCurvature, choose_step, loss_noise


def perceptron(activation: nn.Module, dtype: torch.dtype = torch.float64) -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), activation, nn.Linear(12, 8), activation)
    model = nn.Sequential(model, nn.Linear(8, 3)).to(dtype)
    inputs = torch.randn(60, 5, dtype=torch.float64, generator=generator(1)).to(dtype)
    targets = torch.randint(0, 3, (60,), generator=generator(2))
    return Objective(model, nn.functional.cross_entropy, inputs, targets)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.Softplus(), nn.ELU()])
@pytest.mark.parametrize("n_points", [3, 9])
def test_differences_of_smooth_networks_are_right_to_five_digits(activation, n_points):
    objective = perceptron(activation)
    V = gaussian(objective.n_parameters, 6, generator())
    measured = LossCurvature(objective, n_points=n_points)(V)
    exact = objective.second_directional_derivative(V)
    assert float((measured - exact).abs().max()) < 1e-5 * float(exact.abs().max())


@pytest.mark.parametrize("n_points", [3, 5, 9])
def test_a_constant_loss_has_curvature_zero(n_points):
    objective = objective_of_function(lambda theta: 0 * theta.sum() + 0.7, [1.0, 2.0])
    measured = LossCurvature(objective, n_points=n_points)(gaussian(2, 3, generator()))
    assert not measured.any()


@pytest.mark.parametrize("n_points", [3, 5, 9])
def test_a_parabola_is_fitted_exactly(n_points):
    objective = objective_of_function(
        lambda theta: (theta**2 * torch.tensor([3.0, -1.0])).sum(), [1.0, 2.0]
    )
    V = gaussian(2, 4, generator())
    measured = LossCurvature(objective, step=0.1, n_points=n_points)(V)
    torch.testing.assert_close(measured, 6 * V[0] ** 2 - 2 * V[1] ** 2)


@pytest.mark.parametrize("n_points", [1, 2, 4])
def test_points_that_fit_no_parabola(n_points):
    with pytest.raises(ValueError, match="parabola"):
        LossCurvature(perceptron(nn.Tanh()), n_points=n_points)


@pytest.mark.parametrize("step", [0.0, -1.0, math.inf])
def test_impossible_steps(step):
    with pytest.raises(ValueError, match="positive"):
        LossCurvature(perceptron(nn.Tanh()), step)


@pytest.mark.parametrize("n_positive", [500, 540, 1000])
def test_step_on_the_synthetic_saddle_is_the_cap(n_positive):
    """Its fourth derivative is 0: any step is good, and nothing may diverge."""
    objective = saddle(500, n_positive)
    V = gaussian(1001, 5, generator())
    assert choose_step(objective, V[:, :2], cap=0.01) == 0.01
    curvature = LossCurvature(objective)
    exact = (V * (synthetic.hessian(500, n_positive) @ V)).sum(0)
    torch.testing.assert_close(curvature(V), exact, rtol=1e-6, atol=1e-6)
    # a tenth of the length of θ* = (0, …, 0, 1)
    assert curvature.step * math.sqrt(1001) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_step_on_kinks_stays_where_many_are_crossed(seed):
    """Dividing by a fourth difference would drive ε to zero, where kinks are missed, not absent."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 30), nn.ReLU(), nn.Linear(30, 3)).double()
    inputs = torch.randn(2000, 5, dtype=torch.float64, generator=generator(seed))
    targets = torch.randint(0, 3, (2000,), generator=generator(seed))
    objective = Objective(model, nn.functional.cross_entropy, inputs, targets, batch_size=2000)
    V = gaussian(objective.n_parameters, 4, generator())
    step = choose_step(objective, V)
    units = V[:150].reshape(30, 5, 4), V[150:180]
    before = inputs @ model[0].weight.T.detach() + model[0].bias.detach()
    crossed = 0
    for k in range(4):
        change = inputs @ units[0][..., k].T + units[1][:, k]
        crossed += int((before.abs() < step * change.abs()).sum())
    assert crossed > 400
    # and it is still a curvature: within a factor two of the smooth part of the loss
    measured = LossCurvature(objective, step)(V)
    exact = objective.second_directional_derivative(V)
    assert 0.5 < float(measured.norm() / exact.norm()) < 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.log1p((x / 1e-3) ** 2),
        lambda x: torch.sqrt(1e-8 + x**2),
        lambda x: (x / 1e-2) ** 8 + (x / 1e-2) ** 2,
        lambda x: -torch.exp(-((x / 1e-3) ** 2)),
    ],
)
def test_step_in_a_narrow_basin(function):
    """Far outside the basin D(ε) is wrong but need not look wrong; the step has to get inside."""
    centre = torch.tensor([1.0, -2.0], dtype=torch.float64)
    objective = objective_of_function(lambda theta: function(theta - centre).sum(), centre)
    V = gaussian(2, 4, generator())
    exact = objective.second_directional_derivative(V)
    torch.testing.assert_close(LossCurvature(objective)(V), exact, rtol=1e-4, atol=0)


def test_step_where_the_loss_is_not_finite_far_out():
    objective = objective_of_function(lambda theta: torch.log(theta).sum(), [1e-3, 1.0])
    V = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    step = choose_step(objective, V)
    assert step < 1e-3
    assert float(LossCurvature(objective, step)(V)) == pytest.approx(-1e6, rel=1e-5)


def test_no_step_where_the_loss_is_never_finite():
    objective = objective_of_function(lambda theta: torch.log(theta.abs() - 1).sum(), [1.0])
    with pytest.raises(NonFiniteError):
        choose_step(objective, torch.ones(1, 1, dtype=torch.float64))


def test_step_balances_the_noise_of_a_large_offset():
    """L = 10⁸ + cos θ: rounding is 10⁸ times that of the curvature, which keeps three digits."""
    objective = objective_of_function(lambda theta: 1e8 + torch.cos(theta).sum(), [0.3])
    V = torch.ones(1, 1, dtype=torch.float64)
    measured = float(LossCurvature(objective, choose_step(objective, V, cap=1.0))(V))
    assert measured == pytest.approx(-math.cos(0.3), rel=2e-2)


@pytest.mark.parametrize("theta", [[0.0, 0.0], [1e-6, 0.0], [1e3, 0.0]])
def test_step_whatever_the_size_of_the_weights(theta):
    centre = torch.tensor(theta, dtype=torch.float64)
    objective = objective_of_function(lambda theta: torch.cosh(theta - centre).sum(), theta)
    V = gaussian(2, 2, generator())
    measured = LossCurvature(objective)(V)
    torch.testing.assert_close(measured, (V**2).sum(0), rtol=1e-5, atol=1e-5)


def test_noise_is_that_of_the_loss():
    sigma, noise = 1e-9, generator(3)

    def noisy(theta):
        jitter = torch.randn((), generator=noise, dtype=torch.float64)
        return (theta**2).sum() + sigma * jitter

    objective = objective_of_function(noisy, [1.0, 2.0])
    direction = torch.tensor([1.0, 1.0], dtype=torch.float64)
    measured = [loss_noise(objective, direction) for _ in range(200)]
    assert 0.7 * sigma < sum(measured) / len(measured) < 1.3 * sigma


def test_noise_is_not_moved_by_slope_or_by_a_kink():
    objective = objective_of_function(lambda theta: 1 + 100 * torch.relu(theta - 1).sum(), [1.0])
    direction = torch.ones(1, dtype=torch.float64)
    assert loss_noise(objective, direction) < 1e-14


def test_one_relu_unit_differs_from_its_exact_curvature_by_the_predicted_gap():
    """L = E[(relu(x₁) − y)²], x ~ N(0, I₂), along (v₁, v₂) at the weights (1, 0).

    Exact almost-everywhere curvature: 2E[(v'x)²; x₁ > 0] = ‖v‖². At a kink (x₁ = 0) the loss of an
    image has the slope ∂L/∂h = −2y and ȧ = v₂x₂, so differences add p(0)·E[∂L/∂h·ȧ²] =
    −2y·v₂²/√(2π) on average, however small the step.
    """
    n, y = 400_000, 0.5
    x = torch.randn(n, 2, dtype=torch.float64, generator=generator(4))
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
    targets = torch.full((n, 1), y, dtype=torch.float64)
    objective = Objective(model, mean_squared_error, x, targets, batch_size=n)
    v = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    exact = float(objective.second_directional_derivative(v))
    gap = -2 * y / math.sqrt(2 * math.pi)
    assert exact == pytest.approx(2.0, abs=0.03)
    for step in (0.1, 0.03):
        measured = float(LossCurvature(objective, step)(v))
        assert measured - exact == pytest.approx(gap, abs=0.06)
