"""The numbers computed here beside the published ones, cell by cell, with their tolerances."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from hessian_directions.claims import INCONCLUSIVE
from hessian_directions.errors import ConfigurationError

Tolerances = Mapping[str, Mapping[str, float]]

# What varies from run to run: the table of costs, and the seconds beside the traces.
NOT_COMPARED = {"cost", "cost_scaling"}
UNSTABLE_COLUMNS = {"seconds"}
# Texts that describe a row; the other texts of a table name it.
DESCRIPTIONS = {"label", "activation"}

COLUMNS = ["quantity", "row", "published", "computed", "tolerance", "agrees"]


def compare_tables(
    archived: Mapping[str, pd.DataFrame],
    computed: Mapping[str, pd.DataFrame],
    tolerances: Tolerances,
) -> pd.DataFrame:
    """One row per published number; it agrees if |new − old| ≤ absolute + relative·|old|.

    `tolerances` is keyed by `table.column`, or by `table` for its other columns. Rows are matched
    by the texts that name them, in their order where these are equal. Texts are not compared; true
    and false count as 1 and 0. A number that is missing on one side does not agree.
    """
    rows: list[dict[str, Any]] = []
    for table, old in archived.items():
        if table not in NOT_COMPARED:
            rows.extend(_compare(table, old, computed.get(table, old.iloc[:0]), tolerances))
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


def summary(numbers: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Plain words: did this machine reproduce the published numbers and verdicts?"""
    lines = []
    for table, agrees in numbers.groupby(_tables(numbers), sort=False)["agrees"]:
        count = f"{agrees.sum():>5} of {len(agrees):>5}"
        lines.append(f"  {table:<20} {count} numbers within tolerance")
    for row in verdicts.to_dict("records"):
        published, here = row["verdict_published"], row["verdict_computed"]
        lines.append(f"  {row['claim']:<20} published: {published}; here: {here} ({row['result']})")
    outside = int((~numbers["agrees"].astype(bool)).sum())
    results = Counter(verdicts["result"])
    if outside or results["failure"]:
        lines.append(
            f"This machine did NOT reproduce everything: {outside} of {len(numbers)} numbers are "
            f"outside their tolerance, {results['failure']} verdicts are opposite or missing."
        )
    else:
        lines.append(
            f"This machine reproduced all {len(numbers)} published numbers"
            + (" and all verdicts." if not results["warning"] else ".")
        )
    if results["warning"]:
        lines.append(
            f"Warning: {results['warning']} verdicts are decided on one side and inconclusive on "
            "the other."
        )
    return "\n".join(lines)


def _tables(numbers: pd.DataFrame) -> list[str]:
    return [quantity.split(".")[0] for quantity in numbers["quantity"]]


def _compare(
    table: str, old: pd.DataFrame, new: pd.DataFrame, tolerances: Tolerances
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
        for name, number in names:
            published = _number(before.get((name, number), {}), column)
            here = _number(after.get((name, number), {}), column)
            allowed = tolerance["absolute"] + tolerance["relative"] * abs(published)
            close = math.isfinite(published) and abs(here - published) <= allowed
            both_missing = math.isnan(published) and math.isnan(here)
            yield {
                "quantity": f"{table}.{column}",
                "row": f"{name} {number}".strip() if repeated[name] > 1 else name,
                "published": published,
                "computed": here,
                "tolerance": allowed,
                "agrees": close or here == published or both_missing,
            }


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
