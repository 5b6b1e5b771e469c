"""Programs that a reader of the library wrote to break it, by families; the oracle is plain autograd."""

from __future__ import annotations

import copy
import functools
import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from plain_autograd import derivatives
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import hessian_directions as hd
from hessian_directions.errors import ArgumentError, ConfigurationError, DataError, ModelError

Loss = Callable[[Tensor, Tensor], Tensor]


def data(n: int = 40, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


def dense(model: nn.Module, loss: Loss, x: Any, y: Any) -> tuple[float, Tensor, Tensor]:
    return derivatives(model, lambda own: loss(own(x), y))


def require_right(
    objective: hd.Objective, model: nn.Module, loss: Loss, x: Any, y: Any, to: float = 1e-9
) -> None:
    value, slope, hessian = dense(model, loss, x, y)
    n = objective.n_parameters
    assert float(objective.value()) == pytest.approx(value, rel=to)
    torch.testing.assert_close(objective.gradient(), slope, rtol=to, atol=to)
    eye = torch.eye(n, dtype=objective.dtype)
    torch.testing.assert_close(objective.hessian() @ eye, hessian, rtol=to, atol=to)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def network(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, classes)).double()


# --- complex numbers keep their imaginary parts -----------------------------------------------------


class Rotary(nn.Module):
    """Rotary position embedding: a complex buffer, as language models keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.head = nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(4, 3)
        angle = torch.arange(4.0)[:, None] * torch.tensor([1.0, 0.1])
        self.register_buffer("frequencies", torch.polar(torch.ones_like(angle), angle))

    def turned(self, z: Tensor) -> Tensor:
        pairs = torch.view_as_complex(z.reshape(-1, 4, 2, 2))
        return torch.view_as_real(pairs * self.frequencies).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.turned(self.q(x)) * self.turned(self.k(x)).flip(1)).mean(1))


def test_complex_buffers_stay_complex_in_another_precision() -> None:
    model, x, y = Rotary(), torch.randn(20, 4, 2), torch.randint(3, (20,))
    objective = hd.Objective(model, functional.cross_entropy, x, y)
    precise = objective.to(torch.float64)
    assert float(precise.value()) == pytest.approx(float(objective.value()), rel=1e-6)
    V = torch.eye(objective.n_parameters)
    exact = hd.trace.directional(objective, directions=V).mean
    assert hd.trace.finite_difference(objective, directions=V).mean == pytest.approx(exact, 1e-3)
    assert precise.to(torch.float32).network.frequencies.dtype == torch.complex64


class Weighted(nn.Module):
    """A loss with a complex buffer, of which the imaginary part counts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(1.0 + 2.0j))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(z * self.factor.imag, y)


def test_complex_buffers_of_a_loss_stay_complex() -> None:
    model, (x, y) = network(), data()
    loss = Weighted()
    objective = hd.Objective(model, loss, x, y)
    assert float(objective.value()) == pytest.approx(float(loss(model(x), y).detach()), rel=1e-6)


# --- kinks that autograd does not name ----------------------------------------------------------------

