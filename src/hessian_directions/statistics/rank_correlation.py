"""Rank correlation of two properties over a population, with intervals from its clusters.

A statistic is a function of how often each member counts: `kendall(x, y)` and its relatives give
one, `value` evaluates it on the whole population, and `jackknife` on the population without one
cluster after the other. Members that share a seed, hence initialisation and order of the data, are
a cluster: they are not independent of each other, clusters are.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from hessian_directions.errors import ArgumentError

Floats = NDArray[np.float64]

# Pairs that are looked at side by side: memory does not grow with their number.
PAIRS_AT_ONCE = 1 << 20

# Clusters are left out one by one up to so many, and in so many groups where there are more.
MOST_GROUPS = 40

# (B, n): how often each of n members counts in B populations -> (B,) values, NaN where not defined.
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Interval:
    """A statistic of a population with the ends of its confidence interval."""

    value: float
    low: float
    high: float


def kendall(x: ArrayLike, y: ArrayLike, strata: ArrayLike | None = None) -> Statistic:
    """Kendall's τ-b: Σ sign(x_i − x_j)·sign(y_i − y_j) over pairs, divided by √(n_x·n_y).

    n_x and n_y are the numbers of pairs not tied in x and in y (Kendall 1945). Invariant under
    increasing transformations of x and y; 1 if both rank all members alike, −1 if oppositely. With
    strata, sums and numbers run over the pairs whose members lie in one stratum: what moves x and y
    from stratum to stratum has no part in it.

    Args:
        x, y: (n,) finite values.
        strata: (n,) labels; all members are one stratum when None.

    Returns:
        The statistic, NaN where no pair is ranked.

    Raises:
        ArgumentError: The shapes differ, or a value is not finite.
    """
    x, y = _checked(x, y)
    strata = np.zeros(len(x)) if strata is None else strata
    (labels,) = _levels({"strata": strata}, len(x)).values()
    sums = _pair_sums(x, y, labels)
    return lambda counts: _tau(*(of_strata.sum(axis=1) for of_strata in sums(counts)))


def granulated(
    x: ArrayLike, y: ArrayLike, factors: Mapping[str, ArrayLike], held: Sequence[str] = ()
) -> Statistic:
    """Kendall's τ among members that differ in one factor only, averaged: granulated τ.

    For each factor the members fall into groups that agree in all other factors; ψ is the mean of
    the τ-b of its groups, and the granulated τ the mean of ψ over the factors (Jiang, Neyshabur,
    Mobahi, Krishnan and Bengio 2020, "Fantastic Generalization Measures and Where to Find Them").
    A correlation that is only due to a factor that moves both x and y shows in the one ψ of that
    factor and in no other. Groups without a τ (all tied, or one member) do not count, nor do
    factors without a group.

    Args:
        x, y: (n,) finite values.
        factors: (n,) values of each factor by name.
        held: Factors in which all members of a group agree, but that have no ψ: the seed.
    """
    x, y = _checked(x, y)
    columns = _levels(factors, len(x))
    groups = []
    for name in columns:
        of_members = _groups_differing_in(name, columns)
        (kept,) = np.nonzero(of_members >= 0)
        if name not in held and len(kept):
            groups.append((kept, _pair_sums(x[kept], y[kept], of_members[kept])))

    def at(counts: Floats) -> Floats:
        means = [
            _mean_of_defined(np.ascontiguousarray(_tau(*sums(counts[:, kept])).T))
            for kept, sums in groups
        ]
        return _mean_of_defined(np.stack(means)) if means else np.full(len(counts), np.nan)

    return at


def partial(x: ArrayLike, y: ArrayLike, given: Mapping[str, ArrayLike]) -> Statistic:
    """Kendall's partial τ of x and y given other variables.

    −P_xy/√(P_xx·P_yy) with P the inverse of the matrix of τ-b of x, y and the given ones; for one of
    them (τ_xy − τ_xz τ_yz)/√((1 − τ_xz²)(1 − τ_yz²)) (Kendall 1942). It removes what is linear in
    the τ alone: unlike τ within strata it need not vanish where x and y are independent given z.

    Args:
        x, y: (n,) finite values.
        given: (n,) values of each variable by name; a constant one is left out.
    """
    x, y = _checked(x, y)
    varied = [values for values in _levels(given, len(x)).values() if values.any()]
    variables = [x, y, *(values.astype(np.float64) for values in varied)]
    pairs = {
        (i, j): kendall(variables[i], variables[j])
        for i, j in combinations(range(len(variables)), 2)
    }

    def at(counts: Floats) -> Floats:
        tau = np.ones((len(counts), len(variables), len(variables)))
        for (i, j), of_pair in pairs.items():
            tau[:, i, j] = tau[:, j, i] = of_pair(counts)
        return np.array([_partial_of(matrix) for matrix in tau])

    return at


def information(
    x: ArrayLike, y: ArrayLike, factors: Mapping[str, ArrayLike], largest_set: int = 2
) -> Statistic:
    """What the order of x tells about the order of y once factors are known, from 0 to 1.

    min over sets S of at most `largest_set` factors of I(V_x; V_y | U_S)/H(V_y | U_S): V_x and V_y
    are the signs of x_i − x_j and y_i − y_j for a pair of members drawn uniformly, U_S the values
    of the factors of S in both (Jiang et al. 2020, conditional mutual information). 0 for some S
    means that S explains all that x and y have in common. Frequencies stand in for probabilities,
    which makes the estimate too large by about the squared scatter of τ.

    Args:
        x, y: (n,) finite values.
        factors: (n,) values of each factor by name.
        largest_set: Most factors that are known at once.
    """
    x, y = _checked(x, y)
    columns = _levels(factors, len(x))
    n_levels = {name: int(values.max(initial=0)) + 1 for name, values in columns.items()}
    # Pairs are counted for the largest sets, those of the others are sums of theirs.
    largest = list(combinations(columns, min(largest_set, len(columns))))
    keys = []
    for names in largest:
        key = np.zeros(len(x), dtype=np.int64)
        for name in names:
            key = key * n_levels[name] + columns[name]
        keys.append((key, math.prod(n_levels[name] for name in names)))

    def tables(rows: NDArray[np.int64], weights: Floats, others: Floats) -> list[Floats]:
        """(K, K, 3, 3) weights of the pairs of a member of `rows` and any other, for each set."""
        found = [np.zeros(9 * n_keys**2) for _, n_keys in keys]
        for part in np.array_split(rows, 1 + len(rows) * len(x) // PAIRS_AT_ONCE):
            signs = [np.sign(v[part, None] - v).astype(np.int64) for v in (x, y)]
            cells, weight = 3 * signs[0] + signs[1] + 4, weights[part, None] * others
            # A member and itself are no pair.
            weight[np.arange(len(part)), part] = 0.0
            for table, (key, n_keys) in zip(found, keys):
                index = (key[part, None] * n_keys + key) * 9 + cells
                table += np.bincount(index.ravel(), weight.ravel(), minlength=len(table))
        return [table.reshape(n, n, 3, 3) for table, (_, n) in zip(found, keys)]

    def smaller(found: Sequence[Floats]) -> Iterator[Floats]:
        """The table of every set, from those of the largest."""
        for names in (s for size in range(largest_set + 1) for s in combinations(columns, size)):
            of = next(i for i, larger in enumerate(largest) if set(names) <= set(larger))
            shape = [n_levels[name] for name in largest[of]]
            out = [axis for axis, name in enumerate(largest[of]) if name not in names]
            both_members = (*out, *(len(shape) + axis for axis in out))
            n = math.prod(n_levels[name] for name in names)
            yield found[of].reshape(*shape, *shape, 3, 3).sum(both_members).reshape(n, n, 3, 3)

    ones = np.ones(len(x))
    whole = tables(np.arange(len(x)), ones, ones)

    def at(counts: Floats) -> Floats:
        values = np.full(len(counts), np.nan)
        # (1 + d_i)(1 + d_j) = 1 + d_i (1 + d_j/2) + d_j (1 + d_i/2): all pairs once, and those of the
        # few members that count otherwise, in both orders.
        for b, d in enumerate(counts - 1.0):
            changes = tables(np.flatnonzero(d), d, 1 + d / 2)
            found = [table + half + _mirrored(half) for table, half in zip(whole, changes)]
            values[b] = np.min([_information_of(table) for table in smaller(found)])
        return values

    return at


def difference(one: Statistic, other: Statistic) -> Statistic:
    """One statistic less another of the same members."""
    return lambda counts: one(counts) - other(counts)


def mean(values: ArrayLike) -> Statistic:
    """Mean of (n,) values; NaN where no member counts."""
    values = np.asarray(values, dtype=np.float64)

    def at(counts: Floats) -> Floats:
        n = counts.sum(axis=1)
        return np.where(n > 0, (counts @ values) / np.where(n > 0, n, 1.0), np.nan)

    return at


def value(statistic: Statistic, n: int) -> float:
    """The statistic of all n members."""
    return float(statistic(np.ones((1, n)))[0])


def jackknife(statistic: Statistic, clusters: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of a statistic by leaving out one cluster after the other.

    θ ± t·s with s² = (G − 1)/G Σ_g (θ_(g) − θ̄)², θ_(g) the statistic without cluster g of G, and t
    Student's quantile with G − 1 degrees of freedom. With ten clusters its coverage is nominal,
    where percentiles of resampled clusters cover too little (measured in the tests).
    More than `MOST_GROUPS` clusters are left out in so many groups, in turn: the delete-a-group
    jackknife (Kott 2001, Journal of Official Statistics 17), whose cost does not grow with them.

    Args:
        statistic: As the functions of this module give it.
        clusters: (n,) labels; what shares one is left out together.
        confidence: Between 0 and 1.

    Returns:
        The value with its interval; ends are NaN for fewer than two clusters, or where the
        statistic without one of them is not defined.
    """
    if not 0 < confidence < 1:
        raise ArgumentError(f"the confidence is {confidence}, but must lie between 0 and 1.")
    labels, members = np.unique(np.asarray(clusters), return_inverse=True)
    n_clusters = min(len(labels), MOST_GROUPS)
    members %= n_clusters
    middle = value(statistic, len(members))
    if n_clusters < 2:
        return Interval(middle, np.nan, np.nan)
    without = statistic((members != np.arange(n_clusters)[:, None]).astype(np.float64))
    deviation = np.sqrt((n_clusters - 1) ** 2 / n_clusters) * without.std(ddof=1)
    half = scipy.stats.t.ppf((1 + confidence) / 2, n_clusters - 1) * deviation
    return Interval(middle, float(middle - half), float(middle + half))


