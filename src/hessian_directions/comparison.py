"""The numbers computed here beside the published ones, cell by cell, with the tolerance of each."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hessian_directions.claims import INCONCLUSIVE
from hessian_directions.errors import ConfigurationError

# What varies from run to run is shown nowhere but in the table of costs, and not compared.
NOT_COMPARED = {"cost"}
UNSTABLE_COLUMNS = {"seconds"}


def compare_tables(
    archived: Mapping[str, pd.DataFrame],
    computed: Mapping[str, pd.DataFrame],
    tolerances: Mapping[str, Mapping[str, float]],
) -> pd.DataFrame:
    """One row per published number: |new − old| ≤ absolute + relative·|old|.

    `tolerances` is keyed by `table.column`, or by `table` for its other columns. Rows of a table are matched by
    its columns of text and by position. A number that is missing on one side does not agree.
    """
    rows = []
    for table, old in archived.items():
        if table in NOT_COMPARED:
            continue
        new = computed[table]
        for column in old.select_dtypes("number").columns:
            if column in UNSTABLE_COLUMNS:
                continue
            tolerance = _tolerance(tolerances, table, column)
            for index in range(max(len(old), len(new))):
                before, after = _cell(old, column, index), _cell(new, column, index)
                allowed = tolerance["absolute"] + tolerance["relative"] * abs(before)
                agrees = abs(after - before) <= allowed or (np.isnan(before) and np.isnan(after))
                rows.append(
                    {
                        "quantity": f"{table}.{column}",
                        "row": _name(old if index < len(old) else new, index),
                        "published": before,
                        "computed": after,
                        "tolerance": allowed,
                        "agrees": bool(agrees),
                    }
                )
    return pd.DataFrame(rows)


def compare_verdicts(archived: pd.DataFrame, computed: pd.DataFrame) -> pd.DataFrame:
    """Verdicts side by side: decided against inconclusive is a warning, the opposite verdict a failure."""
    merged = archived[["claim", "verdict"]].merge(
        computed[["claim", "verdict"]], on="claim", suffixes=("_published", "_computed")
    )
    published, here = merged["verdict_published"], merged["verdict_computed"]
    open_on_one_side = (published == INCONCLUSIVE) | (here == INCONCLUSIVE)
    merged["result"] = np.select(
        [published == here, open_on_one_side], ["same", "warning"], default="failure"
    )
    return merged


def summary(numbers: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Plain words: did this machine reproduce the published numbers and verdicts?"""
    lines = []
    by_table = numbers.groupby(numbers["quantity"].str.split(".").str[0], sort=False)["agrees"]
    for table, agrees in by_table:
        lines.append(f"  {table:<20} {agrees.sum():>5} of {len(agrees):>5} numbers within tolerance")
    lines += [
        f"  {row.claim:<20} published: {row.verdict_published}; here: {row.verdict_computed} ({row.result})"
        for row in verdicts.itertuples()
    ]
    outside, failures = int((~numbers["agrees"]).sum()), int((verdicts["result"] == "failure").sum())
    if outside or failures:
        lines.append(
            f"This machine did NOT reproduce everything: {outside} numbers outside tolerance, "
            f"{failures} opposite verdicts."
        )
    else:
        lines.append(f"This machine reproduced all {len(numbers)} published numbers and the verdicts.")
    return "\n".join(lines)


def _tolerance(
    tolerances: Mapping[str, Mapping[str, float]], table: str, column: str
) -> Mapping[str, float]:
    for key in (f"{table}.{column}", table):
        if key in tolerances:
            return tolerances[key]
    raise ConfigurationError(
        f"key 'comparison' states no tolerance for {table}.{column}, nor for {table}"
    )


def _cell(table: pd.DataFrame, column: str, index: int) -> float:
    if column not in table or index >= len(table):
        return float("nan")
    return float(table[column].iloc[index])


def _name(table: pd.DataFrame, index: int) -> str:
    text = table.select_dtypes(exclude="number").iloc[index].astype(str)
    return " ".join(text) if len(text) else str(index)