KINKED = {
    "times a comparison": lambda z: z * (z > 0),
    "where": lambda z: torch.where(z > 0, z, 0 * z),
    "masked_fill": lambda z: z.masked_fill(z < 0, 0.0),
    "sort": lambda z: z.sort(1).values * torch.arange(1.0, z.shape[1] + 1, dtype=z.dtype),
    "top-k mask": lambda z: z * (z >= z.topk(3, 1).values[:, -1:]),
    "cummax": lambda z: z.cummax(1).values,
    "median": lambda z: z - z.median(1, keepdim=True).values,
    "copysign": lambda z: torch.copysign(z, z.flip(1)),
    "sign": lambda z: z * z.sign(),
    "gather(argmax)": lambda z: z - z.gather(1, z.argmax(1, keepdim=True)),
    "in place": lambda z: z.clone().index_put_((z < 0,), torch.zeros((), dtype=z.dtype)),
    # Where no gradient goes.
    "detached mask": lambda z: z * (z.detach() > 0),
    "mask of .data": lambda z: z * (z.data > 0),
    "detached sign": lambda z: z * z.detach().sign(),
    "detached where": lambda z: torch.where(z.detach() > 0, z, 0.1 * z),
    "detached top-k": lambda z: z * torch.zeros_like(z).scatter_(1, z.detach().topk(3)[1], 1.0),
    "mask of NumPy": lambda z: z * torch.from_numpy((z.detach().numpy() > 0).astype(float)),
    "detached relu": lambda z: z * z.detach().relu().bool(),
    "truth of a clamp": lambda z: z * z.clamp_min(0).bool(),
    "equal to the largest": lambda z: z * (z == z.amax(1, keepdim=True)),
    "places of the largest": lambda z: z * functional.one_hot(z.max(1).indices, z.shape[1]),
    "whole part": lambda z: z - z.long(),
    "rounded quotient": lambda z: z - torch.div(z, 0.5, rounding_mode="floor"),
    "own function": lambda z: OwnReLU.apply(z),
    "atan2": lambda z: torch.atan2(z, z.flip(1)),
    "angle": lambda z: torch.complex(z, z.flip(1)).angle(),
    # In the graph, by other names.
    "grid_sample": lambda z: (
        functional.grid_sample(
            torch.linspace(0, 1, 36, dtype=z.dtype)
            .square()
            .view(1, 1, 6, 6)
            .expand(len(z), -1, -1, -1),
            z.view(len(z), 1, 3, 2),
            align_corners=False,
        )
        .expand(-1, 2, -1, -1)
        .reshape(len(z), 6)
    ),
    "scatter_reduce": lambda z: z.scatter_reduce(
        1, torch.zeros(z.shape, dtype=torch.long), z.flip(1), "amax"
    ),
    "index_reduce": lambda z: z.index_reduce(
        1, torch.zeros(6, dtype=torch.long), z.flip(1), "amin"
    ),
    "distance": lambda z: z * functional.pairwise_distance(z, z.flip(1), p=1)[:, None],
    "cdist": lambda z: torch.cdist(z, torch.eye(6, dtype=z.dtype), p=1),
    "renorm": lambda z: torch.renorm(z, 2, 0, 1.0),
    "nuclear norm": lambda z: z * torch.linalg.matrix_norm(z.view(-1, 2, 3), "nuc")[:, None],
}
SMOOTH = {
    "finite": lambda z: z.tanh() if torch.isfinite(z).all() else z,
    "no NaN": lambda z: torch.nan_to_num(z).sin(),
    "determinant": lambda z: (
        z * torch.linalg.det(z.view(-1, 6, 1) * z.view(-1, 1, 6) + 2 * torch.eye(6))[:, None]
    ),
    "solution": lambda z: torch.linalg.solve(
        z.view(-1, 6, 1) * z.view(-1, 1, 6) + 2 * torch.eye(6), z
    ),
    "sampled": lambda z: functional.grid_sample(
        z.view(len(z), 1, 3, 2),
        torch.linspace(-0.9, 0.9, 12, dtype=z.dtype).view(1, 2, 3, 2).expand(len(z), -1, -1, -1),
        align_corners=False,
    ).reshape(len(z), 6),
    "distance": lambda z: z * functional.pairwise_distance(z, torch.full_like(z, 9.0))[:, None],
    "summed": lambda z: z.scatter_reduce(
        1, torch.zeros(z.shape, dtype=torch.long), z.flip(1).sin(), "sum"
    ),
    "own function": lambda z: OwnSquare.apply(z),
    "number of the data": lambda z: z * torch.tensor([2.0, -1.0]).max().item(),
}


