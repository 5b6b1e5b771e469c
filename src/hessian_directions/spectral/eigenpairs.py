"""Extreme eigenpairs of both signs from one Krylov space, with residuals and a check for lost ones.

The smallest and largest eigenvalues of the Hessian are the extreme principal curvatures of the
loss, their eigenvectors the Hessian directions. One Lanczos process converges at both ends of the
spectrum at once, so the negative end costs no second run and no shift.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor

from hessian_directions.arrays import Floats
from hessian_directions.errors import ConfigurationError, require_count, require_number
from hessian_directions.operators import (
    HasHessian,
    Operator,
    as_operator,
    in_own_precision,
    require_symmetric_projections,
)
from hessian_directions.progress import Clock, Progress
from hessian_directions.saved_run import SavedRun
from hessian_directions.seeds import as_generator, recorded
from hessian_directions.spectral.density import NOISE_ROUNDINGS
from hessian_directions.spectral.lanczos import (
    Lanczos,
    ends_of,
    inner,
    length,
    probability_of_less,
    random_start,
)

if TYPE_CHECKING:
    import xarray as xr

# The estimated residual has to fall below this part of the wanted one before products are spent on
# the true residual; if that is still too large, below ever smaller parts.
STRICTNESS, STRICTER, STRICTEST = 0.5, 0.2, 1e-3

MAX_PRODUCTS = 1000


class ConvergenceWarning(UserWarning):
    """Eigenpairs are returned whose residuals are larger than was asked for."""


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs H v_i = λ_i v_i at the ends of a spectrum, ascending.

    Attributes:
        values: (k,) Rayleigh quotients λ_i = v_i'Hv_i, float64 on the CPU.
        vectors: (N, k) orthonormal columns, H's precision and device.
        residuals: (k,) norms ‖Hv_i − λ_i v_i‖, float64, from products made for this purpose at the
            end, not from the recurrence. Some eigenvalue of H lies within that distance of λ_i.
        end: (k,) ``"smallest"`` or ``"largest"``: the end at which the pair was asked for; the
            smaller end where both ends ask for it.
        converged: (k,) whether residual ≤ max(tolerance·|λ|, noise_floor).
        below_noise: (k,) whether |λ| ≤ noise_floor: such a value cannot be told from zero.
        noise_floor: 50 units of rounding of ‖H‖₂: below it residuals and eigenvalues are rounding.
        tolerance: The wanted residual relative to |λ|.
        n_products: Products with single vectors that the search took, the true residuals included.
        n_check_products: Products that the check for lost eigenvalues took.
        missed_probability: Bound on the probability, over the check's start vector and up to
            rounding, that an eigenvalue beyond the returned ones (by more than their tolerance)
            was missed; 1 if no check was made.
        seed: Of the start vectors, where it was an integer.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    end: tuple[str, ...]
    converged: Tensor
    below_noise: Tensor
    noise_floor: float
    tolerance: float
    n_products: int
    n_check_products: int
    missed_probability: float
    seed: int | None = None

    @property
    def has_negative_end(self) -> bool:
        """Whether a direction of negative curvature was found.

        A Rayleigh quotient is an upper bound of the smallest eigenvalue, so True holds even for
        pairs that did not converge; False is as certain as the smallest pair.
        """
        return bool((self.values < -self.noise_floor).any())

    def dataset(self) -> xr.Dataset:
        """The pairs without their vectors, as reports and artifacts hold them."""
        import xarray as xr

        return xr.Dataset(
            {
                "value": ("pair", self.values.cpu()),
                "residual": ("pair", self.residuals.cpu()),
                "converged": ("pair", self.converged.cpu()),
                "below_noise": ("pair", self.below_noise.cpu()),
            },
            attrs={
                "n_products": self.n_products,
                "n_check_products": self.n_check_products,
                "missed_probability": self.missed_probability,
                "noise_floor": self.noise_floor,
            },
        )

    def describe(self) -> str:
        """What was found, in a few lines for a log or a report."""
        lines = []
        for i, end in enumerate(self.end):
            remarks = [f"residual {self.residuals[i]:.1e}"]
            if not self.converged[i]:
                remarks.append("NOT CONVERGED")
            if self.below_noise[i]:
                remarks.append("zero to rounding")
            lines.append(f"{end} {self.values[i]:.6g} ({', '.join(remarks)})")
        if "smallest" in self.end and not self.has_negative_end:
            lines.append("no negative end: the smallest eigenvalue found is not negative")
        lines.append(f"{self.n_products} products, and {self.n_check_products} to check")
        if self.missed_probability == 1:
            lines.append("not checked for eigenvalues beyond these that were missed")
        else:
            lines.append(
                "probability that an eigenvalue beyond these was missed: at most "
                f"{self.missed_probability:.1g}"
            )
        return "\n".join(lines)


@in_own_precision
def extreme_eigenpairs(
    H: Operator | HasHessian,
    k_smallest: int = 1,
    k_largest: int = 1,
    tolerance: float = 1e-3,
    *,
    seed: int | torch.Generator = 0,
    max_products: int = MAX_PRODUCTS,
    missed_probability: float = 0.01,
    progress: Progress | None = None,
    state_path: str | os.PathLike[str] | None = None,
    save_seconds: float = 300.0,
) -> Eigenpairs:
    """The k_smallest smallest and k_largest largest eigenvalues of H with their eigenvectors.

    One Lanczos process with full reorthogonalisation serves both ends. It ends when every wanted
    pair has ‖Hv − λv‖ ≤ max(tolerance·|λ|, noise floor), measured with a fresh product; the floor
    is 50 units of rounding of ‖H‖₂ (in float32: 6e-6·‖H‖₂, about what products of networks have).

    A single start vector sees only one vector of each eigenspace and may miss a member of a tight
    cluster (ARPACK then reports convergence to the wrong set). So a second random vector,
    orthogonal to what was found, starts a process in the complement; an eigenvalue beyond those
    found is taken in, and the check repeats. It ends when the moments it has seen leave room for
    a component of the start vector beyond the found ends only so small that a random vector has a
    smaller one with at most `missed_probability` (see `Lanczos.weight_bound`), or after as many
    products as the search took: that is what a cluster at the end itself would need. The bound
    that was reached is part of the result. (Small residuals alone would prove nothing: with a
    random unit vector v in N dimensions, v'Hv is within ‖H‖_F/√N of an eigenvalue.)

    Memory: N·(m + 16 + 5k)·itemsize bytes with m ≤ max_products steps made and k pairs, beside what
    a product needs: 2.7 GB for 7·10⁶ float32 parameters, 70 steps and two pairs. Saving the state
    takes the same once more for a moment.

    Args:
        H: Symmetric (N, N) operator in float32 or float64 (anything with shape, dtype, device, @),
            or an objective.
        k_smallest: Pairs at the lower end, 0 … N.
        k_largest: Pairs at the upper end, 0 … N. Where both together exceed N, all N pairs are
            returned, once each.
        tolerance: Residual relative to |λ|. The error of an eigenvalue is at most its residual,
            and about its square divided by the distance to the next eigenvalue. 1e-3 is our
            default because three digits are more than subsets of the data agree on.
        seed: Of the start vectors: an integer, or a CPU generator, which advances.
        max_products: Most products, check included; what has not converged by then is returned
            with ``converged`` False and a ConvergenceWarning. The default of 1000 is ten times
            what trained networks take; it bounds time and memory.
        missed_probability: Wanted bound for the check; 1 leaves the check out.
        progress: Called with the products so far after every product; its note has the present
            estimates of the wanted eigenvalues and residuals, in the check (for lost ones) those
            of the complement of what was found.
        state_path: File in which the run is saved every `save_seconds`, and from which it resumes
            to the same bits (see `SavedRun`). Resuming takes products, not counted, to make sure
            that H is the same to rounding: one, and one for each pair found. The state of another
            H, of other weights say, is replaced by one of this run, which begins anew.
        save_seconds: Seconds between two saves.

    Returns:
        Eigenpairs.

    Raises:
        ConfigurationError: The numbers of pairs do not fit N, or max_products is too small.
        DifferentiationError: H is not symmetric.
        NonFiniteError: A product is not finite.
        ArtifactError: The saved state belongs to another run.
    """
    H, generator = as_operator(H), as_generator(seed, "eigenpairs")
    n = H.shape[0]
    require_count("k_smallest", k_smallest, least=0)
    require_count("k_largest", k_largest, least=0)
    require_count("max_products", max_products, least=0)
    wanted = _Wanted(n, H.dtype, k_smallest, k_largest, tolerance, max_products, missed_probability)
    run = _Run(H, wanted, generator, Clock(None, "products", progress))
    if state_path is not None:
        run.state = SavedRun(state_path, _identity(wanted, generator), save_seconds)
        run.resume()
    pairs = _eigenpairs(run.execute(), wanted, run, recorded(seed))
    _warn_of_unconverged(pairs)
    return pairs


@dataclass(frozen=True)
class _Wanted:
    """What a caller asked for."""

    n: int
    dtype: torch.dtype
    k_smallest: int
    k_largest: int
    tolerance: float
    max_products: int
    missed_probability: float

    def __post_init__(self) -> None:
        for name, k in (("k_smallest", self.k_smallest), ("k_largest", self.k_largest)):
            if not 0 <= k <= self.n:
                raise ConfigurationError(f"{name} is {k}, but H has {self.n} eigenpairs.")
        if self.k_smallest + self.k_largest == 0:
            raise ConfigurationError("k_smallest and k_largest are both 0: no pair is wanted.")
        require_number("tolerance", self.tolerance)
        require_number("missed_probability", self.missed_probability)
        if self.max_products < (needed := 2 * self.k):
            raise ConfigurationError(
                f"max_products is {self.max_products}, but {needed} are needed for this many pairs."
            )

    @property
    def epsilon(self) -> float:
        return torch.finfo(self.dtype).eps

    @property
    def k(self) -> int:
        return min(self.n, self.k_smallest + self.k_largest)

    def noise_floor(self, norm: float) -> float:
        return NOISE_ROUNDINGS * self.epsilon * norm

    def thresholds(self, values: Floats, norm: float) -> Floats:
        """The residuals that count as converged, (k,)."""
        return np.maximum(self.tolerance * np.abs(values), self.noise_floor(norm))


@dataclass(frozen=True)
class _Found:
    """Ritz pairs with true residuals, and the largest |λ| seen so far."""

    values: Floats
    vectors: Tensor
    residuals: Floats
    norm: float

    def converged(self, wanted: _Wanted) -> NDArray[np.bool_]:
        return self.residuals <= wanted.thresholds(self.values, self.norm)

    def holds_for(self, H: Operator, wanted: _Wanted) -> bool:
        """Whether new products with H give residuals no larger than these, but for rounding."""
        fresh = _residuals(self.vectors, H @ self.vectors, self.values)
        return bool((fresh <= self.residuals + wanted.noise_floor(self.norm)).all())

    def ends(self, wanted: _Wanted) -> _Found:
        """The wanted ones among more pairs than wanted."""
        kept = ends_of(len(self.values), wanted.k_smallest, wanted.k_largest)
        vectors = self.vectors[:, torch.as_tensor(kept, device="cpu")].contiguous()
        return _Found(self.values[kept], vectors, self.residuals[kept], self.norm)

    def bounds(self, wanted: _Wanted) -> tuple[float, float]:
        """Beyond these lies what the check looks for; infinite at an end that is not wanted."""
        thresholds = wanted.thresholds(self.values, self.norm)
        low, high = wanted.k_smallest - 1, len(self.values) - wanted.k_largest
        return (
            self.values[low] - thresholds[low] if wanted.k_smallest > 0 else -math.inf,
            self.values[high] + thresholds[high] if wanted.k_largest > 0 else math.inf,
        )


@dataclass
class _Run:
    """All that changes in the course of a run.

    `process` is the Lanczos process under way: that of the search as long as `found` is None, then
    that of the present round of the check, in the complement of `found`.
    """

    H: Operator
    wanted: _Wanted
    generator: torch.Generator
    clock: Clock
    state: SavedRun | None = None
    process: Lanczos | None = None
    found: _Found | None = None
    n_products: int = 0
    n_check_products: int = 0
    strictness: float = STRICTNESS
    missed_probability: float = 1.0

    @property
    def products_left(self) -> int:
        return self.wanted.max_products - self.n_products - self.n_check_products

    def execute(self) -> _Found:
        found = self.found
        if found is None:
            process = self.process or Lanczos(random_start(self.H, self.generator))
            found = self._search(process)
            if self.wanted.k == self.wanted.n:
                self.missed_probability = 0.0
                return found
            if self.wanted.missed_probability >= 1 or not found.converged(self.wanted).all():
                return found
            process = self._begin_check(found)
        else:
            assert self.process is not None
            process = self.process
        # Kept back: products for the true residuals of the pairs found and as many new ones.
        while self.products_left > 2 * self.wanted.k:
            beyond = self._beyond(process, found)
            if beyond is None:
                break
            found = self._take_in(found, beyond)
            process = self._begin_check(found)
        return found

    def _search(self, process: Lanczos) -> _Found:
        """Lanczos until the true residuals are small, or the products or the space are used up."""
        wanted = self.wanted
        while True:
            process.advance(self.H @ process.current)
            self.n_products += 1
            if process.invariant and not process.complete:
                process.restart(self.H, self.generator)
            values, residuals, norm = process.ritz_values(wanted.k_smallest, wanted.k_largest)
            self._tell("search", values, residuals)

            # Products are kept back for the true residuals.
            at_end = process.complete or self.products_left <= wanted.k
            small = residuals <= self.strictness * wanted.thresholds(values, norm)
            if at_end or (len(values) == wanted.k and small.all()):
                vectors = process.ritz_vectors(wanted.k_smallest, wanted.k_largest)
                found = _rayleigh_ritz(self.H, vectors, norm)
                self.n_products += wanted.k
                self.strictness *= STRICTER
                # Residuals that stay large however small their estimates become are noise of H.
                at_end |= self.products_left <= wanted.k or self.strictness < STRICTEST
                if at_end or found.converged(wanted).all():
                    require_symmetric_projections(process.asymmetry, found.norm, wanted.dtype)
                    return found
            self._save(process)

    def _begin_check(self, found: _Found) -> Lanczos:
        self.found = found
        start = random_start(self.H, self.generator, [found.vectors.T])
        self.process = Lanczos(start, deflated=found.vectors)
        return self.process

    def _beyond(self, process: Lanczos, found: _Found) -> Tensor | None:
        """One round of the check: Ritz vectors (N, j) beyond the ends found, or None."""
        wanted = self.wanted
        low, high = found.bounds(wanted)
        while True:
            process.advance(self.H @ process.current)
            self.n_check_products += 1
            values, residuals, norm = process.ritz_values(wanted.k_smallest, wanted.k_largest)
            self._tell("check", values, residuals)

            at_end = process.invariant or self.products_left <= 2 * wanted.k
            # A Ritz value beyond the ends is a proof: the spectrum reaches at least as far.
            beyond = (values < low) | (values > high)
            if beyond.any():
                thresholds = wanted.thresholds(values, max(norm, found.norm))
                small = residuals <= STRICTNESS * thresholds
                if at_end or small[beyond].all():
                    vectors = process.ritz_vectors(wanted.k_smallest, wanted.k_largest)
                    return vectors[:, torch.as_tensor(beyond, device="cpu")]
            else:
                weights = [process.weight_bound(end) for end in (low, high) if math.isfinite(end)]
                chances = [probability_of_less(w, wanted.n - wanted.k) for w in weights]
                self.missed_probability = min(1.0, sum(chances))
                enough = self.missed_probability <= wanted.missed_probability
                if at_end or enough or process.n_steps >= self.n_products:
                    return None
            self._save(process)

    def _take_in(self, found: _Found, beyond: Tensor) -> _Found:
        self.missed_probability = 1.0
        vectors = torch.cat([found.vectors, beyond], dim=1)
        self.n_check_products += vectors.shape[1]
        return _rayleigh_ritz(self.H, vectors, found.norm).ends(self.wanted)

    def _tell(self, stage: str, values: Floats, residuals: Floats) -> None:
        pairs = ", ".join(f"{v:.4g} ± {r:.1g}" for v, r in zip(values, residuals))
        self.clock(self.n_products + self.n_check_products, f"{stage}: {pairs}")

    def _save(self, process: Lanczos) -> None:
        """Save the run, if that is due; it resumes with the product of the next vector."""
        if self.state is not None and self.state.due:
            self.state.write(self._packed(process))

    def _packed(self, process: Lanczos) -> dict[str, Any]:
        found = self.found
        return {
            "process": process.state(),
            "generator": self.generator.get_state(),
            "n_products": self.n_products,
            "n_check_products": self.n_check_products,
            "strictness": self.strictness,
            "found": found
            and (
                torch.as_tensor(found.values, device="cpu"),
                found.vectors,
                torch.as_tensor(found.residuals, device="cpu"),
                found.norm,
            ),
        }

    def resume(self) -> None:
        """Take up the saved run, if there is one and it is that of H."""
        saved = self.state and self.state.read()
        if not saved:
            return
        found, deflated = None, None
        if saved["found"] is not None:
            values, vectors, residuals, norm = saved["found"]
            deflated = vectors.to(self.H.device)
            found = _Found(values.numpy(), deflated, residuals.numpy(), norm)
        process = Lanczos.from_state(saved["process"], self.H.device, deflated)
        if not process.made_by(self.H, found.norm if found else 0.0):
            return
        if found and not found.holds_for(self.H, self.wanted):
            return
        self.process, self.found = process, found
        self.n_products = saved["n_products"]
        self.n_check_products = saved["n_check_products"]
        self.strictness = saved["strictness"]
        self.generator.set_state(saved["generator"])


def _rayleigh_ritz(H: Operator, V: Tensor, norm: float) -> _Found:
    """The best eigenpairs in the span of nearly orthonormal columns, residuals from new products.

    The columns S of the generalised problem V'HV S = V'V S Λ make V S orthonormal, to the rounding
    of H's precision, even where V is so only roughly.
    """
    W = H @ V
    projected, gram = inner(V.T, W).cpu().numpy(), inner(V.T, V).cpu().numpy()
    values, S = eigh((projected + projected.T) / 2, (gram + gram.T) / 2)
    rotation = torch.as_tensor(S, device="cpu").to(V)
    V, W = V @ rotation, W @ rotation
    residuals = _residuals(V, W, values)
    return _Found(values, V.contiguous(), residuals, max(norm, float(np.abs(values).max())))


def _residuals(V: Tensor, HV: Tensor, values: Floats) -> Floats:
    differences = (w - value * v for v, w, value in zip(V.T, HV.T, values))
    return np.array([length(difference) for difference in differences])


def _eigenpairs(found: _Found, wanted: _Wanted, run: _Run, seed: int | None) -> Eigenpairs:
    floor = wanted.noise_floor(found.norm)
    return Eigenpairs(
        values=torch.as_tensor(found.values, device="cpu"),
        vectors=found.vectors,
        residuals=torch.as_tensor(found.residuals, device="cpu"),
        end=("smallest",) * wanted.k_smallest + ("largest",) * (wanted.k - wanted.k_smallest),
        converged=torch.as_tensor(found.converged(wanted), device="cpu"),
        below_noise=torch.as_tensor(np.abs(found.values) <= floor, device="cpu"),
        noise_floor=floor,
        tolerance=wanted.tolerance,
        n_products=run.n_products,
        n_check_products=run.n_check_products,
        missed_probability=run.missed_probability,
        seed=seed,
    )


def _warn_of_unconverged(pairs: Eigenpairs) -> None:
    unconverged = [
        f"{value:.4g} has residual {residual:.1e}"
        for value, residual, converged in zip(pairs.values, pairs.residuals, pairs.converged)
        if not converged
    ]
    if unconverged:
        warnings.warn(
            f"{len(unconverged)} of {len(pairs.values)} eigenpairs did not converge within "
            f"{pairs.n_products + pairs.n_check_products} products ({', '.join(unconverged)}; "
            f"wanted {pairs.tolerance:.0e} of the value, or {pairs.noise_floor:.1e}).",
            ConvergenceWarning,
            stacklevel=3,
        )


def _identity(wanted: _Wanted, generator: torch.Generator) -> dict[str, Any]:
    """What a saved run has to share with the one that takes it up.

    Neither max_products nor missed_probability: they only say when to stop, and a run may be
    continued with others.
    """
    return {
        "n_parameters": wanted.n,
        "epsilon": wanted.epsilon,
        "k_smallest": wanted.k_smallest,
        "k_largest": wanted.k_largest,
        "tolerance": wanted.tolerance,
        "generator": hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest(),
    }
