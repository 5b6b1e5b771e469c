"""Batches as people have them: short, padded to their own longest, whole graphs; by plain autograd."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from programs import net, objective_of, perceptron, require_right, vectors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, TensorDataset

import hessian_directions as hd
from hessian_directions.errors import DataError, ModelError
from hessian_directions.objectives.losses import BatchLoss
from hessian_directions.objectives.samples import InMemory, Streamed

IGNORED = -100


def loader(samples: list[Any], size: int, collate: Any = None) -> Any:
    return DataLoader(samples, size, collate_fn=collate)  # type: ignore[arg-type]


# --- one, and short ones --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: (x.numpy(), y.numpy()),
        lambda x, y: next(iter(DataLoader(TensorDataset(x, y), len(y)))),
    ],
)
def test_one_batch_as_a_loader_gives_it(batch: Callable[..., Any]) -> None:
    model, (x, y) = perceptron(), vectors(14)
    objective = objective_of(model, batch(x, y))
    assert objective.n_samples == len(y)
    require_right(objective, model, lambda m: cross_entropy(m(x), y))


def test_two_arrays_are_two_batches_of_a_loss_of_network_and_batch() -> None:
    model, (x, _) = perceptron(), vectors(14)
    objective = hd.Objective(model, hd.ModelLoss(lambda m, b: m(b).square().mean()), [x[:6], x[6:]])
    require_right(objective, model, lambda m: m(x).square().mean())


def test_single_samples_are_refused_with_what_helps() -> None:
    with pytest.raises(ModelError, match="become batches by a DataLoader"):
        objective_of(perceptron(), list(zip(*vectors(14), strict=True)))


def squeezed(net: Any, x: Tensor) -> Tensor:
    return net.body(x).squeeze()


@pytest.mark.parametrize(
    ("n", "size", "batch_size", "in_memory"),
    [
        (16, None, 5, None),  # batches of 5, 5, 4 and 2
        (21, 5, 256, False),
        (21, 5, 256, True),
        (21, 1, 256, False),
        (21, 5, 1, False),
        (21, 5, 1, True),
        (5, 4, 2, False),
    ],
)
def test_networks_that_squeeze_their_outputs(
    n: int, size: int | None, batch_size: int, in_memory: bool | None
) -> None:
    model, loss, (x, classes) = (
        net(squeezed, body=lambda: perceptron(1)),
        nn.BCEWithLogitsLoss(),
        vectors(n, 2),
    )
    y = classes.double()
    data = (x, y) if size is None else (loader(list(zip(x, y, strict=True)), size),)
    objective = hd.Objective(model, loss, *data, batch_size=batch_size, in_memory=in_memory)
    require_right(objective, model, lambda model: loss(model(x), y))
    assert n < 16 or float(objective.subset(range(3)).value()) == pytest.approx(
        float(loss(model(x[:3]), y[:3]).detach()), rel=1e-10
    )


class Reused:
    """Batches of these sizes, which come in the same memory."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.memory = torch.empty(max(sizes), 1, dtype=torch.float64)

    def __iter__(self) -> Any:
        first = 0
        for n in self.sizes:
            rows = self.memory[:n]
            rows.copy_(torch.arange(first, first + n)[:, None])
            yield rows, rows
            first += n


@pytest.mark.parametrize("sizes", [(5, 5, 1), (1,) * 7, (12, 1), (1, 12), (3, 1, 2, 7)])
def test_no_batch_is_smaller_than_a_network_takes(sizes: tuple[int, ...]) -> None:
    n = sum(sizes)
    everything = torch.arange(float(n))[:, None].double()
    kept = InMemory([(everything, everything)])
    streamed = Streamed(Reused(sizes), BatchLoss(nn.MSELoss()))
    for samples, size, smallest in itertools.product((kept, streamed), range(1, 14), (1, 2, 3)):
        # A batch is used before the next one is read.
        batches = [x.clone() for x, _ in samples.batches(size, smallest)]
        assert torch.equal(torch.cat(batches), everything), (size, smallest)
        counts = [len(x) for x in batches]
        assert min(counts) >= min(smallest, n), (size, smallest, counts)
        assert max(counts) < max(size, smallest) + smallest, (size, smallest, counts)


@pytest.mark.parametrize("size", [5, 21])
def test_a_sum_over_data_that_are_read_anew(size: int) -> None:
    model, loss = nn.Linear(5, 1).double(), nn.MSELoss(reduction="sum")
    x, y = vectors(21)[0], torch.randn(21, 1, dtype=torch.float64)
    data = loader(list(zip(x, y, strict=True)), size)
    objective = hd.Objective(model, loss, data, in_memory=False)
    require_right(objective, model, lambda model: loss(model(x), y))


