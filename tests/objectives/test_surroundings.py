"""What callers switch on around an analysis has no part in it: contexts, kernels, threads, hooks."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from programs import Between, built, classes, images, objective_of, perceptron, vectors
from torch import Tensor, nn

import hessian_directions as hd
from hessian_directions.autodiff.precision import FULL_PRECISION
from hessian_directions.autodiff.program import Program


@contextmanager
def _default_device() -> Iterator[None]:
    torch.set_default_device("cpu")
    try:
        yield
    finally:
        torch.set_default_device(None)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no graph": torch.no_grad,
    "anomalies": torch.autograd.detect_anomaly,
    "graph elsewhere": torch.autograd.graph.save_on_cpu,
    "device": lambda: torch.device("meta"),
    "default device": _default_device,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


Given = tuple[nn.Module, Tensor, Tensor]


def _perceptron() -> Given:
    torch.manual_seed(0)
    inputs, targets = 30 + torch.randn(40, 5), torch.randint(3, (40,))
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), inputs, targets


def _convolutions() -> Given:
    return built(Between), images(24), classes(24)


def _numbers(objective: hd.Objective) -> dict[str, Tensor]:
    """Of every kind of pass, and of analyses that compute something by themselves."""
    theta = objective.theta
    v = torch.ones(objective.n_parameters, dtype=objective.dtype, device="cpu")
    pairs = hd.extreme_eigenpairs(objective)
    part = objective.subset(range(9))
    found: dict[str, Any] = {
        "value": objective.value(theta + 0.1 * v),
        "gradient": objective.gradient(),
        "product": objective.hessian_vector_product(v),
        "Gauss-Newton": objective.gauss_newton_vector_product(v),
        "second derivative": objective.second_directional_derivative(v),
        "subset": part.value(),
        "float64": objective.to(torch.float64).value(),
        "eigenvalues": pairs.values,
        "eigenvectors": pairs.vectors.abs(),
        "density": hd.spectral_density(objective, 2, 8).nodes,
        "directional": hd.trace.directional(objective, 20).mean,
        "hutchinson": hd.trace.hutchinson(objective, 20).mean,
        "deflated": hd.trace.deflated(objective, pairs, 20).mean,
        "hutch++": hd.trace.hutch_plus_plus(objective, 6, 6).mean,
        "m-sharpness": hd.flatness.m_sharpness(objective, 0.1, 10).mean,
        "plane": hd.slices.projected_hessian(objective, pairs.vectors),
    }
    return {name: torch.as_tensor(value, device="cpu") for name, value in found.items()}


@pytest.fixture(scope="module", params=[_perceptron, _convolutions])
def expected(request: pytest.FixtureRequest) -> tuple[Given, dict[str, Tensor]]:
    given = request.param()
    return given, _numbers(objective_of(*given))


@pytest.mark.parametrize("made", ["outside", "inside"])
@pytest.mark.parametrize("name", CONTEXTS)
def test_numbers_are_the_same_inside(
    name: str, made: str, expected: tuple[Given, dict[str, Tensor]]
) -> None:
    given, numbers = expected
    objective = objective_of(*given)
    with warnings.catch_warnings(action="ignore"), CONTEXTS[name]():
        found = _numbers(objective if made == "outside" else objective_of(*given))
    assert numbers["gradient"].norm() > 0
    for kind, number in numbers.items():
        assert found[kind].dtype == number.dtype, kind
        assert torch.equal(found[kind], number), kind


def test_hooks_of_the_caller_are_left_as_they_were() -> None:
    """And those of the network's own have their part: checkpoints keep nothing of a pass."""
    objective, packed = objective_of(*_perceptron()), []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        objective.self_test()
        assert not packed
        torch.ones(3, requires_grad=True).exp().sum().backward()
        assert packed


# --- what the kernels compute in ------------------------------------------------------------------------

BACKEND: Any = torch.backends.mkldnn


COARSE: dict[str, Callable[[], None]] = {
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "products and convolutions": lambda: (
        [setattr(p, "fp32_precision", "bf16") for p in _parts()] and None
    ),
}


def _parts() -> list[Any]:
    return [BACKEND.matmul, BACKEND.conv, BACKEND.rnn]


@pytest.fixture
def _coarse(request: pytest.FixtureRequest) -> Iterator[None]:
    before = [part.fp32_precision for part in _parts()]
    COARSE[request.param]()
    yield
    torch.set_float32_matmul_precision("highest")
    for part, precision in zip(_parts(), before, strict=True):
        part.fp32_precision = precision


def _numbers_in_float32() -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16 * 36, 3))
    x, y = torch.randn(64, 3, 8, 8), torch.randint(3, (64,))
    objective = objective_of(model, x, y)
    pairs = hd.extreme_eigenpairs(objective, tolerance=1e-2)
    return {
        "value": objective.value(),
        "gradient": objective.gradient(),
        "eigenvalues": pairs.values,
        "eigenvectors": pairs.vectors,
        "deflated": hd.trace.deflated(objective, pairs, 4).samples,
        "density": hd.spectral_density(objective, 2, 6).nodes,
    }


@pytest.fixture(scope="module")
def fine() -> dict[str, Any]:
    return _numbers_in_float32()


@pytest.mark.parametrize("_coarse", COARSE, indirect=True)
def test_float32_is_float32_whatever_the_caller_allows(fine: dict[str, Any], _coarse: None) -> None:
    """Kernels in bfloat16, on processors that have them, keep three digits."""
    allowed = [part.fp32_precision for part in _parts()]
    found = _numbers_in_float32()
    assert [part.fp32_precision for part in _parts()] == allowed
    for name, number in fine.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(number)), name


# --- threads --------------------------------------------------------------------------------------------


def test_the_last_thread_restores_what_the_first_one_found() -> None:
    before, inside, left = BACKEND.conv.fp32_precision, threading.Event(), threading.Event()

    def work() -> None:
        with FULL_PRECISION:
            inside.set()
            left.wait(10)

    other = threading.Thread(target=work)
    with FULL_PRECISION:
        other.start()
        inside.wait(10)
    assert BACKEND.conv.fp32_precision == "ieee"
    left.set()
    other.join()
    assert BACKEND.conv.fp32_precision == before


def _in_threads(works: list[Callable[[], None]]) -> None:
    failed: list[BaseException] = []

    def work(each: Callable[[], None]) -> None:
        try:
            each()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(each,)) for each in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_threads_leave_pytorch_as_they_found_it() -> None:
    objectives = [objective_of(perceptron(), *vectors(40)) for _ in range(3)]
    _in_threads([lambda o=o: [o.gradient() for _ in range(10)] for o in objectives])
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("what", ["value", "gradient", "hessian_vector_product"])
def test_threads_do_not_take_each_others_parameters(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one thread leaves in the network goes before another makes its pass."""
    objective = objective_of(perceptron(), *vectors(64), batch_size=4)
    points = [objective.theta * (1 + k) for k in range(3)]

    def ask(point: Tensor) -> Tensor:
        if what == "hessian_vector_product":
            return objective.hessian_vector_product(torch.ones_like(point), point)
        return getattr(objective, what)(point)

    expected = [ask(point) for point in points]
    restore = Program.restore

    def restore_late(self: Program) -> None:
        time.sleep(2e-3)
        restore(self)

    monkeypatch.setattr(Program, "restore", restore_late)

    def work(k: int) -> None:
        for _ in range(8):
            assert torch.allclose(ask(points[k]), expected[k], rtol=1e-10)

    _in_threads([lambda k=k: work(k) for k in range(len(points))])
