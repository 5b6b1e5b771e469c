"""Power laws y ∝ xᵃ, fitted on logarithmic axes."""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class PowerLaw:
    """y = factor · x ** exponent.

    Attributes:
        exponent: Slope of log y against log x.
        standard_error: Of the exponent; NaN where two sizes leave no scatter to judge by.
        factor: y at x = 1.
    """

    exponent: float
    standard_error: float
    factor: float


def fit(x: ArrayLike, y: ArrayLike) -> PowerLaw | None:
    """Least squares through (log x, log y); None where x has fewer than two different values."""
    log_x, log_y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    distinct = len(np.unique(log_x))
    if distinct < 2:
        return None
    line = scipy.stats.linregress(log_x, log_y)
    error = float(line.stderr) if len(log_x) > 2 else float("nan")
    return PowerLaw(float(line.slope), error, float(np.exp(line.intercept)))
