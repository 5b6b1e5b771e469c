"""What analyses of an objective are given besides it: numbers, options, directions, parts, devices."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from plain_autograd import derivatives
from programs import objective_of, perceptron, vectors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import hessian_directions as hd
from hessian_directions.errors import ArgumentError, ConfigurationError, DeviceError, ModelError
from hessian_directions.geometry.principal_curvatures import distribution_smallest


def plain() -> hd.Objective:
    return objective_of(perceptron(), *vectors(40))


# --- instead of an objective ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", [lambda x: x, nn.Linear, None, "resnet"])
def test_what_is_no_module_is_no_network(model: Any) -> None:
    with pytest.raises(ModelError, match=r"but a torch\.nn\.Module is needed"):
        objective_of(model, *vectors())


def test_a_report_is_of_an_objective() -> None:
    with pytest.raises(ArgumentError, match="give an Objective"):
        hd.Report(perceptron())  # type: ignore[arg-type]


# --- numbers and options --------------------------------------------------------------------------------


ESTIMATORS = {
    "directional": hd.trace.directional,
    "hutchinson": hd.trace.hutchinson,
    "finite_difference": hd.trace.finite_difference,
    "quadratic_fit": hd.trace.quadratic_fit,
    "deflated": lambda o, **more: hd.trace.deflated(o, torch.eye(o.n_parameters, 1), **more),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("option", ["relative_eror", "n_sample", "n_probes"])
def test_options_that_do_not_exist_are_refused(name: str, option: str) -> None:
    with pytest.raises(ArgumentError, match=f"no option '{option}'"):
        ESTIMATORS[name](plain(), **{option: 5})


@pytest.mark.parametrize("number", [0, -1, 1.5, "3", None])
def test_numbers_of_things_are_whole_and_positive(number: Any) -> None:
    o = plain()
    calls: list[Callable[[], Any]] = [
        lambda: objective_of(perceptron(), *vectors(), batch_size=number),
        lambda: hd.trace.exact(o, batch=number),
        lambda: hd.trace.directional(o, 4, chunk=number),
        lambda: hd.spectral_density(o, probes_at_once=number),
        lambda: hd.spectral_density(o, number),
        lambda: hd.visibility.sample_projections(o, 3, chunk=number),
        lambda: hd.visibility.sample_projections(o, number),
    ]
    for call in calls:
        with pytest.raises(ArgumentError, match="must be a whole number, at least 1"):
            call()


def test_numpy_s_numbers_are_numbers() -> None:
    o = plain()
    assert hd.trace.directional(o, np.int64(4), chunk=np.int32(2)).n_samples == 4
    assert len(hd.extreme_eigenpairs(o, np.int64(1), np.int64(2)).values) == 3


def test_geometry_that_means_nothing_is_refused() -> None:
    o = plain()
    V = torch.eye(o.n_parameters, 2).double()
    calls: list[Callable[[], Any]] = [
        lambda: hd.flatness.average_increase(o, 1.0, 1),
        lambda: hd.flatness.worst_increase(o, 1.0, 0),
        lambda: hd.flatness.m_sharpness(o, 1.0, 0),
        lambda: hd.flatness.relative_flatness(o, 1),
        lambda: hd.slices.surface(o, hd.extreme_eigenpairs(o, 0, 1)),
        lambda: hd.slices.surface(o, V, [0, np.nan], [0, 1]),
        lambda: hd.slices.surface(o, V, [0, np.inf], [0, 1]),
        lambda: hd.visibility.share_of_saddles(np.full((4, 2, 2), np.nan)),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError):
            call()


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16])
def test_directions_in_whole_numbers(dtype: torch.dtype) -> None:
    objective = plain()
    V = torch.ones(objective.n_parameters, 2)
    V[::3, 0] = 0
    given = hd.slices.surface(objective, V.to(dtype), [-1.0, 0.0], [0.0, 1.0])
    assert given.equals(hd.slices.surface(objective, V.double(), [-1.0, 0.0], [0.0, 1.0]))
    assert given.attrs["length_beta"] == pytest.approx(len(V) ** 0.5)


@pytest.mark.parametrize("estimator", [hd.trace.finite_difference, hd.trace.quadratic_fit])
def test_a_step_that_is_lost_in_rounding_is_warned_of(
    estimator: Callable[..., hd.Estimate],
) -> None:
    """The loss at the weights is rounded once for all differences: their scatter does not show it."""
    model, (x, y) = perceptron(), vectors(14)
    objective = objective_of(model, x, y)
    trace = float(derivatives(model, lambda m: cross_entropy(m(x), y))[2].trace())
    for step in (1e-9, 1e-12, 1e-17):
        with pytest.warns(hd.trace.PrecisionWarning, match="rounding of the loss"):
            estimator(objective, 40, step=step)
    for step in (None, 1e-3, 1e-5):
        with warnings.catch_warnings(action="error"):
            estimate = estimator(objective, 40, step=step)
        assert abs(estimate.mean - trace) < 4 * estimate.standard_error


def test_a_hessian_of_zeros_has_no_limit_and_no_warning() -> None:
    with warnings.catch_warnings(action="error"):
        assert np.isnan(distribution_smallest([0.0, 1.0], 0.0, 0.0)).all()


# --- reports, precisions and devices --------------------------------------------------------------------


def test_grids_and_parts_are_looked_at_before_anything_is_computed() -> None:
    model, (x, y) = perceptron(), vectors()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("computed")

    for options in ({"n_points": 20}, {"n_points": 1}, {"parts": ["bogus"]}, {"parts": "bogus"}):
        with pytest.raises(ConfigurationError):
            hd.analyze(model, loss, x, y, progress=False, **options)


def test_one_part_may_be_named_alone() -> None:
    model, (x, y) = perceptron(), vectors()
    report = hd.analyze(model, cross_entropy, x, y, parts="scores", progress=False, label=5)
    assert report.label == "5"
    with pytest.raises(ConfigurationError, match="The part is 'bogus'"):
        report.compute("bogus")


def test_precisions_and_devices_are_there_or_refused() -> None:
    for dtype in ("float32", torch.int64, torch.bfloat16):
        with pytest.raises(ArgumentError, match="dtype is"):
            plain().to(dtype)
    for device in ("bogus", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(DeviceError, match=f"device '{device}' is not there"):
            plain().to(device=device)


# --- layers that may be rescaled ------------------------------------------------------------------------
