"""The numbers computed here beside the archive's, and whether they are the same result.

Two questions, one table. Where the weights are the archive's, a number may differ by rounding alone
(`rounding`). Where training made other weights, as it does on a processor that rounds otherwise, a
number must lie where the archive's replicates predict the next training's (`replicates`); of a
hundred such numbers one misses, and how many may is known from the archive's own runs.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from hessian_directions.reporting.verdicts import INCONCLUSIVE
from hessian_directions.reproduction import quantities, replicates, rounding
from hessian_directions.reproduction.quantities import ABOUT_POPULATION, POPULATION
from hessian_directions.reproduction.replicates import Acceptance, Predicted
from hessian_directions.reproduction.rounding import Scale

Tables = Mapping[str, pd.DataFrame]
Weights = Mapping[str, np.ndarray]
Row = Mapping[str, Any]

# The texts that name a row. What else is said in words describes it or was found, and another training finds
# other things; rows that are named alike follow each other.
NAMES = {
    *("network", "subject", "measure", "generalization", "factor", "estimator", "rule"),
    *("plane", "start", "end", "statistics", "split", "kind", "along"),
    *("hidden_activation", "layers", "origin"),
}

ROUNDING, PREDICTION, NOTHING = "rounding", "prediction", "nothing"
# Kinds that no training changes, or that are bounded whatever the training.
_NOT_PREDICTED = {quantities.SETTING, quantities.FORMULA, quantities.RESIDUAL, quantities.FLAG}
# Of a number that is tried to be passed off as the archive's.
CHANGES = {"5 %": 0.95, "20 %": 0.8, "50 %": 0.5, "sign": -1.0}

COLUMNS = [
    *("quantity", "row", "subject", "kind", "published", "computed", "within", "low", "high"),
    *("agrees", "decisive", "rounding_low", "rounding_high", "predicted_low", "predicted_high"),
    *("alone_low", "alone_high"),
]


def other_networks(
    archived: Mapping[str, Weights],
    computed: Mapping[str, Weights],
    archived_population: xr.Dataset | None = None,
    population: xr.Dataset | None = None,
) -> set[str]:
    """Which of the networks that were trained here are not those of the archive, to the bit.

    Of the population's members the norm ‖θ‖ is known, in float64: equal weights have it in common
    to far more than twelve digits, on every machine.
    """
    others = {name for name in computed if not _equal(archived.get(name, {}), computed[name])}
    if archived_population is not None and population is not None:
        old, new = archived_population["theta_norm"].values, population["theta_norm"].values
        if len(old) != len(new) or not np.allclose(old, new, rtol=1e-12, atol=0):
            others.add(POPULATION)
    return others


def compare_tables(
    archived: Tables,
    computed: Tables,
    scales: Mapping[str, Scale],
    others: Collection[str] = (),
    runs: Sequence[Tables] = (),
) -> tuple[pd.DataFrame, Acceptance]:
    """One row per published number, and how many of the predicted ones may miss their interval.

    Rows are matched by the texts that name them (`NAMES`). Texts are not compared; true and false
    count as 1 and 0. A number that only one side has does not agree. Numbers of other networks than
    the archive's are judged by nothing where it has fewer replicates than are needed.

    Args:
        archived, computed: Tables by name; those of the archive decide what is compared.
        scales: Of each network, of the population, and under "" of what has neither.
        others: Networks (or POPULATION) that are not the archive's.
        runs: The tables of the archive's replicates.

    Returns:
        Columns `quantity`, `row`, `subject`, `kind`, `published`, `computed`; `within`: what `low`
        and `high` come from, `rounding`, `prediction` or `nothing`; `agrees`; `decisive`: whether it fails
        alone. Both intervals stand beside, whichever is used, and `alone_…`: outside which a
        predicted number fails alone.

    Raises:
        ConfigurationError: Of a column nothing is said in `quantities`.
    """
    cells = [
        cell
        for table, old in archived.items()
        if table not in quantities.TIMES
        for cell in _cells(table, old, computed.get(table, old.iloc[:0]), scales, runs)
    ]
    predicted = [cell for cell in cells if cell["is_predicted"]]
    judged = [cell for cell in predicted if cell["subject"] in others] or predicted
    probabilities = np.array([_left_out(cell) for cell in judged] or np.empty((0, 0)))
    acceptance = replicates.accept(probabilities.T, [cell["subject"] for cell in judged])
    for cell in cells:
        _judge(cell, others, acceptance)
        if cell["subject"] in others and len(runs) + 1 < replicates.FEWEST:
            cell |= {"within": NOTHING, "agrees": False, "decisive": False}
    return pd.DataFrame(cells, columns=COLUMNS), acceptance


NO_CLAIMS = pd.DataFrame(columns=["claim", "verdict"], dtype=str)


def compare_verdicts(archived: pd.DataFrame, computed: pd.DataFrame) -> pd.DataFrame:
    """Verdicts side by side.

    Decided against inconclusive is a warning; another decision, or none, is a failure.
    """
    columns, suffixes = ["claim", "verdict"], ("_published", "_computed")
    merged = archived[columns].merge(computed[columns], "outer", "claim", suffixes=suffixes)
    merged = merged.fillna("missing")
    published, here = merged["verdict_published"], merged["verdict_computed"]
    missing = (published == "missing") | (here == "missing")
    undecided = (published == INCONCLUSIVE) | (here == INCONCLUSIVE)
    merged["result"] = np.select(
        [published == here, undecided & ~missing], ["same", "warning"], default="failure"
    )
    return merged


def power(numbers: pd.DataFrame) -> pd.DataFrame:
    """What share of wrong numbers each level notices, by kind and by what is wrong with them.

    Each published number that is not 0 is held against its own interval, changed: as if a run had
    given 5, 20 or 50 % less, or the other sign, of this number alone. `noticed` is the share of
    those that leave their interval, `alone` of those that make the whole comparison fail by
    themselves. The level `retrained` is there where the archive has replicates.
    """
    rows: list[tuple[Any, ...]] = []
    is_result = ~numbers["kind"].isin({quantities.SETTING, quantities.FLAG})
    published = numbers["published"].astype(float)
    results = numbers[is_result & np.isfinite(published) & (published != 0)]
    levels = {"recomputed": (ROUNDING, ROUNDING)} if len(results) else {}
    if results["predicted_low"].notna().any():
        levels["retrained"] = ("predicted", "alone")
    for level, intervals in levels.items():
        for kind, group in [*results.groupby("kind", sort=True), ("all", results)]:
            for change, factor in CHANGES.items():
                noticed, alone = (_is_outside(group, factor, interval) for interval in intervals)
                rows.append((level, kind, change, len(group), noticed.mean(), alone.mean()))
    return pd.DataFrame(rows, columns=["level", "kind", "change", "numbers", "noticed", "alone"])


def holds(numbers: pd.DataFrame, verdicts: pd.DataFrame, acceptance: Acceptance) -> bool:
    """Whether what was computed here is the archive's result."""
    misses = _misses(numbers)
    return not (
        misses["decisive"].any()
        or len(misses) > acceptance.most
        or (verdicts["result"] == "failure").any()
    )


