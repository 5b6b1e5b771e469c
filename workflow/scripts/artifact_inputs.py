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
    """Each named input: a dataset, or the datasets of several networks by name, in their order."""
    loaded: dict[str, Any] = {}
    for name, paths in inputs.items():
        if name in AUXILIARY:
            continue
        if name == "surfaces":
            loaded[name] = surfaces(paths)
        elif name == "image_counts":
            loaded[name] = image_counts(paths)
        elif name == "passes":
            loaded[name] = {network_of(path): artifacts.read_json(path) for path in paths}
        elif isinstance(paths, str):
            loaded[name] = _read(paths)
        else:
            loaded[name] = {network_of(path): _read(path) for path in paths}
    return loaded


def surfaces(paths: list[str]) -> dict[str, dict[str, xr.Dataset]]:
    """Slices by network and by plane and split."""
    found: dict[str, dict[str, xr.Dataset]] = {}
    for path in paths:
        for split, loss in artifacts.read_dataset(path).items():
            of_network = found.setdefault(network_of(path), {})
            of_network[f"{Path(path).stem}_{split}"] = loss.rename("loss").to_dataset()
    return found


def image_counts(paths: list[str]) -> dict[str, xr.Dataset]:
    """The measurements of each network over all its numbers of images, along `count`."""
    found: dict[str, list[xr.Dataset]] = {}
    for path in paths:
        found.setdefault(network_of(path), []).append(artifacts.read_dataset(path))
    return {
        network: xr.concat(datasets, "count", combine_attrs="drop").sortby("n_images")
        for network, datasets in found.items()
    }


def _read(path: str) -> Any:
    if path.endswith(".json"):
        return artifacts.read_json(path)["seconds"]
    return artifacts.read_dataset(path)
