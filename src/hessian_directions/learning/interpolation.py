"""Networks between networks: weighted means of their states, and statistics that fit them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def mixture(networks: Sequence[nn.Module], weights: Sequence[float]) -> nn.Module:
    """The network whose parameters and buffers are Σ w_i times those of some networks.

    Buffers that are no real numbers (counts of batches) are those of the first network.

    Args:
        networks: Of one architecture, on one device, in one precision.
        weights: One for each, which add up to 1; where some are negative, so may variances be.
    """
    mixed = copy.deepcopy(networks[0])
    states = [network.state_dict() for network in networks]
    with torch.no_grad():
        for name, tensor in mixed.state_dict().items():
            if tensor.is_floating_point():
                parts = [w * state[name] for w, state in zip(weights, states, strict=True)]
                tensor.copy_(torch.stack(parts).sum(0))
    return mixed


def reestimate_statistics(network: nn.Module, inputs: Tensor, batch_size: int) -> None:
    """Put the statistics of batch normalisation at what these inputs give, in place.

    Means and variances are those of single batches, averaged over one pass, as training measures
    them; all layers are normalised by their batch during this pass. The inputs are split into as few
    batches as hold at most `batch_size`, equal to one sample. Nothing else changes mode.

    Args:
        network: In evaluation mode.
        inputs: (n, …) on its device, in its precision.
        batch_size: The most inputs of a batch.
    """
    modules = normalisations(network)
    momenta = [module.momentum for module in modules]
    for module in modules:
        module.reset_running_stats()
        module.momentum = None  # the mean over all batches
        module.train()
    try:
        with torch.no_grad():
            for batch in inputs.tensor_split(-(-len(inputs) // batch_size)):
                network(batch)
    finally:
        for module, momentum in zip(modules, momenta, strict=True):
            module.momentum = momentum
            module.eval()


def normalisations(network: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations of a network that keep statistics."""
    modules = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return [module for module in modules if module.running_mean is not None]
