"""Densely connected networks for small images (Huang et al. 2017, DenseNet-BC)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hessian_directions.errors import ModelError
from hessian_directions.models.activations import activation as make_activation
from hessian_directions.models.inputs import require_images


class DenseNet(nn.Module):
    """A DenseNet-BC: dense blocks, in which layers see all earlier maps, halved between blocks.

    Stem, dense blocks with transitions between them, mean over the map, linear classifier.

    The defaults are DenseNet-121 as it is commonly used on CIFAR-10, with a 3×3 stem of 2·growth_rate
    maps without normalisation or pooling in place of ImageNet's 7×7 stem: 6,956,298 parameters for
    10 classes.

    Args:
        input_shape: (channels, height, width) of one image; each block but the last halves the side.
        n_outputs: Classes.
        growth_rate: Maps that every layer adds.
        blocks: Layers of each dense block.
        compression: Share of the maps that a transition between blocks keeps.
        bottleneck: Maps of a layer's 1×1 convolution, in units of growth_rate.
        activation: Name of the activation (see `activations`).
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        n_outputs: int,
        growth_rate: int = 32,
        blocks: Sequence[int] = (6, 12, 24, 16),
        compression: float = 0.5,
        bottleneck: int = 4,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        require_images("densenet", input_shape)
        if growth_rate < 1 or bottleneck < 1:
            raise ModelError("options growth_rate and bottleneck of a densenet are at least 1")
        if not blocks or min(blocks) < 1:
            raise ModelError(f"option blocks: {list(blocks)} is not a list of numbers of layers")
        if not 0 < compression <= 1:
            raise ModelError(f"option compression: {compression} is not between 0 and 1")
        if min(input_shape[1:]) < 2 ** (len(blocks) - 1):
            raise ModelError(
                f"option blocks: {len(blocks)} blocks halve images of "
                f"{input_shape[1]}×{input_shape[2]} pixels below one pixel"
            )
        n_maps = 2 * growth_rate
        self.stem = nn.Conv2d(input_shape[0], n_maps, 3, padding=1, bias=False)
        self.body = nn.Sequential()
        for block, n_layers in enumerate(blocks):
            if block > 0:
                n_kept = int(n_maps * compression)
                self.body.append(Transition(n_maps, n_kept, activation))
                n_maps = n_kept
            for _ in range(n_layers):
                self.body.append(Layer(n_maps, growth_rate, bottleneck * growth_rate, activation))
                n_maps += growth_rate
        self.norm = nn.BatchNorm2d(n_maps)
        self.activation = make_activation(activation)
        self.classifier = nn.Linear(n_maps, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.activation(self.norm(self.body(self.stem(images))))
        return self.classifier(maps.mean((2, 3)))


class Layer(nn.Module):
    """Normalised 1×1 and 3×3 convolutions whose `growth_rate` maps are put beside the input's."""

    def __init__(self, n_inputs: int, growth_rate: int, n_bottleneck: int, activation: str) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_inputs)
        self.conv1 = nn.Conv2d(n_inputs, n_bottleneck, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_bottleneck)
        self.conv2 = nn.Conv2d(n_bottleneck, growth_rate, 3, padding=1, bias=False)
        self.activation = make_activation(activation)

    def forward(self, maps: Tensor) -> Tensor:
        new = self.conv1(self.activation(self.norm1(maps)))
        new = self.conv2(self.activation(self.norm2(new)))
        return torch.cat([new, maps], dim=1)


class Transition(nn.Module):
    """A normalised 1×1 convolution and a 2×2 mean: fewer and smaller maps."""

    def __init__(self, n_inputs: int, n_maps: int, activation: str) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(n_inputs)
        self.activation = make_activation(activation)
        self.conv = nn.Conv2d(n_inputs, n_maps, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.conv(self.activation(self.norm(maps))), 2)
