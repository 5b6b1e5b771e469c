"""Activations by name, and their exchange in a network that is already trained."""

import copy
from collections.abc import Callable

from torch import nn

from hessian_directions.errors import ModelError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def activation(name: str) -> nn.Module:
    """A new activation module; ModelError lists the known names."""
    if name not in ACTIVATIONS:
        raise ModelError(
            f"option activation: {name!r} is unknown, it can be {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]()


def replace_activation(
    model: nn.Module, kind: type[nn.Module], factory: Callable[[], nn.Module]
) -> nn.Module:
    """A copy of the network, with equal weights, in which `factory()` stands for every `kind`.

    With ``lambda: nn.Softplus(beta=sharpness)`` in place of ReLU and a growing sharpness, the
    smooth network tends to the one with kinks: softplus(x) − relu(x) ≤ log(2)/sharpness everywhere.

    Raises ModelError where no module of that kind is found, as in a network that calls
    ``torch.nn.functional.relu``: nothing would be replaced.
    """
    model = copy.deepcopy(model)
    if isinstance(model, kind):
        return factory()
    found = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]
    if not found:
        raise ModelError(f"{type(model).__name__} holds no {kind.__name__} module to replace")
    for parent, name in found:
        setattr(parent, name, factory())
    return model
