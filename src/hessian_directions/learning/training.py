"""Training: the weights whose curvature is studied, repeatable to the bit, resumable after a kill.

While it trains, the network's parameters are views of one flat vector θ, in the order in which
`objective` sees them. Gradient descent acts entry by entry, so one step on θ is the step on every
parameter, at the cost of one.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hessian_directions import seeds
from hessian_directions.arrays import ALIGNMENT, aligned
from hessian_directions.autodiff.substitutes import Substitutes
from hessian_directions.data.dataset import Split
from hessian_directions.errors import ConfigurationError, NonFiniteError
from hessian_directions.files import AnyPath
from hessian_directions.learning.settings import TrainingSettings
from hessian_directions.progress import Clock, Progress
from hessian_directions.saved_run import SavedRun
from hessian_directions.settings import checked

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TrainingResult:
    """What training gave, beside the weights in the network.

    Attributes:
        history: "epoch" (completed epochs, int64), "train_loss", "learning_rate" (of the latest
            step), and with a test split "test_loss" and "test_accuracy" (NaN for regression), one
            entry a record. Losses are means over all samples in evaluation mode.
        snapshots: Weights along training, as named arrays for a file: "epoch" (K,) int64, completed
            epochs; "theta" (K, N) float32, the trainable parameters in the network's order; and under
            "buffer.<name>" (K, …) what the network keeps beside its parameters, such as the running
            statistics of BatchNorm: the loss at an epoch needs that epoch's. Empty where none were
            asked for.
        kept_epoch: The epoch whose weights the network holds.
        epochs: Completed epochs.
        reached: Whether `target_loss` was reached; true where there is none.
        train: The training split as it was trained on: with label noise, if any.
        precision: "bfloat16" or "float32": what was computed in, which `mixed_precision` alone does
            not say.
    """

    history: dict[str, np.ndarray]
    snapshots: dict[str, np.ndarray]
    kept_epoch: int
    epochs: int
    reached: bool
    train: Split
    precision: str


def train(
    model: nn.Module,
    loss: Loss,
    train: Split,
    test: Split | None,
    settings: TrainingSettings | Mapping[str, Any],
    *,
    seed: int,
    device: torch.device | str = "cpu",
    state_path: AnyPath | None = None,
    save_seconds: float = 60.0,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a network in place, and leave it in evaluation mode.

    Samples, all in memory on the device, are drawn by a permutation an epoch. Memory beside that of
    one step: up to 4 N numbers (θ, gradient, momentum, the best), two copies of the training
    inputs, and 4 K N bytes for K snapshots.

    Args:
        model: Its parameters that require gradients are trained. It is moved to `device`.
        loss: loss(outputs, targets) → the mean over the batch.
        train: The samples.
        test: Those of the history's test loss, if any.
        settings: `TrainingSettings`, or some of them by name.
        seed: Of the batches, augmentation, label noise and dropout. Equal seeds give equal bits on
            one machine with one number of threads, on the CPU.
        state_path: Where the state is kept every `save_seconds` (see `SavedRun`). A run that finds
            the state of the same network, training data, settings and seed continues it, to the
            same bits.
        progress: Called with the completed epochs at every record of the history, which is its note,
            and again where that takes long.

    Raises:
        ConfigurationError: A setting is unknown, not allowed, or does not fit the samples.
        NonFiniteError: The loss is NaN or infinite; naming epoch and learning rate.
        ArtifactError: The saved state belongs to another run.
    """
    settings = checked(TrainingSettings, settings, "training")
    device = torch.device(device)
    if settings.augmentation != "none" and train.inputs.dim() != 4:
        raise ConfigurationError(f"training.augmentation: {settings.augmentation} needs images")
    if settings.mixed_precision and not has_bfloat16(device):
        warnings.warn(
            "training.mixed_precision: this device has no instructions for bfloat16 and would take "
            "several times as long, so training is in float32",
            stacklevel=2,
        )
        settings = settings.model_copy(update={"mixed_precision": False})
    train = with_label_noise(train, settings.label_noise, seed)

    # Dropout and its like draw from the global generators, which are given back as they were.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seeds.derive(seed, "training", "model"))
        run = _Run(model.to(device), loss, train, test, settings, seed)
        saved = None
        if state_path is not None:
            saved = SavedRun(state_path, run.identity, save_seconds)
            run.resume(saved.read())
        clock = Clock(settings.epochs, "epochs", progress, begun=run.done)
        if run.epoch == run.step == 0:
            run.record(clock)
            run.take_snapshot()
        while run.epoch < settings.epochs and not run.reached:
            for _ in run.pass_over_samples():
                if saved is not None and saved.due:
                    saved.write(run.state())
                if clock.due:
                    clock(run.done, run.note)
            run.take_snapshot()
            if run.epoch % settings.history_every == 0 or run.epoch == settings.epochs:
                run.record(clock)
        return run.finish()


