"""The report as a file: everything inside, what is missing left out, mistakes shown. Browsers: tests/workflow."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser

import fabricate
import numpy as np
import pytest

from hessian_directions.errors import DependencyError
from hessian_directions.geometry.principal_curvatures import principal_curvatures
from hessian_directions.reporting.report import (
    beyond,
    comparison,
    cost,
    document,
    network,
    start,
    text,
)
from hessian_directions.reporting.report.panels import Panel, encoded
from hessian_directions.reporting.report.results import Check, Results, checks

PARTS = [
    field.name
    for field in dataclasses.fields(Results)
    if field.name not in ("label", "failed", "files")
]
VOID = ("meta", "img", "br", "input")


class Text(HTMLParser):
    """What a reader sees, what pictures are drawn from, and that every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.said, self.data, self.ids, self.targets, self._open = [], [], [], [], []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self._open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src"):
                self.targets.append(value)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "script" in self._open:
            if data.startswith("{"):
                self.data.append(json.loads(data))
        elif "style" not in self._open:
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def decoded(value):
    """Arrays as a browser reads them: little-endian float32."""
    if isinstance(value, dict) and "f4" in value:
        numbers = np.frombuffer(base64.b64decode(value["f4"]), "<f4")
        return numbers.reshape(value["shape"])
    if isinstance(value, dict):
        return {key: decoded(entry) for key, entry in value.items()}
    return [decoded(entry) for entry in value] if isinstance(value, list) else value


@pytest.fixture(autouse=True)
def without_the_library(monkeypatch):
    """Plotly is megabytes of text that these tests need not parse."""
    monkeypatch.setattr(document, "plotting_library", lambda: "")


@pytest.fixture
def whole() -> str:
    return document.render({"mine": fabricate.results()}, "Mine", {"torch": "2.13"})


def of_kind(panels, kind):
    (panel,) = [panel for panel in panels if panel.kind == kind]
    return decoded(json.loads(encoded(panel.data)))


# The file.


def test_all_is_inside(whole):
    seen = Text(whole)
    assert all(target.startswith("#") for target in seen.targets)
    for heading in (
        *("Scores", "Trace and visibility", "The loss around the weights", "The plane turns"),
        *("Lines through the weights", "The spectrum", "Extreme eigenpairs"),
        *("Where the curvature lives", "What random slices show", "Settings"),
    ):
        assert heading in seen.text
    assert "torch 2.13" in seen.text
    assert "default-src 'none'" in whole
    kinds = set(re.findall(r'data-kind="(\w+)"', whole))
    program = (document.FOLDER / "report.js").read_text()
    assert kinds == {"slices", "turning", "lines", "spectrum", "localisation", "visibility"}
    for kind in (*kinds, "curves", "population", "comparison"):
        assert f"kinds.{kind} = " in program


def test_the_library_is_inside(monkeypatch):
    monkeypatch.undo()
    html = document.render({"mine": Results("Alone")})
    assert html.count("plotly.js v") == 1
    assert len(html) < 10e6


def test_the_same_results_give_the_same_page(whole):
    assert document.render({"mine": fabricate.results()}, "Mine", {"torch": "2.13"}) == whole


@pytest.mark.parametrize("part", PARTS)
def test_parts_may_be_missing(part):
    """Each of them, and all but it."""
    results = fabricate.results()
    empty = {"slices": {}, "settings": {}}
    Text(document.render({"mine": dataclasses.replace(results, **{part: empty.get(part)})}))
    Text(document.render({"mine": Results("Alone", **{part: getattr(results, part)})}))


def test_several_networks_have_pages_and_a_table():
    names = {f"n{seed}": Results(f"Network <{seed}>") for seed in range(3)}
    html = document.render(names, "All")
    seen = Text(html)
    assert [target for target in seen.targets if re.fullmatch(r"#n\d", target)] == [
        *(f"#{name}" for name in names),
        *(f"#{name}" for name in names),
    ]
    assert {"start", *names} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))
    assert "Network &lt;1&gt;" in html
    assert "Network <" not in html


