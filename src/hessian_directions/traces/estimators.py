"""Trace of the Hessian, the sum of all principal curvatures, as a mean over random directions.

For entries with mean 0, variance 1 and no correlation E[v'Hv] = tr H, so the mean over S directions
estimates the trace, with variance 2‖H‖_F²/S for Gaussian entries and 2(‖H‖_F² − Σ H_ii²)/S for
Rademacher ones (Hutchinson 1990). The estimators differ in how they get v'Hv:

- `directional`: the exact second directional derivative;
- `finite_difference`, `quadratic_fit`: from loss values alone, which measure something else where a
  network has kinks (ReLU): they warn, and the former can correct it;
- `hutchinson`: a Hessian-vector product;
- `hutch_plus_plus`, `deflated`: a part of the trace exactly, the rest by any of the above.

All return an `Estimate` with a standard error. Given the same seed (or generator state, or
`directions`) and the same distribution they use the same directions, so they can be compared
sample by sample. Where H is asked for, an objective serves, or anything with shape, dtype, device
and `@`.

How many directions: `n_samples` of them; or, with a wanted error, as many as that takes, at least
32 and at most `n_samples`; or, with neither, as many as a relative error of 5 % takes, at most
1,000. A standard error that decides when to stop is a little too small: where 95 % of the intervals
mean ± 1.96 standard errors should hold the trace, 92 to 95 % do (measured; a test asks for 91).
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict, Unpack, runtime_checkable

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hessian_directions.arrays import as_tensor
from hessian_directions.cost import Cost
from hessian_directions.errors import (
    ArgumentError,
    ConfigurationError,
    NonFiniteError,
    require_count,
    require_number,
)
from hessian_directions.geometry.directions import Distribution, as_directions, draw, orthonormalise
from hessian_directions.objectives.objective import Objective
from hessian_directions.operators import (
    HasHessian,
    Operator,
    WithVectors,
    as_operator,
    in_own_precision,
    require_objective,
)
from hessian_directions.progress import Clock, Progress
from hessian_directions.seeds import as_generator, recorded
from hessian_directions.traces.deflation import off
from hessian_directions.traces.finite_differences import LossCurvature
from hessian_directions.traces.kinks import corrected_differences

# Taken where a wanted error decides: a standard error of 32 samples is known to an eighth.
MIN_SAMPLES = 32
# Where neither a number nor an error is asked for: r = t/‖H‖_F of trained networks is about 1, and
# 2/(0.05 r)² samples reach 5 %.
MAX_SAMPLES = 1000
RELATIVE_ERROR = 0.05


class KinkWarning(UserWarning):
    """Differences of losses are taken where the slope of the loss jumps."""


class PrecisionWarning(UserWarning):
    """A trace is returned whose standard error is larger than was asked for."""


@dataclass(frozen=True)
class Estimate:
    """Mean over samples with its standard error.

    Attributes:
        mean: Estimate of the trace, unit of the loss (parameters count as dimensionless).
        standard_error: Standard deviation of the samples divided by √S; 0 when nothing is random.
        samples: (S,) float64 on the CPU; their mean is `mean`.
        cost: Passes and seconds spent, the choice of a step included.
        step: Step ε along each direction, in units of that direction; NaN without loss differences.
        seed: Of the directions, where it was an integer.
    """

    mean: float
    standard_error: float
    samples: Tensor
    cost: Cost
    step: float = math.nan
    seed: int | None = None

    @property
    def n_samples(self) -> int:
        return self.samples.numel()


def estimate_from_samples(
    samples: ArrayLike | Tensor, cost: Cost, step: float = math.nan, seed: int | None = None
) -> Estimate:
    """Mean and standard error of independent samples, of one run or of several shards.

    Args:
        samples: (S,), S ≥ 2.

    Raises:
        ArgumentError: Fewer than two samples, which have no standard error.
        NonFiniteError: A sample is not finite.
    """
    samples = as_tensor(samples, torch.float64, "cpu")
    if samples.ndim != 1 or len(samples) < 2:
        raise ArgumentError("a standard error needs at least two samples, in one row.")
    if not bool(samples.isfinite().all()):
        raise NonFiniteError("A sample is not finite, so that their mean is not known.")
    mean, standard_error = _mean_and_standard_error(samples)
    return Estimate(mean, standard_error, samples, cost, step, seed)


class SamplingOptions(TypedDict, total=False):
    """Options of all sampling estimators.

    directions: (N, S) directions to use instead of drawing; n_samples is then left out.
    relative_error, absolute_error: Stop as soon as the standard error is at most
        max(relative_error·|mean|, absolute_error); looked at after each chunk. The trace may be
        zero, where no relative error is ever reached: the absolute one is the floor.
    progress: Called after each chunk with the samples so far.
    chunk: Directions held at once, by default 16: they share forward and backward passes.
    """

    directions: ArrayLike | Tensor | None
    relative_error: float
    absolute_error: float
    progress: Progress | None
    chunk: int


# --- Where v'Hv comes from ------------------------------------------------------------------------


@runtime_checkable
class Curvature(Protocol):
    """A way to get v'Hv: called with directions (N, K) it returns (K,), and counts its cost."""

    step: float
    n_parameters: int
    dtype: torch.dtype
    device: torch.device

    @property
    def cost(self) -> Cost: ...
    def __call__(self, V: Tensor, /) -> Tensor: ...