def summary(
    level: str,
    numbers: pd.DataFrame,
    verdicts: pd.DataFrame,
    acceptance: Acceptance,
    others: Collection[str] = (),
) -> str:
    """Plain words: what was compared how, misses first. `level` is "recomputed" or "retrained"."""
    misses = _misses(numbers).sort_values("decisive", ascending=False, kind="stable")
    lines = [
        f"  {row['quantity']} {row['row']}".rstrip()
        + f": published {row['published']:.10g}, here {row['computed']:.10g}, "
        + f"{row['within']} allows {row['low']:.10g} to {row['high']:.10g}"
        + (" (fails alone)" if row["decisive"] else "")
        for row in misses.head(20).to_dict("records")
    ]
    if len(misses):
        lines.insert(0, f"{len(misses)} numbers lie outside their interval:")
    if len(misses) > 20:
        lines.append(f"  … and {len(misses) - 20} more: see comparison.csv")
    for row in verdicts[verdicts["result"] != "same"].to_dict("records"):
        published, here = row["verdict_published"], row["verdict_computed"]
        lines.append(f"Claim {row['claim']}: published {published}, here {here} ({row['result']})")
    results = Counter(verdicts["result"])
    if len(verdicts):
        lines.append(f"{results['same']} of {len(verdicts)} verdicts are the same.")
    lines += _how(level, numbers, acceptance, others)
    lines += _power_lines(power(numbers))
    n_judged = int((numbers["within"] != NOTHING).sum())
    what = "reproduced" if level == "retrained" else "recomputed"
    if holds(numbers, verdicts, acceptance):
        lines.append(
            f"This machine {what} the published numbers: {n_judged - len(misses)} of "
            f"{n_judged} lie in their intervals."
        )
    else:
        lines.append(
            f"This machine did NOT {what.removesuffix('d')} the published results: "
            f"{len(misses)} of {n_judged} numbers lie outside their intervals, "
            f"{results['failure']} verdicts are others or missing."
        )
    return "\n".join(lines)


