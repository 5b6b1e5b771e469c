"""The networks and images that everybody is measured on."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hessian_directions.data.dataset import Split
from hessian_directions.data.digits import digits
from hessian_directions.learning.training import train
from hessian_directions.models.registry import build
from hessian_directions.objectives.objective import Objective

CHANNELS_LAST, DEFAULT = "channels-last", "default"
LAYOUTS = (CHANNELS_LAST, DEFAULT)

INPUT_SHAPE, N_CLASSES = (3, 32, 32), 10
SEED = 0


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode, and the images over which its mean cross-entropy is taken."""

    name: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor

    @property
    def loss(self) -> nn.Module:
        return nn.CrossEntropyLoss()

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def columns(self) -> dict[str, Any]:
        """What names the subject in a row of the table."""
        return {
            "network": self.name,
            "n_parameters": self.n_parameters,
            "n_images": len(self.inputs),
        }

    def objective(self) -> Objective:
        """Ours, all images in one batch, with its self-test behind it."""
        n_images = len(self.inputs)
        objective = Objective(self.model, self.loss, self.inputs, self.targets, n_images)
        objective.self_test()
        return objective

    def few(self, n_images: int) -> "Subject":
        """The same network in float64 with the first images alone."""
        model = copy.deepcopy(self.model).double()
        return Subject(self.name, model, self.inputs[:n_images].double(), self.targets[:n_images])

    def in_layout(self, layout: str) -> tuple[nn.Module, Tensor]:
        """A copy of the network, and the images, both in a memory layout."""
        if layout == DEFAULT:
            return copy.deepcopy(self.model), self.inputs
        model = copy.deepcopy(self.model).to(memory_format=torch.channels_last)
        return model, self.inputs.contiguous(memory_format=torch.channels_last)


def untrained(
    name: str, model: str, options: Mapping[str, Any], n_images: int, device: str
) -> Subject:
    """A network with its initial weights and random images: what a pass costs depends on neither.

    Its BatchNorm layers hold the statistics of the images, so that no activation dies or explodes.
    """
    network = build(model, options, input_shape=INPUT_SHAPE, n_outputs=N_CLASSES, seed=SEED)
    generator = torch.Generator().manual_seed(SEED)
    inputs = torch.randn(n_images, *INPUT_SHAPE, generator=generator)
    targets = torch.randint(N_CLASSES, (n_images,), generator=generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(inputs)
    return Subject(name, network.eval().to(device), inputs.to(device), targets.to(device))


def trained(
    name: str,
    model: str,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    n_train: int,
    n_images: int,
    device: str,
) -> Subject:
    """A network trained on some of scikit-learn's digits, enlarged to 32×32 pixels and three
    channels; the loss is taken over the first of these images, equally many of each class."""
    # The folder is where data that need a download would be kept; these need none.
    split = enlarged(digits(cache=Path()).train.balanced(n_train))
    network = build(model, options, input_shape=INPUT_SHAPE, n_outputs=N_CLASSES, seed=SEED)
    train(network, nn.functional.cross_entropy, split, None, settings, seed=SEED, device=device)
    studied = split.balanced(n_images).to(device)
    return Subject(name, network, studied.inputs, studied.targets)


def enlarged(split: Split) -> Split:
    """(n, 1, 8, 8) images as (n, 3, 32, 32)."""
    inputs = nn.functional.interpolate(split.inputs, scale_factor=4, mode="bilinear")
    return Split(inputs.repeat(1, 3, 1, 1), split.targets, split.indices)
