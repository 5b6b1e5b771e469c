"""Where a number of another training may lie: prediction intervals from replicates.

A replicate is the whole profile with another seed. The archive's own run and its replicates are
draws from one population; a run on a processor that rounds otherwise trains other networks and is
one more draw. On a scale where they are symmetric, n runs with mean m and deviation s predict the
next within m ± t(n − 1)·s·√(1 + 1/n).

The scale follows from the kind of a number: for shares of n cases Anscombe's arcsine, on which they
scatter by 1/(2√n) wherever they lie, and logit where n is not known; Fisher's z for correlations; the
logarithm for sizes (losses, norms, eigenvalues, curvatures, standard errors, ratios) that have one
sign in all archived runs, and the number itself for differences and for whatever changes sign.

A few runs may have one sign, or be equal, by chance. Where that is no property of what is measured, a
number fails alone only if it is improbable on its scale and without it, and if the runs scatter at all.

At 99 % one number in a hundred misses its interval though nothing is wrong, and the misses of one
network go together. How many are allowed is found by leaving out each archived run in turn.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtr, stdtrit

from hessian_directions.reproduction import quantities

Floats = NDArray[np.float64]

# Of an interval; and of the number of misses, and of all intervals together.
CONFIDENCE = 0.99
# Runs with different seeds that another is predicted from, the archive's own among them.
FEWEST = 5

IDENTITY, LOGARITHM, FISHER = "identity", "logarithm", "Fisher's z"
ARCSINE, LOGIT = "arcsine", "logit"
# There and back, for one sign; the arcsine needs the number of cases.
SCALES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    IDENTITY: (float, float),
    LOGARITHM: (lambda x: math.log(x) if x > 0 else math.nan, lambda y: math.exp(min(y, 700.0))),
    FISHER: (np.arctanh, math.tanh),
    LOGIT: (logit, expit),
}
# Of one sign by what they are; the others by chance.
_POSITIVE = {quantities.LOSS, quantities.NORM, quantities.GRADIENT, quantities.ERROR}
_SIZES = {*_POSITIVE, quantities.EIGENVALUE, quantities.CURVATURE, quantities.RATIO}


@dataclass(frozen=True)
class Predicted:
    """Where the next run is expected.

    Attributes:
        centre, spread: m and s·√(1 + 1/n), on `scale`.
        degrees: n − 1.
        sign: Of a size on the logarithmic scale.
        n_cases: Of a share, if known.
        slack: Of the number itself: what rounding explains in any case.
        plain: The same without a scale, of what may have other signs and values than these.
    """

    scale: str
    centre: float
    spread: float
    degrees: int
    sign: float = 1.0
    n_cases: float | None = None
    slack: float = 0.0
    plain: "Predicted | None" = None

    def widest(self, missing: float) -> tuple[float, float]:
        """Outside which the next run is improbable on its scale and without it.

        Runs that are all alike do not rule anything out.
        """
        if self.spread == 0:
            return -math.inf, math.inf
        ends = self.interval(missing) + (self.plain.interval(missing) if self.plain else ())
        return min(ends), max(ends)

    def interval(self, missing: float = 1 - CONFIDENCE) -> tuple[float, float]:
        """Outside which the next run lies with this probability; in the number's own unit."""
        deviations = -float(stdtrit(self.degrees, missing / 2))
        half = deviations * self.spread if self.spread else 0.0
        ends = sorted(self._back(self.centre + end) for end in (-half, half))
        return ends[0] - self.slack, ends[1] + self.slack

    def probability(self, value: float) -> float:
        """That of a run at least as far out; 0 on the side of a sign that no archived run has."""
        if not math.isfinite(value):
            return 0.0
        nearest = self._back(self.centre)
        moved = value + float(np.clip(nearest - value, -self.slack, self.slack))
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = abs(_forth(self.scale, self.sign * moved, self.n_cases) - self.centre)
        if math.isnan(distance):
            return 0.0
        if self.spread == 0:
            return float(distance <= 1e-12 * (1 + abs(self.centre)))
        return float(2 * stdtr(self.degrees, -distance / self.spread))

    def _back(self, x: float) -> float:
        if self.scale == ARCSINE and self.n_cases is not None:
            n, angle = self.n_cases, min(max(x, 0.0), math.pi / 2)
            return min(max((math.sin(angle) ** 2 * (n + 0.75) - 0.375) / n, 0.0), 1.0)
        return self.sign * float(SCALES[self.scale][1](x))


