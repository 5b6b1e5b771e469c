"""What the stages of a run took, beside what was predicted."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from hessian_directions.progress import duration
from hessian_directions.reporting.report import text
from hessian_directions.reporting.report.panels import Page, Panel

HEADS = ("network", "stage", "jobs", "time", "predicted time", "memory", "predicted memory")
# Of a stage: seconds of all its jobs, bytes of the largest.
Cost = tuple[float, float]


def page(
    records: Iterable[Mapping[str, Any]],
    predicted: Mapping[tuple[str, str], Cost],
    labels: Mapping[str, str],
) -> Page:
    """A row for every stage of every network, the longest first.

    Args:
        records: Of the jobs: rule, wildcards, device, cpu_seconds, wall_seconds, peak_memory_bytes.
        predicted: Seconds and bytes by network ("" for none) and rule, as far as they are known.
        labels: Printed names of the networks.
    """
    stages: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for record in records:
        # What else a machine does makes wall times longer; on a GPU they are all there is.
        on_cpu = record.get("device", "cpu") == "cpu"
        seconds = record["cpu_seconds" if on_cpu else "wall_seconds"]
        stage = record["wildcards"].get("network", ""), record["rule"]
        stages[stage].append((seconds, record["peak_memory_bytes"]))
    rows: list[list[tuple[str, float | str]]] = []
    whole = 0.0
    for (network, rule), jobs in stages.items():
        times, sizes = zip(*jobs)
        time, size = predicted.get((network, rule), (math.nan, math.nan))
        names = [(escape(labels.get(network, network) or "–"), network), (escape(rule), rule)]
        took = [_time(sum(times)), _time(time), _memory(max(sizes)), _memory(size)]
        rows.append([*names, (text.count(len(jobs)), len(jobs)), *took])
        whole += sum(times)
    rows.sort(key=lambda row: -float(row[3][1]))
    return Page(
        "cost",
        "Cost",
        f"<p>All jobs together took {duration(whole)} of one processor, or of the GPU where they ran on one.</p>",
        [
            Panel(
                "cost-stages",
                "Stages",
                "Time of all jobs of a stage, and memory of the largest; predicted from passes that were "
                "measured before the run, where they were.",
                html=text.sortable(HEADS, rows, 2),
            )
        ],
    )


def _time(seconds: float) -> tuple[str, float]:
    return "–" if seconds != seconds else duration(seconds), seconds


def _memory(size: float) -> tuple[str, float]:
    return "–" if size != size else f"{size / 1e9:.2f} GB", size