def _pair_sums(
    x: Floats, y: Floats, strata: NDArray[np.int64]
) -> Callable[[Floats], tuple[Floats, Floats, Floats]]:
    """Sums over the pairs of members of one stratum, for members that count several times or never.

    Σ c_i c_j sign(x_i − x_j) sign(y_i − y_j), and how many pairs are not tied in x and in y, each
    pair in both orders: (B, S) each for counts (B, n) and S strata. In n log n steps and n numbers,
    not n²: what a pair adds to the first sum is found where the binary ranks of y of its members
    part, bit by bit. Sums of whole numbers are exact.
    """
    columns = _levels({"x": x, "y": y}, len(x))
    rank_x, rank_y = columns["x"], columns["y"]
    # Later in this order means larger in x: what is tied there descends in y, and no pair of it ascends.
    base = np.lexsort((-rank_y, rank_x, strata))
    n_bits = int(rank_y.max(initial=0)).bit_length()
    n_strata = int(strata.max(initial=-1)) + 1
    tied_in_y = np.lexsort((rank_y, strata))

    def squares(counts: Floats, order: NDArray[np.int64], *labels: NDArray[np.int64]) -> Floats:
        """Σ over classes of (Σ c)², by strata: the pairs that are tied, each member with itself."""
        starts = _starts(*(label[order] for label in (strata, *labels)))
        of_classes = np.add.reduceat(counts[:, order], starts, axis=1) ** 2
        of_strata = _starts(strata[order][starts])
        return np.add.reduceat(of_classes, of_strata, axis=1)

    def at(counts: Floats) -> tuple[Floats, Floats, Floats]:
        if n_strata == 0:
            return tuple(np.zeros((len(counts), 1)) for _ in range(3))  # type: ignore[return-value]
        pairs = squares(counts, base)
        tied_x, tied_y = squares(counts, base, rank_x), squares(counts, tied_in_y, rank_y)
        tied_both = squares(counts, base, rank_x, rank_y)
        ascending = np.zeros((len(counts), n_strata))
        for bit in range(n_bits):
            prefix, last = rank_y >> (bit + 1), (rank_y >> bit) & 1
            order = base[np.lexsort((prefix[base], strata[base]))]
            starts = _starts(strata[order], prefix[order])
            c, is_one = counts[:, order], last[order].astype(bool)
            zeros = np.cumsum(np.where(is_one, 0.0, c), axis=1)
            # Those of the classes before are not in this one.
            before = np.concatenate([np.zeros((len(c), 1)), zeros], axis=1)[:, starts]
            sizes = np.diff(np.append(starts, len(order)))
            zeros -= np.repeat(before, sizes, axis=1)
            ascending += np.add.reduceat(
                np.where(is_one, c * zeros, 0.0), _starts(strata[order]), axis=1
            )
        # All pairs that are tied in neither ascend or descend.
        both = 4 * ascending - (pairs - tied_x - tied_y + tied_both)
        return both, pairs - tied_x, pairs - tied_y

    return at