class OwnReLU(torch.autograd.Function):
    """As networks write it for their memory's sake."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return slope * (z > 0)


class OwnSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return 2 * slope * z


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", KINKED)
def test_every_kink_is_warned_of_and_none_is_corrected_wrongly(name: str) -> None:
    (x, y), act = data(), Apply(KINKED[name])
    model = nn.Sequential(nn.Linear(5, 6), act, nn.Linear(6, 3)).double()
    objective = hd.Objective(model, functional.cross_entropy, x, y)
    assert objective.kinks()
    with pytest.warns(hd.trace.KinkWarning):
        hd.trace.finite_difference(objective, 4)
    with pytest.raises(hd.errors.KinkError):
        hd.trace.finite_difference(objective, 4, kinks="correct")


def test_the_larger_of_two_is_corrected_by_whatever_name() -> None:
    (x, y), act = data(200), Apply(lambda z: torch.fmax(z, 0 * z))
    model = nn.Sequential(nn.Linear(5, 6), act, nn.Linear(6, 3)).double()
    objective = hd.Objective(model, functional.cross_entropy, x, y)
    V = hd.directions.gaussian(objective.n_parameters, 8, 0)
    with pytest.warns(hd.trace.KinkWarning):
        plain = hd.trace.finite_difference(objective, directions=V, step=0.02).mean
    corrected = hd.trace.finite_difference(objective, directions=V, step=1e-3, kinks="correct").mean
    exact = hd.trace.directional(objective, directions=V).mean
    assert abs(corrected - exact) < 0.05 * abs(plain - exact)


def test_a_branch_on_a_detached_number_is_a_kink() -> None:
    class Gated(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            scale = 2.0 if self.weight.data.norm().item() > 1 else 1.0
            return scale * super().forward(x)

    x, y = data()
    objective = hd.Objective(Gated(5, 3).double(), functional.cross_entropy, x, y)
    assert objective.kinks() == ["item"]
    with pytest.raises(hd.errors.KinkError, match="slope of item"):
        hd.trace.finite_difference(objective, 4, kinks="correct")


@pytest.mark.parametrize("name", SMOOTH)
def test_what_is_smooth_has_no_kinks(name: str) -> None:
    (x, y), act = data(), Apply(SMOOTH[name])
    model = nn.Sequential(nn.Linear(5, 6), act, nn.Linear(6, 3)).double()
    assert hd.Objective(model, functional.cross_entropy, x, y).kinks() == []


def test_comparisons_of_data_are_no_kinks() -> None:
    (x, y), act = data(), Apply(lambda z: z * (torch.arange(6) > 2))
    model = nn.Sequential(nn.Linear(5, 6), act, nn.Linear(6, 3)).double()
    assert hd.Objective(model, functional.cross_entropy, x, y).kinks() == []


# --- losses that read what the user's own network keeps ---------------------------------------------


class Keeper(nn.Module):
    """Keeps a penalty of its last pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        self.penalty = 0.5 * h.square().mean()
        return self.b(h)


class Trainer:
    def __init__(self, model: nn.Module) -> None:
        self.model, self.criterion, self.all = model, nn.CrossEntropyLoss(), {"net": model}

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        return self.criterion(z, y) + self.model.penalty

    def in_dictionary(self, z: Tensor, y: Tensor) -> Tensor:
        return self.criterion(z, y) + self.all["net"].penalty

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        return self.loss(z, y) + 0 * self.model.penalty

    def plain(self, z: Tensor, y: Tensor) -> Tensor:
        return self.criterion(z, y)


class Style(nn.Module):
    """A module without parameters that keeps its input, as in PyTorch's style transfer."""

    def forward(self, h: Tensor) -> Tensor:
        self.kept = h
        return h


class Recorder:
    def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept = output


