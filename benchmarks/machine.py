"""Where the repository lies, and what computes."""

import os
import platform
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def table_name(device: str) -> str:
    """The name of the tables: cpu, cuda, or cpu_avx2 where AVX-512 is there and was left out.

    PyTorch's own kernels and oneDNN's are held back by environment variables, see the Makefile.
    """
    left_out = torch.cpu._is_avx512_supported() and instructions() != "AVX512"
    return f"cpu_{instructions().lower()}" if device == "cpu" and left_out else device


def instructions() -> str:
    """The instruction set that PyTorch's kernels use: AVX512, AVX2, or another name."""
    return torch.backends.cpu.get_cpu_capability()


def processor(device: str) -> str:
    """The name of the processor that computes."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return platform.processor() or platform.machine()
