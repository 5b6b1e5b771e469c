"""Samples as people hand them over: loaders, arrays, several tensors, labels of any kind; and what is none."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from plain_autograd import derivatives
from programs import (
    Between,
    built,
    classes,
    images,
    objective_of,
    perceptron,
    require_followed,
    require_refused,
    vectors,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, StackDataset, TensorDataset

import hessian_directions as hd
from hessian_directions.errors import DataError, HessianDirectionsError, ModelError

# --- where they come from -------------------------------------------------------------------------------


class Pairs(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 17

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i >= 17:
            raise IndexError
        return images(17)[i], int(classes(17)[i])


def sources() -> dict[str, Any]:
    x, y = images(17), classes(17)
    dataset = TensorDataset(x, y)
    return {
        "loader": DataLoader(dataset, batch_size=5),
        "loader that shuffles": DataLoader(dataset, batch_size=5, shuffle=True),
        "dataset of tensors": dataset,
        "dataset of pairs": Pairs(),
        "list of batches": list(zip(x.split(4), y.split(4))),
        "generator of batches": zip(x.split(4), y.split(4)),
        "NumPy batches": [(a.numpy(), b.numpy().astype(np.int32)) for a, b in zip([x], [y])],
        "loader that fills one buffer": Buffered(),
    }


class Buffered:
    """Fills one buffer again and again."""

    def __iter__(self) -> Any:
        buffer = torch.empty(5, 2, 5, 5, dtype=torch.float64)
        for x, y in zip(images(17).split(5), classes(17).split(5), strict=True):
            buffer[: len(x)] = x
            yield buffer[: len(x)], y


@pytest.mark.parametrize("in_memory", [None, True, False])
@pytest.mark.parametrize("name", sources())
def test_data_as_people_have_them(name: str, in_memory: bool | None) -> None:
    model, source = built(Between), sources()[name]
    expected = objective_of(model, images(17), classes(17), batch_size=6)
    if in_memory is False and "generator" in name:
        with pytest.raises(DataError, match="only once"):
            objective_of(model, source, in_memory=False)
        return
    objective = objective_of(model, source, batch_size=6, in_memory=in_memory)
    v = torch.ones(objective.n_parameters, dtype=torch.float64)
    assert objective.n_samples == 17
    torch.testing.assert_close(objective.value(), expected.value(), rtol=1e-12, atol=0)
    asks = [lambda o: o.gradient(), lambda o: o.hessian() @ v]
    if "shuffles" not in name:
        asks.append(lambda o: o.subset([3, 16, 0]).value())
    for ask in asks:
        torch.testing.assert_close(ask(objective), ask(expected), rtol=1e-11, atol=1e-13)


def test_arrays_and_lists() -> None:
    model, x, y = built(Between), images(17), classes(17)
    expected = objective_of(model, x, y)
    for inputs, targets in ((x.numpy(), y.numpy()), (x.tolist(), y.tolist()), (list(x), list(y))):
        assert torch.equal(objective_of(model, inputs, targets).value(), expected.value())
    theta = expected.theta
    for point in (theta.numpy(), theta.tolist()):
        assert torch.equal(expected.value(point), expected.value(theta))
        assert torch.equal(expected.gradient(point), expected.gradient(theta))
        assert torch.equal(expected.hessian() @ point, expected.hessian() @ theta)
        assert torch.equal(expected.hessian(point) @ theta, expected.hessian() @ theta)


def test_parts_of_the_samples() -> None:
    y = classes(17)
    objective = objective_of(built(Between), images(17), y)

    def of(indices: Any) -> float:
        return float(objective.subset(indices).value())

    assert of(np.array([1, 2])) == of([1, 2])
    assert of(range(3)) == of([0, 1, 2])
    mask = y == 1
    for given in (mask, mask.numpy(), mask.tolist()):
        assert of(given) == of(mask.nonzero().reshape(-1))
    with pytest.raises(DataError, match="not among"):
        objective.subset([17])
    for indices in ([], [0.5], [True, False], "all", [[1], [2, 3]]):
        with pytest.raises(DataError, match=r"needs indices|no array"):
            objective.subset(indices)  # type: ignore[arg-type]


def test_data_that_change_from_pass_to_pass() -> None:
    class Augmented(Pairs):
        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            x, y = super().__getitem__(i)
            return x + torch.randn(()), y

    streamed = objective_of(built(Between), Augmented(), in_memory=False)
    with pytest.raises(DataError, match="different samples"):
        streamed.value()
    frozen = objective_of(built(Between), Augmented())
    assert torch.equal(frozen.value(), frozen.value())
    assert frozen.gradient().isfinite().all()


def test_weighted_losses_over_data_that_are_read_anew() -> None:
    model, x, y = built(Between), images(17), classes(17)
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 10.0, 90.0]).double(), ignore_index=1)
    streamed = hd.Objective(model, loss, DataLoader(TensorDataset(x, y), 5), in_memory=False)
    expected = hd.Objective(model, loss, x, y)
    torch.testing.assert_close(streamed.gradient(), expected.gradient(), rtol=1e-11, atol=1e-13)


def test_arrays_that_their_owner_changes_afterwards() -> None:
    model, x, y = built(Between), images(17), classes(17)
    for array in (x, y):
        objective = objective_of(model, x, y)
        array.mul_(1)
        with pytest.raises(DataError, match="changed in place after"):
            objective.value()
    changed = x.numpy()
    objective = objective_of(model, changed, y.numpy())
    expected = objective.value()
    changed *= 2
    assert torch.equal(objective.value(), expected)


def test_arrays_of_unusual_layouts() -> None:
    model, x, y = built(Between), images(17), classes(17)
    expected = objective_of(model, x.flip(0), y.flip(0)).value()
    backwards = x.numpy()[::-1], y.numpy()[::-1]
    swapped = tuple(a.astype(a.dtype.newbyteorder()) for a in backwards)
    for samples in (backwards, swapped):
        assert torch.equal(objective_of(model, *samples).value(), expected)


# --- inputs that are several tensors --------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.of_image, self.of_vector = nn.Linear(50, 3), nn.Linear(4, 3)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        return self.of_image(image.flatten(1)).tanh() * self.of_vector(vector)


class OneOfTwo(Two):
    def forward(self, both: Any) -> Tensor:  # type: ignore[override]
        parts = both.values() if isinstance(both, dict) else both
        return super().forward(*parts)


@pytest.mark.parametrize("kind", [Two, OneOfTwo])
def test_inputs_that_are_several_tensors(kind: type[nn.Module]) -> None:
    model = built(kind)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(7)).double()
    pair, named = (images(), x), {"image": images(), "vector": x}
    objectives = [objective_of(model, inputs, classes(), batch_size=5) for inputs in (pair, named)]
    dataset = StackDataset(StackDataset(images(), x), classes())
    objectives.append(objective_of(model, dataset))
    if kind is Two:
        require_followed(model, cross_entropy, pair)
        require_followed(model, cross_entropy, named)
    v = torch.ones(objectives[0].n_parameters, dtype=torch.float64)
    for objective in objectives:
        torch.testing.assert_close(objective.hessian() @ v, objectives[0].hessian() @ v)


def test_optional_arguments_of_a_network() -> None:
    class Masked(nn.Linear):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(x if mask is None else x * mask)

    model, (x, y) = built(lambda: Masked(5, 3)), vectors()
    require_followed(model, cross_entropy, (x, (x > 0).double()), y)
    require_followed(model, cross_entropy, x, y)


class OnePair(nn.Linear):
    """Takes its inputs as one pair; the other argument is a switch."""

    def forward(self, xs: Any, return_features: bool = False) -> Any:  # type: ignore[override]
        a, b = xs
        z = super().forward(a * b)
        return (z, a) if return_features else z


class OneOptional(nn.Linear):
    """Takes them as two arguments, of which one may be left out."""

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:  # type: ignore[override]
        assert b is not None
        return super().forward(a * b)


@pytest.mark.parametrize("kind", [OnePair, OneOptional])
def test_a_pair_of_inputs_and_an_argument_with_a_default(kind: type[nn.Linear]) -> None:
    x, y = vectors(40, dtype=torch.float32)
    model = kind(5, 3)
    wanted = cross_entropy(nn.Linear.forward(model, x * x), y).item()
    for data in ([([x, x], y)],), ((x, x), y):
        assert float(objective_of(model, *data).value()) == pytest.approx(wanted, rel=1e-5)


# --- labels and other numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32"])
def test_classes_are_integers_of_any_kind(kind: str) -> None:
    model = nn.Linear(2, 3).double()
    x, y = torch.randn(8, 2, dtype=torch.float64), torch.arange(8) % 3
    expected = float(cross_entropy(model(x), y).detach())
    numbers = y.numpy().astype(kind)
    for data in ((x, torch.from_numpy(numbers)), (x.numpy(), numbers), ([(x, numbers)],)):
        objective = objective_of(model, *data)
        assert float(objective.value()) == pytest.approx(expected, rel=1e-10)


def test_a_loss_of_network_and_batch_reads_unsigned_integers_as_they_are() -> None:
    model = nn.Embedding(5, 2).double()
    tokens = np.arange(24, dtype=np.uint16).reshape(12, 2) % 5
    loss = hd.ModelLoss(lambda model, batch: model(batch.long()).square().mean())
    expected = float(model(torch.from_numpy(tokens).long()).square().mean().detach())
    assert float(hd.Objective(model, loss, tokens).value()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_truth_values_as_targets_of_squared_errors(reduction: str) -> None:
    x, y = vectors(40, dtype=torch.float32)
    model, truths = nn.Linear(5, 3), functional.one_hot(y, 3) == 1
    loss = nn.MSELoss(reduction=reduction)
    objective = hd.Objective(model, loss, x, truths)
    value, slope, _ = derivatives(model, lambda m: loss(m(x), truths))
    assert float(objective.value()) == pytest.approx(value, rel=1e-5)
    assert (objective.gradient() - slope).norm() <= 1e-5 * slope.norm()


# --- what is refused ------------------------------------------------------------------------------------


def test_a_network_that_does_not_run_is_one_sentence() -> None:
    model = built(lambda: nn.Linear(5, 3))
    require_refused("does not run on its samples", model, cross_entropy, *vectors(width=4))
    require_refused("does not run on its samples", model, cross_entropy, *vectors(n_classes=5))


X, Y = vectors(17)
NO_DATA: dict[str, tuple[Any, type[HessianDirectionsError], str]] = {
    "no targets": ((X,), DataError, "without targets"),
    "a batch of inputs": (([X],), DataError, "pair"),
    "nothing": (([],), DataError, "no samples"),
    "no samples": ((X[:0], Y[:0]), DataError, "no samples"),
    "a dictionary": (({"inputs": X, "targets": Y},), DataError, "without targets"),
    "a number": ((3,), DataError, "neither arrays nor batches"),
    "fewer targets": (([(X, Y[:3])],), ModelError, "do not go with"),
    "sparse": ((X.to_sparse(), Y), DataError, "make it dense"),
    "masked": ((np.ma.masked_greater(X.numpy(), 0.5), Y), DataError, "masked"),
}


@pytest.mark.parametrize("name", NO_DATA)
def test_what_is_no_data_is_named(name: str) -> None:
    data, kind, match = NO_DATA[name]
    with pytest.raises(kind, match=match):
        objective_of(perceptron(), *data)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_named(layout: torch.layout) -> None:
    x, y = vectors(14)
    with warnings.catch_warnings(action="ignore"), pytest.raises(DataError, match="nested"):
        objective_of(perceptron(), torch.nested.nested_tensor(list(x), layout=layout), y)


class Unequal(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        return torch.zeros(5 + i), 0


def test_samples_that_make_no_batch_are_named() -> None:
    with pytest.raises(DataError, match="make no batch"):
        objective_of(perceptron(), Unequal())


def test_a_stream_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hessian_directions.objectives.samples.memory", lambda: 100_000)
    with pytest.raises(DataError, match="did not end after"):
        objective_of(perceptron(), itertools.cycle([vectors()]))


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ([f"{i}.png" for i in range(40)], DataError),
        (None, DataError),
        ("train", DataError),
        (0.5, ModelError),
        (True, ModelError),
    ],
    ids=str,
)
def test_parts_of_a_batch_that_are_no_arrays_are_named(
    part: Any, kind: type[HessianDirectionsError]
) -> None:
    x, y = vectors(40)
    loss = hd.ModelLoss(lambda model, batch: cross_entropy(model(batch["x"]), batch["y"]))
    with pytest.raises(kind, match="'beside'"):
        hd.Objective(perceptron(), loss, [{"x": x, "y": y, "beside": part}])
