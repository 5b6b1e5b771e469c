"""Modes of differentiation: gradients, Hessian-vector products and second directional derivatives.

Every function here takes a scalar function of named parameters. Which mode is right for a network
is not decided here but by `Objective.self_test`. How fast the function's own backward pass is, is
the caller's affair (`double_backward`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from hessian_directions.autodiff.substitutes import Substitutes
from hessian_directions.autodiff.taylor import second_derivatives as taylor_mode

Parameters = dict[str, Tensor]
Function = Callable[[Parameters], Tensor]


def gradient(function: Function, parameters: Parameters) -> Parameters:
    """∇f by reverse mode."""
    leaves, value = _graph(function, parameters)
    return dict(zip(leaves, pull_back([value], list(leaves.values()))))


def reverse_over_reverse(
    function: Function, parameters: Parameters, directions: Sequence[Parameters], vectorised: bool
) -> Iterator[Parameters]:
    """∇²f v for every v, one after the other: reverse mode through the graph of the gradient.

    The graph of f and of its gradient is made once, for all directions.
    """
    leaves, value = _graph(function, parameters)
    inputs = list(leaves.values())
    slopes = pull_back([value], inputs, create_graph=True)
    if vectorised and len(directions) > 1:
        together = stack(directions)
        weights = [together[name] for name in leaves]
        products = pull_back(slopes, inputs, weights, batched=True)
        yield from (dict(zip(leaves, [p[k] for p in products])) for k in range(len(directions)))
        return
    for v in directions:
        weights = [v[name] for name in leaves]
        yield dict(zip(leaves, pull_back(slopes, inputs, weights, retain_graph=True)))


def forward_over_reverse(
    function: Function, parameters: Parameters, directions: Sequence[Parameters], vectorised: bool
) -> Iterator[Parameters]:
    """∇²f v for every v, one after the other: forward mode through the gradient."""

    def product(v: Parameters) -> Parameters:
        with Substitutes():
            return jvp(grad(function), (parameters,), (v,))[1]

    if vectorised and len(directions) > 1:
        products = vmap(product)(stack(directions))
        yield from ({n: p[k] for n, p in products.items()} for k in range(len(directions)))
        return
    for v in directions:
        yield product(v)


def nested_forward_mode(
    function: Function, parameters: Parameters, directions: Sequence[Parameters]
) -> Tensor:
    """v'∇²f v for every v: forward mode through forward mode, shape (K,)."""

    def second(v: Parameters) -> Tensor:
        def slope(at: Parameters) -> Tensor:
            return jvp(function, (at,), (v,))[1]

        return jvp(slope, (parameters,), (v,))[1]

    with torch.no_grad(), Substitutes():
        return torch.stack([second(v) for v in directions])


# In the order of preference. The first is given a function with a fast second backward pass.
PRODUCTS = {
    (FAST := "reverse over reverse"): reverse_over_reverse,
    "plain reverse over reverse": reverse_over_reverse,
    "forward over reverse": forward_over_reverse,
}
SECOND_DERIVATIVES = {
    "Taylor mode": taylor_mode,
    "nested forward mode": nested_forward_mode,
}


def stack(directions: Sequence[Parameters]) -> Parameters:
    """K directions as one, with a leading dimension K."""
    return {name: torch.stack([v[name] for v in directions]) for name in directions[0]}


def _graph(function: Function, parameters: Parameters) -> tuple[Parameters, Tensor]:
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad(), Substitutes():
        return leaves, function(leaves)


def pull_back(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    batched: bool = False,
    **options: bool,
) -> list[Tensor]:
    """Σ w·∂y/∂x for every input x; zero where no output depends on it.

    `batched`: weights, and so results, have a leading dimension K. Without weights y is a scalar.
    """
    given: Sequence[Tensor | None] = [None] * len(outputs) if weights is None else weights
    used = [(y, w) for y, w in zip(outputs, given, strict=True) if y.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if used and inputs:
        ys, ws = zip(*used)
        found = torch.autograd.grad(
            ys, inputs, ws, allow_unused=True, is_grads_batched=batched, **options
        )
    k = (len(weights[0]),) if batched and weights else ()
    return [x.new_zeros((*k, *x.shape)) if part is None else part for x, part in zip(inputs, found)]
