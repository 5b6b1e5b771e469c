"""The numbers computed here beside the published ones, cell by cell, with their tolerances.

Training amplifies rounding: a machine whose processor rounds otherwise trains other networks from
the same seed. What is measured on those may leave its tolerance, everything else may not. Which
networks are others is seen from their weights.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from hessian_directions.errors import ConfigurationError
from hessian_directions.reporting.claims import INCONCLUSIVE

Tolerances = Mapping[str, Mapping[str, float]]
Weights = Mapping[str, np.ndarray]

# What varies from run to run: the table of costs, and the seconds beside the traces.
NOT_COMPARED = {"cost", "cost_scaling"}
UNSTABLE_COLUMNS = {"seconds"}
# Texts that describe a row; the other texts of a table name it.
DESCRIPTIONS = {"label", "activation"}
# Columns, or table.column, that the configuration determines: no training changes them.
SETTINGS = {
    "n_parameters",
    "n_images",
    "n_members",
    "n_planes",
    "n_points",
    "n_samples",
    "training_images",
    "sharpness",
    "radius",
    "nearest",
    "edge",
    "pair",
    "level",
    "step_sizes.step",
}
# Tables about all of the population's networks; the others name a network in every row.
ABOUT_POPULATION = {"correlations", "levels", "population"}
POPULATION = "the population"

COLUMNS = ["quantity", "row", "published", "computed", "tolerance", "agrees", "expected"]


@dataclass(frozen=True)
class OtherNetworks:
    """Which of the networks that were trained here are not those of the archive.

    Attributes
    ----------
    networks
        Their names.
    n_networks
        How many were trained here, in the archive's run, too.
    members, n_members
        The same of the population.
    """

    networks: Collection[str] = ()
    n_networks: int = 0
    members: int = 0
    n_members: int = 0

    @classmethod
    def between(
        cls,
        archived: Mapping[str, Weights],
        computed: Mapping[str, Weights],
        archived_population: xr.Dataset,
        population: xr.Dataset,
    ) -> "OtherNetworks":
        """Compare the weights of networks trained here, to the bit, and those of the population.

        Of the population's members the norm ‖θ‖ is known, in float64: equal weights have it in
        common to far more than twelve digits, on every machine.
        """
        norms = archived_population["theta_norm"].values, population["theta_norm"].values
        same_size = len(norms[0]) == len(norms[1])
        other = ~np.isclose(*norms, rtol=1e-12, atol=0) if same_size else np.ones_like(norms[1])
        return cls(
            [name for name in computed if not _equal(archived.get(name, {}), computed[name])],
            len(computed),
            int(other.sum()),
            len(other),
        )

    def explain(self, network: str) -> bool:
        """Whether numbers measured on it are expected to deviate."""
        return network in self.networks or (network == POPULATION and self.members > 0)

    def __str__(self) -> str:
        parts = []
        if self.networks:
            parts.append(f"{len(self.networks)} of {self.n_networks}")
        if self.members:
            parts.append(f"{self.members} of {self.n_members} in the population")
        return " and ".join(parts)


def compare_tables(
    archived: Mapping[str, pd.DataFrame],
    computed: Mapping[str, pd.DataFrame],
    tolerances: Tolerances,
    others: OtherNetworks = OtherNetworks(),
) -> pd.DataFrame:
    """One row per published number; it agrees if |new − old| ≤ absolute + relative·|old|.

    `tolerances` is keyed by `table.column`, or by `table` for its other columns. Rows are matched
    by the texts that name them, in their order where these are equal. Texts are not compared; true
    and false count as 1 and 0. A number that is missing on one side does not agree. A finite one
    that does not agree is `expected` not to if it was measured on one of the `others`.
    """
    rows: list[dict[str, Any]] = []
    for table, old in archived.items():
        if table not in NOT_COMPARED:
            new = computed.get(table, old.iloc[:0])
            rows.extend(_compare(table, old, new, tolerances, others))
    return pd.DataFrame(rows, columns=COLUMNS)


def compare_verdicts(archived: pd.DataFrame, computed: pd.DataFrame) -> pd.DataFrame:
    """Verdicts side by side.

    Decided against inconclusive is a warning; the opposite verdict, or none, is a failure.
    """
    merged = archived[["claim", "verdict"]].merge(
        computed[["claim", "verdict"]],
        on="claim",
        how="outer",
        suffixes=("_published", "_computed"),
    )
    merged = merged.fillna("missing")
    published, here = merged["verdict_published"], merged["verdict_computed"]
    missing = (published == "missing") | (here == "missing")
    undecided = (published == INCONCLUSIVE) | (here == INCONCLUSIVE)
    merged["result"] = np.select(
        [published == here, undecided & ~missing], ["same", "warning"], default="failure"
    )
    return merged


def summary(
    numbers: pd.DataFrame, verdicts: pd.DataFrame, others: OtherNetworks = OtherNetworks()
) -> str:
    """Plain words: did this machine reproduce the published numbers and verdicts?"""
    lines = []
    for table, agrees in numbers.groupby(_tables(numbers), sort=False)["agrees"]:
        count = f"{agrees.sum():>5} of {len(agrees):>5}"
        lines.append(f"  {table:<20} {count} numbers within tolerance")
    for row in verdicts.to_dict("records"):
        published, here = row["verdict_published"], row["verdict_computed"]
        lines.append(f"  {row['claim']:<20} published: {published}; here: {here} ({row['result']})")
    expected = int(numbers["expected"].sum())
    failing = numbers[~(numbers["agrees"] | numbers["expected"]).astype(bool)]
    results = Counter(verdicts["result"])
    if str(others):
        lines.append(
            f"Training gave other networks here than in the archive: {others}. Processors round "
            "differently, and training amplifies it."
        )
    if expected:
        lines.append(
            f"{expected} numbers measured on those networks are outside their tolerance. That is "
            "expected."
        )
    if len(failing) or results["failure"]:
        lines += [
            f"  {row['quantity']} {row['row']}: published {row['published']:g}, "
            f"here {row['computed']:g}"
            for row in failing.head(10).to_dict("records")
        ]
        lines.append(
            f"This machine did NOT reproduce everything: {len(failing)} of {len(numbers)} numbers "
            f"are outside their tolerance{' without that reason' if str(others) else ''}, "
            f"{results['failure']} verdicts are opposite or missing."
        )
    else:
        which = f"the other {len(numbers) - expected}" if expected else f"all {len(numbers)}"
        lines.append(
            f"This machine reproduced {which} published numbers"
            + (" and all verdicts." if not results["warning"] else ".")
        )
    if results["warning"]:
        lines.append(
            f"Warning: {results['warning']} verdicts are decided on one side and inconclusive on "
            "the other."
        )
    return "\n".join(lines)


def _equal(a: Weights, b: Weights) -> bool:
    """Whether two networks have the same weights to the bit."""
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]) for key in a
    )


def _tables(numbers: pd.DataFrame) -> list[str]:
    return [quantity.split(".")[0] for quantity in numbers["quantity"]]


def _compare(
    table: str,
    old: pd.DataFrame,
    new: pd.DataFrame,
    tolerances: Tolerances,
    others: OtherNetworks,
) -> Iterator[dict[str, Any]]:
    numeric = [str(column) for column in old.select_dtypes(["number", "bool"])]
    naming = [str(column) for column in old if column not in {*numeric, *DESCRIPTIONS}]
    before, after = _by_name(old, naming), _by_name(new, naming)
    names = list(dict.fromkeys([*before, *after]))
    repeated = Counter(name for name, _ in names)
    for column in numeric:
        if column in UNSTABLE_COLUMNS:
            continue
        tolerance = _tolerance(tolerances, table, column)
        is_setting = bool({column, f"{table}.{column}"} & SETTINGS)
        for name, number in names:
            row = before.get((name, number), {})
            published = _number(row, column)
            here = _number(after.get((name, number), {}), column)
            allowed = tolerance["absolute"] + tolerance["relative"] * abs(published)
            close = math.isfinite(published) and abs(here - published) <= allowed
            both_missing = math.isnan(published) and math.isnan(here)
            agrees = close or here == published or both_missing
            network = POPULATION if table in ABOUT_POPULATION else _network(row)
            yield {
                "quantity": f"{table}.{column}",
                "row": f"{name} {number}".strip() if repeated[name] > 1 else name,
                "published": published,
                "computed": here,
                "tolerance": allowed,
                "agrees": agrees,
                "expected": not agrees
                and others.explain(network)
                and not is_setting
                and math.isfinite(published)
                and math.isfinite(here),
            }


def _network(row: Mapping[str, Any]) -> str:
    """What a row is about: a network, or a saddle."""
    return str(row.get("network", row.get("subject", "")))


def _by_name(table: pd.DataFrame, naming: list[str]) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of a table by the texts that name them and a number among those named alike."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for row in table.to_dict("records"):
        name = " ".join(str(row.get(text, "")) for text in naming)
        rows[name, seen[name]] = {str(column): value for column, value in row.items()}
        seen[name] += 1
    return rows


def _number(row: Mapping[str, Any], column: str) -> float:
    try:
        return float(row.get(column, math.nan))
    except (TypeError, ValueError):
        return math.nan


def _tolerance(tolerances: Tolerances, table: str, column: str) -> Mapping[str, float]:
    for key in (f"{table}.{column}", table):
        if key in tolerances:
            return tolerances[key]
    raise ConfigurationError(
        f"key 'comparison' states no tolerance for {table}.{column}, nor for {table}"
    )
