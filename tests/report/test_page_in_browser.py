"""report.html in a real Chromium: every chart drawn, nothing asked of the network, nothing to complain about."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.report.page import write_page
from src.report.schema import schema
from tests.report.browser import Browser, browser, find_chromium
from tests.report.page_report import full_report, typed
from tests.report.test_page import HOSTILE, poisoned

ALL_DRAWN = "[...document.querySelectorAll('figure.chart')].every(f => 'drawn' in f.dataset)"
DRAWN = "[...document.querySelectorAll('figure.chart')].filter(f => 'drawn' in f.dataset).map(f => f.id)"
CHARTS = "[...document.querySelectorAll('figure.chart')].map(f => f.id)"
MARKS = """Object.fromEntries([...document.querySelectorAll('figure.chart')].map(f => [
    f.id, f.querySelectorAll('.plot svg .trace, .plot svg .trades, .plot svg .points, .plot svg .bars, .plot svg .hm')
    .length]))"""
TALL = 30_000
"""A window in which nothing is below the first screen."""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all these tests."""
    if find_chromium() is None:
        reason = "no Chromium on this machine (apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with browser(tmp_path_factory.mktemp("chromium") / "profile") as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages: full, large, least, and one for each hostile text."""
    folder = tmp_path_factory.mktemp("pages")
    report = full_report(60, 3)
    write_page(typed(report), folder / "full.html")
    write_page(typed(full_report(553, 3, bars_a_session=390, n_charted=6)), folder / "large.html")
    least = {name: report[name] for name in schema()["required"]}
    write_page(typed({**least, "arms": {}, "training": [], "verdict": []}), folder / "least.html")
    for name in ("attribute", "plotly", "end of script", "long"):
        write_page(typed(poisoned(HOSTILE[name])), folder / f"hostile {name}.html")
    return folder


def open_whole(tab: Browser, page: Path, width: int = 1280) -> None:
    """Open it in a tall window and wait until every chart is drawn."""
    tab.prefer(prefers_color_scheme="light")
    tab.open(page, width, TALL)
    tab.until(ALL_DRAWN)


def check_clean(tab: Browser, page: Path) -> None:
    assert tab.complaints == []
    # A map of cells is an image that the page draws itself, asked of nobody.
    asked = [url for url in tab.requests if not url.startswith("data:image/png;base64,")]
    assert asked == [page.resolve().as_uri()]


def test_every_chart_is_drawn_without_a_complaint_or_a_request(tab: Browser, pages: Path) -> None:
    open_whole(tab, pages / "full.html")
    check_clean(tab, pages / "full.html")
    marks = tab.value(MARKS)
    assert len(marks) == 16
    assert all(marks.values()), marks
    sizes = tab.value(
        "[...document.querySelectorAll('.plot svg.main-svg')].map(s => [s.clientWidth, s.clientHeight, "
        "s.parentNode.closest('.plot').clientWidth])"
    )
    assert sizes
    assert all(width == room and height > 100 for width, height, room in sizes)
    # Every choice over a chart draws too.
    for slot, boxes in tab.value(
        "[...document.querySelectorAll('figure.chart')].map(f => [f.id, f.querySelectorAll('select').length])"
    ):
        for box in range(boxes):
            before = tab.value(f"document.querySelector('#{slot} .plot').innerHTML.length")
            tab.value(
                f"(() => {{ const box = document.querySelectorAll('#{slot} select')[{box}]; box.selectedIndex = 1;"
                "box.dispatchEvent(new Event('change')); })()"
            )
            tab.until(f"document.querySelector('#{slot} .plot').innerHTML.length !== {before}")
    assert tab.value("[...document.querySelectorAll('[data-chosen-by]')].findIndex(t => !t.hidden)") == 3
    check_clean(tab, pages / "full.html")


def test_a_chart_below_the_first_screen_is_drawn_when_scrolled_to(tab: Browser, pages: Path) -> None:
    tab.prefer(prefers_color_scheme="light")
    tab.open(pages / "full.html", 1280, 900)
    tab.until(f"{DRAWN}.length > 0")
    first = tab.value(DRAWN)
    assert first == tab.value(CHARTS)[: len(first)]
    assert len(first) <= 3
    tab.value("document.getElementById('fan-chart').scrollIntoView({behavior: 'instant'})")
    tab.until(f"{DRAWN}.includes('fan-chart')")
    assert "learning-chart" not in tab.value(DRAWN)


