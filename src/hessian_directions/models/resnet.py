"""Residual networks for small images (He et al. 2016), also without shortcuts (Li et al. 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hessian_directions.errors import ModelError
from hessian_directions.models.activations import activation as make_activation
from hessian_directions.models.inputs import require_images

SHORTCUTS = ("projection", "padding", "none")


class ResNet(nn.Module):
    """A residual network of three stages of n basic blocks each, depth 6n + 2 (He et al. 2016).

    Stem, stages, mean over the map, linear classifier.

    Args:
        input_shape: (channels, height, width) of one image.
        n_outputs: Classes.
        depth: 6n + 2: 8, 14, 20 … 56, 110.
        width: Channels of the first stage; the second has twice, the third four times as many.
        shortcut: Where a block changes the shape of its input, "projection" is a 1×1 convolution
            with batch normalisation (Li et al. 2018: 855,770 parameters at depth 56 and 10 classes)
            and "padding" a subsampled input padded with zero channels (He et al. 2016, option A).
            "none" leaves out every shortcut, the identities too (Li et al. 2018, "noshort": 853,018
            parameters).
        strides: Of the first block of each stage. The last map is averaged whatever its size, so
            8×8 images work.
        activation: Name of the activation (see `activations`).
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        n_outputs: int,
        depth: int = 56,
        width: int = 16,
        shortcut: str = "projection",
        strides: Sequence[int] = (1, 2, 2),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        require_images("resnet", input_shape)
        if depth < 8 or depth % 6 != 2:
            raise ModelError(
                f"option depth: a resnet has depth 6n + 2 (8, 14, 20 … 56, 110), not {depth}"
            )
        if width < 1:
            raise ModelError(f"option width: {width} is not a number of channels")
        if shortcut not in SHORTCUTS:
            raise ModelError(
                f"option shortcut: {shortcut!r} is unknown, it can be {', '.join(SHORTCUTS)}"
            )
        if len(strides) != 3:
            raise ModelError(f"option strides: a resnet has three stages, not {len(strides)}")
        self.stem = nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.activation = make_activation(activation)
        self.stages = nn.Sequential()
        n_inputs = width
        for stage, stride in enumerate(strides):
            blocks = nn.Sequential()
            for block in range((depth - 2) // 6):
                n_maps, step = width * 2**stage, stride if block == 0 else 1
                blocks.append(Block(n_inputs, n_maps, step, shortcut, activation))
                n_inputs = n_maps
            self.stages.append(blocks)
        self.classifier = nn.Linear(n_inputs, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.activation(self.norm(self.stem(images)))  # (B, width, H, W)
        return self.classifier(self.stages(maps).mean((2, 3)))


class Block(nn.Module):
    """Two normalised 3×3 convolutions; the shortcut is added before the last activation."""

    def __init__(
        self, n_inputs: int, n_maps: int, stride: int, shortcut: str, activation: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, n_maps, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_maps)
        self.conv2 = nn.Conv2d(n_maps, n_maps, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_maps)
        self.activation = make_activation(activation)
        self.shortcut: nn.Module | None
        if shortcut == "none":
            self.shortcut = None
        elif stride == 1 and n_inputs == n_maps:
            self.shortcut = nn.Identity()
        elif shortcut == "projection":
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_inputs, n_maps, 1, stride=stride, bias=False), nn.BatchNorm2d(n_maps)
            )
        else:
            self.shortcut = PaddingShortcut(n_maps - n_inputs, stride)

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.activation(self.norm1(self.conv1(maps)))
        residual = self.norm2(self.conv2(residual))
        if self.shortcut is not None:
            residual = residual + self.shortcut(maps)
        return self.activation(residual)


class PaddingShortcut(nn.Module):
    """Every `stride`-th pixel, with zero channels added on both sides: no parameters."""

    def __init__(self, n_added: int, stride: int) -> None:
        super().__init__()
        self.before, self.after = n_added // 2, n_added - n_added // 2
        self.stride = stride

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps[:, :, :: self.stride, :: self.stride]
        return torch.nn.functional.pad(maps, (0, 0, 0, 0, self.before, self.after))
