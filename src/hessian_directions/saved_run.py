"""The state of a long computation in a file, so that a killed run costs what came after it."""

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from hessian_directions.errors import ArtifactError
from hessian_directions.files import AnyPath, atomic_path


class SavedRun:
    """A file that holds the state of one run, and refuses to give it to another.

    Args:
        path: The file; written whole or not at all. It is the caller's to remove once the result is
            kept: until then, another failure costs only what came after the last save.
        identity: What determines the run, by name: numbers and texts.
        save_seconds: Seconds between two saves.
    """

    def __init__(self, path: AnyPath, identity: Mapping[str, Any], save_seconds: float) -> None:
        self.path = Path(path)
        self._identity, self._save_seconds = dict(identity), save_seconds
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved_at >= self._save_seconds

    def write(self, state: Mapping[str, Any]) -> None:
        """Save a tree of tensors, numbers and texts. Takes its memory once more for a moment."""
        content = io.BytesIO()
        torch.save({"identity": self._identity, "state": tree_map(_alone, dict(state))}, content)
        # By way of memory: PyTorch's own writer gives no OSError where the disk is full.
        with atomic_path(self.path) as temporary:
            temporary.write_bytes(content.getbuffer())
        self._saved_at = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The saved state, its tensors on the CPU; None where nothing is saved.

        Raises:
            ArtifactError: The file holds no state, or that of another run.
        """
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, state = dict(saved["identity"]), dict(saved["state"])
        except Exception as error:
            raise self.refused(f"is not a saved run ({type(error).__name__})") from error
        for name in [*self._identity, *identity]:
            before, now = identity.get(name), self._identity.get(name)
            if before != now:
                raise self.refused(f"was saved by a run with {name} {before}, not {now}")
        return state

    def refused(self, why: str) -> ArtifactError:
        """The error of a state that cannot be taken up."""
        return ArtifactError(f"{self.path} {why}; delete it to start again.")


def _alone(value: Any) -> Any:
    """A tensor on the CPU, without the rest of the memory that it is a part of."""
    if not isinstance(value, Tensor):
        return value
    tensor = value.detach().cpu()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
