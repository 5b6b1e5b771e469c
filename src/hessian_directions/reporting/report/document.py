"""The report as one file: pages, style, program, and the plotting library, all inside.

Pictures are drawn by Plotly, whose Python package has its JavaScript as one file: turnable surfaces,
contours, zoom and touch, without anything loaded. Of what can be had it is the only kept library that
does all of these. It is run when the first picture is drawn: the page can be read before. The file has
no date and no absolute path in it: the same results give the same text. It asks browsers to load
nothing from anywhere.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path

from hessian_directions.errors import DependencyError
from hessian_directions.reporting.report import network, start, text
from hessian_directions.reporting.report.panels import Page
from hessian_directions.reporting.report.results import Results

FOLDER = Path(__file__).parent


def render(
    networks: Mapping[str, Results],
    title: str = "Curvature of the loss",
    software: Mapping[str, str] | None = None,
    claims: Sequence[start.Row] = (),
    claim_rows: Sequence[start.Row] = (),
    artifacts: Mapping[str, str] | None = None,
    after: Sequence[Page] = (),
) -> str:
    """The report as HTML text.

    Args:
        networks: Results by name, in their order.
        title: Its heading.
        software: Versions to be stated: package → version.
        claims: The verdicts, rows of claims.csv; there may be none.
        claim_rows: All that was judged, rows of claim_rows.csv.
        artifacts: Where the artifacts that verdicts name lie, relative to the report.
        after: Pages behind those of the networks.

    Raises:
        DependencyError: Plotly is not installed.
    """
    pages = [*(network.page(name, results) for name, results in networks.items()), *after]
    if claims or len(networks) > 1:
        known = {page.name for page in pages}
        known |= {panel.name for page in pages for panel in page.panels}
        pages.insert(0, start.page(networks, claims, claim_rows, known, artifacts or {}))
    versions = [f"{package} {version}" for package, version in (software or {}).items()]
    return _DOCUMENT.format(
        title=escape(title),
        style=(FOLDER / "report.css").read_text(encoding="utf-8"),
        navigation=_navigation(pages),
        pages="\n".join(page.render() for page in pages),
        glossary=text.table(None, _GLOSSARY),
        software=f"<p>Made with {escape(', '.join(versions))}.</p>" if versions else "",
        library=plotting_library(),
        program=(FOLDER / "report.js").read_text(encoding="utf-8"),
    )


def plotting_library() -> str:
    """Plotly's JavaScript, from its Python package, which need not be imported for it.

    Raises:
        DependencyError: The package is not installed.
    """
    package = find_spec("plotly")
    if package is None or package.origin is None:
        raise DependencyError("A report needs plotly: pip install 'hessian-directions[figures]'.")
    script = Path(package.origin).parent / "package_data" / "plotly.min.js"
    return script.read_text(encoding="utf-8")


def _navigation(pages: Sequence[Page]) -> str:
    if len(pages) < 2:
        return ""
    links = (f'<a href="#{escape(page.name)}">{escape(page.label)}</a>' for page in pages)
    return f'<nav aria-label="Pages">{"".join(links)}</nav>'


_GLOSSARY = (
    ("residual", "some eigenvalue lies within this distance of λ; the error of λ is smaller"),
    ("±", "standard error: two of three intervals that wide hold the true value"),
    ("exact v'Hv", "second derivative along v by Taylor mode in float64, not from products"),
    ("kinks", "of ReLU are seen by losses at finite distances, not by exact derivatives"),
    ("distance", "length in parameter space, from the weights θ* of the network"),
)

_DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<button type="button" id="theme" aria-pressed="false">Dark</button>
{navigation}
</header>
<main>
{pages}
</main>
<footer>
<details><summary>How to read it</summary>
{glossary}
<p>Pictures zoom by dragging, and a double click shows all again. Where a picture has cross-hairs, \
arrow keys move them. Links to files work where the report lies in the folder that it was made in.</p>
</details>
{software}
</footer>
<script type="text/plain" id="library">{library}</script>
<script>
{program}
</script>
</body>
</html>
"""