class ProductCurvature:
    """v'(Hv) from one product with H each."""

    step = math.nan

    def __init__(self, H: Operator) -> None:
        self._H, self._counted = H, Cost()
        self.n_parameters = H.shape[0]
        self.dtype = H.dtype
        self.device = H.device

    @property
    def cost(self) -> Cost:
        """The operator's own account where it keeps one, otherwise the products made here."""
        return getattr(self._H, "cost", self._counted)

    def product(self, V: Tensor) -> Tensor:
        """HV, counted."""
        start = time.perf_counter()
        HV = self._H @ V
        kind = f"hessian_vector_product {str(self.dtype).removeprefix('torch.')}"
        self._counted += Cost({kind: V.shape[1]}, time.perf_counter() - start)
        return HV

    def __call__(self, V: Tensor) -> Tensor:
        HV = self.product(V)
        return torch.stack([torch.dot(v.double(), w.double()) for v, w in zip(V.T, HV.T)])


class DirectionalCurvature:
    """d²L(θ + xv)/dx² at x = 0, exactly, by differentiation along v."""

    step = math.nan

    def __init__(self, objective: Objective) -> None:
        require_objective(objective)
        self._objective = objective
        self.n_parameters = objective.n_parameters
        self.dtype = objective.dtype
        self.device = objective.device

    @property
    def cost(self) -> Cost:
        return self._objective.cost

    def __call__(self, V: Tensor) -> Tensor:
        return self._objective.second_directional_derivative(V)


# --- Estimators -----------------------------------------------------------------------------------


@in_own_precision
def finite_difference(
    objective: Objective,
    n_samples: int | None = None,
    seed: int | torch.Generator = 0,
    distribution: Distribution = "gaussian",
    step: float | None = None,
    kinks: Literal["keep", "correct"] = "keep",
    **options: Unpack[SamplingOptions],
) -> Estimate:
    """Trace from loss values alone: mean of (L(θ+εv) − 2L(θ) + L(θ−εv))/ε² over S directions.

    Loss values are taken in float64 (see `LossCurvature`); cost: 2S + 1 forward passes and about
    fifty for the choice of ε. On networks with kinks (ReLU) the second difference converges to the
    curvature of the loss averaged over ±ε, to which every kink crossed adds its jump divided by ε:
    that is not the trace of the almost-everywhere Hessian, whatever ε. A warning says so; where it
    matters, `directional` needs no products either. With kinks="correct" what they add to first
    order is taken off each difference (`traces.kinks`), at the price of one derivative of the
    activations along each direction and one gradient for every 16 directions; the step is then
    chosen by what is left, and is smaller.

    Args:
        n_samples: Number of directions S, the largest one if an error is asked for.
        seed: Of the directions: an integer, or a CPU generator, which advances.
        distribution: "gaussian" or "rademacher".
        step: ε in units of a direction; chosen from noise and curvature when None, see
            `choose_step`. A warning says where a given one is lost in rounding.
        kinks: "correct" takes off what kinks add; it is nothing where there are none.
        **options: See `SamplingOptions`.

    Returns:
        Estimate with its `step`; its standard error is that of the corrected samples. Memory:
        3·chunk·N·8 bytes and one forward pass of the objective; corrected, one gradient.

    Raises:
        NonFiniteError: A loss is not finite.
        KinkError: Kinks that are to be corrected are of a kind that is not known.
        ConfigurationError: `kinks` is another word.
    """
    if kinks not in ("keep", "correct"):
        raise ConfigurationError(f'kinks is {kinks!r}, not "keep" or "correct".')
    if kinks == "keep":
        _warn_of_kinks(objective)
    without_kinks = corrected_differences if kinks == "correct" else None
    curvature = LossCurvature(objective, step, without_kinks=without_kinks)
    estimate = _estimate(curvature, n_samples, seed, distribution, **options)
    _warn_of_rounding(step, curvature, estimate)
    return estimate


