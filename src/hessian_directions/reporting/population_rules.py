"""The statistics of claim C6 on a population, and populations of a known truth.

Members that share a seed are a cluster: all intervals are by the jackknife over seeds.
"""

import numpy as np
import xarray as xr

from hessian_directions.statistics.rank_correlation import Interval, jackknife, kendall, mean

# Share of the variance that members of a seed have in common, in populations of a known truth.
SHARED = 0.3


def random_flatness(
    population: xr.Dataset, generalization: str, confidence: float = 0.95
) -> Interval:
    """Kendall's τ of the mean curvature t/N and a gap, over pairs within strata; NaN where one is not finite.

    Args:
        population: mean_curvature, the gap, stratum, seed, reached (member).
        generalization: "gap_loss" or "gap_accuracy".
        confidence: Of the interval.
    """
    reached = _reached(population)
    if not np.isfinite([reached["mean_curvature"], reached[generalization]]).all():
        return Interval(np.nan, np.nan, np.nan)
    tau = kendall(reached["mean_curvature"], reached[generalization], reached["stratum"])
    return jackknife(tau, reached["seed"], confidence)


def hidden_decades(population: xr.Dataset, end: str) -> np.ndarray:
    """log10(|λ|/(|t|/N)) of each member that reached the loss: what random slices hide of it.

    Args:
        population: largest, smallest, mean_curvature, seed, reached (member).
        end: "largest" for λ_max, "smallest" for |λ_min|; a member without an eigenvalue of that
            sign hides nothing and is infinitely far below.
    """
    reached = _reached(population)
    sign = 1 if end == "largest" else -1
    eigenvalue = np.maximum(sign * reached[end].values, 0.0)
    with np.errstate(divide="ignore"):
        return np.log10(eigenvalue / np.abs(reached["mean_curvature"].values))


def hidden_curvature(
    population: xr.Dataset, decades: np.ndarray, confidence: float = 0.95
) -> Interval:
    """Mean of `hidden_decades` with its interval; −∞ without one where a member hides nothing."""
    if not np.isfinite(decades).all():
        return Interval(-np.inf, np.nan, np.nan)
    return jackknife(mean(decades), _reached(population)["seed"], confidence)


def _reached(population: xr.Dataset) -> xr.Dataset:
    return population.isel(member=population["reached"].values.astype(bool))


def related(population: xr.Dataset, tau: float, random: np.random.Generator) -> xr.Dataset:
    """A population of the same seeds and strata in which mean curvature and loss gap have this τ.

    Members are Gaussian pairs of correlation sin(πτ/2), whose Kendall's τ is τ.

    Args:
        population: stratum, seed, reached (member).
        tau: Kendall's τ within strata.
        random: Source of the pairs.
    """
    reached = _reached(population)
    _, cluster = np.unique(reached["seed"].values, return_inverse=True)
    correlation = np.sin(np.pi * tau / 2)
    covariance = [[1.0, correlation], [correlation, 1.0]]
    of_seeds = random.multivariate_normal([0.0, 0.0], covariance, cluster.max(initial=-1) + 1)
    own = random.multivariate_normal([0.0, 0.0], covariance, len(cluster))
    x, y = (np.sqrt(SHARED) * of_seeds[cluster] + np.sqrt(1 - SHARED) * own).T
    return reached.assign(mean_curvature=("member", x), gap_loss=("member", y))
