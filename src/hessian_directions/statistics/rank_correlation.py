"""Rank correlation of two properties over a population, with bootstrap intervals over its members.

NumPy only: figures and tables import this module without importing torch.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def kendall_tau(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's τ-b: Σ sign(x_i − x_j)·sign(y_i − y_j) over pairs, divided by √(n_x·n_y).

    n_x and n_y are the numbers of pairs not tied in x and in y (Kendall 1945). Invariant under
    increasing transformations of x and y; 1 if both rank all members alike, −1 if oppositely.

    Args:
        x, y: (n,) finite values.

    Returns:
        τ, or NaN where it is not defined: fewer than two members, or all tied in x or y.

    Raises:
        ValueError: x and y differ in shape or are not finite.
    """
    concordance = _Concordance(*_checked(x, y))
    return float(concordance.tau(np.ones((1, concordance.n)))[0])


def kendall_interval(
    x: ArrayLike,
    y: ArrayLike,
    confidence: float = 0.95,
    n_bootstrap: int = 2000,
    generator: np.random.Generator | None = None,
) -> tuple[float, float]:
    """Percentile interval of Kendall's τ-b over populations resampled member by member.

    A member that is drawn twice is tied with itself, which τ-b leaves out.

    Args:
        x, y: (n,) finite values.
        confidence: Between 0 and 1.
        n_bootstrap: Number of resampled populations.
        generator: Source of the resampling; when None one seeded with 0, so that equal data have
            equal intervals.

    Returns:
        Lower and upper end; NaN where τ is not defined.
    """
    concordance = _Concordance(*_checked(x, y))
    taus = concordance.tau(_resampled(concordance.n, n_bootstrap, generator))
    return _percentiles(taus, confidence)


def granulated_tau(x: ArrayLike, y: ArrayLike, factors: Mapping[str, ArrayLike]) -> float:
    """Kendall's τ among members that differ in one factor only, averaged: granulated τ.

    For each factor the members fall into groups that agree in all other factors; ψ is the mean of
    the τ-b of its groups, and the granulated τ the mean of ψ over the factors (Jiang, Neyshabur,
    Mobahi, Krishnan and Bengio 2020). A correlation that is only due to a factor that moves both x
    and y shows in the one τ of that factor and in no other. Groups without a τ (all tied, or one
    member) do not count, nor do factors without a group.

    Args:
        x, y: (n,) finite values.
        factors: (n,) values of each factor by name.

    Returns:
        Granulated τ, or NaN where no group has one.
    """
    x, y = _checked(x, y)
    return float(_granulated(x, y, factors, np.ones((1, len(x))))[0])


def granulated_interval(
    x: ArrayLike,
    y: ArrayLike,
    factors: Mapping[str, ArrayLike],
    confidence: float = 0.95,
    n_bootstrap: int = 2000,
    generator: np.random.Generator | None = None,
) -> tuple[float, float]:
    """Percentile interval of the granulated τ over populations resampled member by member.

    Members keep their groups; a group counts where at least two of its members are drawn. As that
    leaves fewer groups than there are, the interval is rather too wide than too narrow. Arguments
    and result as for `kendall_interval` and `granulated_tau`.
    """
    x, y = _checked(x, y)
    counts = _resampled(len(x), n_bootstrap, generator)
    return _percentiles(_granulated(x, y, factors, counts), confidence)


class _Concordance:
    """Signs of all pairs, from which τ-b follows for members that count several times or never."""

    def __init__(self, x: Floats, y: Floats) -> None:
        sign_x = np.sign(x[:, None] - x)
        sign_y = np.sign(y[:, None] - y)
        self.n = len(x)
        self._both, self._x, self._y = sign_x * sign_y, np.abs(sign_x), np.abs(sign_y)

    def tau(self, counts: Floats) -> Floats:
        """τ-b of B populations: (B, n) counts of the members -> (B,), NaN where not defined."""
        both, in_x, in_y = (
            ((counts @ pairs) * counts).sum(axis=1) for pairs in (self._both, self._x, self._y)
        )
        defined = (in_x > 0) & (in_y > 0)
        return np.where(defined, both / np.sqrt(np.where(defined, in_x * in_y, 1.0)), np.nan)


def _granulated(x: Floats, y: Floats, factors: Mapping[str, ArrayLike], counts: Floats) -> Floats:
    """Granulated τ of B populations: (B, n) counts -> (B,)."""
    columns = {name: np.asarray(values) for name, values in factors.items()}
    for name, values in columns.items():
        if values.shape != x.shape:
            raise ValueError(f"factor {name} has {values.size} values for {x.size} members.")
    means = []
    for name in columns:
        taus = [
            _Concordance(x[group], y[group]).tau(counts[:, group])
            for group in _groups_differing_in(name, columns)
        ]
        if taus:
            means.append(_mean_of_defined(np.stack(taus)))
    return _mean_of_defined(np.stack(means)) if means else np.full(len(counts), np.nan)


def _groups_differing_in(name: str, columns: Mapping[str, NDArray]) -> Iterator[NDArray[np.int64]]:
    """Indices of the members that agree in all factors but this one, group by group."""
    others = [values for other, values in columns.items() if other != name]
    groups: dict[tuple, list[int]] = {}
    for i, key in enumerate(zip(*others) if others else [()] * len(columns[name])):
        groups.setdefault(tuple(key), []).append(i)
    for members in groups.values():
        if len(members) > 1:
            yield np.array(members)


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the first axis of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    n = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _resampled(n: int, n_bootstrap: int, generator: np.random.Generator | None) -> Floats:
    """How often each of n members is drawn in each resampled population: (n_bootstrap, n)."""
    generator = np.random.default_rng(0) if generator is None else generator
    if n == 0:
        return np.zeros((n_bootstrap, 0))
    return generator.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(np.float64)


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence is {confidence}, but must lie between 0 and 1.")
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _checked(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x and y have the shapes {x.shape} and {y.shape}, not (n,) both.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a value that is not finite has no rank.")
    return x, y
