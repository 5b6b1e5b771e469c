"""What is compared, the goals written down beforehand, and how measurements become rows.

A goal is a bound on a ratio, ours to theirs, and on our cost in forward passes of the same network
over the same images. What is timed alternates in one process, so ratios are taken round by round:
what slows the machine down slows down both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

PRODUCT = "one Hessian-vector product"
PROBES = "16 Hutchinson probes"
DERIVATIVE = "one second directional derivative"
DERIVATIVES = "16 second directional derivatives"
EIGENPAIRS = "both extreme eigenpairs"
SURFACE = "a point of a surface"
TRACE = "trace at equal seconds"


@dataclass(frozen=True)
class Goal:
    """Bounds; NaN where there is none.

    Attributes
    ----------
    ratio
        Ours to the fastest peer's (eigenpairs: to the recipe's).
    forwards
        Ours for each vector or point, in forward passes.
    floor
        What convolutions and matrix products alone cost, in forward passes.
    """

    ratio: float = np.nan
    forwards: float = np.nan
    floor: float = np.nan

    def reached(self, ratio: float, forwards: float) -> bool:
        """Whether every bound that is there holds; a measurement that is missing holds none."""
        bounds = ((ratio, self.ratio), (forwards, self.forwards))
        return all(np.isnan(bound) or measured <= bound for measured, bound in bounds)


GOALS = {
    PRODUCT: Goal(ratio=1 / 2, forwards=9.5, floor=8),
    PROBES: Goal(ratio=1 / 3, forwards=7, floor=6),
    DERIVATIVE: Goal(forwards=7, floor=5),
    DERIVATIVES: Goal(forwards=5, floor=3.5),
    EIGENPAIRS: Goal(ratio=1 / 2),
    SURFACE: Goal(ratio=1 / 4, forwards=1.1, floor=1),
    TRACE: Goal(ratio=1 / 2),
}

COLUMNS = {
    "network": "what was studied",
    "n_parameters": "N",
    "n_images": "images that the loss is a mean over",
    "work": "a key of GOALS",
    "measure": "what `ours`, `theirs` and `ratio` are: seconds, products, root mean square error",
    "ours": "median over the rounds",
    "theirs": "the same of the peer",
    "ratio": "median of the rounds' ratios, ours / theirs",
    "ratio_low": "smallest of them (trace: lower end of a 95 % interval)",
    "ratio_high": "largest of them (trace: upper end)",
    "peer": "the other tool",
    "peer_layout": "memory layout that its images and weights had",
    "ours_seconds": "",
    "peer_seconds": "",
    "forwards": "ours for each vector or point, in forward passes (median of the rounds)",
    "peer_forwards": "the same of the peer",
    "goal_ratio": "",
    "goal_forwards": "",
    "floor": "the least number of forward passes that is possible",
    "decides": "whether the goal is about this peer: the fastest there is",
    "reached": "whether the bounds hold against this peer",
    "note": "",
}


def round_ratios(numerator: Sequence[float], denominator: Sequence[float]) -> np.ndarray:
    """Ratios of the rounds; both were measured in each of them."""
    if len(numerator) != len(denominator) or not len(numerator):
        raise ValueError(f"{len(numerator)} and {len(denominator)} rounds have no common ratios.")
    return np.asarray(numerator, float) / np.asarray(denominator, float)


def timed_row(
    work: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    forward: Sequence[float],
    count: int,
    **columns: Any,
) -> dict[str, Any]:
    """A row from the seconds of every round; `count` vectors or points a call."""
    ratios = round_ratios(ours, theirs)
    seconds = {"ours": float(np.median(ours)), "theirs": float(np.median(theirs))}
    return finished_row(
        work,
        measure="seconds",
        **seconds,
        ratio=float(np.median(ratios)),
        ratio_low=float(ratios.min()),
        ratio_high=float(ratios.max()),
        ours_seconds=seconds["ours"],
        peer_seconds=seconds["theirs"],
        forwards=float(np.median(round_ratios(ours, forward))) / count,
        peer_forwards=float(np.median(round_ratios(theirs, forward))) / count,
        **columns,
    )


def finished_row(work: str, **columns: Any) -> dict[str, Any]:
    """A row with its goals and whether they are reached, in the order of the columns."""
    goal = GOALS[work]
    row = {"work": work, "goal_ratio": goal.ratio, "goal_forwards": goal.forwards} | columns
    row["floor"] = goal.floor
    row["reached"] = goal.reached(row.get("ratio", np.nan), row.get("forwards", np.nan))
    if unknown := row.keys() - COLUMNS.keys():
        raise ValueError(f"there is no column {min(unknown)}.")
    return {name: row.get(name, "" if name == "note" else np.nan) for name in COLUMNS}


def decided(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one network and work, of which the one with the fastest peer decides."""
    fastest = min(rows, key=lambda row: row["peer_seconds"])
    return [row | {"decides": row is fastest} for row in rows]


def bootstrap_ratio(
    ours: Sequence[float], theirs: Sequence[float], n_samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the ratio of two root mean square errors, by resampling repetitions."""
    rng = np.random.default_rng(seed)

    def resampled(errors: Sequence[float]) -> np.ndarray:
        squares = np.square(np.asarray(errors, float))
        return np.sqrt(rng.choice(squares, (n_samples, len(squares))).mean(axis=1))

    low, high = np.quantile(resampled(ours) / resampled(theirs), (0.025, 0.975))
    return float(low), float(high)


def missing(table: pd.DataFrame, networks: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """The (network, work) that are not yet in the table, in the order of the mapping."""
    done = set(zip(table["network"], table["work"])) if len(table) else set()
    wanted = [(network, work) for network, works in networks.items() for work in works]
    return [pair for pair in wanted if pair not in done]


def summary(table: pd.DataFrame) -> str:
    """The rows that decide, one line each, and which goals are missed."""
    lines = []
    for row in table[table["decides"]].itertuples():
        text = f"{row.network:13} {row.work:34}"
        if np.isfinite(row.ratio):
            text += f" {row.ratio:5.2f} of {row.peer} ({row.peer_layout})"
            text += f", goal {row.goal_ratio:.2f}" if np.isfinite(row.goal_ratio) else ""
        if np.isfinite(row.forwards):
            text += f"; {row.forwards:.2f} forwards"
            text += f", goal {row.goal_forwards:g}" if np.isfinite(row.goal_forwards) else ""
        lines.append(text + ("" if row.reached else "  MISSED"))
    return "\n".join(lines)


def readme_cells(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """By work: ratios to the fastest peer and our forward passes, a number for each network."""
    return {
        str(work): (
            ", ".join(f"{ratio:.2f}" for ratio in rows["ratio"]),
            ", ".join(f"{cost:.1f}" for cost in rows["forwards"].dropna()),
        )
        for work, rows in table[table["decides"].astype(bool)].groupby("work", sort=False)
    }
