"""Critical points against plain PyTorch: the network written out, differentiated by torch.func."""

import fabricate
import numpy as np
import pytest
import torch
import xarray as xr
from fabricate import made
from torch import Tensor

from hessian_directions.analyses import small_networks
from hessian_directions.analyses.small_networks import Point


def written_out(point: Point, seed: int, n_data: int) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian with respect to the trained parameters."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(n_data, 1, generator=generator, dtype=torch.float64) - 1
    y = torch.log(torch.sin(10 * x) + 2) + torch.sin(x)
    weights, width = torch.from_numpy(point.weights), point.width
    n = len(weights) if point.layers == "all" else 2 * width
    activation = {"tanh": torch.tanh, "gelu": torch.nn.functional.gelu}[point.activation]

    def loss(trained: Tensor) -> Tensor:
        w = torch.cat([trained, weights[n:]])
        hidden = activation(x * w[:width] + w[width : 2 * width])
        return ((hidden @ w[2 * width : 3 * width] + w[-1] - y[:, 0]) ** 2).mean()

    at = weights[:n]
    return torch.func.grad(loss)(at), torch.func.hessian(loss)(at)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_points_are_critical_wherever_they_come_from(activation: str) -> None:
    settings = fabricate.settings("critical_points")
    searched = small_networks._searched(settings, 3, activation, 1)
    found = [point for outcome, point in searched if outcome == "critical"]
    assert found
    wide = [point for base in found for point in small_networks._embedded(settings, 3, base)]
    assert {point.layers for point in wide} == {"all", "first layer"}
    for point in (*found, *wide):
        gradient, hessian = written_out(point, 3, settings.n_data)
        assert float(gradient.norm()) < 1e-8
        scale = float(hessian.norm())
        np.testing.assert_allclose(point.end.hessian, hessian, atol=1e-10 * scale)
        np.testing.assert_allclose(
            point.end.eigenvalues, torch.linalg.eigvalsh(hessian), atol=1e-9 * scale
        )


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    return made("critical_points")


def test_spectra_and_what_follows_from_them(dataset: xr.Dataset) -> None:
    values = dataset["eigenvalue"].values
    np.testing.assert_array_equal(np.isfinite(values).sum(1), dataset["n_parameters"])
    np.testing.assert_allclose(np.nansum(values, 1), dataset["trace"])
    np.testing.assert_allclose(np.sqrt(np.nansum(values**2, 1)), dataset["frobenius_norm"])
    tolerance = dataset["zero_tolerance"].values[:, None]
    np.testing.assert_array_equal((values < -tolerance).sum(1), dataset["index"])
    np.testing.assert_array_equal((np.abs(values) <= tolerance).sum(1), dataset["n_zero"])
    assert (dataset["gradient_norm"] <= 1e-8).all()
    assert (dataset["index"] > 0).any()


def test_mean_curvature_of_random_directions_is_the_trace(dataset: xr.Dataset) -> None:
    score = (dataset["curvature_mean"] - dataset["trace"]) / dataset["curvature_standard_error"]
    assert float(np.abs(score).max()) < 4.5
    # Planes drawn from the spectrum and planes themselves show saddles equally often.
    sampled, direct = dataset["visibility_sampled"], dataset["visibility_direct"]
    error = np.sqrt((sampled * (1 - sampled) + 0.01) * (1 / dataset.sizes["sample"] + 1 / 2000))
    assert float((np.abs(sampled - direct) / error).max()) < 4.5


def test_planes_show_the_curvature_that_they_are_scaled_by(dataset: xr.Dataset) -> None:
    """At the middle of the edges the loss has changed by the same ±rise; at the centre by nothing."""
    surface = dataset["surface"].sel(plane="hessian").values
    middle = surface.shape[0] // 2
    point = dataset.isel(point=int(dataset["shown"]))
    half_width = dataset["half_width"].sel(plane="hessian").values
    rises = 0.5 * half_width**2 * np.array([point["largest"], point["smallest"]])
    assert rises[1] < 0 < rises[0]
    assert rises[0] == pytest.approx(-rises[1])
    assert abs(surface[middle, middle]) < 1e-6 * rises[0]
    np.testing.assert_allclose(surface[[0, -1], middle], rises[0], rtol=0.34)
    np.testing.assert_allclose(surface[middle, [0, -1]], rises[1], rtol=0.34)


def test_small_discs_fall_as_their_curvature_says(dataset: xr.Dataset) -> None:
    """In the Hessian plane by ½|λ_min|ρ² at a saddle and not at all at a minimum; in none by more."""
    loss, ends = dataset["loss"], np.maximum(abs(dataset["smallest"]), abs(dataset["largest"]))
    parts = dataset["radius"] / np.sqrt(2 * loss / ends)
    np.testing.assert_allclose(parts.transpose("point", "disc"), [[0.01, 0.1, 1.0]] * len(loss))
    small = dataset.isel(disc=0)
    fall = np.maximum(-small["smallest"], 0) * small["radius"] ** 2 / 2
    scale = 1e-4 * loss  # ½λρ² of the larger end
    assert float((abs(small["hessian_lowest_loss"] - (loss - fall)) / scale).max()) < 0.1
    assert float(((loss - fall - small["lowest_loss"]) / scale).max()) < 0.1
    assert (small["lowest_loss"] <= loss).all()
    assert (small["noise"] < 1e-12 * loss).all()


@pytest.mark.parametrize(
    ("activation", "weight", "bias", "idle"),
    [
        ("tanh", 2.0, 0.3, False),
        ("gelu", 2.0, 0.3, False),
        ("tanh", 2.0, 30.0, True),  # saturated
        ("gelu", 2.0, -30.0, True),  # dead
        ("gelu", 2.0, 30.0, True),  # the identity: straight
        ("tanh", 1e-3, 0.0, True),
        ("tanh", 1e4, 0.0, True),  # a step
    ],
)
def test_a_unit_that_the_data_do_not_determine_is_idle(
    activation: str, weight: float, bias: float, idle: bool
) -> None:
    """Alone, and beside a unit that works."""
    settings = fabricate.settings("critical_points")
    alone = np.array([weight, bias, 1.0, 0.0])
    beside = np.array([weight, -1.5, bias, 0.5, 1.0, 1.0, 0.0])
    for theta in (alone, beside):
        assert small_networks._has_idle_unit(settings, 3, activation, theta) == idle
