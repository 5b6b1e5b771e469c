"""The settings of PyTorch under which losses are computed, whatever the caller has switched on."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from hessian_directions.autodiff.precision import FULL_PRECISION

# Some of these settings are the whole process's: threads wait for each other.
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def surroundings(device: torch.device) -> Iterator[None]:
    """What the caller has switched on or off around an analysis is not part of it.

    Graphs are recorded and kept as they are, nothing is cast by itself, compiled pieces run as they
    were written, and kernels are those that have second derivatives and are as precise as their
    number format.
    """
    compiles = "torch._dynamo" in sys.modules
    with (
        _ONE_AT_A_TIME,
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.autograd.set_detect_anomaly(False),
        _no_saved_tensors_hooks(),
        _no_cached_weights(),
        torch.compiler.set_stance("force_eager") if compiles else contextlib.nullcontext(),
        kernels(),
    ):
        yield


@contextlib.contextmanager
def _no_saved_tensors_hooks() -> Iterator[None]:
    """Graphs are kept where they are: `torch.func` has no hooks, and second passes find no numbers."""
    autograd, hooks = torch._C._autograd, []
    while pair := autograd._top_saved_tensors_default_hooks(True):
        hooks.append(pair)
        autograd._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pair in reversed(hooks):
            autograd._push_saved_tensors_default_hooks(*pair)


@contextlib.contextmanager
def _no_cached_weights() -> Iterator[None]:
    """Parametrized weights are computed anew: all copies of a network would share what is kept of
    them, at whatever parameters (`parametrize.cached`).
    """
    kept = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        yield
    finally:
        parametrize._cache_enabled, parametrize._cache = kept


@contextlib.contextmanager
def kernels() -> Iterator[None]:
    """Kernels that have second derivatives, and that are as precise as their number format."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FULL_PRECISION:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