class OfNetwork(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(z, y) + self.model.penalty


def _of_trainer(method: str) -> Callable[[], tuple[nn.Module, Any]]:
    def make() -> tuple[nn.Module, Any]:
        model = Keeper()
        trainer = Trainer(model)
        return model, trainer if method == "call" else getattr(trainer, method)

    return make


def _of_closure() -> tuple[nn.Module, Any]:
    model = Keeper()
    trainer = Trainer(model)
    return model, lambda z, y: functional.cross_entropy(z, y) + trainer.model.penalty


def _of_dictionary() -> tuple[nn.Module, Any]:
    model = Keeper()
    parts = {"net": model}
    return model, lambda z, y: functional.cross_entropy(z, y) + parts["net"].penalty


def _of_style() -> tuple[nn.Module, Any]:
    style = Style()
    model = nn.Sequential(nn.Linear(5, 4), style, nn.Linear(4, 3))
    return model, lambda z, y: functional.cross_entropy(z, y) + style.kept.square().mean()


def _of_recorder() -> tuple[nn.Module, Any]:
    recorder, model = Recorder(), nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    model[1].register_forward_hook(recorder.hook)
    return model, lambda z, y: functional.cross_entropy(z, y) + recorder.kept.square().mean()


def _of_module() -> tuple[nn.Module, Any]:
    model = Keeper()
    return model, OfNetwork(model)


STALE = {
    **{name: _of_trainer(name) for name in ("loss", "in_dictionary", "call")},
    "closure": _of_closure,
    "dictionary": _of_dictionary,
    "module without parameters": _of_style,
    "recorder": _of_recorder,
    "loss module": _of_module,
}


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("name", STALE)
def test_what_the_user_s_network_kept_is_no_part_of_the_loss(name: str, graph: bool) -> None:
    model, loss = STALE[name]()
    model, (x, y) = model.double(), data()
    with torch.set_grad_enabled(graph):
        model(x)  # any earlier pass
    with pytest.raises(ModelError, match="refers to the network itself"):
        hd.Objective(model, loss, x, y).gradient()


def test_what_an_earlier_pass_left_is_seen_by_its_graph() -> None:
    model, (x, y) = Keeper().double(), data()
    model(x)
    left = [[model.penalty]]  # nothing that a search for the network finds
    with pytest.raises(ModelError, match="reads the network's own parameters"):
        hd.Objective(model, lambda z, y: functional.cross_entropy(z, y) + left[0][0], x, y).value()


class WithCriterion(nn.Module):
    """Holds its own loss, as networks of training frameworks do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.criterion = network(), Focal()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_a_loss_that_is_a_part_of_the_network_is_a_loss() -> None:
    model, (x, y) = WithCriterion(), data()
    criterion = model.criterion
    for loss in (criterion, criterion.forward, lambda z, y: criterion(z, y)):
        require_right(hd.Objective(model, loss, x, y), model, criterion, x, y)


def test_a_trainer_s_method_that_leaves_the_network_alone_is_a_loss() -> None:
    model, (x, y) = network(), data()
    trainer = Trainer(model)
    require_right(hd.Objective(model, trainer.plain, x, y), model, trainer.plain, x, y)


# --- PyTorch's losses in other clothes ------------------------------------------------------------------


class Same(nn.CrossEntropyLoss):
    """Nothing new."""


@functools.wraps(functional.cross_entropy)
def _wrapped(z: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(z, y, ignore_index=8)


WEIGHT = torch.linspace(0.5, 2.0, 30, dtype=torch.float64)
CLOTHES: dict[str, Any] = {
    "forward": nn.CrossEntropyLoss(ignore_index=8).forward,
    "partial of a module": functools.partial(nn.CrossEntropyLoss(ignore_index=8)),
    "partial of a partial": functools.partial(
        functools.partial(functional.cross_entropy, weight=WEIGHT), ignore_index=8
    ),
    "subclass": Same(weight=WEIGHT, ignore_index=8),
    "weights": nn.CrossEntropyLoss(weight=WEIGHT),
}


@pytest.mark.parametrize("name", CLOTHES)
def test_what_is_ignored_is_left_out_whatever_a_loss_is_wrapped_in(name: str) -> None:
    model, (x, y), loss = network(30), data(200, 30), CLOTHES[name]
    objective = hd.Objective(model, loss, x, y, batch_size=7)
    require_right(objective, model, loss, x, y)


def test_pixels_with_one_rare_image() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.LogSoftmax(1)).double()
    x, y = torch.randn(20, 1, 2, 2).double(), torch.randint(3, (20, 2, 2))
    y[3, 0, :] = 255
    loss = nn.NLLLoss2d(ignore_index=255)
    objective = hd.Objective(model, loss, x, y, batch_size=4)
    assert float(objective.value()) == pytest.approx(float(loss(model(x), y)), rel=1e-12)


def test_a_function_that_only_bears_the_name_of_pytorch_s_is_no_known_one() -> None:
    model, (x, y) = network(30), data(200, 30)
    with pytest.raises(ModelError, match="depends on how the samples are split"):
        hd.Objective(model, _wrapped, x, y, batch_size=7).value()


class Focal(nn.Module):
    """Returns a mean whatever its attribute says."""

    reduction = "none"

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        each = functional.cross_entropy(z, y, reduction="none")
        return ((1 - (-each).exp()) ** 2 * each).mean()


def test_the_reduction_of_a_loss_of_one_s_own_is_what_it_returns() -> None:
    model, (x, y) = network(), data()
    require_right(hd.Objective(model, Focal(), x, y), model, Focal(), x, y)


def test_weights_changed_afterwards_are_no_longer_the_loss_s() -> None:
    model, (x, y), weight = network(), data(), torch.ones(3, dtype=torch.float64)
    objective = hd.Objective(
        model, functools.partial(functional.cross_entropy, weight=weight), x, y
    )
    before = float(objective.value())
    weight[0] = 100.0
    assert float(objective.value()) == before


# --- weights that are not where they seem ----------------------------------------------------------------


class Merging(nn.Linear):
    """Low-rank adaptation whose `train` merges the matrices into the weight and takes them out."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__(n, m)
        self.A, self.B = nn.Parameter(torch.randn(2, n)), nn.Parameter(torch.randn(m, 2))
        self.weight.requires_grad = self.bias.requires_grad = self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.B @ self.A
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        beside = 0 if self.merged else x @ self.A.T @ self.B.T
        return functional.linear(x, self.weight, self.bias) + beside


class Cached(nn.Linear):
    """Computes something of its weight when it is put into evaluation mode."""

    def train(self, mode: bool = True) -> Cached:
        super().train(mode)
        self.cache = self.weight.detach().tanh()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight + self.cache, self.bias)


