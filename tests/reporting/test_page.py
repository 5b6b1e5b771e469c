"""The page: everything inside, nothing loaded, what is missing left out, mistakes shown."""

import base64
import dataclasses
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import fabricate
import pytest

from hessian_directions.reporting import page
from hessian_directions.reporting.page import Check, Results

PARTS = [field.name for field in dataclasses.fields(Results) if field.name != "label"]


class Text(HTMLParser):
    """What a reader sees, the sources of pictures, and that every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.said, self.pictures, self._open = [], [], []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self._open.append(tag)
        self.pictures += [value for name, value in attrs if name == "src"]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


@pytest.fixture(scope="module")
def whole() -> str:
    return page.render({"mine": fabricate.results()}, "Mine", {"torch": "2.13"})


def test_all_is_inside(whole):
    seen = Text(whole)
    assert len(seen.pictures) == 5
    for source in seen.pictures:
        kind, data = source.split(",")
        assert kind == "data:image/svg+xml;base64"
        assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")
    assert not re.search(r"(href|src)=\"(?!#|data:)", whole)
    assert "<script" not in whole
    for heading in (
        "Scores",
        "Extreme eigenpairs",
        "Trace and visibility",
        "Slices of the loss",
        "Lines",
        "Spectrum",
        "Where the curvature lives",
        "What random slices show",
        "Is the plot right?",
        "Settings",
    ):
        assert f"<h3>{heading}</h3>" in whole
    assert "torch 2.13" in seen.text


def test_the_same_results_give_the_same_page(whole):
    assert page.render({"mine": fabricate.results()}, "Mine", {"torch": "2.13"}) == whole


@pytest.mark.parametrize("part", PARTS)
def test_parts_may_be_missing(part, monkeypatch):
    """Each of them, and all but it."""
    monkeypatch.setattr(page, "picture", lambda figure, description: "")
    results = fabricate.results()
    empty = {"slices": {}, "settings": {}}
    without = dataclasses.replace(results, **{part: empty.get(part)})
    Text(page.render({"mine": without}))
    alone = Results("Alone", **{part: getattr(results, part)})
    Text(page.render({"mine": alone}))


def test_nothing_at_all():
    assert "Alone" in Text(page.render({"mine": Results("Alone")})).text


def test_several_networks_have_sections_and_links():
    names = {f"n{seed}": Results(f"Network <{seed}>") for seed in range(3)}
    html = page.render(names, "All")
    assert re.findall(r'href="#(n\d)"', html) == list(names)
    assert re.findall(r'section id="(n\d)"', html) == list(names)
    assert "Network &lt;1&gt;" in html


def test_numbers_are_those_of_the_results():
    results = fabricate.results()
    text = Text(page.render({"mine": results})).text
    for value in results.eigenpairs["value"].values:
        assert page._number(value, 6) in text
    trace, error = float(results.trace["trace"]), float(results.trace["trace_standard_error"])
    assert page._with_error(trace, error) in text
    assert str(results.scores.attrs["self_test"]) in text


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (22.3779, 0.9912, "22.38 ± 0.99"),
        (-1234.5, 120.0, "−1234 ± 120"),
        (0.012341, 0.00021, "0.01234 ± 0.00021"),
        (5.0, 0.0, "5 (exact)"),
        (5.0, float("nan"), "5"),
        (3e8, 2e6, "3·10^8 ± 2·10^6"),
    ],
)
def test_values_have_the_digits_of_their_errors(value, error, said):
    assert page._with_error(value, error) == said


def test_powers_are_raised():
    assert page._raised(page._number(1.5e-7)) == "1.5·10<sup>−7</sup>"
    assert page._raised("a < 2·10^−3 and 3·10^8") == (
        "a &lt; 2·10<sup>−3</sup> and 3·10<sup>8</sup>"
    )
    assert page._number(float("nan")) == "–"


# --- The sanity panel -----------------------------------------------------------------------------


def test_what_agrees_is_said():
    results = fabricate.results()
    found = page.checks(results)
    assert len(found) == 2 + 1 + 2  # training slices, the other test slice, eigenvectors
    assert all(check.agrees for check in found)
    assert "All 5 agree." in page.render({"mine": results})


def test_a_slice_of_another_network_is_seen():
    results = fabricate.results()
    other = results.slices["hessian_train"]
    shifted = other.assign(loss=(other["loss"] + 0.01).assign_attrs(other["loss"].attrs))
    wrong = dataclasses.replace(results, slices={**results.slices, "hessian_train": shifted})
    (differing,) = [check for check in page.checks(wrong) if not check.agrees]
    assert "Hessian slice" in differing.what
    assert "1 of 5 DIFFER" in page.render({"mine": wrong})


def test_renormalised_eigenvectors_are_seen():
    """Landscaper's "Hessian" directions: v'Hv is half of the eigenvalue."""
    results = fabricate.results()
    pairs = results.eigenpairs
    wrong = dataclasses.replace(
        results, eigenpairs=pairs.assign(exact_curvature=0.5 * pairs["value"])
    )
    assert sum(not check.agrees for check in page.checks(wrong)) == 2


def test_a_check_without_a_number_does_not_agree():
    assert not Check("NaN", float("nan"), 1.0, 0.1).agrees
    assert Check("exact", 1.0, 1.0, 0.0).agrees
