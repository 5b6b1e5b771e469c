"""Seeds: every use has its own stream, the same on every machine."""

import numpy as np
import pytest
import torch

from hessian_directions.errors import ConfigurationError
from hessian_directions.seeds import as_generator, derive, generator, recorded

USES = [
    (1,),
    (2,),
    (1, "planes"),
    (1, "planes", 0),
    (1, "planes", 1),
    (1, "planes", 10),
    (1, "lines"),
    (11, "planes"),
    (1, "saddle", 420, "planes"),
]


def test_same_on_every_machine() -> None:
    """The first eight bytes of the sha256 of `1/planes/3` without the last bit."""
    assert derive(1, "planes", 3) == 0x2452C28F2802F4AA
    expected = torch.rand(3, generator=torch.Generator().manual_seed(0x2452C28F2802F4AA))
    assert torch.equal(torch.rand(3, generator=generator(1, "planes", 3)), expected)


def test_seeds_fit_a_generator() -> None:
    for seed in range(200):
        assert 0 <= derive(seed) < 2**63
        torch.Generator().manual_seed(derive(seed))


def test_other_names_other_streams() -> None:
    seeds = [derive(*use) for use in USES]
    assert len(set(seeds)) == len(USES)
    draws = torch.stack([torch.randn(20_000, generator=generator(*use)) for use in USES])
    off_diagonal = torch.corrcoef(draws) - torch.eye(len(USES))
    assert off_diagonal.abs().max() < 5 / 20_000**0.5


def test_generators_are_independent_of_each_other_and_of_global_state() -> None:
    first = torch.randn(4, generator=generator(1, "planes"))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    torch.randn(4, generator=generator(1, "lines"))
    assert torch.equal(torch.randn(4, generator=generator(1, "planes")), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert generator(1).device.type == "cpu"


def test_a_seed_is_an_integer_or_a_generator() -> None:
    given = generator(3, "any")
    assert as_generator(given, "planes") is given
    assert torch.equal(as_generator(3, "planes").get_state(), generator(3, "planes").get_state())
    assert torch.equal(
        as_generator(np.int64(3), "planes").get_state(), generator(3, "planes").get_state()
    )
    assert recorded(3) == 3
    assert recorded(given) is None
    for wrong in (True, None, 1.0, "1"):
        with pytest.raises(ConfigurationError, match="integer or a generator"):
            as_generator(wrong, "planes")