def predict(
    kind: str, values: Sequence[float], n_cases: float | None = None, slack: float = 0.0
) -> Predicted:
    """From the finite values of archived runs, at least two, of a number of a kind of `quantities`.

    A share of `n_cases` cannot be predicted more closely than it is sampled.
    """
    x = np.asarray(values, dtype=float)
    scale, sign = _scale(kind, x, n_cases)
    by_chance = scale not in (IDENTITY, ARCSINE) and kind not in _POSITIVE
    plain = _on(IDENTITY, x, slack=slack) if by_chance else None
    return _on(scale, x, sign, n_cases, slack, plain)


def _on(
    scale: str,
    x: Floats,
    sign: float = 1.0,
    n_cases: float | None = None,
    slack: float = 0.0,
    plain: Predicted | None = None,
) -> Predicted:
    y = np.array([_forth(scale, sign * value, n_cases) for value in x])
    variance = y.var(ddof=1)
    if scale == ARCSINE and n_cases is not None:
        variance = max(variance, 1 / (4 * n_cases))
    n = len(x)
    spread = math.sqrt(variance * (1 + 1 / n))
    return Predicted(scale, float(y.mean()), spread, n - 1, sign, n_cases, slack, plain)


def _scale(kind: str, x: Floats, n_cases: float | None) -> tuple[str, float]:
    if kind == quantities.SHARE and n_cases is not None:
        return ARCSINE, 1.0
    if kind == quantities.SHARE and ((x > 0) & (x < 1)).all():
        return LOGIT, 1.0
    if kind == quantities.CORRELATION and (np.abs(x) < 1).all():
        return FISHER, 1.0
    if kind in _SIZES and ((x > 0).all() or (x < 0).all()):
        return LOGARITHM, float(np.sign(x[0]))
    return IDENTITY, 1.0


def _forth(scale: str, value: float, n_cases: float | None) -> float:
    """A number on its scale; NaN where the scale has none."""
    if scale == ARCSINE and n_cases is not None:
        share = (value * n_cases + 0.375) / (n_cases + 0.75)
        return math.asin(math.sqrt(share)) if 0 <= share <= 1 else math.nan
    return float(SCALES[scale][0](value))


@dataclass(frozen=True)
class Acceptance:
    """How many numbers may miss their intervals, and how far out one may lie.

    Attributes:
        n_numbers: How many were predicted.
        rate: Of misses: 1 %, or the rate among the archive's own runs where that is larger.
        overdispersion: Variance of a network's misses over the binomial one; n_numbers over it is
            the effective number of independent numbers.
        most: Misses that are allowed: the 99 % quantile of the binomial of the effective number.
        least_probability: A number less probable than this fails alone: 1 % over n_numbers, or the
            least of the archive's own, above 0, where that is smaller.
    """

    n_numbers: int
    rate: float
    overdispersion: float
    most: int
    least_probability: float


def accept(probabilities: Floats, groups: Sequence[Hashable]) -> Acceptance:
    """What is allowed a new run, from what the archived ones do when each is left out.

    Args:
        probabilities: (n_runs, n_numbers), of each number of each run given the other runs; NaN
            where that run has none.
        groups: Of each number, what it was measured on: misses within a group go together.
    """
    n_numbers = probabilities.shape[1]
    if not n_numbers:
        return Acceptance(0, 1 - CONFIDENCE, 1.0, 0, 1 - CONFIDENCE)
    missed = (probabilities < 1 - CONFIDENCE).astype(float)
    known = np.isfinite(probabilities)
    rate = max(1 - CONFIDENCE, missed.sum() / known.sum())
    labels = np.unique([str(group) for group in groups], return_inverse=True)[1]
    squares, variances = 0.0, 0.0
    for label in range(labels.max() + 1):
        own = labels == label
        sizes = known[:, own].sum(1)
        squares += float(((missed[:, own].sum(1) - sizes * rate) ** 2).sum())
        variances += float(sizes.sum() * rate * (1 - rate))
    overdispersion = max(1.0, squares / variances)
    effective = max(1, round(n_numbers / overdispersion))
    quantile = float(scipy.stats.binom.ppf(CONFIDENCE, effective, rate))
    return Acceptance(
        n_numbers,
        float(rate),
        overdispersion,
        int(quantile * n_numbers / effective),
        min((1 - CONFIDENCE) / n_numbers, float(probabilities[probabilities > 0].min(initial=1.0))),
    )
