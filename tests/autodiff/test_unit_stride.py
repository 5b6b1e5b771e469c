"""Strided 1×1 convolutions as slices: exact, and the kernel behind them, which is never reached."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hessian_directions.autodiff.substitutes import Substitutes

# PyTorch's own weight gradient; aborts without AVX-512 (`jit_1x1:avx2`) for 2 to 6 channels.
CORRUPTS = """
import torch
x = torch.randn(6, 4, 8, 8).contiguous(memory_format=torch.channels_last)
w, gradient = torch.randn(4, 4, 1, 1), torch.randn(6, 4, 4, 4)
for _ in range(20):
    torch.ops.aten.convolution_backward(
        gradient, x, w, [0], [2, 2], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )
"""

# The same through this module, for every number of channels, also transposed.
SAFE = """
import torch
from torch.nn import functional
from hessian_directions.autodiff.substitutes import Substitutes
for channels in range(1, 9):
    for _ in range(20):
        x, y = torch.randn(6, channels, 8, 8), torch.randn(6, 4, 4, 4)
        x, y = (t.contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, y))
        w = torch.randn(4, channels, 1, 1, requires_grad=True)
        with Substitutes():
            down = functional.conv2d(x, w, stride=2)
            up = functional.conv_transpose2d(y, w, stride=2)
        (down.square().sum() + up.square().sum()).backward()
"""

GUARDED_MEMORY = Path("/lib/x86_64-linux-gnu/libc_malloc_debug.so.0")


def run_without_avx512(program: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own whose heap is checked, with the instructions of most laptops."""
    environment = {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "OMP_NUM_THREADS": "1",
        "LD_PRELOAD": str(GUARDED_MEMORY),
        "MALLOC_CHECK_": "3",
        "MALLOC_PERTURB_": "85",
    }
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not GUARDED_MEMORY.is_file(), reason="needs glibc's checks of the heap")
def test_the_kernel_that_corrupts_the_heap_is_not_reached() -> None:
    if run_without_avx512(CORRUPTS).returncode == 0:
        pytest.skip("this PyTorch, or this processor, does not have the fault")
    done = run_without_avx512(SAFE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, (1, 3), [4]])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("biased", [False, True])
def test_equal_to_pytorch(
    groups: int, stride: int | tuple[int, int], padding: int, biased: bool
) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, bias = draw(3, 4, 9, 10), draw(6) if biased else None
    kernel, transposed = draw(6, 4 // groups, 1, 1), draw(4, 6 // groups, 1, 1)

    def both() -> list[Tensor]:
        return [
            functional.conv2d(x, kernel, bias, stride, padding, 1, groups),
            functional.conv2d(x[0], kernel, bias, stride, padding, 1, groups),
            functional.conv_transpose2d(x, transposed, bias, stride, padding, 0, groups),
            functional.conv_transpose2d(x[0], transposed, bias, stride, padding, 0, groups),
        ]

    expected = both()
    with Substitutes():
        actual = both()
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=1e-14)


def test_padding_of_the_output_and_padding_by_name() -> None:
    x, kernel = torch.rand(2, 3, 5, 6), torch.rand(3, 3, 1, 1)
    up = {"stride": 3, "padding": 1, "output_padding": 2}
    expected = functional.conv_transpose2d(x, kernel, **up)
    down = functional.conv2d(x, kernel, stride=2, padding="valid")
    with Substitutes():
        torch.testing.assert_close(functional.conv_transpose2d(x, kernel, **up), expected)
        torch.testing.assert_close(functional.conv2d(x, kernel, stride=2, padding="valid"), down)


def test_larger_kernels_keep_their_stride() -> None:
    strides = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.ops.aten.convolution.default:
                strides.append(args[3])
            return func(*args, **(kwargs or {}))

    x = torch.rand(2, 3, 9, 9)
    with Substitutes(), Watch():
        for size in (1, 2, 3):
            functional.conv2d(x, torch.rand(4, 3, size, size), stride=2)
    assert strides == [[1, 1], [2, 2], [2, 2]]
