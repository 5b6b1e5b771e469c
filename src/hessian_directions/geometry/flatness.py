"""Measures of flatness, and why many are none: rescaling layers changes them at will.

Rank correlations of such measures with generalization lie in `rank_correlation`, without torch.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hessian_directions.autodiff.copies import copied
from hessian_directions.errors import DataError, ModelError, require_count, require_positive
from hessian_directions.geometry.directions import outputs_first, owners
from hessian_directions.objectives.objective import Objective
from hessian_directions.operators import DerivedOperator, in_own_precision, require_objective
from hessian_directions.random_vectors import gaussian, rademacher, unit
from hessian_directions.seeds import as_generator
from hessian_directions.traces.finite_differences import in_float64


@dataclass(frozen=True)
class Sampled:
    """A mean over random directions or batches, and the standard error of that mean."""

    mean: float
    standard_error: float


def normalised_measures(
    trace: float, largest: float, theta_norm: float, n_parameters: int
) -> dict[str, float]:
    """Measures of flatness, two of which do not depend on the size of the weights.

    With t the trace, λ_max the largest eigenvalue, N the number of parameters:

    - ``mean_curvature``: t/N;
    - ``trace_scaled``: t·‖θ‖²/N, the mean curvature per relative change of the weights;
    - ``largest_scaled``: λ_max·‖θ‖².

    The scaled ones stay the same when all weights are multiplied by a common factor and the
    function stays what it is (as with normalisation layers); none of them stays the same under the
    rescaling of single layers (see `rescale`).

    Args:
        trace, largest: Of the Hessian, unit of the loss.
    """
    return {
        "mean_curvature": trace / n_parameters,
        "trace_scaled": trace * theta_norm**2 / n_parameters,
        "largest_scaled": largest * theta_norm**2,
    }


# --- curvature in units of the weights ----------------------------------------------------------


@dataclass(frozen=True)
class ScaledOperator(DerivedOperator):
    """D H D with D = diag(d): the Hessian in coordinates u in which θ = θ* + d ⊙ u.

    With d = |θ*| it is the adaptive Hessian: its trace Σ θ_i² H_ii and its largest eigenvalue are
    the limits of average- and worst-case adaptive sharpness (Kwon, Kim, Park and Choi 2021, "ASAM";
    Andriushchenko, Croce, Müller, Hein and Flammarion 2023, "A Modern Look at the Relationship
    between Sharpness and Generalization"). A rescaling θ' = c ⊙ θ that keeps the function leaves
    D H D as it is, since H'_ij = H_ij/(c_i c_j).

    Attributes:
        scale: d, (N,).
    """

    scale: Tensor

    def __matmul__(self, v: Tensor) -> Tensor:
        d = self.scale if v.ndim == 1 else self.scale[:, None]
        return d * (self.H @ (d * v))


@in_own_precision
def relative_flatness(
    objective: Objective, n_samples: int, seed: int | torch.Generator = 0
) -> dict[str, Sampled]:
    """κ = Σ_{s,s'} ⟨w_s, w_s'⟩ tr H_ss' of each weight matrix: relative flatness.

    w_s are the rows of a weight matrix W (outputs × inputs), H_ss' the blocks of the Hessian with
    respect to the rows s and s' (Petzka, Kamp, Adilova, Sminchisescu and Boley 2021, "Relative
    Flatness and Generalization"). Multiplying a layer by c and dividing the next by c leaves κ as
    it is. Filters of convolutions are rows; an embedding is the linear map of a one-hot vector.

    κ = E ⟨WG, H[WG]⟩ over matrices G (inputs × inputs) of independent entries ±1, because
    E vec(WG) vec(WG)' = WW' ⊗ I. One product with H serves all layers: their G are independent, so
    what one layer adds to the samples of another has mean zero.

    Args:
        objective: Its parameters with at least two axes are the weight matrices.
        n_samples: Products, at least 2.

    Returns:
        Mean and standard error of κ by the parameter's name.

    Raises:
        ModelError: A weight is of none of these kinds, so that its rows are not known.
    """
    require_objective(objective)
    require_count("n_samples", n_samples, least=2)
    generator = as_generator(seed, "relative flatness")
    parameters = objective.parameters
    sizes = [parameter.numel() for parameter in parameters.values()]
    V = torch.zeros(
        objective.n_parameters, n_samples, dtype=objective.dtype, device=objective.device
    )
    blocks = dict(zip(parameters, V.split(sizes), strict=True))  # views of V
    weights = []
    for name, p in parameters.items():
        if p.ndim > 1:
            order = _rows(objective.network, name, p)
            weights.append(name)
            W = p.reshape(-1)[order]
            m = W.shape[1]
            G = rademacher(m * m, n_samples, generator, V.dtype, V.device).reshape(m, m, n_samples)
            WG = torch.einsum("si,ijk->sjk", W, G)
            blocks[name][order.reshape(-1)] = WG.flatten(0, 1)
    products = dict(zip(parameters, (objective.hessian() @ V).split(sizes), strict=True))
    return {name: _sampled((blocks[name] * products[name]).sum(0)) for name in weights}


def _rows(network: nn.Module, name: str, weight: Tensor) -> Tensor:
    """Places in the flattened weight of what belongs to each output, (outputs, inputs)."""
    if name.rpartition(".")[2] != "weight":
        raise ModelError(f"The parameter {name!r} is no weight of a layer whose outputs are known.")
    places = torch.arange(weight.numel(), device=weight.device).reshape(weight.shape)
    found = [outputs_first(places, module) for module in owners(network, name)]
    if not all(torch.equal(rows, found[0]) for rows in found):
        raise ModelError(
            f"The tied weight {name!r} has other outputs in one layer than in another."
        )
    return found[0]


# --- the loss at a distance -----------------------------------------------------------------------
#
# Increases are differences of losses, taken in float64 as those of `traces.finite_differences` are:
# in float32 small ones are rounding, which scatters too little to betray itself.


@in_own_precision
def average_increase(
    objective: Objective, radius: float, n_samples: int, seed: int | torch.Generator = 0
) -> Sampled:
    """Mean of L(θ + ρu) − L(θ) over directions u uniform on the unit sphere.

    For small ρ it is ρ²t/2N. Each direction is taken with its opposite, in whose mean the slope of
    L cancels: it would be nearly all of the scatter.

    Args:
        radius: ρ > 0, in parameter-space length.
        n_samples: Pairs of directions, at least 2.
    """
    require_positive("radius", radius)
    require_count("n_samples", n_samples, least=2)
    objective = in_float64(objective)
    u = unit(gaussian(objective.n_parameters, n_samples, seed, objective.dtype, objective.device))
    theta = objective.theta[:, None]
    ends = objective.values(torch.cat([theta + radius * u, theta - radius * u], dim=1))
    return _sampled(ends.reshape(2, -1).mean(0) - objective.value())


@in_own_precision
def worst_increase(objective: Objective, radius: float, n_steps: int) -> float:
    """Largest L(θ + δ) − L(θ) that gradient ascent finds in the ball ‖δ‖ ≤ ρ, at least 0.

    Each step maximises the loss's linear part over the ball, δ ← ρ∇L(θ + δ)/‖∇L(θ + δ)‖, beginning
    at δ = 0; the largest of the losses seen counts. One step is that of sharpness-aware
    minimisation (Foret, Kleiner, Mobahi and Neyshabur 2021). More steps are Frank and Wolfe's method
    with full steps, which has no rate to tune and rises at each step where L is convex; elsewhere
    the result is a lower bound.

    Args:
        radius: ρ > 0, in parameter-space length.
        n_steps: Gradients, at least 1.
    """
    require_positive("radius", radius)
    require_count("n_steps", n_steps)
    objective = in_float64(objective)
    theta = objective.theta
    delta, found = torch.zeros_like(theta), [float(objective.value())]
    for _ in range(n_steps):
        gradient = objective.gradient(theta + delta)
        length = float(gradient.norm())
        if length == 0:  # a stationary point shows no way up
            break
        delta = gradient * (radius / length)
        found.append(float(objective.value(theta + delta)))
    return max(found) - found[0]


@in_own_precision
def m_sharpness(
    objective: Objective, radius: float, m: int, seed: int | torch.Generator = 0
) -> Sampled:
    """Mean over disjoint batches of m samples of the largest increase of the batch's own loss.

    It is the quantity that sharpness-aware minimisation lowers (Foret et al. 2021, section 4.1),
    found as there by one step of ascent a batch (see `worst_increase`). Samples that do not fill a
    batch are left out; the standard error is that over batches.

    Args:
        radius: ρ > 0, in parameter-space length.
        m: Samples a batch, at most half of them all.

    Raises:
        DataError: There are fewer than two batches.
    """
    require_objective(objective)
    require_count("m", m)
    n_batches = objective.n_samples // m
    if n_batches < 2:
        raise DataError(
            f"{objective.n_samples} samples are fewer than two batches of {m}: choose a smaller m."
        )
    order = torch.randperm(
        objective.n_samples, generator=as_generator(seed, "m-sharpness"), device="cpu"
    )
    batches = order[: n_batches * m].reshape(n_batches, m)
    objective = in_float64(objective)
    increases = [worst_increase(objective.subset(batch), radius, 1) for batch in batches]
    return _sampled(torch.tensor(increases, dtype=torch.float64, device="cpu"))


def _sampled(values: Tensor) -> Sampled:
    values = values.double()
    return Sampled(float(values.mean()), float(values.std() / len(values) ** 0.5))


# --- one function, many curvatures ----------------------------------------------------------------


def rescale(model: nn.Module, scale: float) -> nn.Module:
    """The same function with other curvature: one layer times s, the next over s.

    ReLU is positively homogeneous, relu(s·a) = s·relu(a), so weights and biases of the first linear
    layer that a ReLU and another linear layer follow may be multiplied by s and the weights of the
    second divided by s (Dinh, Pascanu, Bengio and Bengio 2017, "Sharp Minima Can Generalize For
    Deep Nets"). With θ' = d ⊙ θ, d being s, 1/s or 1, the Hessian becomes H'_ij = H_ij/(d_i d_j), so
    a trace or λ_max as large as one likes goes with one function.

    Args:
        model: Sequential network; it is not changed.
        scale: s > 0; a power of two changes no bit of the outputs.

    Returns:
        A rescaled copy.

    Raises:
        ArgumentError: s is not positive and finite.
        ModelError: The model is none, has no two such layers, or these, the ReLU or a
            container of theirs are not plain: subclassed, watched by hooks, or sharing numbers.
    """
    require_positive("scale", scale)
    if not isinstance(model, nn.Module):
        raise ModelError(f"The network is a {type(model).__name__}, but must be a torch.nn.Module.")
    rescaled = copied(model)
    first, second = _layers_around_relu(rescaled)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(scale)
        second.weight.div_(scale)
    return rescaled


def _layers_around_relu(model: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The first two linear layers of a sequential network with just a ReLU between them.

    What may compute anything else than these three, or have their numbers twice, is refused.
    """
    sequence = _in_sequence(model)
    layers = [layer for layer, _ in sequence]
    for i, (first, activation, second) in enumerate(zip(layers, layers[1:], layers[2:])):
        if (
            isinstance(first, nn.Linear)
            and isinstance(activation, nn.ReLU)
            and isinstance(second, nn.Linear)
        ):
            around = [part for _, parts in sequence[i : i + 3] for part in parts]
            if not all(map(_plain, around)) or not _used_once(model, first, second):
                raise ModelError(
                    "The layers to be rescaled must be plain: no subclasses of Linear, ReLU and "
                    "Sequential, no hooks, no parametrization, used once."
                )
            return first, second
    raise ModelError("The model is no sequence of layers with Linear, ReLU, Linear in it.")


def _in_sequence(
    model: nn.Module, around: tuple[nn.Module, ...] = ()
) -> list[tuple[nn.Module, tuple[nn.Module, ...]]]:
    """The layers in the order in which they are applied, which only a Sequential tells, each with
    itself and the containers that it lies in.
    """
    around = (*around, model)
    if not isinstance(model, nn.Sequential):
        return [(model, around)]
    return [layer for part in model for layer in _in_sequence(part, around)]


def _plain(module: nn.Module) -> bool:
    """Whether a module does what its class says, no more."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    kinds = (nn.Linear, nn.ReLU, nn.Sequential)
    return type(module) in kinds and not hooks and "forward" not in vars(module)


def _used_once(model: nn.Module, *layers: nn.Module) -> bool:
    """Whether these layers alone have their numbers, under one name each."""
    named = (model.named_parameters, model.named_buffers)
    uses = Counter(id(t) for tensors in named for _, t in tensors(remove_duplicate=False))
    return all(uses[id(p)] == 1 for layer in layers for p in layer.parameters())
