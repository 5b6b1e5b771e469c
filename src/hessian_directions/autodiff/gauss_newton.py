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

from hessian_directions.autodiff.modes import FAST, Parameters, pull_back, stack
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
    transposed = pull_back(graph.outputs, graph.leaves, u, create_graph=True)

    def product(v: Parameters, batched: bool = False) -> Parameters:
        images = pull_back(transposed, u, list(v.values()), batched, retain_graph=True)
        return graph.curved(images, batched)

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
        yield graph.curved(jvp(outputs, (parameters,), (v,))[1])


# In the order of preference. The first is given a function with a fast second backward pass.
GAUSS_NEWTON = {
    FAST: reverse_mode,
    "plain reverse over reverse": reverse_mode,
    "forward and reverse mode": forward_and_reverse_mode,
}


class _Graph:
    """The outputs as a function of the parameters, and ∇ℓ as one of the outputs.

    Attributes:
        leaves: The parameters.
        outputs: z, those that depend on the parameters.
        variable: Which of all outputs these are.
    """

    def __init__(self, function: Split, parameters: Parameters) -> None:
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        self._names, self.leaves = list(leaves), list(leaves.values())
        with torch.enable_grad(), Substitutes():
            found, loss = function(leaves)
            self.variable = [i for i, z in enumerate(found) if z.requires_grad]
            self.outputs = [found[i] for i in self.variable]
            values = [z.detach().requires_grad_() for z in found]
            self._values = [values[i] for i in self.variable]
            value = loss(values)
        self._slopes = pull_back([value], self._values, create_graph=True)

    def curved(self, images: Sequence[Tensor], batched: bool = False) -> Parameters:
        """J'(∇²ℓ)w for images w = Jv."""
        slopes = pull_back(self._slopes, self._values, images, batched, retain_graph=True)
        found = pull_back(self.outputs, self.leaves, slopes, batched, retain_graph=True)
        return dict(zip(self._names, found, strict=True))
