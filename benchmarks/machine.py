"""Where the repository lies, and what computes."""

import os
import platform
import subprocess
import sys
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


def cloned(folder: Path) -> tuple[Path, dict[str, str]]:
    """A clone of the last commit in a folder, and the environment of commands that use its sources."""
    clone = folder / "project"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return clone, os.environ | {"PATH": path, "PYTHONPATH": str(clone / "src")}
