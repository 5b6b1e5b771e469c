"""Where the median of a sample leaves a reference, along a scale on which the sample is measured."""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Departure:
    """Where a median leaves its reference, on the scale of the measurement.

    Attributes:
        scale: 0 where it has left at the smallest scale, infinity where it does not leave.
        low, high: Ends of its confidence interval.
    """

    scale: float
    low: float
    high: float


def median_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Exact confidence interval of the median, by order statistics.

    The interval from the k-th smallest to the k-th largest of n values, with the largest k for
    which a binomial variable B(n, ½) is below k with probability at most (1 − confidence)/2. It
    covers the median of any continuous distribution.

    Args:
        values: (n, …) independent values; NaN counts as larger than any number.
        confidence: Between 0 and 1.

    Returns:
        Lower and upper ends, each (…); infinite where n is too small for any interval.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=0)  # NaN last
    ordered = np.where(np.isnan(ordered), np.inf, ordered)
    k = int(scipy.stats.binom.ppf((1 - confidence) / 2, len(ordered), 0.5))
    if k == 0:
        return np.full(ordered.shape[1:], -np.inf), np.full(ordered.shape[1:], np.inf)
    return ordered[k - 1], ordered[-k]


def departure(
    scales: ArrayLike, values: ArrayLike, reference: float, errors: ArrayLike, share: float = 0.5
) -> Departure:
    """The first scale at which the median of the values differs from a reference by a share of it.

    |median/reference − 1| > share. Between two scales the median is interpolated linearly in the
    square of the scale, with which the curvature of a smooth loss first changes. The interval ends
    where the confidence interval of the median (`median_interval`) first has an end outside, and
    where it first lies outside as a whole: if the median leaves once and for all, the interval
    covers the place with that interval's confidence, 95 %.

    Args:
        scales: (S,) ascending and positive.
        values: (n, S), n independent measurements at each scale; NaN counts as infinite.
        reference: Not zero.
        errors: (S,) errors that the measurement makes at each scale; scales at which they exceed a
            tenth of the share are left out.
        share: Of the reference, beyond which the median has left it.
    """
    resolved = np.asarray(errors) <= share * abs(reference) / 10
    scales = np.asarray(scales, dtype=np.float64)[resolved]
    ratios = np.asarray(values, dtype=np.float64)[:, resolved] / reference - 1
    ratios = np.where(np.isnan(ratios), np.inf, ratios)
    low, high = median_interval(ratios)
    farthest = np.maximum(np.abs(low), np.abs(high))
    nearest = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
    # With an even number of planes a finite and an infinite middle have an infinite median.
    of_medians = np.abs(np.median(ratios, axis=0))
    distances = (of_medians, farthest, nearest)
    return Departure(*(_first_above(scales, away, share) for away in distances))


def _first_above(scales: Floats, distances: Floats, threshold: float) -> float:
    """Where distances first exceed the threshold: 0 at the first scale, infinity if nowhere."""
    if not (distances > threshold).any():
        return float("inf")
    if (k := int(np.argmax(distances > threshold))) == 0:
        return 0.0
    before, after = distances[k - 1], distances[k]
    part = (threshold - before) / (after - before) if np.isfinite(after) else 0.0
    return float(np.hypot(scales[k - 1], np.sqrt(part * (scales[k] ** 2 - scales[k - 1] ** 2))))