def restore_snapshot(snapshots: Mapping[str, np.ndarray], k: int, model: nn.Module) -> None:
    """Put the k-th weights and buffers of `TrainingResult.snapshots` into a network."""
    parameters = _trainable(model)
    theta = torch.from_numpy(snapshots["theta"][k])
    parts = theta.split([parameter.numel() for parameter in parameters])
    with torch.no_grad():
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))
        for name, buffer in model.named_buffers():
            buffer.copy_(torch.from_numpy(np.asarray(snapshots[f"buffer.{name}"][k])))


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by instructions of its own.

    Measured on one core, training of ResNet-20 and DenseNet-121, seconds over those of float32:
    0.57 and 0.47 with such instructions, 1.9 and 1.8 with AVX-512 alone, 9.8 and 9.3 with AVX2.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    # With AVX-512, oneDNN also says yes where it only imitates bfloat16; ARM has no AVX-512.
    return torch.cpu._is_avx512_bf16_supported() or not torch.cpu._is_avx512_supported()


def evaluate(
    model: nn.Module, loss: Loss, split: Split, batch_size: int = 256
) -> tuple[float, float]:
    """Mean loss and accuracy over a split in evaluation mode; the accuracy is NaN for regression.

    The means are over samples, accumulated in float64. The network is left in the mode it was in.
    """
    split = _prepared(split, next(model.parameters()))
    inputs, targets = split.inputs, split.targets
    training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=inputs.device)
    correct = torch.zeros((), dtype=torch.int64, device=inputs.device)
    with torch.no_grad():
        for batch, wanted in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
            outputs = model(batch)
            total += loss(outputs, wanted).double() * len(batch)
            if not targets.is_floating_point():
                correct += (outputs.argmax(1) == wanted).sum()
    model.train(training)
    accuracy = math.nan if targets.is_floating_point() else correct.item() / len(inputs)
    return total.item() / len(inputs), accuracy


def with_label_noise(split: Split, share: float, seed: int) -> Split:
    """The split with this share of its labels, rounded to whole samples, replaced by another class.

    Samples and new classes are drawn uniformly by a generator that depends on the seed alone, so a
    later stage finds the same labels.
    """
    if share == 0:
        return split
    if split.targets.is_floating_point():
        raise ConfigurationError(
            "training.label_noise needs classes, these targets are real numbers"
        )
    generator = torch.Generator().manual_seed(seeds.derive(seed, "training", "label noise"))
    n_classes = int(split.targets.max()) + 1
    chosen = torch.randperm(len(split), generator=generator)[: round(share * len(split))]
    shifts = torch.randint(1, max(n_classes, 2), (len(chosen),), generator=generator)
    targets = split.targets.cpu().clone()
    targets[chosen] = (targets[chosen] + shifts) % n_classes
    return Split(split.inputs, targets.to(split.targets.device), split.indices)