@in_own_precision
def quadratic_fit(
    objective: Objective,
    n_samples: int | None = None,
    seed: int | torch.Generator = 0,
    distribution: Distribution = "gaussian",
    step: float | None = None,
    n_points: int = 9,
    **options: Unpack[SamplingOptions],
) -> Estimate:
    """Trace from loss values alone, by a least-squares parabola along each direction.

    As `finite_difference`, with `n_points` points on [−ε, ε] instead of three: at n_points − 1
    forward passes a direction it averages rounding noise and kinks, not truncation.
    """
    _warn_of_kinks(objective)
    curvature = LossCurvature(objective, step, n_points)
    estimate = _estimate(curvature, n_samples, seed, distribution, **options)
    _warn_of_rounding(step, curvature, estimate)
    return estimate


@in_own_precision
def directional(
    objective: Objective,
    n_samples: int | None = None,
    seed: int | torch.Generator = 0,
    distribution: Distribution = "gaussian",
    **options: Unpack[SamplingOptions],
) -> Estimate:
    """Trace as the mean of exact second directional derivatives, without Hessian-vector products.

    Arguments as for `finite_difference`. Memory: chunk·N·itemsize bytes and what the objective
    needs for chunk derivatives at once.
    """
    return _estimate(DirectionalCurvature(objective), n_samples, seed, distribution, **options)


@in_own_precision
def hutchinson(
    H: Operator | HasHessian,
    n_samples: int | None = None,
    seed: int | torch.Generator = 0,
    distribution: Distribution = "rademacher",
    **options: Unpack[SamplingOptions],
) -> Estimate:
    """Trace as the mean of v'(Hv), one product with H a direction (Hutchinson 1990).

    Rademacher directions are the default: their variance is never larger than that of Gaussian
    ones. Arguments as for `finite_difference`. Memory: 2·chunk·N·itemsize bytes and what H needs
    for chunk products at once.
    """
    return _estimate(ProductCurvature(as_operator(H)), n_samples, seed, distribution, **options)


@in_own_precision
def deflated(
    source: Operator | Objective,
    vectors: ArrayLike | Tensor | WithVectors,
    n_samples: int | None = None,
    seed: int | torch.Generator = 0,
    distribution: Distribution = "rademacher",
    sampling: Curvature | None = None,
    **options: Unpack[SamplingOptions],
) -> Estimate:
    """Trace split at a few directions: tr H = Σ q_i'Hq_i + tr(PHP), P = I − QQ'.

    Q is an orthonormal basis of the span of `vectors`. The identity is exact for any of them,
    converged eigenvectors or not; with the dominant eigenvectors the rest has a small variance. The
    first term is computed, the second sampled with directions Pv.

    Args:
        source: Where the q_i'Hq_i come from: H (products) or an Objective (exact second directional
            derivatives).
        vectors: (N, k) linearly independent directions, or eigenpairs that hold them.
        n_samples, seed, distribution: As for `finite_difference`.
        sampling: Where the (Pv)'H(Pv) come from: the same source when None;
            `LossCurvature(objective)` samples the rest from loss values alone.
        **options: See `SamplingOptions`.

    Returns:
        Estimate whose samples are Σ q_i'Hq_i + (Pv)'H(Pv). Memory: 2·k·N·8 bytes beside that of the
        sampling.

    Raises:
        ArgumentError: The vectors are linearly dependent, or `sampling` gives no curvatures or
            those of another network.
    """
    if sampling is not None and not isinstance(sampling, Curvature):
        kind = type(sampling).__name__
        raise ArgumentError(f"sampling is a {kind}, but LossCurvature(objective), say, is needed.")
    computed = _curvature_of(source)
    sampled = computed if sampling is None else sampling
    if sampled.n_parameters != computed.n_parameters:
        raise ArgumentError(
            f"sampling has {sampled.n_parameters} parameters, but the source {computed.n_parameters}."
        )
    V = as_directions(vectors, computed.n_parameters)
    # Orthonormal to the precision of the trace, not to that in which the vectors were stored.
    Q = orthonormalise(V.to(computed.device, torch.float64))
    before = computed.cost
    exact_part = 0.0
    if Q.shape[1] > 0:
        exact_part = float(computed(Q.to(computed.dtype)).sum(dtype=torch.float64))
    cost = computed.cost - before
    if Q.shape[1] == computed.n_parameters:
        return _without_sampling(exact_part, cost)
    before = sampled.cost
    chunks, total = _chunks(sampled, n_samples, seed, distribution, options)
    Q = Q.to(sampled.device, sampled.dtype)
    samples = _collect(lambda V: sampled(off(Q, V)), chunks, total, options, exact_part)
    cost += sampled.cost - before
    return estimate_from_samples(samples, cost, sampled.step, _seed_of(seed, options))


