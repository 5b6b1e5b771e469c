"""What an objective may return, and by which mode: proven on few samples before the first number.

Every way in which an objective computes is compared with a referee that shares nothing with it
(`referee`): values with the loss over whole samples, gradients with PyTorch's and with differences
of losses, products with differences of gradients. So the user's program is followed or refused.

Modes can be missing (PyTorch 2.13: no forward mode through the gradient of SiLU, no second backward
pass of hardsigmoid) and silently wrong (forward mode over forward mode through layer, instance and
batch normalisation); a network may cut its graph, change tensors in place, mix the samples of a
batch, keep weights elsewhere than in its parameters.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from hessian_directions.autodiff.folding import Folding
from hessian_directions.autodiff.kinks import refusal
from hessian_directions.autodiff.modes import (
    FAST,
    PRODUCTS,
    SECOND_DERIVATIVES,
    Parameters,
    gradient,
)
from hessian_directions.autodiff.precision import Widened, moved
from hessian_directions.autodiff.program import misleading_option
from hessian_directions.autodiff.referee import FirstPass, Referee, cast
from hessian_directions.cost import Cost
from hessian_directions.errors import (
    DifferentiationError,
    HessianDirectionsError,
    KinkError,
    ModelError,
    NonFiniteError,
    first_line,
)
from hessian_directions.objectives.evaluation import Evaluation, depends_on_batches
from hessian_directions.objectives.samples import Batch, InMemory, n_rows, representatives, split

T = TypeVar("T")

# How a second directional derivative is named that is computed as v'(Hv).
PRODUCT = "Hessian-vector product"


@dataclass(frozen=True)
class Tolerances:
    """Relative deviations allowed where the network computes in a precision."""

    exact: float  # between two exact ways
    differences: float  # between an exact way and differences
    closely: float  # the same, where a second look tells kinks from a part of a graph that is cut
    epsilon: float  # spacing of the numbers near 1


TOLERANCES = {
    torch.float64: Tolerances(1e-8, 1e-4, 1e-6, 2.0**-52),
    torch.float32: Tolerances(1e-3, 3e-2, 3e-2, 2.0**-23),
}

# Steps of differences, in units of √ε_machine along a vector as large as the parameters: short ones
# cross no kinks, long ones are not lost in rounding.
STEPS = (1.0, 10.0, 100.0, 1e3, 1e4)

# How far a point near the network lies, off the kinks that lie exactly at it: a random displacement
# relative to the parameters.
NEAR = 1e-3

# How far the point lies at which values are compared: first a point of its own.
FAR = (None, 0.5, 0.1, 0.01, NEAR)

# How much more than otherwise kinks that lie densely (deep networks whose activations fade) may
# move all differences of losses.
DENSE_KINKS = 1000


@dataclass(frozen=True)
class SelfTest:
    """What an objective's self-test found.

    Attributes:
        product_mode: How Hessian-vector products are computed: "reverse over reverse" or, where
            that is missing or wrong, "plain reverse over reverse" or "forward over reverse".
        second_derivative_mode: How second directional derivatives are computed: "Taylor mode" or,
            where that is missing or wrong, "nested forward mode" or "Hessian-vector product".
        deviations: Relative deviations, by what was compared.
        fallbacks: Why a mode was passed over, by mode; empty when the first choices passed.
        n_samples: Samples that it looked at.
        precision: In which the network computes even when it is asked for float64.
        cost: Passes over those samples and seconds; part of no other cost.
    """

    product_mode: str
    second_derivative_mode: str
    deviations: dict[str, float]
    fallbacks: dict[str, str]
    n_samples: int
    precision: str
    cost: Cost = field(compare=False)

    def describe(self) -> str:
        """One line for logs and artifacts."""
        deviations = ", ".join(f"{name} {value:.1e}" for name, value in self.deviations.items())
        fallbacks = "".join(f"; {mode} not taken: {why}" for mode, why in self.fallbacks.items())
        return (
            f"Hessian-vector products by {self.product_mode}, second directional derivatives by "
            f"{self.second_derivative_mode}, where the network computes in {self.precision}; "
            f"deviations on {self.n_samples} samples: {deviations}{fallbacks}"
        )


class Proof:
    """The self-test of an evaluation, as far as it was needed so far; all its copies share it.

    It settles the ways in which all of them make their passes (`Evaluation.ways`), and raises what
    `Objective.self_test` and `Objective.kinks_along` do.

    Args:
        evaluation: In its own precision, over all samples.
        foreign: The user's own parameters, which no loss may read.

    Attributes:
        compared: Whether any value could be compared: not where the loss is not finite at the
            network.
        kinks: The operations of network and loss whose slope jumps, by name.
        jumps: Those of them of which nothing tells where.
        report: What was found, once all was proven.
    """

    def __init__(self, evaluation: Evaluation, foreign: Iterable[weakref.ref[Any]]) -> None:
        self._evaluation, self._foreign = evaluation, list(foreign)
        self._own_precision, self._ways = evaluation.dtype, evaluation.ways
        self._processes = evaluation.samples.processes
        self.compared = True
        self.kinks: list[str] = []
        self.jumps: list[str] = []
        self.report: SelfTest | None = None
        self.deviations: dict[str, float] = {}
        self.fallbacks: dict[str, str] = {}
        self._casts = False
        # Of each stage that was tried: the error it ended with, if any.
        self._tried: dict[str, HessianDirectionsError | None] = {}
        self._seconds = 0.0

    def of_values(self) -> None:
        """Before the first value: it is the referee's, in every pass and split of the samples."""
        self._once("values", self._prove_values)

    def of_gradients(self) -> None:
        """Before the first gradient: it is the referee's, and that is the slope of its losses."""
        self.of_values()
        self._once("gradients", self._prove_gradients)

    def of_kinks(self) -> None:
        """Before kinks are located: something tells where they all are."""
        self.of_gradients()
        if self.jumps:
            raise KinkError(refusal(self.jumps[0]))

    def of_products(self) -> SelfTest:
        """Before the first second derivative: a mode of Hessian-vector products is right."""
        self.of_gradients()
        self._once("products", self._prove_products)
        assert self.report is not None
        return self.report

    @cached_property
    def _samples(self) -> InMemory:
        """Few samples that represent all."""
        return self._evaluation.samples.take(representatives(self._evaluation.samples))

    def _make_referee(self, dtype: torch.dtype | None) -> Referee:
        """In a precision; when None, everything is in the one that it was given in."""
        whole = self._evaluation
        batches = list(self._samples.batches(self._samples.count))
        # In its own precision a network keeps buffers of another.
        model = moved(whole.model, None if dtype == self._own_precision else dtype, None)
        loss = whole.loss.to(dtype, whole.device).of_original
        batches = cast(batches, dtype, whole.device)
        return Referee(model, list(whole.shapes), loss, batches, self._foreign)

    def _once(self, stage: str, prove: Callable[[], None]) -> None:
        if stage in self._tried:
            if error := self._tried[stage]:
                raise error
            return
        start = time.perf_counter()
        try:
            with self._processes.agreed(f"self-test of {stage}"), self._widened():
                prove()
        except HessianDirectionsError as error:
            self._tried[stage] = error
            raise
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # somewhere else than on the first pass
            failure = ModelError(f"The self-test of {stage} failed: {first_line(error)}.")
            self._tried[stage] = failure
            raise failure from error
        finally:
            self._seconds += time.perf_counter() - start
        self._tried[stage] = None
        if stage == "products":
            self._report()

    def _widened(self) -> contextlib.AbstractContextManager[Any]:
        """In which few samples are looked at, once the first pass has told whether the network casts."""
        return Widened() if self._casts else contextlib.nullcontext()

    # --- values ---------------------------------------------------------------------------------

    def _prove_values(self) -> None:
        first = self._first_pass()
        with self._widened():
            self._prove_few_values(self._referee.value(self._theta) if self._casts else first)
        if self.compared:
            self._refuse_lost_digits()
            self._settle_layout()
            self._compare_splits()

    def _prove_few_values(self, first: float) -> None:
        probe, referee, theta = self._probe, self._referee, self._theta
        if self._seen.changes_its_buffers:
            self._refuse_memory(first)
        self._compare_two_passes(first)
        far, at_far = self._far_point()
        self._far, self._losses = far, (first, at_far)
        if not referee.stands_at(far):
            raise ModelError("The network changes its own parameters in a forward pass.")
        if not any(map(math.isfinite, self._losses)):
            self.compared = False  # nothing is returned but that
            return
        points = torch.stack([theta, far], 1)
        ways = [
            (acts_in_place, vectorised, False)
            for acts_in_place in (False, True)
            for vectorised in ((True, False) if self._ways.vectorised else (False,))
        ]
        ways += [(acts_in_place, False, True) for acts_in_place in (False, True)]
        for self._ways.acts_in_place, self._ways.vectorised, self._ways.takes_gradients in ways:
            values, reason = self._attempt(lambda: probe.values(points).tolist())
            if values is not None and all(map(self._agree, values, self._losses)):
                break
        else:
            reason = reason or f"{values} for {[*self._losses]}"
            raise ModelError(
                "The network does not give its loss when its parameters are put in from outside "
                f"({reason}): it keeps weights elsewhere than in its parameters, or other "
                "state from pass to pass."
            )
        self.deviations["values"] = max(
            abs(value - wanted) / (abs(wanted) or 1.0)
            for value, wanted in zip(values, self._losses)
            if math.isfinite(wanted)
        )
        at, wanted = (far, at_far) if math.isfinite(at_far) else (theta, first)
        self._compare_with_single_samples(at, wanted)
        self._ways.copies_samples = referee.changes_its_samples

    def _far_point(self) -> tuple[Tensor, float]:
        """Where the loss is as large as that of no trained network, and the loss there.

        Nearer, where parameters of another sign than their own have none (logarithms, roots).
        """
        displacement = self._random(seed=1)
        for share in FAR:
            far = displacement if share is None else self._theta + share * displacement
            loss = self._referee.value(far)
            if math.isfinite(loss):
                break
        return far, loss

    def _refuse_lost_digits(self) -> None:
        """Of data in float64 for a network in float32, which makes use of them before it casts them."""
        wide = (torch.float64, torch.complex128)
        leaves = tree_leaves(self._samples.pieces)
        if self._own_precision in wide or not any(leaf.dtype in wide for leaf in leaves):
            return
        tolerances = TOLERANCES[torch.float32]
        for point, least in ((self._theta, 64 * tolerances.epsilon), (self._far, 0.0)):
            own = point.to(self._own_precision)
            given, cast_before = (
                self._attempt(partial(self._loss_in, precision, own))[0]
                for precision in (None, self._own_precision)
            )
            if given is None or not math.isfinite(given):  # PyTorch does not run it without a cast
                continue
            allowed = 0.1 * tolerances.exact * abs(given) + least
            if cast_before is None or not abs(given - cast_before) <= allowed:
                raise ModelError(
                    "The data are in float64 and the network is in float32, in which they lose "
                    "digits that it uses: subtract an offset from them, give integers as integers, "
                    "or convert the network to float64."
                )

    def _loss_in(self, precision: torch.dtype | None, theta: Tensor) -> float:
        return self._make_referee(precision).value(theta)

    def _settle_layout(self) -> None:
        """Channels-last, where the network gives in it what it gives in the user's own layout.

        Views fail and strides read other numbers in it. Float32 alone takes it, whatever this proof
        is made in: in few samples at once, in each alone and in as many as a pass will have.
        """
        whole, few = self._evaluation, self._samples
        shapes = [*whole.shapes.values(), *(leaf.shape for leaf in tree_leaves(few.pieces))]
        if whole.device.type != "cpu" or all(len(shape) != 4 for shape in shapes):
            return
        large = whole.to(torch.float32)
        own = large.to(samples=few, samples_at_once=few.count)

        def seen(point: Tensor) -> tuple[Tensor, Tensor]:
            at = own.parameters_at(point.to(own.dtype))
            alone = own.batches(self._ways.smallest_batch)
            batches = [*own.batches(), *alone, *itertools.islice(large.batches(), 1)]
            slopes = gradient(partial(own.share_of_loss, batch=batches[0]), at)
            means = [own.share_of_loss(at, b) / own.loss.weight(b) for b in batches]
            return torch.stack(means).detach(), torch.cat([g.reshape(-1) for g in slopes.values()])

        for point in (self._far, self._theta):  # where neither loss nor gradient is rounding
            self._ways.channels_last = False
            expected, _ = self._attempt(partial(seen, point))
            if expected is not None and all(bool(part.isfinite().all()) for part in expected):
                break
        self._ways.channels_last = True
        found, _ = self._attempt(partial(seen, point))
        allowed = TOLERANCES[torch.float32].exact
        self._ways.channels_last = (
            expected is not None
            and found is not None
            and all(
                float((a - b).abs().max()) <= allowed * float(a.abs().max())
                for a, b in zip(expected, found, strict=True)
            )
        )

    def _compare_splits(self) -> None:
        """What few samples do not show: a loss that leaves some samples out, a network that mixes
        those of large batches (experts of a limited capacity).

        Of a loss whose weights are known one batch tells, of others all samples do.
        """
        whole = self._evaluation
        if whole.samples.count <= self._samples.count:
            return
        values = [float(whole.total_and_size(batches)[0]) for batches in self._splits(whole)[:2]]
        if not all(map(math.isfinite, values)):
            return
        deviation = abs(values[0] - values[1]) / (max(map(abs, values)) or 1.0)
        self.deviations["two splits of all samples"] = deviation
        coarser = TOLERANCES.get(self._seen.rounds_to, TOLERANCES[torch.float32])
        if deviation <= 0.1 * max(TOLERANCES[self._own_precision].exact, coarser.exact):
            return
        # What is small, or cancels, is rounded as it is not: looked at as few samples were.
        precise = whole.to(self._theta.dtype, samples_at_once=whole.samples_at_once)
        with self._widened():
            found = [precise.total_and_size(batches) for batches in self._splits(precise)]
            (one, _), (other, _), (_, size) = (pair.tolist() for pair in found)
            if not self._agree(one, other, size):
                raise depends_on_batches(is_sum=False)

    @staticmethod
    def _splits(whole: Evaluation) -> list[Iterable[Batch]]:
        """The samples in two ways, and in batches as small as the network takes."""
        smallest = whole.ways.smallest_batch
        if whole.loss.is_known:
            first = next(iter(whole.batches()))
            n = n_rows(first)
            cut = n * 2 // 3 if n >= 6 else n  # no piece of one sample, which some do not take
            return [split(first, at_once, smallest) for at_once in (n, cut, smallest)]
        largest = max(n_rows(batch) for batch in whole.batches())
        size = min(largest, whole.samples.count // 2)
        return [whole.batches(max(1, n)) for n in (size, size * 2 // 3, smallest)]

    def _compare_two_passes(self, first: float) -> None:
        """The second by the network that has run, and without a graph where it can do without."""
        referee, theta = self._referee, self._theta
        second, _ = self._attempt(lambda: referee.value_again(graph=False))
        second = referee.value_again(graph=True) if second is None else second
        self.deviations["two passes"] = abs(second - first) / (abs(first) or 1.0)
        allowed = 0.1 * self._tolerances.exact * abs(first)
        if not abs(second - first) > allowed:
            return
        if abs(referee.value(theta) - first) > allowed:
            raise ModelError(
                "Two passes over the same samples disagree: the network is random in evaluation "
                "mode."
            )
        if abs(referee.value_again(graph=True) - first) > allowed:
            raise ModelError(
                "Two passes over the same samples disagree: the network keeps state from pass to "
                "pass."
            )
        raise ModelError("The loss is another one where no graph is recorded (torch.no_grad).")

    def _refuse_memory(self, first: float) -> None:
        """Of samples that were seen before, as observers and running extremes have; what is kept
        and not used does no harm.
        """
        for half in (0, 1):
            look = partial(self._referee.value_after, self._theta, half)
            fresh, _ = self._attempt(partial(look, False))
            after, _ = self._attempt(partial(look, True))
            if fresh is None or after is None:
                continue
            if abs(fresh - after) > 0.1 * self._tolerances.exact * max(abs(first), abs(fresh)):
                raise ModelError(
                    "The network keeps in its buffers what it saw before, in evaluation mode too: "
                    "its loss depends on the order of the samples."
                )

    def _compare_with_single_samples(self, theta: Tensor, wanted: float) -> None:
        """A loss that is put together from batches must not depend on which.

        Batches of one, or of two where a network (that squeezes its outputs) takes no less.
        """
        probe = self._probe
        if self._samples.count == 1:
            return
        parameters = probe.parameters_at(theta)

        def in_batches_of(size: int) -> Tensor:
            shares = [probe.share_of_loss(parameters, batch) for batch in probe.batches(size)]
            return torch.stack(shares).detach().double()

        whole = float(probe.values(theta[:, None]))
        if not self._agree(whole, wanted):  # one point takes another way than several
            raise ModelError(f"The network gives {whole} at one point, and {wanted} with others.")
        shares, reason = self._attempt(lambda: in_batches_of(1))
        if shares is None and self._samples.count > 3:
            self._ways.smallest_batch = 2
            shares, _ = self._attempt(lambda: in_batches_of(2))
        if shares is None:
            raise ModelError(
                "The loss depends on how the samples are split into batches: a batch of one sample "
                f"fails ({reason})."
            )
        total, size = float(shares.sum()), float(shares.abs().sum())
        self.deviations["two batches"] = abs(total - whole) / (size or 1.0)
        if not self._agree(total, whole, size):
            raise depends_on_batches(is_sum=self._agree(total * len(shares), whole))

    def _first_pass(self) -> float:
        """The loss, in float64 where the network can, else in its own precision."""
        for precision in dict.fromkeys((torch.float64, self._own_precision)):
            self._referee = self._make_referee(precision)
            few = self._samples
            probe = self._evaluation.to(precision, None, few, samples_at_once=few.count)
            self._probe, self._theta = probe, probe.theta
            seen, reason = self._attempt(lambda: self._referee.first_pass(self._theta))
            if seen is not None:
                break
        else:
            raise ModelError(f"The network or its loss does not run on its samples: {reason}.")
        if seen.changes_its_parameters:
            raise ModelError("The network changes its own parameters in a forward pass.")
        self._seen = seen
        self._casts = self._can_be_widened(seen)
        proven_in = torch.float64 if self._casts else seen.rounds_to
        self._tolerances = TOLERANCES.get(proven_in, TOLERANCES[torch.float32])
        self.precision = str(seen.rounds_to).removeprefix("torch.")
        self.kinks, self.jumps = seen.kinks, seen.jumps
        self._ways.reads_numbers = seen.reads_numbers
        self._scale = entry_scale(self._theta, self._probe.sizes)
        self._refuse_coarse_casts()
        return seen.value

    def _can_be_widened(self, seen: FirstPass) -> bool:
        """Whether a network that casts float64 to float32 on its way does as well without."""
        if self._theta.dtype != torch.float64 or seen.rounds_to != torch.float32:
            return False
        with Widened():
            wide, _ = self._attempt(lambda: self._referee.first_pass(self._theta))
        return (
            wide is not None
            and wide.rounds_to == torch.float64
            and abs(wide.value - seen.value) <= TOLERANCES[torch.float32].exact * abs(seen.value)
        )

    def _refuse_coarse_casts(self) -> None:
        """Casts to less than float32; autocast makes them in float32 alone."""
        seen = self._seen
        if self._own_precision != self._theta.dtype:
            own = self._theta.to(self._own_precision)
            again, _ = self._attempt(
                lambda: self._make_referee(self._own_precision).first_pass(own)
            )
            seen = again or seen
        if seen.rounds_to not in TOLERANCES:
            raise ModelError(
                f"The network computes in {seen.rounds_to} on its way, which is too coarse for "
                "curvature: let it compute in float32."
            )

    def _agree(self, value: float, wanted: float, size: float = 0.0) -> bool:
        """Whether two ways to the loss at θ differ by rounding alone; nothing finite agrees with
        what is not finite, which is not compared.

        Where a loss is small (at the end of training) it is rounded as where it is not.
        """
        if not math.isfinite(wanted):
            return True
        deviation = abs(value - wanted)
        if deviation <= 0.1 * self._tolerances.exact * max(abs(wanted), size):
            return True
        return deviation <= 64 * self._rounding()

    def _rounding(self) -> float:
        """Of the loss where it is no longer small, as the numbers are that it is computed from.

        Networks may explode there, to where nothing near the own parameters is computed from.
        """
        own, far = self._losses
        if not math.isfinite(far):
            return self._tolerances.epsilon * abs(own)
        return self._tolerances.epsilon * min(abs(far), max(1e3 * abs(own), 100.0))

    # --- gradients ------------------------------------------------------------------------------

    def _prove_gradients(self) -> None:
        probe, referee, u = self._probe, self._referee, self._random(seed=2)
        if option := misleading_option(probe.model):
            raise DifferentiationError(
                f"{option}: the gradient that PyTorch gives it is not the slope of the loss; take "
                "the option off, or freeze its weights."
            )
        self._near = self._point_nearby()
        step = self._step(STEPS[0])
        try:
            ahead, behind = (referee.gradient(self._near + sign * step * u) for sign in (1, -1))
        except HessianDirectionsError:
            raise
        except Exception as error:
            raise DifferentiationError(
                f"PyTorch has no gradient of this network: {first_line(error)}."
            ) from error
        if not bool(torch.isfinite(ahead).all()):
            raise NonFiniteError(
                f"The gradient over {self._samples.count} samples is not finite{self._origin()}."
            )
        self._first_differences = (ahead - behind) / (2 * step)
        self._ways.foldings = self._foldings()
        at = probe.parameters_at(self._near + step * u)
        for mode in (FAST, "plain"):
            self._ways.fast_gradients = mode == FAST
            gradient, reason = self._attempt(partial(probe.gradient, at))
            if gradient is None and self._ways.foldings:
                self._ways.foldings = {}
                gradient, reason = self._attempt(partial(probe.gradient, at))
            deviation = math.inf
            if gradient is not None:
                deviation = self._apart(gradient, ahead)
            # PyTorch's backward pass of hardsigmoid has 1/6 in float32.
            if deviation <= 10 * self._tolerances.exact:
                self.deviations["gradients"] = deviation
                break
            self.fallbacks[f"gradients by {mode}"] = reason or f"deviate by {deviation:.1e}"
        else:
            raise DifferentiationError(
                f"The gradient is not PyTorch's: {self.fallbacks['gradients by plain']}."
            )
        if mode == FAST:
            self.fallbacks.pop(f"gradients by {FAST}", None)
        gradient = (ahead + behind) / 2
        for weights in (torch.ones_like(u), *self._weights_of_tensors(gradient)):
            self._compare_with_losses(gradient, weights)

    def _weights_of_tensors(self, gradient: Tensor) -> list[Tensor]:
        """Directions along which no tensor's part of the gradient hides behind another's.

        The first gives all tensors with a gradient equal parts in the slope, the second moves those
        without one.
        """
        sizes = self._probe.sizes
        parts = [float(part.norm()) for part in (gradient * self._scale).split(sizes)]
        least = min((part for part in parts if part), default=0.0)
        weights = []
        if least and len(parts) > 1:
            weights.append([least / part if part else 0.0 for part in parts])
        if 0.0 in parts and least:
            weights.append([0.0 if part else 1.0 for part in parts])
        return [
            torch.cat([gradient.new_full((n,), w) for n, w in zip(sizes, chosen)])
            for chosen in weights
        ]

    def _compare_with_losses(self, gradient: Tensor, weights: Tensor) -> None:
        """u'∇L against (L(θ+hu) − L(θ−hu))/2h along a weighted random u, where this means something.

        A kink between the two points moves the difference by a small part of what a slope along a
        random direction is like, ‖g_i u_i‖. Where the loss is flat to rounding nothing is seen, and
        nothing is wrong.
        """
        u = weights * self._random(seed=2)
        slope, size = float(gradient @ u), float((gradient * u).norm())
        allowed, smallest = self._tolerances.differences, math.inf
        for multiple in STEPS:
            step = self._step(multiple)
            difference, rounding = self._difference_of_losses(self._near, u, step)
            deviation = abs(difference - slope)
            smallest = min(smallest, deviation / (size or 1e-300))
            if deviation <= allowed * size + 4 * rounding and rounding <= 0.01 * size:
                self.deviations["differences of losses"] = deviation / (size or 1.0)
                if deviation > self._tolerances.closely * size + 4 * rounding:
                    self._look_closely(smallest, weights)
                return
        # At the longest step what is small, or cancels, may be rounded as it is not.
        if deviation <= allowed * size + 16 * max(self._rounding() / step, rounding):
            self.deviations["differences of losses"] = deviation / (size or 1.0)
            return
        if size and smallest <= DENSE_KINKS * allowed:
            self.deviations["differences of losses"] = smallest
            self._look_closely(smallest, weights)
            return
        raise _not_the_slope(
            f"they differ by {smallest:.1e} of it" if size else "it is zero, the loss is not flat"
        )

    def _look_closely(self, smallest: float, weights: Tensor) -> None:
        """Whether a small deviation is that of a kink, or of a small part of the graph that is cut.

        A kink moves differences along one line, and by less the nearer they are to it; a slope that
        is not the loss's own differs on every line from what the differences agree on.
        """
        for seed in range(5, 8):
            u, v = weights * self._random(seed), self._random(seed + 3)
            near = self._near + NEAR * v
            gradient = self._referee.gradient(near)
            slope, size = float(gradient @ u), float((gradient * u).norm())
            tried: list[tuple[float, float]] = []
            for multiple in STEPS[:3]:
                difference, rounding = self._difference_of_losses(near, u, self._step(multiple))
                tried.append((difference - slope, rounding))
            if not any(
                max(abs(a), abs(b)) > self._tolerances.closely * size + 16 * rounding
                and abs(a - b) <= 0.1 * min(abs(a), abs(b))
                for (a, rounding), (b, _) in itertools.pairwise(tried)
            ):
                return
        raise _not_the_slope(f"they differ by {smallest:.1e} of it")

    def _difference_of_losses(self, point: Tensor, u: Tensor, step: float) -> tuple[float, float]:
        """(L(θ+hu) − L(θ−hu))/2h at a point θ, and what rounding adds to it."""
        ahead, behind = (self._referee.value(point + sign * step * u) for sign in (1, -1))
        rounding = self._tolerances.epsilon * max(abs(ahead), abs(behind)) / step
        return (ahead - behind) / (2 * step), rounding

    def _point_nearby(self) -> Tensor:
        """A point off the kinks at the network itself; it, if the loss there is not finite."""
        displacement = self._random(seed=3)
        for share in (NEAR, 1e-3 * NEAR):
            point = self._theta + share * displacement
            if math.isfinite(self._referee.value(point)):
                return point
        return self._theta

    def _origin(self) -> str:
        """What a result that is not finite comes from, as the end of a sentence."""
        if not bool(torch.isfinite(self._theta).all()):
            return ": weights of the network are NaN or infinite"
        for leaf in tree_leaves(self._samples.pieces):
            if isinstance(leaf, Tensor) and not bool(torch.isfinite(leaf).all()):
                return ": inputs or targets are NaN or infinite"
        return ", though weights, inputs and targets are"

    def _foldings(self) -> dict[int, Folding]:
        if self._ways.vectorised:
            return {}
        probe = self._probe
        found, _ = self._attempt(lambda: probe.foldings(probe.parameters_at(self._near)))
        return found or {}

    # --- products -------------------------------------------------------------------------------

    def _prove_products(self) -> None:
        """Find the modes that are right.

        Along two random directions u and v, the first mode of Hessian-vector products is taken that

        - agrees in Hu with differences of the referee's gradients, or with the referee's own double
          backward pass where kinks or rounding let these tell nothing, and
        - is symmetric, u'(Hv) = v'(Hu);

        and then the first mode of second directional derivatives that agrees with it. That a wrong
        linear map agrees along a random direction has probability zero.
        """
        probe, parameters = self._probe, self._probe.parameters_at(self._near)
        vectors = torch.stack([self._random(seed=2), self._random(seed=4)], 1)
        for mode in PRODUCTS:
            products, reason = self._attempt(
                partial(probe.products, parameters, vectors, mode), unvectorise=True
            )
            if products is None:
                self.fallbacks[mode] = reason
                continue
            cross = vectors.T @ products
            asymmetry = abs(float(cross[0, 1] - cross[1, 0])) / self._size(cross)
            self.deviations[f"symmetry of {mode}"] = asymmetry
            if not asymmetry <= self._tolerances.exact:
                self.fallbacks[mode] = f"is not symmetric by {asymmetry:.1e}"
                continue
            alone = probe.products(parameters, vectors[:, :1], mode)[:, 0]
            wrong = self._compare_with_gradients(alone, mode)
            if not wrong and self._apart(alone, products[:, 0]) > self._tolerances.exact:
                wrong = "differs where several vectors are multiplied"
            if wrong:
                self.fallbacks[mode] = wrong
                continue
            self._modes = mode, self._second_mode(mode, cross, parameters, vectors)
            return
        reasons = "; ".join(f"{mode}: {self.fallbacks[mode]}" for mode in PRODUCTS)
        raise DifferentiationError(f"No mode of Hessian-vector products is right ({reasons}).")

    def _second_mode(
        self, product_mode: str, cross: Tensor, parameters: Parameters, vectors: Tensor
    ) -> str:
        def both(mode: str) -> Tensor:
            """Of two directions at once, and of the second alone."""
            along = partial(self._probe.second_derivatives, parameters, mode=mode)
            together, alone = along(vectors=vectors), along(vectors=vectors[:, 1:])
            return torch.cat([together, alone])

        expected = torch.cat([cross.diagonal(), cross[1:, 1]])
        for mode in SECOND_DERIVATIVES:
            curvatures, reason = self._attempt(partial(both, mode), unvectorise=True)
            if curvatures is None:
                self.fallbacks[mode] = reason
                continue
            deviation = float((curvatures - expected).norm()) / self._size(cross)
            self.deviations[f"{mode} and {product_mode}"] = deviation
            if deviation <= self._tolerances.exact:
                return mode
            self.fallbacks[mode] = f"deviates from {product_mode} by {deviation:.1e}"
        return PRODUCT

    def _compare_with_gradients(self, product: Tensor, mode: str) -> str:
        """Why a product along the first direction is wrong; empty where it is right."""
        name = f"differences of gradients and {mode}"
        size = float((product * self._scale).norm())
        tried: list[tuple[Tensor, float]] = []  # differences, and their distance from the product
        for multiple in STEPS:
            difference, noise = self._difference_of_gradients(multiple)
            distance = float(((product - difference) * self._scale).norm())
            told = noise <= 0.01 * size
            if told and distance <= self._tolerances.closely * size + noise:
                self.deviations[name] = distance / (size or 1.0)
                return ""
            if distance > 4 * noise:
                for before, far in tried[-1:]:
                    apart = float(((before - difference) * self._scale).norm())
                    # Differences agree on something else than the product, as at no kink.
                    if apart <= 0.1 * min(far, distance):
                        share = distance / (size or 1.0)
                        return f"deviates from differences of gradients by {share:.1e}"
                tried.append((difference, distance))
            if told and distance <= self._tolerances.differences * size and len(tried) > 1:
                self.deviations[name] = distance / (size or 1.0)
                return ""
        # Kinks too dense, or a gradient too small, for differences to tell anything.
        u = self._random(seed=2)
        exact, reason = self._attempt(lambda: self._referee.product(self._near, u))
        if exact is None:
            return f"cannot be compared with PyTorch's own product: {reason}"
        deviation = self._apart(product, exact)
        self.deviations[f"PyTorch's own product and {mode}"] = deviation
        return "" if deviation <= self._tolerances.exact else f"deviates by {deviation:.1e}"

    def _difference_of_gradients(self, multiple: float) -> tuple[Tensor, float]:
        """Central differences of the referee's gradients, and their noise in units of θ."""
        step, u = self._step(multiple), self._random(seed=2)
        noise = 16 * self._rounding() / step
        if multiple == STEPS[0]:
            return self._first_differences, noise
        ahead, behind = (self._referee.gradient(self._near + sign * step * u) for sign in (1, -1))
        return (ahead - behind) / (2 * step), noise

    # --- shared ---------------------------------------------------------------------------------

    def _report(self) -> None:
        """What was found; lets go of what was needed for it."""
        self.report = SelfTest(
            *self._modes,
            self.deviations,
            self.fallbacks,
            self._samples.count,
            self.precision,
            self._referee.cost + Cost(seconds=self._seconds),
        )
        del self._probe, self._referee, self._near, self._first_differences
        del self._evaluation, self._samples, self._far

    def _step(self, multiple: float) -> float:
        return multiple * math.sqrt(self._tolerances.epsilon)

    def _random(self, seed: int) -> Tensor:
        """A random vector whose entries are as large as those of the parameters around them."""
        return random_of_size(self._scale, seed)

    def _apart(self, a: Tensor, b: Tensor) -> float:
        """The relative deviation of gradients, or of products, in units of the parameters.

        What two exact ways both round to is not held against them.
        """
        a, b = a * self._scale, b * self._scale
        return float((a - b).norm()) / self._size(torch.maximum(a.abs(), b.abs()))

    def _size(self, a: Tensor) -> float:
        """‖a‖ of numbers in units of the parameters, not less than rounding leaves exact.

        In these units derivatives are rounded as the loss is.
        """
        return max(float(a.norm()) or 1.0, 64 * self._rounding() / self._tolerances.exact)

    def _attempt(
        self, function: Callable[[], T], unvectorise: bool = False
    ) -> tuple[T | None, str]:
        """As `attempt`; unvectorised where vectorisation fails."""
        result, reason = attempt(function)
        if result is None and unvectorise and self._ways.vectorised:
            self._ways.vectorised = False
            result, reason = attempt(function)
            self._ways.vectorised = result is None  # it failed for another reason
        return result, reason


def attempt(function: Callable[[], T]) -> tuple[T | None, str]:
    """The result, or None and why it failed; what users can mend, or want of memory, is raised."""
    try:
        return function(), ""
    except (torch.OutOfMemoryError, MemoryError, HessianDirectionsError):
        raise
    except Exception as error:
        return None, first_line(error)


def random_of_size(scale: Tensor, seed: int) -> Tensor:
    """(N,) a random vector whose entries are as large as the scale, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(len(scale), generator=generator, dtype=torch.float64, device="cpu")
    return v.to(scale) * scale


def entry_scale(theta: Tensor, sizes: list[int]) -> Tensor:
    """(N,) how large the entries of each tensor are: their root mean square.

    Where it is zero, as that of a bias at the start, that of all; 1 where all are.
    """

    def root_mean_square(part: Tensor) -> float:
        return float(part.norm()) / math.sqrt(len(part))

    usual = root_mean_square(theta) or 1.0
    parts = theta.split(sizes)
    return torch.cat([torch.full_like(part, root_mean_square(part) or usual) for part in parts])


def _not_the_slope(amount: str) -> DifferentiationError:
    return DifferentiationError(
        f"The gradient of this network is not the slope of its loss ({amount}): its graph is cut "
        "(no_grad, detach, .data, NumPy, checkpointing with use_reentrant=True), or a custom "
        "backward pass or a hook gives no derivative."
    )
