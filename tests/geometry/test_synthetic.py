import math

import pytest
import torch

from hessian_directions.geometry import synthetic
from hessian_directions.objectives.objective import Objective


def objective(n: int, n_positive: int) -> Objective:
    model = synthetic.SaddleModel(n, n_positive)
    inputs = synthetic.inputs()
    return Objective(model, synthetic.mean_of_outputs, inputs, inputs)


@pytest.mark.parametrize(("n", "n_positive"), [(1, 0), (1, 1), (1, 2), (4, 3), (4, 8)])
def test_hessian_of_the_model_is_the_closed_form(n, n_positive):
    saddle = objective(n, n_positive)
    assert saddle.n_parameters == 2 * n + 1
    dense = saddle.hessian() @ torch.eye(2 * n + 1, dtype=torch.float64)
    torch.testing.assert_close(dense, torch.diag(synthetic.hessian(n, n_positive).diagonal))
    torch.testing.assert_close(
        torch.linalg.eigvalsh(dense), synthetic.eigenvalues(n, n_positive), rtol=0, atol=1e-12
    )
    assert float(dense.trace()) == pytest.approx(synthetic.trace(n, n_positive))
    assert float(dense.norm()) == pytest.approx(synthetic.frobenius_norm(n))


def test_the_saddle_is_a_critical_point_with_loss_zero():
    saddle = objective(5, 3)
    assert float(saddle.value()) == 0
    assert not saddle.gradient().any()
    assert saddle.theta.tolist() == [0.0] * 10 + [1.0]


def test_loss_away_from_the_saddle():
    theta = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    assert float(objective(2, 3).value(theta)) == 2.5 * (1 + 4 + 9 - 16)


def test_loss_does_not_depend_on_the_batch():
    saddle = synthetic.SaddleModel(3, 2)
    with torch.no_grad():
        saddle.theta += 1
    outputs = saddle(torch.zeros(7, 1))
    assert outputs.shape == (7,)
    assert float(synthetic.mean_of_outputs(outputs, outputs).detach()) == float(outputs[0].detach())


@pytest.mark.parametrize(("n", "n_positive"), [(0, 0), (2, 5), (2, -1)])
def test_impossible_saddles(n, n_positive):
    with pytest.raises(ValueError, match="saddle"):
        synthetic.SaddleModel(n, n_positive)


def test_saddles_of_the_experiment():
    """n = 500: 1,001 parameters, trace 2(ñ − n), r = t/√1000."""
    values = synthetic.eigenvalues(500, 540)
    assert values.shape == (1001,)
    assert float(values.sum()) == synthetic.trace(500, 540) == 80
    assert synthetic.frobenius_norm(500) == pytest.approx(math.sqrt(1000))
