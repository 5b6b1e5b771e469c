"""Pages and panels of the report: a heading, what to see, data that the browser draws, where they are from."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import xarray as xr

from hessian_directions.reporting.report import text

# Where an artifact or a figure lies, seen from the report: printed name and relative path.
Links = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Panel:
    """One picture, or one table, of a page.

    Attributes:
        name: Its place in the page's address, unique in the report.
        title: Heading.
        see: A sentence that says what to see.
        kind: The function of report.js that draws it; empty for a panel without a picture.
        data: What that function takes; arrays are written in float32.
        html: What stands below the picture.
        links: To the artifacts that it shows and to their figures.
    """

    name: str
    title: str
    see: str = ""
    kind: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    html: str = ""
    links: Links = ()

    def render(self) -> str:
        name = escape(self.name)
        parts = [f'<section class="panel" id="{name}" aria-labelledby="{name}-title">']
        parts.append(f'<h3 id="{name}-title">{escape(self.title)}</h3>')
        if self.see:
            parts.append(f'<p class="see">{text.raised(self.see)}</p>')
        if self.kind:
            parts.append(
                f'<div class="plot" data-kind="{escape(self.kind)}"><p class="note">The picture is '
                "drawn by the browser, with JavaScript.</p>"
                f'<script type="application/json">{encoded(self.data)}</script></div>'
            )
        parts.append(self.html)
        if self.links:
            links = (f'<a href="{escape(path)}">{escape(said)}</a>' for said, path in self.links)
            parts.append(f'<p class="links">Files: {", ".join(links)}</p>')
        parts.append("</section>")
        return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Page:
    """What is shown at once.

    Attributes:
        name: Its place in the address.
        label: In the navigation, and its heading.
        html: Below the heading, before the panels.
        panels: In their order.
    """

    name: str
    label: str
    html: str = ""
    panels: Sequence[Panel] = ()

    def render(self) -> str:
        name = escape(self.name)
        panels = "\n".join(panel.render() for panel in self.panels)
        return (
            f'<article class="page" id="{name}" aria-labelledby="{name}-label" tabindex="-1">\n'
            f'<h2 id="{name}-label">{escape(self.label)}</h2>\n{self.html}\n{panels}\n</article>'
        )


def encoded(data: Any) -> str:
    """JSON in which arrays of numbers are base64, and which no HTML parser takes for a tag."""
    said = json.dumps(_plain(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return said.replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    if isinstance(value, xr.DataArray):
        return _plain(value.values)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            return [_plain(entry) for entry in value.tolist()]
        numbers = np.ascontiguousarray(value, dtype="<f4")
        return {"f4": base64.b64encode(numbers.tobytes()).decode(), "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
