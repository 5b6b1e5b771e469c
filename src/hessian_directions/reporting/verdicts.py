"""Verdicts: how intervals decide rows, and rows decide claims.

A claim has rules, a rule has subjects (networks, saddles, measures), and each subject gives a row:
an estimate and its interval. The interval alone decides a row, the rows decide the claim. What is
not a number decides nothing. A row without power, one that would rarely notice if the claim were
false, speaks for no claim; where it finds a claim false all the same, it does so at its confidence.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from hessian_directions.statistics.intervals import Interval, IntervalAt

PROVED, REPRODUCED = "proved", "reproduced"
NOT_REPRODUCED, INCONCLUSIVE = "not reproduced", "inconclusive"

# Least share of worlds in which the claim is false and the row says so.
LEAST_POWER = 0.8
# Such worlds, drawn for each row; all of them where the first do not tell on which side of the least
# power a row lies, which then errs by 0.01.
N_WORLDS = (100, 2000)

Rule = Mapping[str, Any]
OURS = "ours"  # claims that no edition of the paper makes


@dataclass(frozen=True)
class Row:
    """One subject under one rule.

    Attributes:
        subject: A network, a saddle, a measure.
        estimate: Of the rule's statistic.
        interval: Of the estimate, at any confidence.
        artifact: That both are read from.
        false: Draws a world in which the claim is false of this subject, by what the rule says, with
            the sizes and the spread of the data; returns the interval found in it.
    """

    subject: str
    estimate: float
    interval: IntervalAt
    artifact: str
    false: Callable[[np.random.Generator], IntervalAt]


# Rows of all subjects that the artifacts have under a rule.
Rows = Callable[[Any, Rule], Iterator[Row]]


@dataclass(frozen=True)
class Declared:
    """A rule of a claim: what is measured, on which side of its threshold the claim holds, and the
    world in which it does not, that the rule's power is measured in.
    """

    statistic: str
    side: str
    rows: Rows
    false: str


@dataclass(frozen=True)
class Claim:
    """What is judged.

    Attributes:
        text: In our words.
        sentence: The words of the abstract that it stands for; empty where the claim is ours.
        edition: Whose words: the abstract of 2022 (arXiv), of 2024 (journal), both, or ours.
        theorem: Whether it is proved, so that a rule can only check the implementation.
    """

    text: str
    sentence: str = ""
    edition: str = OURS
    theorem: bool = False


def decide(interval: Interval, side: str, threshold: float) -> str:
    """The verdict of one row.

    An end at infinity is an end that nothing is known about; an interval of NaN decides nothing.
    """
    low, high = interval
    if not (low < math.inf and high > -math.inf):
        return INCONCLUSIVE
    if side == "below":
        low, high, threshold, side = -high, -low, -threshold, "above"
    if side == "above":
        if low > threshold:
            return REPRODUCED
        return NOT_REPRODUCED if high < threshold else INCONCLUSIVE
    if -threshold <= low and high <= threshold:
        return REPRODUCED
    outside = low > threshold or high < -threshold
    return NOT_REPRODUCED if outside else INCONCLUSIVE


def combine(verdicts: list[str]) -> str:
    """Not reproduced if one row is not, reproduced if all rows are, otherwise inconclusive."""
    if NOT_REPRODUCED in verdicts:
        return NOT_REPRODUCED
    return REPRODUCED if verdicts and set(verdicts) == {REPRODUCED} else INCONCLUSIVE


_EVIDENCE_COLUMNS = ["rule", "subject", "statistic", "estimate", "low", "high", "confidence"]
ROW_COLUMNS = [
    *("claim", *_EVIDENCE_COLUMNS, "side", "threshold", "power", "false", "verdict", "artifact"),
]
_COUNT_COLUMNS = ["n_reproduced", "n_not_reproduced", "n_inconclusive"]
CLAIM_COLUMNS = [
    *("claim", "text", "edition", "sentence", "verdict", *_COUNT_COLUMNS, *_EVIDENCE_COLUMNS),
    "artifact",
]


def decide_rows(
    evidence: Any,
    rules: Mapping[str, Mapping[str, Rule]],
    declared: Mapping[str, Mapping[str, Declared]],
) -> pd.DataFrame:
    """A table with one row per claim, rule and subject."""
    table = []
    for claim, claim_rules in rules.items():
        for name, rule in claim_rules.items():
            rows = list(declared[claim][name].rows(evidence, rule))
            for row in rows:
                interval, confidence, verdict = _decide_among(row.interval, rule, len(rows))
                power = _power(row, rule, len(rows))
                table.append(
                    {
                        "claim": claim,
                        "rule": name,
                        "subject": row.subject,
                        "statistic": rule["statistic"],
                        "estimate": float(row.estimate),
                        "low": float(interval[0]),
                        "high": float(interval[1]),
                        "confidence": confidence,
                        "side": rule["side"],
                        "threshold": rule["threshold"],
                        "power": power,
                        "false": declared[claim][name].false,
                        "verdict": verdict
                        if power >= LEAST_POWER or verdict == NOT_REPRODUCED
                        else INCONCLUSIVE,
                        "artifact": row.artifact,
                    }
                )
    return pd.DataFrame(table, columns=ROW_COLUMNS)


def _decide_among(found: IntervalAt, rule: Rule, n_rows: int) -> tuple[Interval, float, str]:
    """The interval that decides one row of several, its confidence, and the row's verdict.

    A claim is reproduced if every row is: an intersection–union test, in which each row has the
    stated confidence. It is refuted if one row is, which among many would happen by chance: there
    the error rate is divided by their number (Bonferroni).
    """
    corrected = 1 - (1 - rule["confidence"]) / n_rows
    decided = partial(decide, side=rule["side"], threshold=rule["threshold"])
    interval = found(corrected)
    if decided(interval) == NOT_REPRODUCED:
        return interval, corrected, NOT_REPRODUCED
    interval = found(rule["confidence"])
    verdict = decided(interval)
    return interval, rule["confidence"], REPRODUCED if verdict == REPRODUCED else INCONCLUSIVE


def _power(row: Row, rule: Rule, n_rows: int) -> float:
    """Share of worlds in which the claim is false of this row's subject that the row finds so."""
    random = np.random.default_rng(0)
    found: list[bool] = []
    for n_worlds in N_WORLDS:
        for _ in range(n_worlds - len(found)):
            _, _, verdict = _decide_among(row.false(random), rule, n_rows)
            found.append(verdict == NOT_REPRODUCED)
        error = math.sqrt(LEAST_POWER * (1 - LEAST_POWER) / n_worlds)
        if abs(np.mean(found) - LEAST_POWER) > 3 * error:
            break
    return float(np.mean(found))


