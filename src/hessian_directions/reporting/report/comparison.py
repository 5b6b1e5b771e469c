"""Numbers computed here beside the archive's."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hessian_directions.reporting.report import text
from hessian_directions.reporting.report.panels import Links, Page, Panel

Row = Mapping[str, Any]

KEYS = ("quantity", "row", "published", "computed", "low", "high", "within", "agrees")


def page(numbers: Sequence[Row], verdicts: Sequence[Row], summary: str, links: Links = ()) -> Page:
    """The comparison, misses first.

    Args:
        numbers: Rows of comparison.csv.
        verdicts: Rows of comparison_verdicts.csv.
        summary: Its result in words, comparison.txt.
        links: To these files.
    """
    ordered = sorted(numbers, key=lambda row: bool(row["agrees"]))  # stable
    rows = [{key: row[key] for key in KEYS} for row in ordered]
    # Failures first, then warnings.
    ranks = {"failure": 0, "warning": 1}
    judged = sorted(verdicts, key=lambda row: ranks.get(str(row["result"]), 2))
    columns = ("claim", "verdict_published", "verdict_computed", "result")
    table = text.table(
        ("claim", "archive", "here", ""), [[str(row[key]) for key in columns] for row in judged]
    )
    return Page(
        "comparison",
        "Comparison",
        f'<p class="summary" style="white-space: pre-line">{escape(summary.strip())}</p>',
        [
            Panel(
                "comparison-numbers",
                "Numbers",
                "A number agrees where it lies between the dashed lines, the ends of the interval "
                "that rounding or another training explains; misses come first.",
                "comparison",
                {"rows": rows},
                links=links,
            ),
            *([Panel("comparison-verdicts", "Verdicts", html=table)] if judged else []),
        ],
    )
