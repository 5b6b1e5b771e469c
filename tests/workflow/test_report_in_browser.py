"""The report in a real browser: nothing asked of the network, no error, and controls do what they say."""

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fabricate
import pandas as pd
import pytest
from project import ROOT, Project
from scipy import stats

from hessian_directions.geometry.principal_curvatures import principal_curvatures
from hessian_directions.reporting.report import beyond, comparison, document

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
# Surfaces are drawn without a GPU.
FLAGS = (
    *("--no-sandbox", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)
PATIENCE = 120_000  # ms, of a machine that others use, too
PHONE = {"width": 390, "height": 800}
# As a browser without WebGL has it: maps alone, and quickly.
WITHOUT_SURFACES = """
const original = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...options) {
  return kind.includes("webgl") ? null : original.call(this, kind, ...options);
};
"""


def fabricated(path: Path) -> Path:
    """A report with every page and every kind of picture."""
    networks = {"mine": fabricate.results(), "other": fabricate.results(1)}
    networks["other"] = dataclasses.replace(networks["other"], label="Another <network>")
    number = {"published": 1.0, "low": 0.9, "high": 1.1, "within": "rounding"}
    numbers = [
        {"quantity": f"table.column{i}", "row": "mine", "computed": 1.0, "agrees": True, **number}
        for i in range(9)
    ]
    # No interval at all, as of what must be the same to the bit.
    numbers[4] |= {"computed": 1.3, "low": 1.0, "high": 1.0, "agrees": False}
    evidence = beyond.Evidence(
        {
            name: {network: fabricate.made(name) for network in networks}
            for name in beyond.OF_NETWORKS
        },
        {name: fabricate.made(name) for name in ("saddles", "critical_points", "population")},
    )
    claims = pd.read_csv(ROOT / "results/archive/cifar10-subset/claims.csv").to_dict("records")
    html = document.render(
        networks,
        "Fabricated",
        claims=claims,
        after=[
            page
            for page in (comparison.page(numbers, [], "one miss"), beyond.page(evidence))
            if page
        ],
    )
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricated(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


Opened = Callable[..., Any]


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    """Open a file at an address; at the end nothing must have gone wrong."""
    contexts, wrong = [], []

    def open_(path: Path, address: str = "", surfaces: bool = False, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        if not surfaces:
            context.add_init_script(WITHOUT_SURFACES)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:", "blob:")) or wrong.append(request.url)
            ),
        )
        page.goto(f"{path.as_uri()}#{address}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong


def drawn(page: Any, panel: str) -> Any:
    """The panel, when its pictures are there."""
    found = page.locator(f"#{panel}")
    found.scroll_into_view_if_needed()
    found.locator(".js-plotly-plot").first.wait_for()
    return found


def eventually(check: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while not check():
        assert time.monotonic() < end
        time.sleep(0.2)


def draw_all(page: Any) -> int:
    """Scroll through the open page until all of its pictures are drawn; how many there are."""
    plots = page.locator("article.page:not([hidden]) .plot")
    for i in range(plots.count()):
        plots.nth(i).scroll_into_view_if_needed()
        plots.nth(i).locator(".js-plotly-plot .main-svg").first.wait_for(state="attached")
    return int(plots.count())


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def trace(page: Any, selector: str, number: int = 0) -> dict[str, Any]:
    """One of a picture's traces, when it is there: a panel's pictures are drawn one after another."""
    page.wait_for_function(
        "([selector, number]) => document.querySelector(selector)?.data?.[number] !== undefined",
        arg=[selector, number],
    )
    return page.evaluate(
        "([selector, number]) => { const {z, x, y, name} = document.querySelector(selector).data[number];"
        " return {z, x, y, name}; }",
        [selector, number],
    )


def walk(page: Any) -> dict[str, int]:
    """Every page of the report by its link, and how many pictures it has."""
    found = {}
    for i in range(page.locator("nav a").count()):
        link = page.locator("nav a").nth(i)
        link.click()
        playwright.expect(link).to_have_attribute("aria-current", "page", timeout=PATIENCE)
        assert page.locator("article.page:not([hidden])").count() == 1
        found[link.inner_text()] = draw_all(page)
        assert fits(page)
    return found


def test_every_page_and_picture(opened: Opened, report: Path) -> None:
    found = walk(opened(report))
    assert found == {
        "Start": 0,
        "Network 0": 6,
        "Another <network>": 6,
        "Comparison": 1,
        "Beyond": 3 + len(beyond.OF_NETWORKS),
    }


def test_a_phone_in_the_dark_need_not_scroll_sideways(opened: Opened, report: Path) -> None:
    page = opened(report, viewport=PHONE, color_scheme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    walk(page)


def test_a_table_is_sorted_by_click_and_by_key(opened: Opened, report: Path) -> None:
    page = opened(report, "start")
    table = page.locator("#start-networks table")

    def column(i: int) -> list[float]:
        cells = table.locator(f"tbody td:nth-child({i + 1})")
        return [float(cells.nth(k).get_attribute("data-key")) for k in range(cells.count())]

    heads = table.locator("th")
    loss = [heads.nth(i).inner_text() for i in range(heads.count())].index("loss")
    head = heads.nth(loss)
    values = [float(fabricate.results(seed).scores["loss"]) for seed in (0, 1)]
    head.click()
    assert column(loss) == pytest.approx(sorted(values))
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").press("Enter")
    assert column(loss) == pytest.approx(sorted(values, reverse=True))
    assert head.get_attribute("aria-sort") == "descending"


def test_the_slider_turns_the_plane(opened: Opened, report: Path) -> None:
    turned = fabricate.made("turning")
    smallest, largest = principal_curvatures(turned["projected_hessian"].values)
    page = opened(report, "mine-turning", surfaces=True)
    panel = drawn(page, "mine-turning")
    says, slider = panel.locator("output.strong"), panel.locator("input[type=range]")
    eventually(lambda: says.inner_text().startswith("0°"))
    surface = "#mine-turning .solid"
    before = trace(page, surface)
    slider.focus()
    for i in range(1, turned.sizes["angle"]):
        slider.press("ArrowRight")
        angle = f"{turned['angle'].values[i]:g}°"
        eventually(lambda angle=angle: says.inner_text().startswith(angle))
        said = [float(word) for word in numbers(says.inner_text())[1:]]
        assert said == pytest.approx([smallest[i], largest[i]], rel=1e-2)
        assert ("saddle" in says.inner_text()) == (smallest[i] < 0 < largest[i])
    eventually(lambda: trace(page, surface)["z"] != before["z"])
    after = trace(page, surface)
    widths = turned["half_width"].values[-1]
    assert max(after["x"]) == pytest.approx(widths[0], rel=1e-5)
    assert max(after["y"]) == pytest.approx(widths[1], rel=1e-5)


def numbers(said: str) -> list[str]:
    """Those of a text of the report, as Python writes them."""
    raised = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    words = said.replace("°", "").replace(",", "").replace(":", "").replace("−", "-").split()
    found = []
    for word in words:
        mantissa, _, power = word.partition("·10")
        text = f"{mantissa}e{power.translate(raised)}" if power else mantissa
        try:
            float(text)
        except ValueError:
            continue
        found.append(text)
    return found


def test_arrow_keys_move_the_cross_hairs(opened: Opened, report: Path) -> None:
    """And what they read is the loss there."""
    surface = fabricate.made("slices", part="hessian")["train"]
    page = opened(report, "mine-slices", surfaces=True)
    panel = drawn(page, "mine-slices")
    said, picture = panel.locator("output"), panel.locator(".map")
    eventually(lambda: "L = " in said.inner_text())
    picture.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        picture.press(key)
    at = surface.isel(alpha=surface.sizes["alpha"] // 2 + 2, beta=surface.sizes["beta"] // 2 + 1)
    distance = (float(at["alpha"]), float(at["beta"]))  # directions of length one
    expected = [*distance, float(at)]
    eventually(lambda: float(numbers(said.inner_text())[0]) == pytest.approx(distance[0], rel=1e-2))
    found = [float(number) for number in numbers(said.inner_text())]
    assert found[:3] == pytest.approx(expected, rel=1e-2)
    assert found[-1] == pytest.approx(math.hypot(*distance), rel=1e-2)
    # The other view has the same place.
    mark = trace(page, "#mine-slices .solid", 3)
    assert [mark["x"][0], mark["y"][0]] == pytest.approx(distance, rel=1e-5)


def test_plane_and_loss_are_chosen(opened: Opened, report: Path) -> None:
    page = opened(report, "mine-slices")
    panel = drawn(page, "mine-slices")
    panel.get_by_role("radio", name="random", exact=True).check()
    panel.get_by_role("radio", name="test", exact=True).check()
    random = fabricate.made("slices", part="random")["test"]
    reach = float(random["alpha"].max()) * random.attrs["length_alpha"]
    eventually(lambda: max(trace(page, "#mine-slices .map")["x"]) == pytest.approx(reach, rel=1e-5))
    eventually(lambda: panel.locator("output").inner_text().count("test L") == 1)


def test_the_axis_of_the_spectrum_stretches(opened: Opened, report: Path) -> None:
    page = opened(report, "mine-spectrum")
    panel = drawn(page, "mine-spectrum")

    def reach() -> float:
        return float(max(trace(page, "#mine-spectrum .canvas", 2)["x"]))

    eventually(
        lambda: page.evaluate("document.querySelector('#mine-spectrum .canvas').data.length") > 2
    )
    before = reach()
    panel.locator("input[type=range]").press("ArrowLeft")
    # λ₀ is smaller by 10^(1/4): far from zero arcsinh(λ/λ₀) is larger by a quarter of ln 10.
    eventually(lambda: reach() == pytest.approx(before + math.log(10) / 4, rel=0.02))


def test_strata_have_their_rank_correlations(opened: Opened, report: Path) -> None:
    population = fabricate.made("population")
    reached = population.isel(member=population["reached"].values.astype(bool))
    page = opened(report, "beyond-population")
    panel = drawn(page, "beyond-population")
    measure, _, strata, only = (panel.locator("select").nth(i) for i in range(4))
    measure.select_option("largest")
    strata.select_option("label noise")
    only.select_option("0")
    kept = reached.isel(member=(reached["label_noise"] == 0).values)
    tau = stats.kendalltau(kept["largest"], kept["gap_loss"]).statistic

    def name() -> str:
        return str(trace(page, "#beyond-population .canvas")["name"])

    eventually(lambda: f"τ = {tau:.2g}".replace("-", "−") in name() or tau != tau)
    eventually(
        lambda: (
            sorted(trace(page, "#beyond-population .canvas")["x"])
            == pytest.approx(sorted(kept["largest"].values.tolist()), rel=1e-6)
        )
    )


def test_numbers_are_filtered(opened: Opened, report: Path) -> None:
    page = opened(report, "comparison-numbers")
    panel = drawn(page, "comparison-numbers")
    rows = panel.locator("tbody tr")
    eventually(lambda: rows.count() == 9)
    assert trace(page, "#comparison-numbers .canvas", 1)["name"] == "1 do not"
    assert rows.first.get_attribute("class") == "miss"
    panel.get_by_text("misses only").click()
    eventually(lambda: rows.count() == 1)
    panel.get_by_text("misses only").click()
    panel.locator("input[type=search]").fill("column7")
    eventually(lambda: rows.count() == 1 and "column7" in rows.first.inner_text())


def test_the_theme_changes_pictures_too(opened: Opened, report: Path) -> None:
    page = opened(report, "mine-lines", color_scheme="light")
    drawn(page, "mine-lines")
    ink = "document.querySelector('#mine-lines .canvas')._fullLayout.font.color"
    before = page.evaluate(ink)
    page.locator("#theme").press("Enter")
    eventually(lambda: page.evaluate(ink) != before)
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"


def test_evidence_opens_where_it_is(opened: Opened, report: Path) -> None:
    page = opened(report, "start")
    page.evaluate("location.hash = 'mine-visibility'")
    page.locator("#mine-visibility.sought").wait_for()
    assert page.locator("#mine").is_visible()
    assert not page.locator("#start").is_visible()
    assert page.title().startswith("Network 0")
    # Panels above are drawn later, and do not push it out of sight.
    top = "document.querySelector('.sought h3').getBoundingClientRect().top"
    header = "document.querySelector('header').getBoundingClientRect().bottom"
    drawn(page, "mine-visibility")
    eventually(lambda: page.evaluate(header) <= page.evaluate(top) < 400)
    page.evaluate("location.hash = 'beyond-kinks?other'")
    chosen = drawn(page, "beyond-kinks").locator("select option:checked")
    eventually(lambda: chosen.inner_text() == "other")


def test_an_address_that_is_none_opens_the_start(opened: Opened, report: Path) -> None:
    page = opened(report, "%E0%A4%A")
    assert page.locator("article.page:not([hidden])").count() == 1
    assert page.locator("#start").is_visible()


def test_back_leads_to_where_one_was(opened: Opened, report: Path) -> None:
    page = opened(report, "start")
    page.locator("#start-networks a").last.click()
    playwright.expect(page.locator("#other")).to_be_visible(timeout=PATIENCE)
    left = page.evaluate("history.length")
    page.go_back()
    playwright.expect(page.locator("#start")).to_be_visible(timeout=PATIENCE)
    assert page.evaluate("history.length") == left
    eventually(lambda: page.evaluate("window.scrollY") == page.evaluate("history.state.y"))
    assert page.evaluate("window.scrollY") > 0


def test_the_pointer_over_a_surface_does_not_lose_it(opened: Opened, report: Path) -> None:
    page = opened(report, "mine-slices", surfaces=True)
    panel = drawn(page, "mine-slices")
    eventually(lambda: "L = " in panel.locator("output").inner_text())
    surface = panel.locator(".solid")
    surface.scroll_into_view_if_needed()
    box = surface.bounding_box()
    for share in (0.4, 0.5, 0.6):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.55 * box["height"])
        page.wait_for_timeout(500)
    before = trace(page, "#mine-slices .solid")["z"]
    panel.get_by_role("radio", name="random", exact=True).check()
    eventually(lambda: trace(page, "#mine-slices .solid")["z"] != before)


def test_a_finger_moves_the_cross_hairs(opened: Opened, report: Path) -> None:
    page = opened(report, "mine-slices", viewport=PHONE, has_touch=True, is_mobile=True)
    panel = drawn(page, "mine-slices")
    said, picture = panel.locator("output"), panel.locator(".map")
    eventually(lambda: "L = " in said.inner_text())
    before = said.inner_text()
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.touchscreen.tap(box["x"] + 0.7 * box["width"], box["y"] + 0.3 * box["height"])
    eventually(lambda: said.inner_text() != before)


def test_points_are_picked_by_key(opened: Opened, report: Path) -> None:
    """From left to right; factors are written as they are."""
    population = fabricate.made("population")
    reached = population.isel(member=population["reached"].values.astype(bool))
    page = opened(report, "beyond-population")
    panel = drawn(page, "beyond-population")
    picture = panel.locator(".canvas")
    trace(page, "#beyond-population .canvas")
    first = reached.isel(member=int(reached["mean_curvature"].values.argmin()))
    picture.focus()
    picture.press("ArrowRight")
    said = panel.locator("output")
    eventually(lambda: f"batch size {int(first['batch_size'])}," in said.inner_text())


def test_it_is_printed_with_its_pictures(opened: Opened, report: Path, tmp_path: Path) -> None:
    page = opened(report, "mine", color_scheme="dark")
    page.pdf(path=str(tmp_path / "printed.pdf"), format="A4")
    assert draw_all(page) == 6
    assert (tmp_path / "printed.pdf").stat().st_size > 50_000


@pytest.mark.workflow
@pytest.mark.parametrize("profile", ["demo", "cifar10-subset"])
def test_archives(opened: Opened, tmp_path: Path, profile: str) -> None:
    """What a reader of the archive opens: verdicts lead to evidence that is there."""
    project = Project.clone(tmp_path / "project")
    # The profile's and its companion's.
    shutil.copytree(ROOT / "results/archive", project.path / "results/archive", dirs_exist_ok=True)
    drawn_at = f"results/redrawn/{profile}/report.html"
    project.snakemake(drawn_at, configfile=f"config/{profile}.yaml")
    path = project.path / drawn_at
    assert path.stat().st_size < 10e6
    page = opened(path)
    assert sum(walk(page).values()) > 10
    claims = pd.read_csv(path.parent / "claims.csv")
    page.locator("nav a").first.click()
    assert page.locator(".card").count() == len(claims)
    links = page.locator(".evidence a")
    for i in range(links.count()):
        target = links.nth(i).get_attribute("href")
        if target.startswith("#"):
            assert page.locator(f"[id='{target[1:].split('?')[0]}']").count() == 1
        else:
            assert (path.parent / target).is_file()
