"""Gauss–Newton products J'(∇²ℓ)Jv: what is left of a Hessian where the network counts as linear.

For L(θ) = ℓ(z(θ)) with outputs z and their Jacobian J, ∇²L = J'(∇²ℓ)J + Σ_c ∂ℓ/∂z_c ∇²z_c. The
functions here give the first part (Schraudolph 2002, "Fast curvature matrix-vector products for
second-order gradient descent"). Which of them is right for a network is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import jvp

from hessian_directions.autodiff.modes import FAST, Parameters, stack
from hessian_directions.autodiff.substitutes import Substitutes

# Parameters → the outputs, and the loss as a function of such outputs.
Split = Callable[[Parameters], tuple[list[Tensor], Callable[[Sequence[Tensor]], Tensor]]]


def reverse_mode(
    function: Split, parameters: Parameters, directions: Sequence[Parameters], vectorised: bool
) -> Iterator[Parameters]:
    """J'(∇²ℓ)Jv for every v, one after the other, by reverse mode alone.

    J'u is linear in u, so that Jv is reverse mode through the graph of J'u (Townsend 2017, "A new
    trick for calculating Jacobian vector products"). The graphs of z, of J'u and of ∇ℓ are made at
    once, for all directions.
    """
    graph = _Graph(function, parameters)
    u = [torch.zeros_like(z, requires_grad=True) for z in graph.outputs]
    transposed = graph.pull_back(u, create_graph=True)

    def product(v: Parameters, batched: bool = False) -> Parameters:
        images = _pull_back(transposed, u, list(v.values()), batched)
        return graph.by_name(graph.pull_back(graph.curve(images, batched), batched))

    if vectorised and len(directions) > 1:
        products = product(stack(directions), batched=True)
        return ({name: p[k] for name, p in products.items()} for k in range(len(directions)))
    return (product(v) for v in directions)


def forward_and_reverse_mode(
    function: Split, parameters: Parameters, directions: Sequence[Parameters], vectorised: bool
) -> Iterator[Parameters]:
    """J'(∇²ℓ)Jv for every v, one after the other: Jv by forward mode."""
    graph = _Graph(function, parameters)

    def outputs(at: Parameters) -> list[Tensor]:
        with Substitutes():
            found = function(at)[0]
        return [found[i] for i in graph.variable]

    for v in directions:
        images = jvp(outputs, (parameters,), (v,))[1]
        yield graph.by_name(graph.pull_back(graph.curve(images)))


# In the order of preference. The first is given a function with a fast second backward pass.
GAUSS_NEWTON = {
    FAST: reverse_mode,
    "plain reverse over reverse": reverse_mode,
    "forward and reverse mode": forward_and_reverse_mode,
}


class _Graph:
    """The outputs as a function of the parameters, and ∇ℓ as one of the outputs.

    Attributes:
        outputs: z, those that depend on the parameters.
        variable: Which of all outputs these are.
    """

    def __init__(self, function: Split, parameters: Parameters) -> None:
        self._leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        with torch.enable_grad(), Substitutes():
            found, loss = function(self._leaves)
            self.variable = [i for i, z in enumerate(found) if z.requires_grad]
            self.outputs = [found[i] for i in self.variable]
            values = [z.detach().requires_grad_() for z in found]
            self._values = [values[i] for i in self.variable]
            value = loss(values)
        one = [torch.ones_like(value)]
        self._slopes = _pull_back([value], self._values, one, create_graph=True)

    def pull_back(
        self, weights: Sequence[Tensor], batched: bool = False, create_graph: bool = False
    ) -> list[Tensor]:
        """J'w."""
        leaves = list(self._leaves.values())
        return _pull_back(self.outputs, leaves, weights, batched, create_graph)

    def curve(self, images: Sequence[Tensor], batched: bool = False) -> list[Tensor]:
        """(∇²ℓ)w, a symmetric matrix."""
        return _pull_back(self._slopes, self._values, images, batched)

    def by_name(self, derivatives: Sequence[Tensor]) -> Parameters:
        return dict(zip(self._leaves, derivatives, strict=True))


def _pull_back(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    batched: bool = False,
    create_graph: bool = False,
) -> list[Tensor]:
    """Σ w·∂y/∂x for every input x; zero where no output depends on it. The graph stays.

    `batched`: weights, and so results, have a leading dimension K.
    """
    used = [(y, w) for y, w in zip(outputs, weights, strict=True) if y.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if used and inputs:
        found = torch.autograd.grad(
            [y for y, _ in used],
            inputs,
            [w for _, w in used],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=batched,
        )
    k = (len(weights[0]),) if batched and weights else ()
    return [x.new_zeros((*k, *x.shape)) if part is None else part for x, part in zip(inputs, found)]
