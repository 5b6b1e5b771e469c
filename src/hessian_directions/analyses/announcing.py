"""How a long study says how far it is."""

from collections.abc import Callable

from hessian_directions.progress import Progress

Announce = Callable[[str], None]


def counted(announce: Announce, what: str) -> Progress:
    """The progress callback of the library as a line of text."""
    return lambda now: announce(f"{what}: {now}")
