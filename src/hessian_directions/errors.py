"""What can go wrong on a user's side. Every message is one sentence that names the file, key or job."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any


class HessianDirectionsError(Exception):
    """Base of all errors that a user can mend; stages print the message alone and exit with 1."""


class ConfigurationError(HessianDirectionsError):
    """A configuration key is unknown, missing or has a value that is not allowed."""


class ArgumentError(ConfigurationError, ValueError):
    """An argument of a function has a value that is not allowed."""


class ModelError(HessianDirectionsError):
    """A model is unknown, cannot be built from its options, or does not fit its data."""


class DataError(HessianDirectionsError):
    """Data are missing, incomplete or not what their checksum says."""


class CheckpointError(HessianDirectionsError):
    """A checkpoint cannot be read or does not fit the model."""


class ArtifactError(HessianDirectionsError):
    """An artifact is missing, corrupt or not the one the manifest lists."""


class NonFiniteError(HessianDirectionsError):
    """A loss, a gradient or a product became NaN or infinite."""


class DeviceError(HessianDirectionsError):
    """The configured device is not available."""


class DifferentiationError(HessianDirectionsError):
    """No mode of differentiation passes the self-test on this network."""


class KinkError(DifferentiationError):
    """The slope of the loss jumps at places that are not known, so that what it adds is not either."""


class ProcessesError(HessianDirectionsError):
    """Processes that compute one loss together do not do the same."""


class LostProcessError(ProcessesError):
    """One of the processes that compute one loss together has ended or does not answer."""


class DependencyError(HessianDirectionsError):
    """A package is not installed that one of the extras brings."""


@contextmanager
def about(what: str) -> Iterator[None]:
    """Say before the sentence of an error what it is about."""
    try:
        yield
    except HessianDirectionsError as error:
        raise type(error)(f"{what}: {error}") from error


def first_line(error: Exception) -> str:
    """What an error of somebody else's says, as the end of a sentence."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:160].rstrip(".")


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse an argument that is no whole number, or too small a one."""
    if not isinstance(value, Integral) or value < least:
        raise ArgumentError(f"{name} must be a whole number, at least {least}, not {value!r}.")


def require_number(name: str, value: Any, least: float = 0.0) -> None:
    """Refuse an argument that is no number, not one (NaN), or too small a one."""
    if not isinstance(value, Real) or not float(value) >= least:
        raise ArgumentError(f"{name} must be a number, at least {least:g}, not {value!r}.")


def require_positive(name: str, value: Any) -> None:
    """Refuse an argument that is no number between zero and infinity."""
    try:
        inside = not isinstance(value, str | bytes) and 0 < float(value) < math.inf
    except (TypeError, ValueError):
        inside = False
    if not inside:
        raise ArgumentError(f"{name} must be a positive and finite number, not {value!r}.")


def as_program(name: str, work: Callable[[], str]) -> int:
    """Print what a program has to say, or the sentence of its error; its exit status."""
    try:
        print(work(), flush=True)
    except HessianDirectionsError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0