def _misses(numbers: pd.DataFrame) -> pd.DataFrame:
    return numbers[~numbers["agrees"].astype(bool) & (numbers["within"] != NOTHING)]


def _how(
    level: str, numbers: pd.DataFrame, acceptance: Acceptance, others: Collection[str]
) -> list[str]:
    counts = Counter(numbers["within"])
    missing = numbers["published"].isna() & numbers["computed"].isna()
    equal = int(((numbers["published"] == numbers["computed"]) | missing).sum())
    recomputed = level == "recomputed"
    origin = "the archive's own weights were analysed" if recomputed else "networks were trained"
    lines = [
        f"How {len(numbers)} numbers were compared ({origin}; {equal} are equal to all ten digits):",
        f"  {counts[ROUNDING]} may differ by rounding alone, none may miss",
    ]
    where = f"were measured on other networks than the archive's ({', '.join(sorted(others))})"
    if counts[NOTHING]:
        lines.append(
            f"  {counts[NOTHING]} {where} and are NOT judged: the archive has fewer than "
            f"{replicates.FEWEST} seeds to predict them from (`make replicates`)"
        )
    if counts[PREDICTION]:
        lines += [
            f"  {counts[PREDICTION]} {where}: each must lie in the {100 * replicates.CONFIDENCE:.0f} % "
            "prediction interval of the archive's runs",
            f"  of those {acceptance.most} may miss it (rate {acceptance.rate:.3f}; misses of one "
            f"network go together, so they count as "
            f"{acceptance.n_numbers / acceptance.overdispersion:.0f} independent numbers)",
        ]
    return lines


def _power_lines(table: pd.DataFrame) -> list[str]:
    """The rows of all numbers: what would have been noticed."""
    lines = []
    for level, rows in table[table["kind"] == "all"].groupby("level", sort=True):
        shares = ", ".join(
            f"{100 * noticed:.0f} % if {'its sign is wrong' if change == 'sign' else f'{change} too small'}"
            for change, noticed in zip(rows["change"], rows["noticed"], strict=True)
        )
        lines.append(f"A wrong number is noticed, {level}: {shares} (comparison_power.csv)")
    return lines


def _equal(a: Weights, b: Weights) -> bool:
    """Whether two networks have the same weights to the bit."""
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]) for key in a
    )


def _cells(
    table: str,
    old: pd.DataFrame,
    new: pd.DataFrame,
    scales: Mapping[str, Scale],
    runs: Sequence[Tables],
) -> Iterator[dict[str, Any]]:
    """The numbers of a table, each with where rounding and another training may put it."""
    numeric = [str(column) for column in old.select_dtypes(["number", "bool"])]
    naming = [str(column) for column in old if column in NAMES - set(numeric)]
    before, after = _by_name(old, naming), _by_name(new, naming)
    repeats = [_by_name(run[table], naming) for run in runs if table in run]
    names = list(dict.fromkeys([*before, *after]))
    repeated = Counter(name for name, _ in names)
    for column in numeric:
        quantity = quantities.quantity(table, column)
        if quantity.kind == quantities.NOT_COMPARED:
            continue
        for name, number in names:
            row = before.get((name, number), {})
            named = row.get("network", row.get("subject", ""))  # a network, or a saddle
            subject = POPULATION if table in ABOUT_POPULATION else str(named)
            scale = scales.get(subject, scales[""])
            here = after.get((name, number), {})
            slack = rounding.tolerance(table, column, quantity, row, here, scale)
            published = rounding.number(row, column)
            again = (repeat.get((name, number), {}) for repeat in repeats)
            values = [published, *(rounding.number(other, column) for other in again)]
            n_cases = rounding.cases(quantity, row, scale)
            yield {
                "quantity": f"{table}.{column}",
                "row": f"{name} {number}".strip() if repeated[name] > 1 else name,
                "subject": subject,
                "kind": quantity.kind,
                "published": published,
                "computed": rounding.number(here, column),
                "is_there": column in here,
                "slack": slack,
                "values": values,
                "n_cases": n_cases,
                # A share that is published as the number of cases.
                "unit": float(n_cases) if quantity.counted and n_cases else 1.0,
                # What no training changes, or fewer runs have than are needed, is not predicted.
                "is_predicted": subject in scales
                and subject != ""
                and quantity.kind not in _NOT_PREDICTED
                and np.isfinite(values).sum() >= replicates.FEWEST,
            }


