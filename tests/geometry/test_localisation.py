"""Where curvature lives, against closed forms."""

import numpy as np
import pytest
import torch
from matrices import generator
from torch import nn

from hessian_directions.errors import ConfigurationError
from hessian_directions.geometry import localisation
from hessian_directions.geometry.directions import gaussian


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
@pytest.mark.parametrize("scale", [1.0, -3.0, 1e-90, 1e90])
def test_participation_of_equal_entries_and_of_one(n, scale):
    equal = np.full(n, scale)
    one = np.zeros(n)
    one[-1] = scale
    assert localisation.inverse_participation_ratio(equal) == pytest.approx(1 / n)
    assert localisation.inverse_participation_ratio(one) == 1


def test_participation_of_gaussian_vectors_is_three_over_n():
    v = gaussian(100_000, 5, generator())
    ratio = localisation.inverse_participation_ratio(v)
    assert ratio.shape == (5,)
    np.testing.assert_allclose(ratio * 100_000, 3, rtol=0.05)


def test_participation_by_definition():
    v = np.array([1.0, 2.0, -2.0])
    assert localisation.inverse_participation_ratio(v) == pytest.approx(33 / 81)
    assert np.isnan(localisation.inverse_participation_ratio(np.zeros(3)))


def test_shares_are_those_of_the_squares():
    v = torch.tensor([[3.0, 0.0], [0.0, 1.0], [4.0, 1.0], [0.0, 2.0**0.5]])
    shares = localisation.shares(v, {"a": 1, "b": 2, "empty": 0, "c": 1})
    np.testing.assert_allclose(shares["a"], [9 / 25, 0])
    np.testing.assert_allclose(shares["b"], [16 / 25, 0.5])
    np.testing.assert_allclose(shares["c"], [0, 0.5], rtol=1e-6)
    assert (shares["empty"] == 0).all()
    np.testing.assert_allclose(sum(shares.values()), 1)
    with pytest.raises(ConfigurationError, match="3 entries in all, the vectors 4"):
        localisation.shares(v, {"a": 3})


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3))
        self.embedding = nn.Embedding(4, 3)
        self.scale = nn.Parameter(torch.ones(2, 2, 2))
        self.attention = nn.MultiheadAttention(4, 2)
        self.hidden = nn.Linear(3, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, 2)


def test_kinds():
    assert localisation.kinds(Mixed()) == {
        "scale": "other",
        "stem.0.weight": "convolution",
        "stem.0.bias": "bias",
        "stem.1.weight": "normalisation",
        "stem.1.bias": "normalisation",
        "embedding.weight": "linear",
        "attention.in_proj_weight": "linear",
        "attention.in_proj_bias": "bias",
        "attention.out_proj.weight": "linear",
        "attention.out_proj.bias": "bias",
        "hidden.weight": "linear",
        "hidden.bias": "bias",
        "head.weight": "classifier",
        "head.bias": "bias",
    }


def test_recurrent_layers_have_weights_and_biases():
    found = localisation.kinds(nn.Sequential(nn.LSTM(3, 4)))
    ends = ("ih_l0", "hh_l0")
    assert found == {f"0.weight_{end}": "linear" for end in ends} | {
        f"0.bias_{end}": "bias" for end in ends
    }


def test_localise():
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    parameters = dict(network.named_parameters())
    v = torch.zeros(13, 2, dtype=torch.float64)
    v[0, 0] = 1  # weight of the first layer
    v[6, 1] = v[9, 1] = v[10, 1] = v[12, 1] = 0.5  # its bias; the second's weight twice, its bias
    dataset = localisation.localise(v, parameters, network)
    np.testing.assert_allclose(dataset["share"], [[1, 0, 0, 0], [0, 0.25, 0.5, 0.25]])
    np.testing.assert_allclose(dataset["inverse_participation_ratio"], [1, 0.25])
    by_kind = dataset["share"].groupby("kind").sum()
    np.testing.assert_allclose(by_kind.sel(kind="bias"), [0, 0.5])
    np.testing.assert_allclose(by_kind.sel(kind=["classifier", "linear"]), [[0, 1], [0.5, 0]])
    assert dataset["layer"].values.tolist() == ["0", "0", "2", "2"]
    assert dataset["size"].values.tolist() == [6, 3, 3, 1]
