"""Numbers and tables of the report, as text of HTML."""

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def number(value: Any, digits: int = 4) -> str:
    """A number in so many digits, 1.5·10^−7 where it is small or large, – where it is not known."""
    value = float(value)
    if math.isnan(value):
        return "–"
    text = f"{value:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}·10^{int(exponent)}"
    return text.replace("-", "−")


def count(value: Any) -> str:
    return f"{int(value):,}"


def with_error(value: Any, error: Any) -> str:
    """Value ± standard error, both to the error's second digit."""
    value, error = float(value), float(error)
    if not error > 0 or not math.isfinite(error):
        return number(value, 6) + (" (exact)" if error == 0 else "")
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 6 or abs(value) >= 1e6:
        return f"{number(value)} ± {number(error, 2)}"
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")


def raised(text: str) -> str:
    """Escaped, with raised exponents, 3·10^−4, and lowered names of ends and norms, λ_max and ‖H‖_F."""
    text = re.sub(r"·10\^(−?\d+)", r"·10<sup>\1</sup>", escape(text))
    return re.sub(r"(?<=[λv‖])_(max|min|F)\b", r"<sub>\1</sub>", text)


def table(heads: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> str:
    """A table of texts; without heads the first column names what the others say."""

    def row(cells: Sequence[str], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "<tr>" + "".join(f"<{tag}{scope}>{raised(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = "" if heads is None else f"<thead>{row(heads, 'th')}</thead>"
    body = "".join(row(cells, "td") for cells in rows)
    kind = "facts" if heads is None else "numbers"
    return f'<div class="wide"><table class="{kind}">{head}<tbody>{body}</tbody></table></div>'


def sortable(
    heads: Sequence[str], rows: Iterable[Sequence[tuple[str, float | str]]], n_names: int
) -> str:
    """A table that a click on a head, or Enter on it, sorts.

    Args:
        heads: Of the columns.
        rows: Cells as HTML, each with what it is sorted by; NaN for what is not known.
        n_names: So many columns hold names, those after them numbers.
    """
    looks = [""] * n_names + [" class=number"] * (len(heads) - n_names)

    def cell(html: str, key: float | str, look: str) -> str:
        sorted_by = "" if key != key else escape(str(key))
        return f'<td data-key="{sorted_by}"{look}>{html}</td>'

    head = "".join(
        f'<th scope="col" aria-sort="none"{look}><button type="button">{raised(text)}</button></th>'
        for text, look in zip(heads, looks, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(cell(*one, look) for one, look in zip(row, looks, strict=True))}</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
