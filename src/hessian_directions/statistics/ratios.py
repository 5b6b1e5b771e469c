"""Ratios of two means that were estimated from the same samples."""

import numpy as np
from numpy.typing import ArrayLike


def ratio_of_means(numerator: ArrayLike, denominator: ArrayLike) -> tuple[float, float]:
    """The ratio of two means over paired samples, and its standard error.

    The error is the first order of the delta method, the scatter of a_i − (ā/b̄) b_i over √n b̄: what
    both have in common cancels. It needs a denominator that is several standard errors from zero.

    Args:
        numerator: (n,) a_i, n ≥ 2.
        denominator: (n,) b_i.
    """
    a, b = np.asarray(numerator, float), np.asarray(denominator, float)
    ratio = a.mean() / b.mean()
    scatter = (a - ratio * b).std(ddof=1)
    return float(ratio), float(scatter / (np.sqrt(len(a)) * abs(b.mean())))