@pytest.mark.parametrize("layer", [Merging, Cached])
@pytest.mark.parametrize("head", [True, False])
def test_what_evaluation_mode_makes_of_the_weights_is_refused(
    layer: type[nn.Linear], head: bool
) -> None:
    parts = [layer(5, 4), nn.Tanh(), nn.Linear(4, 3)] if head else [layer(5, 3)]
    model, (x, y) = nn.Sequential(*parts).double(), data()
    with pytest.raises(ModelError, match="keeps weights elsewhere"):
        hd.Objective(model, functional.cross_entropy, x, y).value()


def test_frozen_weights_of_less_precision_are_refused() -> None:
    model, (x, y) = network().float(), data()
    model[0].requires_grad_(False).to(torch.bfloat16)
    with pytest.raises(ModelError, match=r"frozen parameter '0\.weight' is torch\.bfloat16"):
        hd.Objective(model, functional.cross_entropy, x.float(), y)


def test_parameters_that_share_memory_are_one_or_refused() -> None:
    encoder, decoder = nn.Linear(5, 3, bias=False).double(), nn.Linear(3, 5, bias=False).double()
    decoder.weight.data = encoder.weight.data.T
    model, (x, _) = nn.Sequential(encoder, decoder), data()
    with pytest.raises(ModelError, match=r"'0\.weight' and '1\.weight' share memory"):
        hd.Objective(model, functional.mse_loss, x, x)