def decide_claims(rows: pd.DataFrame, claims: Mapping[str, Claim]) -> pd.DataFrame:
    """A table with one row per claim: its verdict and the row that decided it.

    The deciding row is, among those with the claim's verdict, the one with the least clearance: of
    rows that are reproduced the one closest to failing, of rows that are not the clearest failure.
    A theorem whose checks all hold is proved.
    """
    table = []
    for claim, said in claims.items():
        mine = rows[rows["claim"] == claim]
        verdict = combine(list(mine["verdict"]))
        entry: dict[str, Any] = {"claim": claim, "text": said.text, "verdict": verdict}
        entry |= {"edition": said.edition, "sentence": said.sentence}
        for column, kind in zip(_COUNT_COLUMNS, (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE)):
            entry[column] = int((mine["verdict"] == kind).sum())
        candidates = mine[mine["verdict"] == verdict]
        if len(candidates):
            clearances = np.array([_clearance(row) for _, row in candidates.iterrows()])
            deciding = candidates.iloc[np.where(np.isnan(clearances), np.inf, clearances).argmin()]
            entry |= {name: deciding[name] for name in [*_EVIDENCE_COLUMNS, "artifact"]}
        else:
            entry |= {"rule": "none", "subject": "no subject in this profile"}
        if said.theorem and verdict == REPRODUCED:
            entry["verdict"] = PROVED
        table.append(entry)
    return pd.DataFrame(table, columns=CLAIM_COLUMNS)


def _clearance(row: pd.Series) -> float:
    """How far the end nearest to failing lies on the right side, in half widths of the interval."""
    low, high, threshold = (float(row[name]) for name in ("low", "high", "threshold"))
    if row["side"] == "inside":
        distance = threshold - max(abs(low), abs(high))
    elif row["side"] == "above":
        distance = low - threshold
    else:
        distance = threshold - high
    return distance / max((high - low) / 2, 1e-300)
