"""Whether data are the same, by what identifies them in provenance; without PyTorch."""

from collections.abc import Mapping
from typing import Any


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The splits whose samples are others, by two identities; one without checksums tells nothing."""
    keys = [(split, f"{split}_sha256") for split in ("train", "test")]
    return [split for split, key in keys if key in one and key in other and one[key] != other[key]]
