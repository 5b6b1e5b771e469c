"""Confidence intervals of means, shares and quotients, as functions of the confidence."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from hessian_directions.statistics.proportions import clopper_pearson

Interval = tuple[float, float]
IntervalAt = Callable[[float], Interval]  # of a confidence
Floats = NDArray[np.float64]

NOTHING_KNOWN = (math.nan, math.nan)


def fixed(low: float, high: float) -> IntervalAt:
    """Bounds that hold for certain."""
    return lambda confidence: (low, high)


def student(estimate: float, error: float, degrees_of_freedom: int) -> IntervalAt:
    """Student's interval of an estimate with a standard error."""

    def interval(confidence: float) -> Interval:
        half = float(stdtrit(degrees_of_freedom, (1 + confidence) / 2)) * error
        return estimate - half, estimate + half

    return interval


def mean(values: Floats, extra_variance: float = 0.0) -> IntervalAt:
    """Student's interval of a mean, with the variance of an independent reference added."""
    error = np.sqrt(values.var(ddof=1) / len(values) + extra_variance)
    return student(values.mean(), error, len(values) - 1)


def share(hits: Floats) -> IntervalAt:
    """Clopper and Pearson's interval of the share of ones among ones and zeros.

    NaN stands for what is not known, and decides nothing.
    """
    if np.isnan(hits).any():
        return fixed(*NOTHING_KNOWN)
    return partial(clopper_pearson, int(hits.sum()), len(hits))


def magnitude(value: float, error: float, confidence: float) -> Interval:
    """Bounds of |value|, which is estimated with a standard error."""
    half = float(ndtri((1 + confidence) / 2)) * error
    return np.maximum(abs(value) - half, 0.0), abs(value) + half


def quotient(numerator: Interval, denominator: Interval) -> Interval:
    """Bounds of all quotients of two intervals; none where the denominator may vanish."""
    if denominator[0] <= 0 <= denominator[1]:
        return -math.inf, math.inf
    quotients = np.divide.outer(numerator, denominator)
    return quotients.min(), quotients.max()


def relative(interval: IntervalAt, reference: float, error: float) -> IntervalAt:
    """Bounds of a quantity over |reference|, which is estimated with a standard error."""
    return lambda confidence: quotient(
        interval(confidence), magnitude(reference, error, confidence)
    )


def moved(values: Floats, centre: float, random: np.random.Generator) -> Floats:
    """As many values, drawn from these with replacement after their mean was moved to `centre`."""
    return random.choice(values - values.mean() + centre, len(values))
