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
    return _derivatives([value], leaves, None)


def reverse_over_reverse(
    function: Function, parameters: Parameters, directions: Sequence[Parameters], vectorised: bool
) -> Iterator[Parameters]:
    """∇²f v for every v, one after the other: reverse mode through the graph of the gradient.

    The graph of f and of its gradient is made once, for all directions.
    """
    leaves, value = _graph(function, parameters)
    slopes = _derivatives([value], leaves, None, create_graph=True)
    # An unused parameter, or one that f is linear in, has a constant slope.
    variable = [name for name, slope in slopes.items() if slope.requires_grad]
    if not variable:
        yield from ({n: torch.zeros_like(p) for n, p in parameters.items()} for _ in directions)
        return
    outputs = [slopes[name] for name in variable]
    if vectorised and len(directions) > 1:
        weights = [torch.stack([v[name] for v in directions]) for name in variable]
        batched = torch.autograd.grad(
            outputs, list(leaves.values()), weights, allow_unused=True, is_grads_batched=True
        )
        for k in range(len(directions)):
            yield _by_name(leaves, [part if part is None else part[k] for part in batched])
        return
    for v in directions:
        yield _derivatives(outputs, leaves, [v[name] for name in variable], retain_graph=True)


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


def _derivatives(
    outputs: Sequence[Tensor],
    leaves: Parameters,
    weights: Sequence[Tensor] | None,
    **options: bool,
) -> Parameters:
    if not any(output.requires_grad for output in outputs):
        return _by_name(leaves, [None] * len(leaves))
    return _by_name(
        leaves,
        torch.autograd.grad(outputs, list(leaves.values()), weights, allow_unused=True, **options),
    )


def _by_name(leaves: Parameters, derivatives: Sequence[Tensor | None]) -> Parameters:
    """Derivatives by name; what the function does not depend on has derivative zero."""
    return {
        name: torch.zeros_like(leaf) if derivative is None else derivative
        for (name, leaf), derivative in zip(leaves.items(), derivatives)
    }
