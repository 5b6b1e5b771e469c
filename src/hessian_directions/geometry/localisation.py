"""Where the curvature lives: how the squared entries of an eigenvector spread over a network.

A unit vector v spreads its weight Σ v_i² = 1 over the N parameters. Over blocks of them (a layer, a
kind) the shares Σ_{i in block} v_i² add up to 1; a direction that is spread evenly has the share of
a block's size. How many parameters carry it says the inverse participation ratio.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from hessian_directions.arrays import Floats, as_floats
from hessian_directions.errors import ConfigurationError
from hessian_directions.operators import in_own_precision


def inverse_participation_ratio(vectors: ArrayLike | Tensor) -> Floats:
    """Σ v_i⁴/(Σ v_i²)² of each vector: 1 for one entry alone, 1/N for N equal ones.

    Its inverse is the number of entries that carry the vector; Gaussian vectors have 3/N, for large
    N. (Also called the participation ratio.)

    Args:
        vectors: (N,) or (N, K), of any length.

    Returns:
        () or (K,), float64; NaN for a vector of zeros.
    """
    v = as_floats(vectors)
    # Fourth powers of small entries must not underflow.
    largest = np.abs(v).max(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = (v / largest) ** 2
        return np.asarray((squares**2).sum(axis=0) / squares.sum(axis=0) ** 2)


def shares(vectors: ArrayLike | Tensor, sizes: Mapping[str, int]) -> dict[str, Floats]:
    """Σ_{i in block} v_i²/Σ v_i² of successive blocks of entries.

    Args:
        vectors: (N,) or (N, K), of any length.
        sizes: Name of a block → number of its entries, in the vectors' order; N in all.

    Returns:
        Name → () or (K,), float64; NaN for a vector of zeros.

    Raises:
        ConfigurationError: The blocks have not as many entries as the vectors.
    """
    v = as_floats(vectors)
    if sum(sizes.values()) != len(v):
        raise ConfigurationError(
            f"The blocks have {sum(sizes.values())} entries in all, the vectors {len(v)}."
        )
    squares = v**2
    edges = np.cumsum([0, *sizes.values()])
    with np.errstate(invalid="ignore"):
        return {
            name: squares[first:last].sum(axis=0) / squares.sum(axis=0)
            for name, first, last in zip(sizes, edges[:-1], edges[1:], strict=True)
        }


def kinds(network: nn.Module) -> dict[str, str]:
    """What each trainable parameter is, by name and in the network's order.

    The classifier is the weight of the last linear layer; a bias is what is called so in any layer
    but a normalisation, whose scale and shift are both "normalisation".
    """
    owners = {
        f"{path}.{name}" if path else name: module
        for path, module in network.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }
    linear = [name for name, owner in owners.items() if isinstance(owner, nn.Linear)]
    weights = [name for name in linear if name.endswith("weight")]
    found = {}
    for name, parameter in network.named_parameters():
        owner, last = owners[name], name.rpartition(".")[2]
        if not parameter.requires_grad:
            continue
        if "norm" in type(owner).__name__.lower():
            found[name] = "normalisation"
        elif "bias" in (last[:4], last[-4:]):  # bias_ih_l0 of recurrent layers, in_proj_bias
            found[name] = "bias"
        elif isinstance(owner, _ConvNd):
            found[name] = "convolution"
        elif weights and name == weights[-1]:
            found[name] = "classifier"
        elif isinstance(owner, nn.Linear) or (
            "weight" in (last[:6], last[-6:]) and parameter.ndim == 2
        ):
            found[name] = "linear"
        else:
            found[name] = "other"
    return found


def layer(name: str) -> str:
    """The layer that a parameter belongs to: its name without the last part."""
    return name.rpartition(".")[0] or name


@in_own_precision
def localise(
    vectors: ArrayLike | Tensor, parameters: Mapping[str, Tensor], network: nn.Module
) -> xr.Dataset:
    """Shares of the parameters in K vectors, with layers and kinds to add them up by.

    Args:
        vectors: (N, K).
        parameters: The parameters that the entries belong to, by name and in their order.

    Returns:
        `share` (pair, parameter), which adds up to 1 for each pair, and
        `inverse_participation_ratio` (pair); `size`, `layer` and `kind` of each parameter as
        coordinates. `share.groupby("kind").sum()` are the shares of the kinds.
    """
    kind = kinds(network)
    size = {name: parameter.numel() for name, parameter in parameters.items()}
    share = np.stack(list(shares(vectors, size).values()), axis=-1)
    return xr.Dataset(
        {
            "share": (("pair", "parameter"), share),
            "inverse_participation_ratio": ("pair", inverse_participation_ratio(vectors)),
        },
        coords={
            "parameter": list(size),
            "size": ("parameter", list(size.values())),
            "layer": ("parameter", [layer(name) for name in size]),
            "kind": ("parameter", [kind.get(name, "other") for name in size]),
        },
    )
