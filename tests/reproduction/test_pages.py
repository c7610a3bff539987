"""The pages of a study: whole without it being trained, inert, small, the same bytes."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.reproduction import synthetic

from offaxis.reproduction.claims import load_claims
from offaxis.reproduction.contents import contents
from offaxis.reproduction.entries import ENTRIES
from offaxis.reproduction.figures import DRAWN, static
from offaxis.reproduction.pages import as_html, as_markdown, write_pages
from offaxis.reproduction.verdicts import evaluate

CHROMIUM = shutil.which("chromium")
HOSTILE = "<img src=x onerror=alert(1)></script>\n[a](javascript:alert(1)) |"

ON_THE_PAGE = """() => [...document.querySelectorAll('.chart')].map((chart) => [
    chart.dataset.chart,
    chart.querySelectorAll('svg, canvas').length,
    chart.scrollWidth > chart.clientWidth,
])"""


def held(out, table):
    pq.write_table(table, out / "study.parquet")
    verdicts = evaluate(load_claims(), table)
    return contents(out, table, verdicts, "tiny", notes=[HOSTILE])


def with_single_matrices(found, table):
    """The same with what no run has left in a folder: single matrices and maps."""
    evidence = synthetic.evidence(table)
    chapters = [
        replace(chapter, figure=DRAWN[chapter.entry.id](evidence)) if chapter.figure else chapter
        for chapter in found.chapters
    ]
    return replace(found, chapters=tuple(chapters))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def whole(folder):
    strange = synthetic.table(1, ("opd",), ("sparsity",)).to_pylist()
    rows = [{**row, "quantity": HOSTILE} for row in strange if row["point"] == "end"]
    rows += [{**row, "arm": "keep25-top", "quantity": "fit", "point": "early"} for row in rows]
    table = synthetic.table()
    table = pa.concat_tables([table, pa.Table.from_pylist(rows, schema=table.schema)])
    return with_single_matrices(held(folder, table), table)


@pytest.fixture(scope="module")
def written(folder, whole):
    return write_pages(folder, whole)


def test_the_page_says_everything_once(written, folder, whole):
    text = (folder / "reproduction.html").read_text("utf-8")
    assert len(text.encode()) < 2_000_000
    for name in ENTRIES:
        assert text.count(f'<section id="{name}"') == 1
    for claim in load_claims().claims:
        assert f'id="claim-{claim.id}"' in text
    assert text.index('id="verdicts"') < text.index('id="fig1"') < text.index('id="made"')
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    assert "default-src &#39;none&#39;" in policy
    assert "unsafe" not in policy
    assert "<img" not in text
    assert "&lt;img src=x onerror" in text.partition('id="relatives"')[2]
    assert "keep25-top" in text.partition('id="sec5.2"')[2].partition('id="relatives"')[0]
    assert as_html(whole) == text


def test_the_text_links_what_is_there_and_holds_no_markup_of_others(written, folder):
    text = (folder / "reproduction.md").read_text("utf-8")
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", text)
    assert len(links) == (3 * len(written["figures"]) if written["figures"] else 0)
    assert all((folder / link).is_file() for link in links)
    assert "<img" not in text
    assert "](javascript" not in text


def test_every_figure_is_a_file_of_its_own(written):
    pytest.importorskip("vl_convert")
    assert {Path(path).stem for path in written["figures"]} == set(DRAWN)
    for path in map(Path, written["figures"]):
        assert path.read_text("utf-8").startswith("<svg")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")


def test_without_the_extra_both_pages_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(static, "renderer", lambda: None)
    few = held(tmp_path, synthetic.table(1, ("opd",), ("sparsity",)))
    said = write_pages(tmp_path, few)
    assert said["figures"] == []
    assert said["install"] == "pip install 'offaxis[paper]'"
    assert said["install"] in (tmp_path / "reproduction.md").read_text("utf-8")
    assert "Nothing of it was run." in as_markdown(few)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_a_browser_draws_every_figure_in_both_schemes_and_fetches_nothing(written, folder):
    from playwright.sync_api import sync_playwright

    page, seen = folder / "reproduction.html", []
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=options)
        tab = browser.new_page(viewport={"width": 1240, "height": 900}, color_scheme="light")
        tab.on("console", lambda message: seen.append(message.text))
        tab.on("pageerror", lambda error: seen.append(str(error)))
        tab.on("request", lambda request: seen.append(request.url))
        tab.goto(page.as_uri())
        for scheme in ("light", "dark"):
            if scheme == "dark":
                tab.emulate_media(color_scheme=scheme)
                tab.wait_for_selector("html[data-state=drawing]", state="attached")
            state = "html[data-state=drawn], html[data-state=failed]"
            tab.wait_for_selector(state, state="attached", timeout=180_000)
            assert tab.get_attribute("html", "data-state") == "drawn"
            assert tab.evaluate(ON_THE_PAGE) == [[name, 1, False] for name in DRAWN]
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.locator("img").count() == 0
        browser.close()
    assert seen == [page.as_uri()]