def test_disjoint_parts_of_one_buffer_are_parameters() -> None:
    model, (x, y) = network(), data()
    parameters = list(model.parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    sizes = [p.numel() for p in parameters]
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        parameter.data = part.view_as(parameter)
    loss = functional.cross_entropy
    require_right(hd.Objective(model, loss, x, y), model, loss, x, y)


# --- the same function after rescaling --------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        lambda: parametrizations.weight_norm(nn.Linear(5, 4)),
        lambda: parametrizations.spectral_norm(nn.Linear(5, 4)),
    ],
)
def test_only_plain_layers_are_rescaled(layer: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(layer(), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(ModelError, match="must be plain"):
        hd.flatness.rescale(model, 4.0)


def test_a_layer_that_is_used_again_or_watched_is_not_rescaled() -> None:
    shared = nn.Linear(4, 4)
    with pytest.raises(ModelError, match="must be plain"):
        hd.flatness.rescale(
            nn.Sequential(nn.Linear(5, 4), nn.ReLU(), shared, nn.Tanh(), shared), 4.0
        )
    watched = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    watched[0].register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(ModelError, match="must be plain"):
        hd.flatness.rescale(watched, 4.0)


# --- arguments -----------------------------------------------------------------------------------------------


def plain() -> hd.Objective:
    return hd.Objective(network(), functional.cross_entropy, *data())


ESTIMATORS = {
    "directional": hd.trace.directional,
    "hutchinson": hd.trace.hutchinson,
    "finite_difference": hd.trace.finite_difference,
    "quadratic_fit": hd.trace.quadratic_fit,
    "deflated": lambda o, **more: hd.trace.deflated(o, torch.eye(o.n_parameters, 1), **more),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("option", ["relative_eror", "n_sample", "n_probes"])
def test_options_that_do_not_exist_are_refused(name: str, option: str) -> None:
    with pytest.raises(ArgumentError, match=f"no option '{option}'"):
        ESTIMATORS[name](plain(), **{option: 5})


@pytest.mark.parametrize("number", [0, -1, 1.5, "3", None])
def test_numbers_of_things_are_whole_and_positive(number: Any) -> None:
    o = plain()
    calls: list[Callable[[], Any]] = [
        lambda: hd.Objective(network(), functional.cross_entropy, *data(), batch_size=number),
        lambda: hd.trace.exact(o, batch=number),
        lambda: hd.trace.directional(o, 4, chunk=number),
        lambda: hd.spectral_density(o, probes_at_once=number),
        lambda: hd.spectral_density(o, number),
        lambda: hd.visibility.sample_projections(o, 3, chunk=number),
        lambda: hd.visibility.sample_projections(o, number),
    ]
    for call in calls:
        with pytest.raises(ArgumentError, match="must be a whole number, at least 1"):
            call()


def test_numpy_s_numbers_are_numbers() -> None:
    o = plain()
    assert hd.trace.directional(o, np.int64(4), chunk=np.int32(2)).n_samples == 4
    assert len(hd.extreme_eigenpairs(o, np.int64(1), np.int64(2)).values) == 3


@pytest.mark.parametrize("model", [lambda x: x, nn.Linear, None, "resnet"])
def test_what_is_no_module_is_no_network(model: Any) -> None:
    with pytest.raises(ModelError, match=r"but a torch\.nn\.Module is needed"):
        hd.Objective(model, functional.cross_entropy, *data())


def test_what_has_no_hessian_is_named() -> None:
    for call in (hd.extreme_eigenpairs, hd.trace.hutchinson, hd.spectral_density):
        with pytest.raises(ArgumentError, match="A Sequential has no Hessian"):
            call(network())


@pytest.mark.parametrize("parameters", [3, None.__class__, object()])
def test_blocks_are_names_or_functions(parameters: Any) -> None:
    with pytest.raises((ModelError, TypeError)):
        hd.Objective(network(), functional.cross_entropy, *data(), parameters=parameters)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [(torch.compile, "_orig_mod.0.weight"), (nn.DataParallel, "module.0.weight")],
)
def test_a_block_is_named_as_the_wrapped_network_names_it(wrap: Any, name: str) -> None:
    model = wrap(network())
    assert name in dict(model.named_parameters())
    objective = hd.Objective(model, functional.cross_entropy, *data(), parameters=name)
    assert list(objective.parameters) == ["0.weight"]


def test_grids_and_parts_are_looked_at_before_anything_is_computed() -> None:
    model, (x, y) = network(), data()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("computed")

    for options in ({"n_points": 20}, {"n_points": 1}, {"parts": ["bogus"]}, {"parts": "bogus"}):
        with pytest.raises(ConfigurationError):
            hd.analyze(model, loss, x, y, progress=False, **options)


def test_one_part_may_be_named_alone() -> None:
    model, (x, y) = network(), data()
    report = hd.analyze(
        model, functional.cross_entropy, x, y, parts="scores", progress=False, label=5
    )
    assert report.label == "5"
    with pytest.raises(ConfigurationError, match="The part is 'bogus'"):
        report.compute("bogus")


def test_precisions_and_devices_are_there_or_refused() -> None:
    for dtype in ("float32", torch.int64, torch.bfloat16):
        with pytest.raises(ArgumentError, match="dtype is"):
            plain().to(dtype)
    for device in ("bogus", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(hd.errors.DeviceError, match=f"device '{device}' is not there"):
            plain().to(device=device)


def test_geometry_that_means_nothing_is_refused() -> None:
    o = plain()
    calls: list[Callable[[], Any]] = [
        lambda: hd.flatness.average_increase(o, -1.0, 4),
        lambda: hd.flatness.average_increase(o, 1.0, 1),
        lambda: hd.flatness.worst_increase(o, 0.0, 1),
        lambda: hd.flatness.worst_increase(o, 1.0, 0),
        lambda: hd.flatness.m_sharpness(o, 1.0, 0),
        lambda: hd.flatness.m_sharpness(o, float("nan"), 4),
        lambda: hd.flatness.relative_flatness(o, 1),
        lambda: hd.slices.surface(o, hd.extreme_eigenpairs(o, 0, 1)),
        lambda: hd.slices.surface(o, torch.eye(o.n_parameters, 2).double(), [0, np.nan], [0, 1]),
        lambda: hd.slices.surface(o, torch.eye(o.n_parameters, 2).double(), [0, np.inf], [0, 1]),
        lambda: hd.visibility.share_of_saddles(np.full((4, 2, 2), np.nan)),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError):
            call()


# --- surroundings ----------------------------------------------------------------------------------------------


def test_threads_leave_pytorch_as_they_found_it() -> None:
    objectives = [plain() for _ in range(3)]
    failed: list[BaseException] = []

    def work(objective: hd.Objective) -> None:
        try:
            for _ in range(10):
                objective.gradient()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(objective,)) for objective in objectives]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_a_copy_of_an_objective_is_one() -> None:
    x, y = data()
    x.mul_(2.0)  # its version is no longer that of a new tensor
    objective = hd.Objective(network(), functional.cross_entropy, x, y)
    assert float(copy.deepcopy(objective).value()) == float(objective.value())


def test_a_loss_of_zero_has_derivative_zero() -> None:
    model, (x, y) = network(), data()
    objective = hd.Objective(model, lambda z, y: 0 * functional.cross_entropy(z, y), x, y)
    assert float(objective.value()) == 0.0
    assert not objective.gradient().any()
    assert hd.trace.directional(objective, 4).mean == 0.0


class Unequal(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        return torch.zeros(5 + i), 0


def test_samples_that_make_no_batch_are_named() -> None:
    with pytest.raises(DataError, match="make no batch"):
        hd.Objective(network(), functional.cross_entropy, Unequal())


def test_a_stream_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hessian_directions.objectives.samples.memory", lambda: 100_000)
    with pytest.raises(DataError, match="did not end after"):
        hd.Objective(network(), functional.cross_entropy, itertools.cycle([data()]))


class Casting(nn.Module):
    """Casts its inputs, as networks that take bytes do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.float() / 255)


def test_a_network_without_float64_is_reported_in_its_own_precision() -> None:
    x = torch.randint(256, (30, 5), dtype=torch.uint8)
    report = hd.analyze(
        Casting(), functional.cross_entropy, x, data(30)[1], parts="eigenpairs", progress=False
    )
    pairs = report.results().eigenpairs
    assert pairs is not None
    np.testing.assert_allclose(
        pairs["exact_curvature"], report.eigenpairs.values.numpy(), rtol=1e-3, atol=1e-6
    )
