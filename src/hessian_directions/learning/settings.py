"""How a network gets its weights: settings of training, with the schedules, and of weights made elsewhere."""

import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from hessian_directions.settings import (
    Allowed,
    Count,
    Flag,
    Natural,
    NotNegative,
    Number,
    Positive,
    Settings,
    Text,
    require,
    setting,
)

# One cycle rises for this share of the steps from a 25th of the rate, then falls to a 250,000th
# of it: the defaults of PyTorch's OneCycleLR.
ONE_CYCLE_RISE, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 250_000

Momentum = Annotated[float, Field(ge=0, lt=1), Allowed("a number, at least 0 and below 1")]
Part = Annotated[float, Field(ge=0, le=1), Allowed("a number from 0 to 1")]


class TrainingSettings(Settings):
    """Training by stochastic gradient descent."""

    epochs: Natural = setting(1, "passes over the training samples")
    batch_size: Count | None = setting(
        None,
        "largest number of samples a step; the batches of an epoch differ by at most one sample; "
        "null: all samples",
    )
    learning_rate: Positive = setting(0.1, "the highest of the schedule")
    momentum: Momentum = setting(0.0, "of stochastic gradient descent")
    nesterov: Flag = setting(False, "Nesterov's form of a momentum above 0")
    weight_decay: NotNegative = setting(
        0.0, "c in the penalty c/2 ‖θ‖² whose gradient is added; it is in no loss that is reported"
    )
    schedule: Literal["constant", "cosine", "one_cycle"] = setting(
        "constant",
        "constant, cosine (to zero) or one_cycle (up for 30 % of the steps, then down to zero)",
    )
    label_noise: Part = setting(
        0.0, "share of the training labels that is replaced by another class, chosen by the seed"
    )
    augmentation: Literal["none", "flip_crop"] = setting(
        "none",
        "none, or flip_crop: mirrors images at random and moves them by up to an eighth of their "
        "side (4 of 32 pixels); what comes in at the edge is zero, the mean of normalised images",
    )
    target_loss: Number | None = setting(
        None, "training ends once the training loss is this low; null: never"
    )
    keep: Literal["last", "best"] = setting(
        "last",
        "the weights that remain: those of the last epoch, or the best, of lowest training loss "
        "among the recorded epochs; among all epochs where the batch is full and the network acts "
        "alike in both modes",
    )
    snapshots: Natural = setting(
        0,
        "number of epochs whose weights are kept, the first (0) and the last among them, spaced "
        "geometrically; 0 keeps none, 1 is not allowed",
    )
    history_every: Count = setting(
        1,
        "between records of training and test loss in evaluation mode, which also look at "
        "target_loss",
        unit="epochs",
    )
    mixed_precision: Flag = setting(
        False,
        "compute in bfloat16 where that is safe, in the records of the history too: twice as fast "
        "on devices with instructions for it, and not done on others, where it takes 2 to 10 times "
        "as long",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        require(self.snapshots != 1, "snapshots", "0, or at least 2")
        require(not self.nesterov or self.momentum > 0, "nesterov", "false without a momentum")
        return self

    def rate(self, share: float) -> float:
        """The learning rate after this share of all steps, 0 ≤ share ≤ 1."""
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "cosine":
            return self.learning_rate * _half_cosine(1, 0, share)
        if share < ONE_CYCLE_RISE:
            return self.learning_rate * _half_cosine(ONE_CYCLE_START, 1, share / ONE_CYCLE_RISE)
        fall = (share - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
        return self.learning_rate * _half_cosine(1, ONE_CYCLE_END, fall)

    def snapshot_epochs(self) -> list[int]:
        """The epochs whose weights are kept: as many as asked for, or all where there are fewer."""
        count = min(self.snapshots, self.epochs + 1)
        if count < 2:
            return list(range(count))
        chosen = [0]
        for wanted in np.geomspace(self.epochs, 1, count - 1)[::-1]:
            # Early on, rounding would name an epoch twice: the next one is taken.
            chosen.append(max(round(wanted), chosen[-1] + 1))
        return chosen


def _half_cosine(start: float, stop: float, share: float) -> float:
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2


class Expected(Settings):
    """What an imported network scores on the test images, to 0.001."""

    test_loss: Number = setting(..., "mean loss")
    test_accuracy: Number = setting(..., "share of the images that are classified correctly")


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$"), Allowed("64 hexadecimal digits")]


class Checkpoint(Settings):
    """Weights made elsewhere: a file on this machine, an address, or a published name."""

    format: Literal["safetensors", "torch", "li_et_al", "timm", "torchvision"] | None = setting(
        None,
        "of the file, li_et_al for a .t7 of Li et al. 2018; null: found by its content, or by the "
        "model's library",
    )
    name: Text | None = setting(
        None,
        "of published weights: hf_hub:<owner>/<name>, local-dir:<folder> or a name in timm's own "
        "list; weights of torchvision as <Weights>.<NAME>",
    )
    key: Text | None = setting(
        None, "where the weights stand in a dictionary, as a.b; null: they are looked for"
    )
    prefix: Text | None = setting(
        None,
        "what stands before every name, entries without it are left out; null: prefixes of wrappers "
        "are taken off, and a part among other weights is found where one alone fits",
    )
    file: Text | None = setting(None, "path of the file; its name in the cache folder beside a url")
    url: Text | None = setting(
        None, "where it is fetched from; without `file` it is kept by its checksum and name"
    )
    sha256: Sha256 | None = setting(None, "checksum that the file must have; needed with a url")
    expected: Expected | None = setting(None, "scores that the network must have")
