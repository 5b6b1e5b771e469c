"""Where the repository lies, and what computes."""

import os
import platform
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


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
