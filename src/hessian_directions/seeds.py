"""One number seeds everything: each use derives its own from the configured seed and its name."""

import hashlib

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the use that `names` describe; other names give independent streams."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the use that `names` describe."""
    return torch.Generator().manual_seed(derive(seed, *names))
