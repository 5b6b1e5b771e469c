"""A block of the parameters: its Hessian is the block of the dense one."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import NETWORKS, dense_hessian, objective_of, problem
from programs import perceptron, require_right, vectors
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hessian_directions.errors import ModelError
from hessian_directions.objectives.objective import Objective


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def rows_of(model: nn.Module, names: list[str]) -> Tensor:
    """Where the entries of these parameters lie among all."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return torch.cat([torch.full((p.numel(),), name in names) for name, p in named]).nonzero()[:, 0]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_hessian_of_every_second_parameter(name: str) -> None:
    case = problem(name)
    names = list(objective_of(case).parameters)[::2]
    rows = rows_of(case.model, names)
    H, V = dense_hessian(case)[rows][:, rows], draw(len(rows), 3)
    block = objective_of(case, parameters=names, batch_size=4)
    assert block.n_parameters == len(rows) < objective_of(case).n_parameters
    torch.testing.assert_close(block.hessian_vector_product(V), H @ V, rtol=1e-8, atol=1e-10)
    curvatures = block.second_directional_derivative(V)
    torch.testing.assert_close(curvatures, (V * (H @ V)).sum(0), rtol=1e-8, atol=1e-10)
    whole = objective_of(case)
    torch.testing.assert_close(block.gradient(), whole.gradient()[rows], rtol=1e-9, atol=1e-12)
    # A step in the block is a step of the whole that leaves the others where they are.
    steps = torch.zeros(whole.n_parameters, 3, dtype=torch.float64)
    steps[rows] = 0.1 * V
    expected = whole.values(whole.theta[:, None] + steps)
    torch.testing.assert_close(block.values(block.theta[:, None] + 0.1 * V), expected)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("head.weight", ["head.weight"]),
        ("*norm.*", ["norm.weight", "norm.bias", "inner_norm.weight", "inner_norm.bias"]),
        (["head.*", "stem.weight", "head.bias"], ["stem.weight", "head.weight", "head.bias"]),
        (
            lambda name, p: p.ndim == 4 and "shortcut" not in name,
            ["stem.weight", "convolution.weight"],
        ),
    ],
)
def test_names_patterns_and_functions(choice: Any, names: list[str]) -> None:
    case = problem("residual")
    block = objective_of(case, parameters=choice)
    assert list(block.parameters) == names  # in the model's order, each once
    rows = rows_of(case.model, names)
    assert torch.equal(block.theta, objective_of(case).theta[rows])
    assert torch.equal(nn.utils.parameters_to_vector(block.parameters.values()), block.theta)
    H, v = dense_hessian(case)[rows][:, rows], draw(len(rows))
    for same in (block, block.to(torch.float64), block.subset(range(10))):
        torch.testing.assert_close(same.hessian() @ v, H @ v, rtol=1e-8, atol=1e-10)


def test_the_network_of_the_caller_keeps_what_it_trains() -> None:
    case = problem("residual")
    objective_of(case, parameters="head.*").value()
    assert all(p.requires_grad for p in case.model.parameters())


def test_folded_normalisations_beside_the_block() -> None:
    """A convolution in θ whose normalisation is not, and the other way round."""
    case = problem("residual")
    for choice in ("stem.weight", "norm.*"):
        rows = rows_of(
            case.model, [n for n, _ in case.model.named_parameters() if n.startswith(choice[:4])]
        )
        block = objective_of(case, parameters=choice)
        assert block.self_test().product_mode == "reverse over reverse"
        v = draw(len(rows))
        expected = dense_hessian(case)[rows][:, rows] @ v
        torch.testing.assert_close(block.hessian() @ v, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("choice", ["decoder.*", ["decoder.weight", "decoder.bias"]])
def test_a_shared_parameter_by_its_second_name(choice: Any) -> None:
    case = problem("tied weights")
    block = objective_of(case, parameters=choice)
    assert list(block.parameters) == ["encoder.weight", "decoder.bias"]
    rows = rows_of(case.model, ["encoder.weight", "decoder.bias"])
    H, v = dense_hessian(case)[rows][:, rows], draw(len(rows))
    torch.testing.assert_close(block.hessian() @ v, H @ v, rtol=1e-8, atol=1e-10)


def test_frozen_parameters_stay_frozen() -> None:
    case = problem("residual")
    case.model.head.bias.requires_grad_(False)
    assert list(objective_of(case, parameters="head.*").parameters) == ["head.weight"]
    with pytest.raises(ModelError, match=r"'head\.bias' chooses none of the trainable"):
        objective_of(case, parameters="head.bias")


@pytest.mark.parametrize(
    ("choice", "what"),
    [
        ("layer4.*", "'layer4.*'"),
        (["head.*", "haed.*"], "'haed.*'"),
        (lambda n, p: False, "the function"),
    ],
)
def test_a_choice_of_nothing(choice: Any, what: str) -> None:
    sentence = (
        f"parameters: {what} chooses none of the trainable parameters "
        "(stem.weight, norm.weight, …, head.weight, head.bias)."
    )
    with pytest.raises(ModelError, match=re.escape(sentence)):
        objective_of(problem("residual"), parameters=choice)


@pytest.mark.parametrize("wrap", [nn.Identity, torch.compile, nn.DataParallel])
def test_a_block_given_by_its_parameters_as_an_optimiser_takes_it(
    wrap: Callable[[nn.Module], Any],
) -> None:
    model, (x, y) = perceptron(), vectors()
    wrapped = model if wrap is nn.Identity else wrap(model)
    objective = Objective(wrapped, cross_entropy, x, y, parameters=model[2].parameters())
    alone = perceptron()
    alone[0].requires_grad_(False)
    assert list(objective.parameters) == ["2.weight", "2.bias"]
    require_right(objective, alone, lambda m: cross_entropy(m(x), y))


@pytest.mark.parametrize(
    ("wrap", "name"),
    [(torch.compile, "_orig_mod.0.weight"), (nn.DataParallel, "module.0.weight")],
)
def test_a_block_is_named_as_the_wrapped_network_names_it(wrap: Any, name: str) -> None:
    model = wrap(perceptron())
    assert name in dict(model.named_parameters())
    objective = Objective(model, cross_entropy, *vectors(), parameters=name)
    assert list(objective.parameters) == ["0.weight"]


@pytest.mark.parametrize(
    ("block", "what"),
    [
        ([nn.Parameter(torch.ones(3))], "no name or parameter of this network"),
        ([3], "no name or parameter of this network"),
        (iter([None]), "no name or parameter of this network"),
        (3, "is no name, list of names or function"),
        (object(), "is no name, list of names or function"),
    ],
)
def test_a_block_of_what_is_no_part_of_the_network(block: Any, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        Objective(perceptron(), cross_entropy, *vectors(), parameters=block)


def test_a_function_that_chooses_no_block_but_fails_says_so_itself() -> None:
    with pytest.raises(TypeError, match="takes no arguments"):
        Objective(perceptron(), cross_entropy, *vectors(), parameters=type(None))