def _predicted(cell: Mapping[str, Any], without: int | None = None) -> Predicted:
    """What the archive's runs say of a number, all that have it or all but one."""
    values = np.array(cell["values"]) / cell["unit"]
    if without is not None:
        values[without] = math.nan
    slack = cell["slack"] / cell["unit"]
    return replicates.predict(cell["kind"], values[np.isfinite(values)], cell["n_cases"], slack)


def _left_out(cell: Mapping[str, Any]) -> list[float]:
    """How probable each archived run is, given the others; NaN where it has no number."""
    return [
        _predicted(cell, without=k).probability(value / cell["unit"])
        if math.isfinite(value)
        else math.nan
        for k, value in enumerate(cell["values"])
    ]


def _judge(cell: dict[str, Any], others: Collection[str], acceptance: Acceptance) -> None:
    """Complete a cell: its intervals, which of them counts, and whether the number lies in it."""
    published, here, slack = cell["published"], cell["computed"], cell["slack"]
    low, high = published - slack, published + slack
    if cell["kind"] == quantities.RESIDUAL:
        low, high = 0.0, max(published, slack)
    cell |= {"rounding_low": low, "rounding_high": high, "within": ROUNDING}
    if cell["is_predicted"]:
        predicted = _predicted(cell)
        for name, ends in (
            ("predicted", predicted.interval()),
            ("alone", predicted.widest(acceptance.least_probability)),
        ):
            cell[f"{name}_low"], cell[f"{name}_high"] = (cell["unit"] * end for end in ends)
    other, fatal = cell["subject"] in others, True
    if other and cell["is_predicted"]:
        cell["within"], low, high = PREDICTION, cell["predicted_low"], cell["predicted_high"]
        fatal = here < cell["alone_low"] or here > cell["alone_high"]
    elif other and cell["kind"] not in _NOT_PREDICTED - {quantities.FLAG}:
        # Flags, and what too few runs have: it must be like one of them.
        cell["within"], seen, fatal = PREDICTION, cell["values"], False
        low, high = np.nanmin([*seen, math.inf]), np.nanmax([*seen, -math.inf])
    elif other and cell["kind"] == quantities.RESIDUAL:
        # Another search ends elsewhere; what rests on it has been widened by it.
        cell["within"], fatal = PREDICTION, False
        high = max([high, *(value for value in cell["values"] if math.isfinite(value))])
    # Five runs do not rule out another flag in the sixth, or a number that is not finite.
    fatal = fatal or not cell["is_there"]
    without = cell["values"] if other else [published]
    agrees = bool(low <= here <= high or (math.isnan(here) and any(map(math.isnan, without))))
    cell |= {"low": low, "high": high, "agrees": agrees, "decisive": not agrees and fatal}


def _is_outside(numbers: pd.DataFrame, factor: float, interval: str) -> pd.Series:
    """Whether the published numbers times a factor leave their intervals of a kind; what has none of
    that kind may differ by rounding alone.
    """
    low, high = (
        numbers[f"{interval}_{end}"].fillna(numbers[f"{ROUNDING}_{end}"]) for end in ("low", "high")
    )
    values = factor * numbers["published"]
    return (values < low) | (values > high)


def _by_name(table: pd.DataFrame, naming: list[str]) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of a table by the texts that name them and a number among those named alike."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for row in table.to_dict("records"):
        name = " ".join(str(row.get(text, "")) for text in naming)
        rows[name, seen[name]] = {str(column): value for column, value in row.items()}
        seen[name] += 1
    return rows