def test_all_charts_are_drawn_for_print_in_the_light_colours(tab: Browser, pages: Path, tmp_path: Path) -> None:
    tab.prefer(prefers_color_scheme="dark")
    tab.open(pages / "full.html", 1280, 900)
    tab.value(
        """addEventListener('beforeprint', () => { window.printed = {
            widths: [...document.querySelectorAll('figure.chart')].map(
                f => f.querySelector('svg.main-svg')?.clientWidth ?? 0),
            paper: getComputedStyle(document.documentElement).getPropertyValue('--paper').trim(),
            folded: document.querySelectorAll('main details:not([open])').length,
            headings: [...document.querySelectorAll('thead')].map(t => t.textContent),
            buttons: document.querySelectorAll('thead button').length,
            labels: [...document.querySelectorAll('#coverage-chart .xtick text')].map(
                t => t.getBoundingClientRect()).map(b => [b.left, b.right]) }; })
        window.before = [...document.querySelectorAll('thead')].map(t => t.innerHTML);"""
    )
    assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    tab.pdf(tmp_path / "page.pdf")
    printed = tab.value("window.printed")
    assert len(printed["widths"]) == 16
    assert all(500 <= width <= 680 for width in printed["widths"])
    assert printed["paper"] == "#fdfdfb"
    assert printed["folded"] == 0
    # A heading repeated on the next page has no buttons: Chromium would leave them out.
    assert printed["buttons"] == 0
    assert printed["headings"] == tab.value("[...document.querySelectorAll('thead')].map(t => t.textContent)")
    # Dates below a chart do not run into each other.
    labels = sorted(printed["labels"])
    assert len(labels) > 3
    assert all(right < left for (_, right), (left, _) in itertools.pairwise(labels))
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    # And afterwards all is as it was.
    tab.until("document.querySelector('#equity-chart').dataset.drawn > 700")
    assert tab.value("document.querySelectorAll('main details[open]').length") == 0
    assert tab.value("document.querySelectorAll('thead button').length") > 20
    assert tab.value("[...document.querySelectorAll('thead')].map(t => t.innerHTML).join() === before.join()")
    check_clean(tab, pages / "full.html")


def test_charts_follow_a_change_of_the_theme(tab: Browser, pages: Path) -> None:
    open_whole(tab, pages / "full.html")
    colours = (
        "JSON.stringify([getComputedStyle(document.body).backgroundColor, "
        "...['#equity-chart', '#fan-chart'].map(id => "
        "getComputedStyle(document.querySelector(id + ' .plot .xtick text')).fill)])"
    )
    light = json.loads(tab.value(colours))
    tab.prefer(prefers_color_scheme="dark")
    tab.until(f"!JSON.parse({colours}).some((c, i) => c === {json.dumps(light)}[i])")
    dark = json.loads(tab.value(colours))
    assert not set(light) & set(dark)


def test_a_phone_shows_it_without_scrolling_sideways(tab: Browser, pages: Path) -> None:
    for name in ("full", "hostile long"):
        open_whole(tab, pages / f"{name}.html", 390)
        assert tab.value("document.documentElement.scrollWidth") <= 390
        assert tab.value("Math.max(...[...document.querySelectorAll('.plot')].map(p => p.clientWidth))") <= 390
        assert tab.value("document.querySelector('nav details').open") is False
    open_whole(tab, pages / "full.html", 1280)
    tab.resize(700, TALL)
    tab.until("document.querySelector('#equity-chart').dataset.drawn < 700")