def flip_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W), each mirrored with probability ½ and shifted up to an eighth of a side.

    Pixels from outside are zero. The result is in channels-last layout.
    """
    n, _, height, width = images.shape
    down, right = height // 8, width // 8
    padded = nn.functional.pad(images, (right, right, down, down)).permute(0, 2, 3, 1)

    top = torch.randint(2 * down + 1, (n, 1), generator=generator)
    left = torch.randint(2 * right + 1, (n, 1), generator=generator)
    mirrored = torch.randint(2, (n, 1), generator=generator).bool()
    columns = torch.arange(width).expand(n, width)
    rows = top + torch.arange(height)  # (B, H)
    columns = left + torch.where(mirrored, width - 1 - columns, columns)  # (B, W)

    samples = torch.arange(n)[:, None, None]
    indices = (samples, rows[:, :, None], columns[:, None, :])
    chosen = padded[tuple(index.to(images.device) for index in indices)]  # (B, H, W, C)
    return chosen.permute(0, 3, 1, 2)


class _Run:
    """One training run: everything that changes from epoch to epoch, and how it changes."""

    # What a saved state holds as it is; tensors are copied into those that are there.
    PLAIN = ("epoch", "step", "order_state", "latest_rate", "reached", "history", "snapshots")

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        train: Split,
        test: Split | None,
        settings: TrainingSettings,
        seed: int,
    ) -> None:
        self.model, self.loss, self.train, self.settings = model, loss, train, settings
        self.theta = _flatten(model)
        model.train()
        self.identity = _identity(self.theta, train, settings, seed)
        self.buffers = dict(model.named_buffers())
        self.weights = {"theta": self.theta, "buffers": self.buffers}
        self.samples = _prepared(train, self.theta)
        self.inputs, self.targets = self.samples.inputs, self.samples.targets
        self.test = None if test is None else _prepared(test, self.theta)
        self.generator = torch.Generator().manual_seed(seeds.derive(seed, "training", "batches"))
        chosen = settings.model_dump(include={"momentum", "nesterov", "weight_decay"})
        self.optimizer = torch.optim.SGD([self.theta], lr=settings.learning_rate, **chosen)
        n = len(train)
        self.n_batches = math.ceil(n / (settings.batch_size or n))
        acts_alike = settings.augmentation == "none" and not _depends_on_mode(model)
        self.judge_every_pass = settings.keep == "best" and self.n_batches == 1 and acts_alike
        self.snapshot_epochs = set(settings.snapshot_epochs())
        self.epoch = 0
        self.step = 0  # of the epoch that is under way
        self.losses = torch.zeros(self.n_batches, device=self.theta.device)
        self.order_state = self.generator.get_state()  # as the epoch began
        self.reached = False
        self.latest_rate = settings.rate(0)
        self.history: list[dict[str, float]] = []
        self.snapshots: dict[int, dict[str, Any]] = {}
        self.best: dict[str, Any] = {
            "loss": math.inf,
            "epoch": 0,
            "theta": self.theta.detach().clone(),
            "buffers": self._copy_of_buffers(),
        }

    @property
    def done(self) -> float:
        """Epochs, the part of the one under way included."""
        return self.epoch + self.step / self.n_batches

    @property
    def note(self) -> str:
        """The latest record of the history."""
        row = self.history[-1]
        return ", ".join(f"{key} {row[key]:.4g}" for key in row if key != "epoch")

    def pass_over_samples(self) -> Iterator[None]:
        """The rest of an epoch; yields after each step, where the state can be kept."""
        batches = self._batches()
        while self.step < self.n_batches:
            inputs, targets = batches[self.step]
            if self.settings.augmentation == "flip_crop":
                inputs = flip_crop(inputs, self.generator)
            steps = self.epoch * self.n_batches + self.step
            self.latest_rate = self.settings.rate(steps / (self.settings.epochs * self.n_batches))
            self.optimizer.param_groups[0]["lr"] = self.latest_rate
            self.theta.grad.zero_()  # type: ignore[union-attr]
            with Substitutes():
                with self._autocast():
                    outputs = self.model(aligned(inputs))
                loss = self.loss(outputs.to(self.theta.dtype), targets)
            loss.backward()
            self.losses[self.step] = loss.detach() * (len(inputs) / len(self.inputs))
            if self.judge_every_pass:
                self._judge(loss.item())
            self.optimizer.step()
            self.step += 1
            yield
        self.epoch += 1
        self.step = 0
        self._require_finite(float(self.losses.sum()))
        self.order_state = self.generator.get_state()

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        """All batches of the epoch under way, whether it begins here or goes on."""
        if self.n_batches == 1:
            return [(self.inputs, self.targets)]
        state = self.generator.get_state()
        self.generator.set_state(self.order_state)
        order = torch.randperm(len(self.inputs), generator=self.generator).to(self.theta.device)
        if self.step:
            self.generator.set_state(state)
        is_image = self.inputs.dim() == 4
        inputs = (self.inputs.permute(0, 2, 3, 1) if is_image else self.inputs)[order]
        inputs = inputs.permute(0, 3, 1, 2) if is_image else inputs
        parts = (x.tensor_split(self.n_batches) for x in (inputs, self.targets[order]))
        return list(zip(*parts, strict=True))

    def _autocast(self) -> torch.autocast:
        enabled = self.settings.mixed_precision
        return torch.autocast(self.theta.device.type, dtype=torch.bfloat16, enabled=enabled)

    def record(self, clock: Clock) -> None:
        """Add a row to the history, judge the weights, look at the target."""
        with self._autocast():
            train_loss, _ = evaluate(self.model, self.loss, self.samples)
            scores = None if self.test is None else evaluate(self.model, self.loss, self.test)
        self._require_finite(train_loss)
        row = {"epoch": self.epoch, "train_loss": train_loss, "learning_rate": self.latest_rate}
        if scores is not None:
            row["test_loss"], row["test_accuracy"] = scores
        self.history.append(row)
        if self.settings.keep == "best":
            self._judge(train_loss)
        target = self.settings.target_loss
        self.reached = target is not None and train_loss <= target
        clock(self.epoch, self.note)

    def _require_finite(self, value: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the training loss became {value} in epoch {self.epoch} at learning rate "
                f"{self.latest_rate:g}: a smaller one may help"
            )

    def _judge(self, loss: float) -> None:
        if loss < self.best["loss"]:
            self.best |= {"loss": loss, "epoch": self.epoch}
            _copy(self.weights, self.best)

    def take_snapshot(self, last: bool = False) -> None:
        if self.epoch in self.snapshot_epochs or (last and self.snapshot_epochs):
            parts = [p.detach().reshape(-1) for p in _trainable(self.model)]
            self.snapshots[self.epoch] = {
                "theta": torch.cat(parts).to("cpu", torch.float32),
                "buffers": {name: copy.cpu() for name, copy in self._copy_of_buffers().items()},
            }

    def _copy_of_buffers(self) -> dict[str, Tensor]:
        return {name: buffer.detach().clone() for name, buffer in self.buffers.items()}

    def finish(self) -> TrainingResult:
        """Put the kept weights into the network, free it of θ, and gather what was recorded."""
        self.take_snapshot(last=True)
        kept_epoch = self.epoch
        if self.settings.keep == "best":
            kept_epoch = self.best["epoch"]
            _copy(self.best, self.weights)
        for parameter in _trainable(self.model):
            parameter.data = parameter.data.clone()
            parameter.grad = None
        self.model.eval()
        history = {key: np.array([row[key] for row in self.history]) for key in self.history[0]}
        return TrainingResult(
            history=history,
            snapshots=self._gathered_snapshots(),
            kept_epoch=kept_epoch,
            epochs=self.epoch,
            reached=self.reached or self.settings.target_loss is None,
            train=self.train,
            precision="bfloat16" if self.settings.mixed_precision else "float32",
        )

    def _gathered_snapshots(self) -> dict[str, np.ndarray]:
        if not self.snapshots:
            return {}
        epochs, taken = zip(*sorted(self.snapshots.items()))
        values = {"theta": [snapshot["theta"] for snapshot in taken]}
        for name in self.buffers:
            values[f"buffer.{name}"] = [snapshot["buffers"][name] for snapshot in taken]
        arrays = {name: torch.stack(along).numpy() for name, along in values.items()}
        return {"epoch": np.array(epochs, dtype=np.int64)} | arrays

    def state(self) -> dict[str, Any]:
        """Everything that `resume` needs."""
        device = self.theta.device
        return {name: getattr(self, name) for name in self.PLAIN} | {
            **self.weights,
            "losses": self.losses,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "global_generator": torch.get_rng_state(),
            "device_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "best": self.best,
        }

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Continue from a saved state, if there is one."""
        if state is None:
            return
        for name in self.PLAIN:
            setattr(self, name, state[name])
        self.losses.copy_(state["losses"])
        _copy(state, self.weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
        if state["device_generator"] is not None:
            torch.cuda.set_rng_state(state["device_generator"], self.theta.device)
        self.best |= {key: state["best"][key] for key in ("loss", "epoch")}
        _copy(state["best"], self.best)


def _prepared(split: Split, like: Tensor) -> Split:
    """The split on the device; images lie as (n, H, W, C): convolutions read it fast."""
    inputs = split.inputs_on(like.device, like.dtype)
    if inputs.dim() == 4:
        inputs = inputs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return Split(inputs, split.targets.to(like.device), split.indices)


def _copy(source: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    """Take θ and the buffers of one for those of the other."""
    with torch.no_grad():
        target["theta"].copy_(source["theta"])
        for name, buffer in target["buffers"].items():
            buffer.copy_(source["buffers"][name])


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _flatten(model: nn.Module) -> nn.Parameter:
    """A vector of which the model's trainable parameters, and their gradients, become views.

    It is θ, on a GPU with zeros in between: each parameter is `aligned`.
    """
    parameters = _trainable(model)
    if not parameters:
        raise ConfigurationError("the network has no trainable parameters")
    first = parameters[0]
    step = ALIGNMENT // first.element_size() if first.is_cuda else 1
    sizes = [step * math.ceil(parameter.numel() / step) for parameter in parameters]
    theta = nn.Parameter(first.new_zeros(sum(sizes)))
    theta.grad = torch.zeros_like(theta)
    for parameter, value, gradient in zip(
        parameters, theta.data.split(sizes), theta.grad.split(sizes), strict=True
    ):
        own = slice(parameter.numel())
        value[own] = parameter.detach().reshape(-1)
        parameter.data = value[own].view_as(parameter)
        parameter.grad = gradient[own].view_as(parameter)
    return theta


def _depends_on_mode(model: nn.Module) -> bool:
    """Whether training and evaluation mode may differ: BatchNorm, dropout and their like."""
    modal = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    return any(isinstance(module, modal) for module in model.modules())


def _identity(theta: Tensor, train: Split, settings: TrainingSettings, seed: int) -> dict[str, Any]:
    """What determines a run: settings, seed, kind of device, first weights, samples."""

    def checksum(*tensors: Tensor) -> str:
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    return settings.model_dump() | {
        "seed": seed,
        "device": theta.device.type,
        "weights": checksum(theta),
        "samples": checksum(train.inputs, train.targets),
    }
