"""Inputs of drawing rules as what the library's drawing functions take."""

from pathlib import Path
from typing import Any

import xarray as xr

from hessian_directions.reproduction import artifacts

# Inputs that are not artifacts.
AUXILIARY = {"code", "style", "records"}


def network_of(path: str) -> str:
    """The network that an artifact of results/…/networks/<network>/… belongs to."""
    parts = Path(path).parts
    return parts[parts.index("networks") + 1]


def load(inputs: Any) -> dict[str, Any]:
    """Each named input: a dataset or run record, or those of several networks by name.

    Networks are left out whose numbers are not finite.
    """
    return {
        name: artifacts.read(paths) if isinstance(paths, str) else _of_networks(paths)
        for name, paths in inputs.items()
        if name not in AUXILIARY
    }


def _of_networks(paths: list[str]) -> dict[str, Any]:
    """By network, in order; the parts of one artifact together."""
    found: dict[str, list[str]] = {}
    for path in paths:
        if not artifacts.failure(path):
            found.setdefault(network_of(path), []).append(path)
    return {network: _together(own) for network, own in found.items()}


def nothing_left(inputs: Any) -> str | None:
    """Why a drawing has nothing to show; None where some network has what it reads."""
    for name, paths in inputs.items():
        if name not in AUXILIARY and not isinstance(paths, str) and paths:
            sentences = list(map(artifacts.failure, paths))
            if all(sentences):
                return sentences[0]
    return None


def failures(inputs: Any) -> dict[str, str]:
    """Why numbers of a network are left out, by network: the first of the reasons."""
    found: dict[str, str] = {}
    for name, paths in inputs.items():
        for path in [] if name in AUXILIARY or isinstance(paths, str) else paths:
            if sentence := artifacts.failure(path):
                found.setdefault(network_of(path), sentence)
    return found


def _together(paths: list[str]) -> Any:
    folder = Path(paths[0]).parent.name
    if folder == "slices":
        return slices(paths)
    if folder == "image_counts":
        counted = [artifacts.read_dataset(path) for path in paths]
        return xr.concat(counted, "count", combine_attrs="drop").sortby("n_images")
    return artifacts.read(paths[0])


def slices(paths: list[str]) -> dict[str, xr.Dataset]:
    """Slices of one network by plane and split: loss, and accuracy where there are classes."""
    found = {}
    for path in paths:
        dataset = artifacts.read_dataset(path)
        for split in ("train", "test"):
            surface = dataset[split].rename("loss").to_dataset()
            if f"{split}_accuracy" in dataset:
                surface["accuracy"] = dataset[f"{split}_accuracy"]
            found[f"{Path(path).stem}_{split}"] = surface
    return found