@in_own_precision
def hutch_plus_plus(
    H: Operator | HasHessian,
    n_products: int = 96,
    seed: int | torch.Generator = 0,
    distribution: Distribution = "rademacher",
    progress: Progress | None = None,
    chunk: int = 16,
) -> Estimate:
    """Trace by Hutch++: the dominant part of H found by a random sketch, the rest sampled.

    A third of the products spans Q = orth(HS) from random S, a third gives tr(Q'HQ), the rest
    samples tr(PHP), P = I − QQ' (Meyer, Musco, Musco and Woodruff, 2021, "Hutch++: Optimal
    Stochastic Trace Estimation"). Exact when the rank of H is at most n_products/3.

    Args:
        n_products: Products with H in all, at least 4; the default is a sketch of 32 columns.
        distribution: Of the sketch and of the samples.
        chunk: Directions held at once while sampling.

    Returns:
        Estimate whose samples are tr(Q'HQ) + (Pv)'H(Pv). Q is independent of the v, so the standard
        error given Q is honest. Memory: N·n_products entries.

    Raises:
        ArgumentError: Fewer than 4 products.
    """
    require_count("n_products", n_products)
    if n_products < 4:
        raise ArgumentError(f"Hutch++ needs at least 4 products, not {n_products}.")
    curvature = ProductCurvature(as_operator(H))
    generator = as_generator(seed, "trace")
    n, before = curvature.n_parameters, curvature.cost
    clock = Clock(n_products, "products", progress)
    k = min(n_products // 3, n)
    S = draw(distribution, n, k, generator, curvature.dtype, curvature.device)
    # Householder QR: the basis is orthonormal even where HS has not full rank.
    Q = torch.linalg.qr(curvature.product(S))[0]
    clock(k)
    exact_part = float(curvature(Q).sum(dtype=torch.float64))
    clock(2 * k)
    if k == n:
        return _without_sampling(exact_part, curvature.cost - before)
    options: SamplingOptions = {"chunk": chunk, "progress": lambda now: clock(2 * k + now.done)}
    chunks, total = _chunks(curvature, n_products - 2 * k, generator, distribution, options)
    samples = _collect(lambda V: curvature(off(Q, V)), chunks, total, options, exact_part)
    cost = curvature.cost - before
    return estimate_from_samples(samples, cost, seed=recorded(seed))


@in_own_precision
def exact(
    source: Operator | Objective,
    batch: int = 64,
    progress: Progress | None = None,
) -> Estimate:
    """Trace as the sum of all N diagonal entries e_i'He_i: no sampling, standard error 0.

    Args:
        source: H (N products) or an Objective (N exact second directional derivatives, cheaper).
        batch: Unit vectors held at once.

    Returns:
        Estimate with a single sample. Memory: 2·batch·N·itemsize bytes and what `source` needs for
        a batch.
    """
    require_count("batch", batch)
    curvature = _curvature_of(source)
    n, before, total = curvature.n_parameters, curvature.cost, 0.0
    clock = Clock(n, "entries", progress)
    for start in range(0, n, batch):
        index = torch.arange(start, min(start + batch, n), device=curvature.device)
        columns = torch.arange(len(index), device=curvature.device)
        E = torch.zeros(n, len(index), dtype=curvature.dtype, device=curvature.device)
        E[index, columns] = 1
        total += float(curvature(E).sum(dtype=torch.float64))
        clock(start + len(index))
    return _without_sampling(total, curvature.cost - before)


# --- Shared by the estimators ---------------------------------------------------------------------


def _estimate(
    curvature: Curvature,
    n_samples: int | None,
    seed: int | torch.Generator,
    distribution: Distribution,
    **options: Unpack[SamplingOptions],
) -> Estimate:
    before = curvature.cost
    chunks, total = _chunks(curvature, n_samples, seed, distribution, options)
    samples = _collect(curvature, chunks, total, options)
    cost = curvature.cost - before
    return estimate_from_samples(samples, cost, curvature.step, _seed_of(seed, options))


def _chunks(
    curvature: Curvature,
    n_samples: int | None,
    seed: int | torch.Generator,
    distribution: Distribution,
    options: SamplingOptions,
) -> tuple[Iterable[Tensor], int]:
    """The directions, given or drawn, a chunk of columns at a time, and their number.

    Without a number and without a wanted error the default one is put into the options.
    """
    unknown = options.keys() - SamplingOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(SamplingOptions.__annotations__)
        raise ArgumentError(f"There is no option {min(unknown)!r} here; there are {known}.")
    for name in ("relative_error", "absolute_error"):
        require_number(name, options.get(name, 0.0))
    n, chunk, given = curvature.n_parameters, options.get("chunk", 16), options.get("directions")
    require_count("chunk", chunk)
    if given is not None:
        if n_samples is not None:
            raise ConfigurationError("Give either directions or n_samples, not both.")
        given = as_directions(given, n)
        total = given.shape[1]
        moved = (V.to(curvature.device, curvature.dtype) for V in given.split(chunk, 1))
        return moved, total
    if n_samples is not None:
        require_count("n_samples", n_samples, least=2)
    else:
        n_samples = MAX_SAMPLES
        if not _wants_error(options):
            options["relative_error"] = RELATIVE_ERROR
    generator = as_generator(seed, "trace")
    sizes = [min(chunk, n_samples - start) for start in range(0, n_samples, chunk)]
    kind = curvature.dtype, curvature.device
    return (draw(distribution, n, k, generator, *kind) for k in sizes), n_samples


def _collect(
    curvature: Callable[[Tensor], Tensor],
    chunks: Iterable[Tensor],
    total: int,
    options: SamplingOptions,
    exact_part: float = 0.0,
) -> Tensor:
    """exact_part + v'Hv of all directions, or of as many as the wanted error needs: (S,) float64."""
    stop, clock = _wants_error(options), Clock(total, "samples", options.get("progress"))
    samples = torch.empty(0, dtype=torch.float64, device="cpu")
    for V in chunks:
        values = curvature(V).to("cpu", torch.float64)
        if not bool(values.isfinite().all()):
            raise NonFiniteError("A curvature along a random direction is not finite.")
        samples = torch.cat([samples, exact_part + values])
        clock(len(samples))
        if stop and len(samples) >= MIN_SAMPLES and _excess(samples, options) <= 0:
            break
    if stop and len(samples) > 1 and _excess(samples, options) > 0:
        mean, standard_error = _mean_and_standard_error(samples)
        warnings.warn(
            f"After {len(samples)} samples the trace is {mean:.4g} with a standard error of "
            f"{standard_error:.2g}, larger than was asked for.",
            PrecisionWarning,
            stacklevel=4,
        )
    return samples


def _wants_error(options: SamplingOptions) -> bool:
    return bool({"relative_error", "absolute_error"} & options.keys())


def _excess(samples: Tensor, options: SamplingOptions) -> float:
    """What the standard error exceeds the wanted one by."""
    mean, standard_error = _mean_and_standard_error(samples)
    relative, absolute = options.get("relative_error", 0.0), options.get("absolute_error", 0.0)
    return standard_error - max(relative * abs(mean), absolute)


def _seed_of(seed: int | torch.Generator, options: SamplingOptions) -> int | None:
    return None if options.get("directions") is not None else recorded(seed)


def _warn_of_kinks(objective: Objective) -> None:
    require_objective(objective)
    if kinks := objective.kinks():
        warnings.warn(
            f"The loss has kinks ({', '.join(kinks)}): its differences measure them beside the "
            "trace, at any step. trace.directional does not, nor do differences with "
            'kinks="correct".',
            KinkWarning,
            stacklevel=3,
        )


def _curvature_of(source: Operator | Objective) -> Curvature:
    if isinstance(source, Objective):
        return DirectionalCurvature(source)
    return ProductCurvature(as_operator(source))


def _mean_and_standard_error(samples: Tensor) -> tuple[float, float]:
    return float(samples.mean()), float(samples.std()) / math.sqrt(samples.numel())


def _without_sampling(value: float, cost: Cost) -> Estimate:
    return Estimate(value, 0.0, torch.tensor([value], dtype=torch.float64, device="cpu"), cost)


def _warn_of_rounding(step: float | None, curvature: LossCurvature, estimate: Estimate) -> None:
    """Of the loss at the weights, which all differences share: no standard error shows it."""
    rounding = 0.0 if step is None else curvature.rounding()
    if rounding > max(estimate.standard_error, 1e-6 * abs(estimate.mean)):
        warnings.warn(
            f"The step {step:g} is so short that rounding of the loss alone moves the trace by about "
            f"{rounding:.1g}, which no standard error shows: give a longer step, or none.",
            PrecisionWarning,
            stacklevel=4,
        )
