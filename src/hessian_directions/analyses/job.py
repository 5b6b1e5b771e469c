"""What the workflow tells an analysis beside the network and its settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hessian_directions.progress import Progress

SAVE_SECONDS = 300.0


@dataclass(frozen=True)
class Job:
    """One job of an analysis.

    Attributes:
        seed: The profile's; every analysis derives its own from it and a name.
        read: The artifacts that it asked for, by name: a Dataset, or a dictionary of arrays.
        part: Which of several artifacts is made.
        shard: Which share of it is computed.
        announce: Says how far it is, in a line.
        state_path: File in which a long computation may keep its state; gone once the job is done.
        save_seconds: Between two saves of that state; infinite where another process saves it.
        record: What varies from run to run (seconds) and is kept beside the artifact.
        data: The settings of the data, for an analysis that studies no network of the profile, with
            the device, the precision and the folders that it computes with.
        identity: What identifies the data that such an analysis has read; it fills this in.
        network: The name of the network that is analysed.
        checkpoints: The files of weights of other networks that it asked for, by name.
    """

    seed: int
    read: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    shard: int = 0
    announce: Callable[[str], None] = print
    state_path: str | None = None
    save_seconds: float = SAVE_SECONDS
    record: dict[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    precision: str = "float64"
    cache: str | None = None
    folder: Path | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    network: str = ""
    checkpoints: Mapping[str, str] = field(default_factory=dict)

    def counted(self, what: str) -> Progress:
        """The library's progress callback as a line of text."""
        return lambda status: self.announce(f"{what}: {status}")
