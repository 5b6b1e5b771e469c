"""Confidence intervals of a proportion: k successes in n independent trials.

SciPy has both (`binomtest(k, n).proportion_ci`), but searches for the exact one's ends to an absolute
tolerance, which leaves four digits of the smallest, takes ten times as long, and refuses n = 0.
"""

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

from hessian_directions.errors import ArgumentError

# Losses that differ by less than this many standard deviations of their rounding errors are a tie:
# each is the lowest of a hundred or so, and so up to three deviations too low.
TIE = 6.0


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval: the p for which k/n lies within z standard deviations of p.

    (p̂ + z²/2n ± z√(p̂(1 − p̂)/n + z²/4n²))/(1 + z²/n) with p̂ = k/n and z the normal quantile
    (Wilson 1927). It covers p with about the stated confidence, a little less for some p; unlike
    p̂ ± z√(p̂(1 − p̂)/n) it has a width where k is 0 or n.

    Args:
        successes: k, 0 … n.
        n: Number of trials; with none the interval is (0, 1).
        confidence: Between 0 and 1.

    Raises:
        ArgumentError: The numbers do not fit together.
    """
    _check(successes, n, confidence)
    if n == 0:
        return 0.0, 1.0
    z = float(scipy.stats.norm.ppf((1 + confidence) / 2))
    share, scale = successes / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval: the p that neither one-sided binomial test at (1 − confidence)/2 rejects.

    Quantiles of beta distributions (Clopper and Pearson 1934). It covers every p with at least the
    stated confidence. Arguments, result and errors as for `wilson`.
    """
    _check(successes, n, confidence)
    tail = (1 - confidence) / 2
    low = scipy.stats.beta.ppf(tail, successes, n - successes + 1) if successes > 0 else 0.0
    high = scipy.stats.beta.ppf(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return float(low), float(high)


def as_low(
    values: ArrayLike, reference: float, tie: float, confidence: float = 0.95
) -> tuple[float, float, float]:
    """The share of values below a reference, ties counted as half, and its interval.

    A tie differs from the reference by at most `tie`. Ties decide nothing: the interval reaches
    from the lower end of Clopper and Pearson's with all of them above the reference to the upper
    end with all of them below it.

    Args:
        values: (n,) independent values.
        reference: What they are held against.
        tie: At least 0, in the values' unit.
        confidence: Between 0 and 1.

    Returns:
        Share, lower and upper end; NaN where a value is NaN.
    """
    differences = np.asarray(values, dtype=np.float64) - reference
    if np.isnan(differences).any():
        return math.nan, math.nan, math.nan
    n, below = len(differences), int((differences < -tie).sum())
    tied = int((np.abs(differences) <= tie).sum())
    low, _ = clopper_pearson(below, n, confidence)
    _, high = clopper_pearson(below + tied, n, confidence)
    return (below + tied / 2) / n, low, high


def _check(successes: int, n: int, confidence: float) -> None:
    if not 0 <= successes <= n:
        raise ArgumentError(f"{successes} successes in {n} trials are not possible.")
    if not 0 < confidence < 1:
        raise ArgumentError(f"the confidence is {confidence}, but must lie between 0 and 1.")
