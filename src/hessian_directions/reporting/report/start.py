"""The first page: the question, the verdicts, the networks."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from pathlib import PurePosixPath
from typing import Any

from hessian_directions.reporting.report import text
from hessian_directions.reporting.report.panels import Page, Panel
from hessian_directions.reporting.report.results import Results, checks
from hessian_directions.reporting.report.text import number

QUESTION = (
    "What does the loss of an image classifier look like around its trained weights, and what does a "
    "two-dimensional picture of it hide?"
)
PAPER = (
    "Böttcher and Wheeler, Visualizing high-dimensional loss landscapes with Hessian directions, "
    "J. Stat. Mech. (2024) 023401, arXiv:2208.13219"
)
CLASSES = {"proved": "good", "reproduced": "good", "not reproduced": "bad"}
# Panels that show an artifact of another name.
SHOWN_IN = {"eigenpairs": "spectrum", "saddles": "critical_points"}

Row = Mapping[str, Any]


def page(
    networks: Mapping[str, Results],
    claims: Sequence[Row] = (),
    rows: Sequence[Row] = (),
    known: Collection[str] = (),
    artifacts: Mapping[str, str] | None = None,
) -> Page:
    """The start.

    Args:
        networks: Results by name.
        claims: The verdicts, rows of claims.csv; there may be none.
        rows: All that was judged, rows of claim_rows.csv.
        known: Addresses in the report that evidence may point to.
        artifacts: Where the artifacts that rows name lie, relative to the report.
    """
    html = f'<p class="question">{QUESTION}</p>'
    see = "A click on a head sorts; a name opens the network's page."
    panels = [Panel("start-networks", "Networks", see, html=_networks(networks))]
    if claims:
        html += (
            f'<p class="see">Verdicts on the claims of {escape(PAPER)}. A claim is reproduced where '
            "all its subjects meet its rule, and not where one fails it: the card shows the one that "
            "decides, <a href='claim_rows.csv'>claim_rows.csv</a> has them all. Which rules were changed "
            "when results were known is said in the paper. In the statistics t is the trace of the "
            "Hessian, f its Frobenius norm, N the number of parameters, η a random direction, κ₋ and κ₊ "
            "the smaller and the larger curvature of a slice, ρ a distance, ñ the number of positive "
            "curvatures of a synthetic saddle.</p>"
            f'<div class="cards">{"".join(_cards(claims, rows, networks, known, artifacts or {}))}</div>'
        )
    return Page("start", "Start", html, panels)


def _networks(networks: Mapping[str, Results]) -> str:
    heads = (
        *("network", "parameters", "loss", "test accuracy", "‖∇L‖", "λ_min", "λ_max", "trace"),
        *("r = t/f", "random slices with both signs"),
    )
    rows: list[list[tuple[str, float | str]]] = []
    for name, results in networks.items():
        scores, pairs, sampled = results.scores, results.eigenpairs, results.visibility
        values = [
            _value(scores, "n_parameters"),
            _value(scores, "loss"),
            _value(scores, "test_accuracy"),
            _value(scores, "gradient_norm"),
            math.nan if pairs is None else float(pairs["value"].min()),
            math.nan if pairs is None else float(pairs["value"].max()),
            _value(results.trace, "trace"),
            _value(sampled, "r"),
            _value(sampled, "visibility_direct"),
        ]
        link = f'<a href="#{escape(name)}">{escape(results.label)}</a>'
        if not all(check.agrees for check in checks(results)):
            link += " (a check differs)"
        shown = [
            f"{value:,.0f}" if i == 0 and value == value else text.raised(number(value, 3))
            for i, value in enumerate(values)
        ]
        rows.append([(link, results.label), *zip(shown, values, strict=True)])
    return text.sortable(heads, rows, 1)


def _value(dataset: Any, name: str) -> float:
    return math.nan if dataset is None or name not in dataset else float(dataset[name])


def _cards(
    claims: Sequence[Row],
    rows: Sequence[Row],
    networks: Mapping[str, Results],
    known: Collection[str],
    artifacts: Mapping[str, str],
) -> Iterator[str]:
    for claim in claims:
        # Of a profile without a subject nothing was measured that could decide.
        verdict = "not judged here" if claim["rule"] == "none" else str(claim["verdict"])
        parts = [
            f'<section class="card {CLASSES.get(verdict, "undecided")}" id="{escape(claim["claim"])}">',
            f'<p><span class="verdict">{escape(verdict)}</span> · {escape(claim["claim"])}</p>',
            f"<h4>{escape(claim['text'])}</h4>",
        ]
        if _is_there(claim["sentence"]):
            parts.append(
                f"<blockquote>“{escape(claim['sentence'])}” "
                f"(abstract of {escape(str(claim['edition']))})</blockquote>"
            )
        if _is_there(claim["estimate"]):
            parts += _measured(claim, rows, networks)
        else:
            parts.append(f"<p>{escape(str(claim['subject']))}</p>")
        if _is_there(claim["artifact"]):
            parts.append(_evidence(str(claim["artifact"]), known, artifacts))
        parts.append("</section>")
        yield "\n".join(parts)


def _measured(claim: Row, rows: Sequence[Row], networks: Mapping[str, Results]) -> list[str]:
    ends = ("estimate", "low", "high")
    estimate, low, high = (text.raised(number(claim[key], 3)) for key in ends)
    # A network, perhaps with what of it: "resnet, λ_max".
    name, comma, of = claim["subject"].partition(",")
    subject = (networks[name].label if name in networks else name) + comma + of
    measured = f"{text.raised(subject)}: {text.raised(claim['statistic'])}"
    measured = f"<p>{measured} = <b>{estimate}</b>"
    if _is_there(claim["low"]):
        measured += f" ({low} to {high}, {100 * float(claim['confidence']):.4g} % interval)"
    parts = [f"{measured}</p>"]
    # Without an interval nothing is decided where fewer samples were taken than the rule asks for.
    if claim["verdict"] == "inconclusive" and not _is_there(claim["low"]):
        parts.append("<p>On fewer samples than the rule asks for.</p>")
    decides = ("claim", "rule", "subject", "statistic")
    for row in rows:
        if any(row[key] != claim[key] for key in decides):
            continue
        side = "within ±" if row["side"] == "inside" else row["side"]
        rule = f"Rule: {side} {text.raised(number(row['threshold'], 3))}.".replace("± ", "±")
        noticed = f"{100 * float(row['power']):.3g} % of cases (power)"
        parts.append(f"<p>{rule} If the claim were false, the rule would notice in {noticed}.</p>")
    counts = {
        verdict.replace("_", " "): int(claim[f"n_{verdict}"])
        for verdict in ("reproduced", "not_reproduced", "inconclusive")
    }
    if sum(counts.values()) > 1:
        said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        parts.append(f"<p>All subjects: {said}.</p>")
    return parts


def _evidence(artifact: str, known: Collection[str], artifacts: Mapping[str, str]) -> str:
    path = PurePosixPath(artifact)
    network = path.parts[1] if path.parts[0] == "networks" else ""
    analysis = path.parts[2].removesuffix(".nc") if network else path.stem
    analysis = SHOWN_IN.get(analysis, analysis)
    places = (f"{network}-{analysis}", f"beyond-{analysis}", network)
    shown = [place for place in places if place in known][:1]
    of = f"?{network}" if network and shown == [places[1]] else ""
    links = [f'<a href="#{escape(place + of)}">Evidence</a>' for place in shown]
    if artifact in artifacts:
        links.append(f'<a href="{escape(artifacts[artifact])}">{escape(artifact)}</a>')
    return f'<p class="evidence links">{" · ".join(links)}</p>' if links else ""


def _is_there(value: Any) -> bool:
    return bool(value == value)  # an empty cell is NaN
