import pytest
import torch
from networks import saddle

from hessian_directions.geometry import synthetic


@pytest.mark.parametrize(("n", "n_positive"), [(1, 0), (1, 1), (1, 2), (4, 3), (4, 8)])
def test_hessian_of_the_model_is_the_closed_form(n, n_positive):
    objective = saddle(n, n_positive)
    assert objective.n_parameters == 2 * n + 1
    dense = objective.hessian() @ torch.eye(2 * n + 1, dtype=torch.float64)
    torch.testing.assert_close(dense, torch.diag(synthetic.hessian(n, n_positive).diagonal))
    torch.testing.assert_close(
        torch.linalg.eigvalsh(dense), synthetic.eigenvalues(n, n_positive), rtol=0, atol=1e-12
    )
    assert float(dense.trace()) == pytest.approx(synthetic.trace(n, n_positive))
    assert float(dense.norm()) == pytest.approx(synthetic.frobenius_norm(n))


def test_the_saddle_is_a_critical_point_with_loss_zero():
    objective = saddle(5, 3)
    assert float(objective.value()) == 0
    assert not objective.gradient().any()
    assert objective.theta.tolist() == [0.0] * 10 + [1.0]


def test_loss_away_from_the_saddle():
    theta = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    assert float(saddle(2, 3).value(theta)) == 2.5 * (1 + 4 + 9 - 16)


def test_loss_does_not_depend_on_the_batch():
    model = synthetic.SaddleModel(3, 2)
    with torch.no_grad():
        model.theta += 1
    outputs = model(torch.zeros(7, 1))
    assert outputs.shape == (7,)
    assert float(synthetic.mean_of_outputs(outputs, outputs).detach()) == float(outputs[0].detach())


@pytest.mark.parametrize(("n", "n_positive"), [(0, 0), (2, 5), (2, -1)])
def test_impossible_saddles(n, n_positive):
    with pytest.raises(ValueError, match="saddle"):
        synthetic.SaddleModel(n, n_positive)