def _starts(*sorted_labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a class begins: the first member, and each that differs from the one before."""
    new = np.zeros(len(sorted_labels[0]), dtype=bool)
    new[:1] = True
    for labels in sorted_labels:
        new[1:] |= labels[1:] != labels[:-1]
    return np.flatnonzero(new)


def _tau(both: Floats, in_x: Floats, in_y: Floats) -> Floats:
    defined = (in_x > 0) & (in_y > 0)
    return np.where(defined, both / np.sqrt(np.where(defined, in_x * in_y, 1.0)), np.nan)


def _partial_of(tau: Floats) -> float:
    """Partial correlation of the first two variables of a correlation matrix."""
    if not np.isfinite(tau).all() or np.linalg.cond(tau) > 1e12:
        return float("nan")
    P = np.linalg.inv(tau)
    return float(-P[0, 1] / np.sqrt(P[0, 0] * P[1, 1]))


def _information_of(table: Floats) -> float:
    """I(V_x; V_y | U)/H(V_y | U) from weights (K, K, 3, 3) of pairs in both orders: levels, signs."""
    in_x, in_y = table.sum(axis=3), table.sum(axis=2)
    all_pairs = in_x.sum(axis=2)
    # n·H(V) = Σ over levels of U of (n_u log n_u − Σ_v n_uv log n_uv)
    of_levels = _plogp(all_pairs)
    entropy_x, entropy_y = of_levels - _plogp(in_x), of_levels - _plogp(in_y)
    joint = of_levels - _plogp(table)
    return (entropy_x + entropy_y - joint) / entropy_y if entropy_y > 0 else float("nan")


def _mirrored(table: Floats) -> Floats:
    """The same pairs in the other order."""
    return table.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]


def _plogp(p: Floats) -> float:
    return float((p * np.log(np.where(p > 0, p, 1.0))).sum())


def _groups_differing_in(name: str, columns: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """For each member its group, of those that agree in all other factors; -1 for one alone."""
    others = [values for other, values in columns.items() if other != name]
    groups: dict[tuple, list[int]] = {}
    for i, key in enumerate(zip(*others) if others else [()] * len(columns[name])):
        groups.setdefault(tuple(key), []).append(i)
    labels = np.full(len(columns[name]), -1)
    for label, members in enumerate(group for group in groups.values() if len(group) > 1):
        labels[members] = label
    return labels


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the first axis of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    n = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _levels(factors: Mapping[str, ArrayLike], n: int) -> dict[str, NDArray[np.int64]]:
    """Each factor's values as their ranks among its levels, from 0."""
    columns = {}
    for name, values in factors.items():
        if np.shape(values) != (n,):
            raise ArgumentError(f"factor {name} has {np.size(values)} values for {n} members.")
        columns[name] = np.unique(np.asarray(values), return_inverse=True)[1].astype(np.int64)
    return columns


def _checked(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ArgumentError(f"x and y have the shapes {x.shape} and {y.shape}, not (n,) both.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ArgumentError("a value that is not finite has no rank.")
    return x, y
