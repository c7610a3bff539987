"""The page in Chromium: it draws everything, asks the network for nothing, runs no name."""

import shutil

import pytest

from offaxis.report import write_report
from offaxis.table import ResultsFolder

CHROMIUM = shutil.which("chromium")
HOSTILE = "<img src=x onerror=alert(1)></script>\n{layer}.{role}"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as play:
        launched = play.chromium.launch(executable_path=CHROMIUM, args=options)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser):
    """Open a page file; return the tab and what it complained of or asked for."""
    tabs = []

    def open_page(path):
        tab = browser.new_page(viewport={"width": 1240, "height": 900}, color_scheme="light")
        tabs.append(tab)
        seen = []
        tab.on("console", lambda message: seen.append(message.text))
        tab.on("pageerror", lambda error: seen.append(str(error)))
        tab.on("dialog", lambda dialog: (seen.append("dialog"), dialog.dismiss()))
        tab.on("request", lambda request: seen.append(request.url))
        tab.goto(path.as_uri())
        state = "html[data-state=drawn], html[data-state=failed]"
        tab.wait_for_selector(state, state="attached", timeout=30_000)
        return tab, seen

    yield open_page
    for tab in tabs:
        tab.close()


def marks(tab):
    """Return, per chart on the page, how many marks it has."""
    return tab.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('.chart')].map((chart) => [
            chart.dataset.chart ?? chart.dataset.atlas,
            chart.querySelectorAll('.mark-line path, .mark-symbol path, .mark-rect path').length,
        ]))"""
    )


def test_every_chart_is_drawn_in_both_schemes_and_nothing_is_fetched(
    demo_results, tmp_path, opened
):
    page = write_report(demo_results, tmp_path / "page.html")
    tab, seen = opened(page)
    assert_drawn(tab, paper="rgb(251, 250, 248)")
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_selector("html[data-state=drawing]", state="attached")
    tab.wait_for_selector("html[data-state=drawn]", state="attached", timeout=30_000)
    assert_drawn(tab, paper="rgb(18, 22, 29)")
    assert seen == [page.as_uri()]


def assert_drawn(tab, *, paper):
    assert tab.get_attribute("html", "data-state") == "drawn"
    drawn = marks(tab)
    assert len(drawn) == 21
    assert all(count > 0 for count in drawn.values()), drawn
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = """() => [...document.querySelectorAll('.chart')]
        .filter((chart) => chart.scrollWidth > chart.clientWidth).length"""
    assert tab.evaluate(cut) == 0
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == paper


def test_points_answer_and_selectors_redraw_the_map(demo_results, tmp_path, opened):
    tab, seen = opened(write_report(demo_results, tmp_path / "page.html"))
    tab.locator("#figure-sparsity .mark-symbol path").last.hover(force=True)
    tab.locator(".tip", has_text="run: rlvr-random-s").wait_for()
    tab.select_option("#map-controls select[name=quantity]", "stable_rank")
    tab.select_option("#map-controls select[name=of]", "excess")
    cell = tab.locator("[data-atlas=heat] svg .mark-text text").first
    cell.filter(has_text="\u221232.5").wait_for()
    tab.set_viewport_size({"width": 400, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(seen) == 1


def test_hostile_names_are_inert(results, tmp_path, opened, planted_arm):
    arms = {"opd": planted_arm(0.1, seeds=1, steps=9)}
    results(
        tmp_path, arms, tensor=HOSTILE, name="<script>alert(1)</script>{seed}", known_arms=False
    )
    folder = ResultsFolder(tmp_path)
    manifest = folder.manifest()
    manifest["coverage"] |= {
        "skipped": [{"tensor": HOSTILE, "reason": HOSTILE}],
        "elements_only": [HOSTILE],
    }
    manifest["anchors"] = [{"id": HOSTILE, "sha256": HOSTILE}]
    manifest["versions"][HOSTILE] = HOSTILE
    manifest["runs"][0]["precision"] = {HOSTILE: HOSTILE}
    folder.write_manifest(manifest)
    page = write_report(tmp_path)
    tab, seen = opened(page)
    assert seen == [page.as_uri()]
    assert tab.get_attribute("html", "data-state") == "drawn"
    assert tab.locator("img").count() == 0
    assert tab.content().count("&lt;img src=x onerror") >= 7
    tab.select_option("#curve-controls select", index=1)
    tab.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert tab.locator("[data-table=heat] td", has_text="<img src=x").count() > 0
    assert all(marks(tab).values())
    assert len(seen) == 1
