"""Shares of kinds of parameters and of layers in eigenvectors."""

import numpy as np
import xarray as xr


def added(localisation: xr.Dataset, by: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, shares (pair, name) and parts of the parameters, in the order of first appearance.

    Args:
        localisation: share (pair, parameter); size, layer and kind of each parameter.
        by: "kind" or "layer".
    """
    groups = [str(name) for name in localisation[by].values]
    names = list(dict.fromkeys(groups))
    member = np.array([[group == name for group in groups] for name in names], dtype=float)
    size = localisation["size"].values
    return names, localisation["share"].values @ member.T, member @ size / size.sum()
