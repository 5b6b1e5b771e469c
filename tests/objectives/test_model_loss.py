"""Losses of the network and a batch: the same numbers and the same guarantees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from networks import dense_hessian, problem
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from hessian_directions.errors import DataError, ModelError
from hessian_directions.objectives.losses import ModelLoss
from hessian_directions.objectives.objective import Objective


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", ["residual", "LayerNorm GELU", "attention"])
def test_the_same_numbers_as_a_loss_of_outputs_and_targets(name: str) -> None:
    case = problem(name)
    plain = Objective(case.model, case.loss, case.inputs, case.targets, 4)
    by_model = Objective(
        case.model,
        ModelLoss(lambda model, batch: case.loss(model(batch[0]), batch[1])),
        DataLoader(TensorDataset(case.inputs, case.targets), 3),
        batch_size=4,
    )
    V = draw(plain.n_parameters, 3)
    for objective in (by_model, by_model.to(torch.float64)):
        assert torch.equal(objective.values(V), plain.values(V))
        assert torch.equal(objective.gradient(), plain.gradient())
    torch.testing.assert_close(by_model.hessian() @ V, dense_hessian(case) @ V)
    some = [5, 0, 3]
    assert torch.equal(by_model.subset(some).value(), plain.subset(some).value())


class Tokens(nn.Module):
    """Outputs in a dictionary, arguments by name, and another method than `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 4), nn.Linear(4, 3)

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        shares = mask / mask.sum(1, keepdim=True)
        return (self.embedding(ids) * shares[..., None]).sum(1).tanh()

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.encode(ids, mask))}


def tokens(n: int = 10) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "ids": torch.randint(11, (n, 5), generator=generator),
        "mask": torch.rand(n, 5, generator=generator) + 0.1,
        "labels": torch.randint(3, (n,), generator=generator),
    }


def of_outputs(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    labels = batch.pop("labels")
    return functional.cross_entropy(model(**batch)["logits"], labels)


def of_method(model: Any, batch: dict[str, Tensor]) -> Tensor:
    encoded = model.encode(batch["ids"], batch["mask"])
    penalty = sum(p.square().sum() for p in model.parameters())
    return functional.cross_entropy(model.head(encoded), batch["labels"]) + 0.1 * penalty


@pytest.mark.parametrize("loss", [of_outputs, of_method])
@pytest.mark.parametrize("form", ["batches", "dictionary", "streamed"])
def test_batches_and_outputs_of_any_form(loss: Callable[..., Tensor], form: str) -> None:
    torch.manual_seed(0)
    model, data = Tokens().double(), tokens()
    batches = [{k: v[start : start + 4] for k, v in data.items()} for start in range(0, 10, 4)]
    objective = Objective(
        model,
        ModelLoss(loss),
        data if form == "dictionary" else batches,
        in_memory=False if form == "streamed" else None,
    )

    def at(theta: Tensor) -> Tensor:
        names = [name for name, _ in model.named_parameters()]
        parts = theta.split([p.numel() for p in model.parameters()])
        shaped = {n: part.view(p.shape) for n, part, p in zip(names, parts, model.parameters())}
        e, w, b = shaped.values()
        shares = (data["mask"] / data["mask"].sum(1, keepdim=True)).double()
        encoded = (functional.embedding(data["ids"], e) * shares[..., None]).sum(1).tanh()
        value = functional.cross_entropy(encoded @ w.T + b, data["labels"])
        return value + (0.1 * theta.square().sum() if loss is of_method else 0)

    theta = objective.theta
    torch.testing.assert_close(objective.value(), at(theta))
    v = draw(len(theta))
    H = torch.autograd.functional.hessian(at, theta)
    torch.testing.assert_close(objective.hessian() @ v, H @ v)
    torch.testing.assert_close(objective.second_directional_derivative(v), v @ H @ v)
    assert set(data) == {"ids", "mask", "labels"}


class Graph(NamedTuple):
    nodes: Tensor
    target: Tensor
    weight: Tensor


def test_a_batch_keeps_its_names_and_an_array_is_a_batch() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    batch = Graph(draw(6, 3), draw(6, 2, seed=1), draw(6, 1, seed=2).square())

    def weighted(model: nn.Module, graph: Graph) -> Tensor:
        return (graph.weight * (model(graph.nodes) - graph.target).square()).mean()

    by_name = Objective(model, ModelLoss(weighted), [batch])
    torch.testing.assert_close(by_name.value(), weighted(model, batch).detach())
    energy = Objective(model, ModelLoss(lambda model, x: model(x).square().mean()), batch.nodes)
    torch.testing.assert_close(energy.value(), model(batch.nodes).square().mean().detach())


def test_a_sum_is_said_by_its_reduction() -> None:
    model, x = nn.Linear(3, 2).double(), draw(8, 3)

    def total(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).square().sum()

    with pytest.raises(ModelError, match=r"depends on how .* it is a sum, .* reduction='sum'"):
        Objective(model, ModelLoss(total), x).value()
    total.reduction = "sum"  # type: ignore[attr-defined]
    objective = Objective(model, ModelLoss(total), x, batch_size=3)
    torch.testing.assert_close(objective.value(), total(model, x).detach())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, x: model(x).std(), "not a mean over samples"),
        (lambda model, x: model(x), r"loss of a batch is \(8, 2\)"),
        (lambda model, x: model(x["input"]).mean(), "does not run on its samples"),
        (lambda model, x: model(x).mean().detach(), "not the slope of its loss"),
    ],
)
def test_what_is_no_mean_or_has_no_gradient_is_refused(
    loss: Callable[..., Tensor], message: str
) -> None:
    objective = Objective(nn.Linear(3, 2).double(), ModelLoss(loss), draw(8, 3))
    with pytest.raises(Exception, match=message):
        objective.gradient()


def test_a_loss_that_reads_the_callers_network_is_refused() -> None:
    outer = nn.Linear(3, 2).double()
    with pytest.raises(ModelError, match="use the one that a ModelLoss is given"):
        Objective(outer, ModelLoss(lambda model, x: outer(x).square().mean()), draw(8, 3))


def test_batches_of_other_forms_need_it() -> None:
    with pytest.raises(DataError, match=r"a pair \(inputs, targets\) is needed, or .*ModelLoss"):
        Objective(nn.Linear(3, 2), nn.CrossEntropyLoss(), [{"x": draw(8, 3)}])
    batch = {"x": draw(8, 3), "y": draw(7)}
    with pytest.raises(ModelError, match="arrays of a batch have 7 and 8 rows"):
        Objective(nn.Linear(3, 2), ModelLoss(lambda model, batch: model(batch["x"])), [batch])
