"""One number seeds everything: each use derives its own from the configured seed and its name."""

import hashlib

import numpy as np
import torch

from hessian_directions.errors import ConfigurationError


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the use that `names` describe; other names give independent streams."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the use that `names` describe."""
    return torch.Generator().manual_seed(derive(seed, *names))


def as_generator(seed: int | torch.Generator, use: str) -> torch.Generator:
    """The generator itself, which advances, or for an integer a new one for this use.

    Functions with the same seed draw independently of each other, since each names its use: the
    start vector of an eigenpair is no direction that a trace is sampled along.

    Raises:
        ConfigurationError: The generator is not on the CPU, or the seed is no integer.
    """
    if isinstance(seed, torch.Generator):
        if seed.device.type != "cpu":
            raise ConfigurationError(
                f"The generator is on {seed.device}, but must be on the CPU: draws are the same on "
                "every device."
            )
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ConfigurationError(f"The seed is {seed!r}, but must be an integer or a generator.")
    return generator(int(seed), use)


def recorded(seed: int | torch.Generator) -> int | None:
    """What a result keeps of its seed: the integer; None for a generator, which has none."""
    return None if isinstance(seed, torch.Generator) else int(seed)