def test_texts_of_users_cannot_leave_the_data():
    panel = Panel("a", "A", kind="curves", data={"name": "</script><b>"})
    assert "</script><b>" not in panel.render()
    assert Text(panel.render()).data == [{"name": "</script><b>"}]


def test_a_missing_plotly_is_one_sentence(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(document, "find_spec", lambda name: None)
    with pytest.raises(
        DependencyError, match=r"plotly: pip install 'hessian-directions\[figures\]'"
    ):
        document.plotting_library()


# Numbers.


def test_numbers_are_those_of_the_results(whole):
    results, said = fabricate.results(), Text(whole).text
    for value in results.eigenpairs["value"].values:
        assert text.number(value, 6) in said
    trace, error = float(results.trace["trace"]), float(results.trace["trace_standard_error"])
    assert text.with_error(trace, error) in said
    assert str(results.scores.attrs["self_test"]) in said


def test_a_page_says_how_the_data_were_understood():
    results = fabricate.results()
    understood = "24 training images, 2 classes (<b>, Äpfel)"
    scores = results.scores.assign_attrs(data=understood)
    page = network.page("mine", dataclasses.replace(results, scores=scores))
    assert "Data: 24 training images, 2 classes (&lt;b&gt;, Äpfel)." in page.html
    # Scores that were made before, or by `analyze`, do not know it.
    del scores.attrs["data"]
    page = network.page("mine", dataclasses.replace(results, scores=scores))
    assert "Data:" not in page.html


def test_pictures_are_drawn_from_the_results():
    results = fabricate.results()
    panels = network.page("mine", results).panels
    plane = of_kind(panels, "slices")["planes"]["hessian"]
    surface = results.slices["hessian_test"]["loss"]
    losses = plane["losses"]["test"]
    np.testing.assert_allclose(losses["change"] + losses["origin"], surface, rtol=1e-5)
    distance = surface["alpha"].values * surface.attrs["length_alpha"]
    np.testing.assert_allclose(plane["alpha"], distance, rtol=1e-6)
    turned, data = results.turning, of_kind(panels, "turning")
    ends = np.linalg.eigvalsh(turned["projected_hessian"].values)
    np.testing.assert_allclose(np.stack([data["smallest"], data["largest"]], 1), ends, rtol=1e-5)
    np.testing.assert_allclose(data["change"] + data["origin"], turned["loss"], rtol=1e-5)
    sampled = of_kind(panels, "visibility")
    smallest = principal_curvatures(results.visibility["projected_hessian"].values)[0]
    np.testing.assert_allclose(sampled["smallest"], np.sort(smallest), rtol=1e-6)
    layers = of_kind(panels, "localisation")["layer"]
    for end in ("largest", "smallest", "part"):
        assert layers[end].sum() == pytest.approx(1)


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
    assert text.with_error(value, error) == said


def test_powers_are_raised():
    assert text.raised(text.number(1.5e-7)) == "1.5·10<sup>−7</sup>"
    assert text.raised("a < 2·10^−3 and 3·10^8") == (
        "a &lt; 2·10<sup>−3</sup> and 3·10<sup>8</sup>"
    )
    assert text.number(float("nan")) == "–"


def test_what_is_not_finite_is_written_so():
    array = np.array([[1.5, np.nan], [np.inf, -2]])
    np.testing.assert_array_equal(decoded(json.loads(encoded(array))), array)
    assert json.loads(encoded({"a": float("nan"), "b": [np.float64(2)], "c": np.int64(3)})) == {
        "a": None,
        "b": [2.0],
        "c": 3,
    }


# What has to agree.


def test_what_agrees_is_said(whole):
    found = checks(fabricate.results())
    assert len(found) == 3 + 2 + 2  # training slices, the other test slices, eigenvectors
    assert all(check.agrees for check in found)
    assert "All 7 agree." in whole


def test_a_slice_of_another_network_is_seen():
    results = fabricate.results()
    other = results.slices["hessian_train"]
    shifted = other.assign(loss=(other["loss"] + 0.01).assign_attrs(other["loss"].attrs))
    wrong = dataclasses.replace(results, slices={**results.slices, "hessian_train": shifted})
    (differing,) = [check for check in checks(wrong) if not check.agrees]
    assert "Hessian slice" in differing.what
    assert "1 of 7 DIFFER" in document.render({"mine": wrong})


def test_renormalised_eigenvectors_are_seen():
    """Landscaper's "Hessian" directions: v'Hv is half of the eigenvalue."""
    results = fabricate.results()
    pairs = results.eigenpairs
    wrong = dataclasses.replace(
        results, eigenpairs=pairs.assign(exact_curvature=0.5 * pairs["value"])
    )
    assert sum(not check.agrees for check in checks(wrong)) == 2


def test_a_check_without_a_number_does_not_agree():
    assert not Check("NaN", float("nan"), 1.0, 0.1).agrees
    assert Check("exact", 1.0, 1.0, 0.0).agrees


# Verdicts.

CLAIM = {
    "claim": "C9",
    "text": "Slices are flat & round",
    "edition": "2022",
    "sentence": "we <find> that",
    "verdict": "not reproduced",
    "n_reproduced": 2,
    "n_not_reproduced": 1,
    "n_inconclusive": 0,
    "rule": "rule",
    "subject": "mine",
    "statistic": "κ₋/κ₊",
    "estimate": 0.25,
    "low": 2e-7,
    "high": 0.5,
    "confidence": 0.95,
    "artifact": "networks/mine/visibility.nc",
}
ROW = {key: CLAIM[key] for key in ("claim", "rule", "subject", "statistic")} | {
    "side": "below",
    "threshold": 0.125,
    "power": 0.875,
}


def test_a_card_without_an_interval_names_none():
    claim = {**CLAIM, "low": float("nan"), "high": float("nan")}
    seen = Text(start.page({"mine": fabricate.results()}, [claim], [ROW], set(), {}).render())
    assert "Network 0: κ₋/κ₊ = 0.25" in seen.text
    assert "interval" not in seen.text


def test_a_card_without_a_subject_judges_nothing():
    nothing = {key: float("nan") for key in ("statistic", "estimate", "low", "high", "artifact")}
    claim = {**CLAIM, **nothing, "rule": "none", "subject": "no subject in this profile"}
    seen = Text(start.page({}, [{**claim, "verdict": "inconclusive"}]).render())
    assert "not judged here" in seen.text
    assert "no subject in this profile" in seen.text
    assert "inconclusive" not in seen.text


def test_a_card_says_what_was_measured_and_leads_to_it():
    page = start.page(
        {"mine": fabricate.results()},
        [CLAIM, {**CLAIM, "claim": "C10", "estimate": float("nan"), "artifact": float("nan")}],
        [{**ROW, "subject": "another", "threshold": 9}, ROW],
        {"mine", "mine-visibility"},
        {CLAIM["artifact"]: "../networks/mine/visibility.nc"},
    )
    seen = Text(page.render())
    for said in ("not reproduced", "Slices are flat & round", "“we <find> that”", "2022"):
        assert said in seen.text
    assert "Network 0: κ₋/κ₊ = 0.25 (2·10 −7 to 0.5, 95 % interval)" in seen.text
    assert "below 0.125" in seen.text
    assert "the rule would notice in 87.5 % of cases" in seen.text
    assert "2 reproduced, 1 not reproduced" in seen.text
    assert seen.targets.count("#mine-visibility") == 1
    assert "../networks/mine/visibility.nc" in seen.targets


@pytest.mark.parametrize(
    ("artifact", "known", "place"),
    [
        ("networks/a/slices/hessian.nc", {"a", "a-slices"}, "a-slices"),
        ("networks/a/eigenpairs.nc", {"a", "a-spectrum"}, "a-spectrum"),
        ("networks/a/kinks.nc", {"a", "beyond-kinks"}, "beyond-kinks?a"),
        ("networks/a/passes.nc", {"a"}, "a"),
        ("saddles.nc", {"beyond-critical_points"}, "beyond-critical_points"),
    ],
)
def test_evidence_is_one_click_away(artifact, known, place):
    page = start.page({}, [{**CLAIM, "artifact": artifact}], [], known)
    assert f"#{place}" in Text(page.render()).targets


# Beyond.


def test_every_artifact_beyond_has_a_panel():
    made = {
        name: {
            "mine": fabricate.made(name),
            "other": fabricate.made(name, "regression")
            if name not in ("trajectory", "interpolation")
            else fabricate.made(name),
        }
        for name in beyond.OF_NETWORKS
    }
    of_profile = {
        name: fabricate.made(name) for name in ("saddles", "critical_points", "population")
    }
    page = beyond.page(beyond.Evidence(made, of_profile, {"mine": "Mine"}))
    assert page is not None
    seen = Text(page.render())
    assert {f"beyond-{name}" for name in (*made, "population", "critical_points")} <= set(seen.ids)
    for data in map(decoded, seen.data):
        for picture in data.get("pictures", []):
            assert picture["curves"]
            for curve in picture["curves"]:
                assert len(curve["x"]) == len(curve["y"])
    labels = {
        picture["label"].split(":")[0]
        for data in seen.data
        if "pictures" in data
        for picture in data["pictures"]
    }
    assert {"Mine", "other"} <= labels
    members = of_kind(page.panels, "population")
    reached = of_profile["population"]["reached"].values.astype(bool)
    np.testing.assert_allclose(
        members["measures"]["trace"], of_profile["population"]["trace"].values[reached], rtol=1e-6
    )


def test_nothing_beyond_is_no_page():
    assert beyond.page(beyond.Evidence()) is None


# Comparison.


def test_misses_come_first():
    number = dict.fromkeys(("published", "computed", "low", "high"), 1.0) | {"within": "rounding"}
    numbers = [
        {"quantity": f"q{i}", "row": "mine", "agrees": np.bool_(i != 2), **number} for i in range(4)
    ]
    verdict = {"verdict_published": "proved", "verdict_computed": "proved"}
    verdicts = [
        {"claim": claim, "result": result, **verdict}
        for claim, result in (("C1", "same"), ("C2", "failure"))
    ]
    page = comparison.page(numbers, verdicts, "3 of 4 <numbers>\n")
    data = of_kind(page.panels, "comparison")["rows"]
    assert [row["quantity"] for row in data] == ["q2", "q0", "q1", "q3"]
    assert [row["agrees"] for row in data] == [False, True, True, True]
    seen = Text(page.render()).text
    assert seen.index("C2") < seen.index("C1")
    assert "3 of 4 <numbers>" in seen


# Cost.


def test_stages_are_added_up_and_the_longest_comes_first():
    def record(rule, seconds, size, device="cpu", **wildcards):
        spent = {"cpu_seconds": seconds, "wall_seconds": 4 * seconds, "peak_memory_bytes": size}
        return {"rule": rule, "wildcards": wildcards, "device": device, **spent}

    records = [
        record("trace", 5, 2e9, network="mine"),
        record("slices_shard", 30, 1e9, network="mine", shard="0"),
        record("slices_shard", 40, 3e9, network="mine", shard="1"),
        record("population", 15, 4e9, device="cuda"),
    ]
    page = cost.page(records, {("mine", "slices_shard"): (120.0, 2.5e9)}, {"mine": "Mine"})
    seen = Text(page.render()).text
    # On a GPU it is the time that passed, 60 s of which 15 were the processor's.
    assert "2 min of one processor" in seen
    table = "Mine slices_shard 2 70 s 2 min 3.00 GB 2.50 GB – population 1 60 s – 4.00 GB – Mine trace 1 5 s –"
    assert table in seen


def test_missing_numbers_are_said() -> None:
    """Of a network whose training diverged nothing else is known."""
    failed = "train_network (network=mlp): the training loss became nan & void"
    seen = Text(document.render({"mlp": Results(label="MLP", failed=failed)}, "Title"))
    assert f"Numbers are missing: {failed}." in seen.text