def test_batches_that_the_network_does_not_take_are_refused() -> None:
    x, y = vectors(9)
    with pytest.raises(ModelError, match="does not run on its samples"):
        objective_of(nn.Linear(5, 3).double(), [(x, y), (x[:, :1], y)]).value()


# --- padded to their own longest sequence ---------------------------------------------------------------


def sequences(n: int = 23) -> list[tuple[Tensor, Tensor]]:
    """Sequences of many lengths with a class each."""
    lengths = torch.randint(2, 9, (n,)).tolist()
    return [(torch.randint(1, 6, (m,)), torch.randint(3, ())) for m in lengths]


def padded(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    tokens, classes = zip(*samples, strict=True)
    return pad_sequence(list(tokens), batch_first=True), torch.stack(list(classes))


class Pooling(nn.Module):
    """The mean over the tokens that are no padding."""

    def __init__(self, n_outputs: int = 3) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(6, 2), nn.Linear(2, n_outputs)
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        known = (tokens > 0).double()[:, :, None]
        pooled = (self.embedding(tokens).tanh() * known).sum(1) / known.sum(1)
        return self.head(pooled)


@pytest.mark.parametrize("size", [5, 1])
@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_padded_to_their_own_longest(in_memory: bool, size: int) -> None:
    model, samples = Pooling(), sequences()
    objective = objective_of(model, loader(samples, size, padded), in_memory=in_memory)

    def mean(model: nn.Module, chosen: Any) -> Tensor:
        losses = [cross_entropy(model(samples[i][0][None]), samples[i][1][None]) for i in chosen]
        return torch.stack(losses).mean()

    require_right(objective, model, lambda model: mean(model, range(len(samples))))
    chosen = [20, 3, 11, 4, -1]
    subset = objective.subset(chosen)
    assert float(subset.value()) == pytest.approx(float(mean(model, chosen).detach()), rel=1e-10)
    again = subset.subset([1, 4])
    assert float(again.value()) == pytest.approx(float(mean(model, [3, -1]).detach()), rel=1e-10)
    right = [int(model(tokens[None]).argmax()) == int(label) for tokens, label in samples]
    assert objective.accuracy() == pytest.approx(sum(right) / len(right))


def test_a_loss_that_counts_padding_is_that_of_the_batches_as_they_came() -> None:
    """Padding is part of a batch; its loss is weighted by its number of samples."""
    model = nn.Sequential(nn.Embedding(6, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    batches = [padded(sequences(n)) for n in (5, 5, 2)]

    def mine(z: Tensor, y: Tensor) -> Tensor:
        return (z.mean((1, 2)) - y).square().mean()

    objective = hd.Objective(model, mine, batches)
    require_right(
        objective,
        model,
        lambda model: torch.stack([mine(model(x), y) * len(y) for x, y in batches]).sum() / 12,
    )


@pytest.mark.parametrize("in_memory", [True, False])
def test_padded_batches_of_several_processes(in_memory: bool, tmp_path: Path) -> None:
    expected = ranks.numbers_of_padded_batches(in_memory)
    found = ranks.run(ranks.numbers_of_padded_batches, 2, tmp_path / "group", in_memory)
    for of_process in found:
        for what, wanted in expected.items():
            torch.testing.assert_close(of_process[what], wanted, rtol=1e-11, atol=1e-12)


def causal(net: Any, tokens: Tensor) -> Tensor:
    """Scores for every token by what came before it: padding behind it has no part in them."""
    return net.head(net.embedding(tokens).cumsum(1).tanh()).transpose(1, 2)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_tokens_to_be_ignored_are_no_part_of_the_mean(reduction: str, in_memory: bool) -> None:
    samples = [(tokens, tokens % 3) for tokens, _ in sequences()]
    model = net(causal, embedding=lambda: nn.Embedding(6, 2), head=lambda: nn.Linear(2, 3))
    loss = nn.CrossEntropyLoss(reduction=reduction)

    def collate(some: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        tokens, classes = (list(part) for part in zip(*some, strict=True))
        return (
            pad_sequence(tokens, batch_first=True),
            pad_sequence(classes, batch_first=True, padding_value=IGNORED),
        )

    def total(model: nn.Module) -> Tensor:
        losses = [
            cross_entropy(model(tokens[None]), classes[None], reduction="sum")
            for tokens, classes in samples
        ]
        n_tokens = sum(len(tokens) for tokens, _ in samples)
        return torch.stack(losses).sum() / (n_tokens if reduction == "mean" else 1)

    objective = hd.Objective(model, loss, loader(samples, 5, collate), in_memory=in_memory)
    require_right(objective, model, total)


def test_squeezed_outputs_of_padded_batches_and_their_gauss_newton_matrix() -> None:
    model, loss = net(squeezed, body=lambda: Pooling(1)), nn.BCEWithLogitsLoss()
    batches = [(x, (y > 0).double()) for x, y in (padded(sequences(n)) for n in (5, 5, 5, 3))]

    def mean(model: nn.Module) -> Tensor:
        return torch.stack([loss(model(x), y) * len(y) for x, y in batches]).sum() / 18

    for in_memory in (True, False):
        objective = hd.Objective(model, loss, batches, in_memory=in_memory, batch_size=2)
        require_right(objective, model, mean)
    v = torch.randn(objective.n_parameters, dtype=torch.float64)
    expected = torch.zeros_like(v)
    for x, _ in batches:
        outputs = model(x)
        for z in outputs:  # the second derivative of the loss of one sample is p (1 − p)
            slopes = torch.autograd.grad(z, list(model.parameters()), retain_graph=True)
            slope = torch.cat([part.reshape(-1) for part in slopes])
            p = z.detach().sigmoid()
            expected += slope * (slope @ v) * p * (1 - p) / 18
    torch.testing.assert_close(objective.gauss_newton() @ v, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("in_memory", [True, False])
def test_padded_batches_whose_samples_are_mixed_are_refused(in_memory: bool) -> None:
    model = net(lambda net, x: net.body(x) - net.body(x).mean(0), body=Pooling)
    objective = objective_of(model, loader(sequences(), 4, padded), in_memory=in_memory)
    with pytest.raises(ModelError, match="split into batches"):
        objective.value()


def test_padding_that_changes_from_pass_to_pass_is_refused() -> None:
    data = DataLoader(sequences(), 5, shuffle=True, collate_fn=padded)  # type: ignore[arg-type]
    objective = objective_of(Pooling(), data, in_memory=False)
    with pytest.raises(DataError, match="padded or chosen at random"):
        objective.value()


# --- one sample each ------------------------------------------------------------------------------------


def graph(n_nodes: int, n_edges: int) -> dict[str, Any]:
    return {
        "x": torch.randn(n_nodes, 2, dtype=torch.float64),
        "edge_index": torch.randint(n_nodes, (2, n_edges)),
        "y": torch.randint(2, (n_nodes,)),
        "weight": torch.rand((), dtype=torch.float64),
    }


class Convolving(nn.Module):
    """Adds up what the neighbours have."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        z = self.inner(x).tanh()
        return self.outer(z.index_add(0, target, z[source]))


def of_graph(model: nn.Module, graph: dict[str, Tensor]) -> Tensor:
    z = model(graph["x"], graph["edge_index"])
    return graph["weight"] * cross_entropy(z, graph["y"])


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    "sizes", [[(21, 40)], [(7, 9), (5, 5), (5, 0), (7, 9), (2, 2), (7, 9)]], ids=["one", "several"]
)
def test_graphs_are_samples(sizes: list[tuple[int, int]], in_memory: bool) -> None:
    model, graphs = Convolving(), [graph(*size) for size in sizes]
    loss = hd.ModelLoss(of_graph, batch_is_sample=True)
    objective = hd.Objective(model, loss, graphs, in_memory=in_memory)
    assert objective.n_samples == len(graphs)
    require_right(
        objective, model, lambda model: torch.stack([of_graph(model, g) for g in graphs]).mean()
    )


def test_a_batch_without_rows_for_its_samples_is_refused_with_what_helps() -> None:
    with pytest.raises(ModelError, match=r"no and 2 and 21 rows.*batch_is_sample=True"):
        hd.Objective(Convolving(), hd.ModelLoss(of_graph), [graph(21, 40)])
    pair = (torch.randn(21, 2), torch.randint(21, (2, 40)))
    with pytest.raises(ModelError, match=r"2 and 21 rows.*batch_is_sample=True"):
        hd.Objective(Convolving(), hd.ModelLoss(lambda model, b: model(*b).mean()), [pair])


def test_a_loss_of_one_sample_is_one_number() -> None:
    def by_node(model: nn.Module, graph: dict[str, Tensor]) -> Tensor:
        return model(graph["x"], graph["edge_index"])[:, 0]

    loss = hd.ModelLoss(by_node, batch_is_sample=True)
    objective = hd.Objective(Convolving(), loss, [graph(7, 9), graph(7, 9)])
    with pytest.raises(ModelError, match="one real number in a tensor is needed"):
        objective.value()


def test_a_number_of_a_batch_that_is_one_sample() -> None:
    x, _ = vectors(9)
    loss = hd.ModelLoss(lambda m, s: (m(s["x"]).sum() - s["y"]).square(), batch_is_sample=True)
    model, graphs = nn.Linear(5, 3).double(), [{"x": x[:3], "y": 0.5}, {"x": x[3:9], "y": 2.0}]
    require_right(
        hd.Objective(model, loss, graphs),
        model,
        lambda m: sum((m(g["x"]).sum() - g["y"]).square() for g in graphs) / 2,
    )