def test_the_keyboard_reaches_definitions_and_legends(tab: Browser, pages: Path) -> None:
    tab.prefer(prefers_color_scheme="light")
    tab.open(pages / "full.html", 1280, 900)
    tab.until(f"{DRAWN}.includes('equity-chart')")
    tab.press("Tab", 9)
    assert tab.value("document.activeElement.className") == "skip"
    assert tab.value("document.activeElement.getBoundingClientRect().left") >= 0
    reached = set()
    for _ in range(40):
        tab.press("Tab", 9)
        reached.add(tab.value("document.activeElement.className || document.activeElement.tagName"))
        if {"term", "entry"} <= reached:
            break
    assert {"term", "entry", "A"} <= reached
    tab.value("document.getElementById('arms').scrollIntoView({behavior: 'instant'})")
    tab.value("document.querySelector('#arms .term[aria-describedby=def-sharpe]').focus({preventScroll: true})")
    tab.until("!document.getElementById('tip').hidden")
    shown = tab.value("[document.getElementById('tip').hidden, document.getElementById('tip').textContent]")
    assert shown == [False, tab.value("document.getElementById('def-sharpe').textContent")]
    box = tab.value("JSON.stringify(document.getElementById('tip').getBoundingClientRect())")
    assert json.loads(box)["right"] <= 1280
    tab.press("Escape", 27)
    assert tab.value("document.getElementById('tip').hidden") is True
    tab.value("document.getElementById('arms').scrollIntoView({behavior: 'instant'})")
    tab.value("document.activeElement.click()")
    gap = (
        "document.getElementById('tip').getBoundingClientRect().top"
        " - document.activeElement.getBoundingClientRect().bottom"
    )
    tab.until(f"Math.abs({gap} - 6) < 1 && !document.getElementById('tip').hidden")
    tab.value("scrollBy({top: 60, behavior: 'instant'})")
    tab.until(f"Math.abs({gap} - 6) < 1")
    tab.value("scrollBy({top: 3000, behavior: 'instant'})")
    tab.until("document.getElementById('tip').hidden")
    tab.value("scrollBy({top: -3000, behavior: 'instant'})")
    tab.until("!document.getElementById('tip').hidden")
    tab.value("document.getElementById('equity').scrollIntoView({behavior: 'instant'})")
    visible = "document.querySelectorAll('#equity-chart .plot .scatterlayer .trace').length"
    before = tab.value(visible)
    tab.value("[...document.querySelectorAll('#equity-chart .entry')].find(e => e.textContent === 'base').focus()")
    tab.press(" ", 32)
    tab.until(f"{visible} > {before}")
    assert tab.value("document.activeElement.getAttribute('aria-pressed')") == "true"
    check_clean(tab, pages / "full.html")


@pytest.mark.parametrize("name", ["attribute", "plotly", "end of script", "long"])
def test_a_hostile_text_is_read_and_not_run(tab: Browser, pages: Path, name: str) -> None:
    page = pages / f"hostile {name}.html"
    open_whole(tab, page)
    check_clean(tab, page)
    assert tab.value("typeof window.pwned") == "undefined"
    assert tab.value("document.querySelectorAll('img, a[href^=java], main script').length") == 0
    assert tab.value("document.querySelectorAll('svg a').length") == 0
    begins = json.dumps(HOSTILE[name][:1_000])  # a text of 10,000 characters is shortened
    assert tab.value(f"document.querySelector('#verdict').textContent.includes({begins})")
    assert tab.value(f"document.querySelector('.run').textContent.startsWith({begins})")
    assert tab.value("document.querySelector('.run').textContent.endsWith(', finished 2026-11-23T02:44:22Z')")
    assert tab.value("document.querySelector('.run').textContent.length") < 5_000
    assert tab.value(f"document.querySelector('#equity-chart .legend').textContent.includes("
                     f"{json.dumps(HOSTILE[name][:200])})")  # fmt: skip


def test_a_report_without_anything_optional_is_a_page_too(tab: Browser, pages: Path) -> None:
    open_whole(tab, pages / "least.html")
    check_clean(tab, pages / "least.html")
    assert tab.value(CHARTS) == ["time-chart"]


def test_a_large_report_is_drawn_fast(tab: Browser, pages: Path) -> None:
    tab.prefer(prefers_color_scheme="light")
    began = tab.busy_s()
    tab.open(pages / "large.html", 1280, TALL)
    tab.until(ALL_DRAWN)
    assert tab.busy_s() - began < 3.0
    assert (pages / "large.html").stat().st_size < 6e6
    check_clean(tab, pages / "large.html")
