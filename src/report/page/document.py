"""report.html from report.json alone: one file that works offline and makes no requests.

Its content security policy allows its own two scripts, by hash, and no requests at all, so text from a run or a file is
displayed and never executed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from src import run_names
from src.files import write_atomically
from src.plain_text import LONGEST_LINE, foreign_values
from src.report.conclusions import overall_of
from src.report.model.report import Report, RunReport
from src.report.page.blocks import Section, charts_of, given, glossary
from src.report.page.drawing import Arrays
from src.report.schema import ReportError, check_report, read_report
from src.report.sections import (
    advice,
    arms,
    attempts,
    contrast,
    equity,
    hardware,
    learning,
    markets,
    provenance,
    quality,
    reliance,
    survival,
    sweep,
    targets,
    time,
    trades,
    verdict,
)

PARTS = Path(__file__).parent
SECTIONS = (
    *(
        verdict,
        equity,
        contrast,
        arms,
        trades,
        learning,
        time,
        hardware,
        advice,
        attempts,
        survival,
        reliance,
        quality,
        provenance,
    ),
    targets,
)
"""In the order of the page."""
OF_THE_RUN = (verdict, time, hardware, provenance, targets)
"""Sections that a run of several markets has once."""
OF_A_MARKET = tuple(part for part in SECTIONS if part not in (time, hardware, targets))


def write_page(report: RunReport, path: str | Path) -> None:
    """Write the page of a report; ReportError if it cannot be written."""
    try:
        write_atomically(Path(path), render(report))
    except OSError as error:
        raise ReportError(
            f"The page {path} cannot be written ({error.strerror or error}): free some space, or change the folder's "
            "permissions."
        ) from error


def rebuild(run_dir: str | Path) -> Path:
    """Write `report.html` again from the `report.json` of a run's folder, and return its path.

    Raises: ReportError (a UserError) if report.json is missing, damaged, from another program or a newer version.
    """
    page = Path(run_dir) / run_names.PAGE
    write_page(read_report(Path(run_dir) / run_names.REPORT), page)
    return page


def render(report: RunReport) -> str:
    """The page as text, without lone surrogates."""
    safe = check_report(foreign_values(report.to_json_dict(), LONGEST_LINE), "The report")
    arrays = Arrays()
    sections = sections_of(safe, arrays)
    alike = groupby(sections, key=lambda section: section.group)
    charts = {chart.id: chart.to_dict() for section in sections for chart in charts_of(section.blocks)}
    scripts = {"plotly_js": plotly_js(), "page_js": _part("page.js")}
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            kind=safe.test_name.replace("_", " "),
            run=safe.run,
            synthetic=any(of.data is not None and of.data.synthetic for of in _by_market(safe)),
            overall=overall_of(safe),
            sections=sections,
            contents=[(group, list(of_group)) for group, of_group in alike],
            glossary=glossary(),
            given=given,
            css=Markup(_part("page.css")),
            chart_json=embedded_json({"charts": charts, "arrays": arrays.kept}),
            script_hashes=Markup(" ").join(_hash(script) for script in scripts.values()),
            **{name: Markup(script) for name, script in scripts.items()},
        )
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def sections_of(report: RunReport, arrays: Arrays) -> list[Section]:
    """The sections of a page: of a run of several markets those of the run, then those of each market."""
    if (several := report.markets) is None:
        swept = [] if report.sweep is None else [sweep.section(report, report.sweep)]
        before = SECTIONS.index(quality)
        sections = [part.section(report, arrays) for part in SECTIONS]
        return [*sections[:before], *swept, *sections[before:]]
    first, *others = (part.section(report, arrays) for part in OF_THE_RUN)
    own = [
        markets.of_market(part.section(of, arrays), symbol)
        for symbol, of in several.reports.items()
        for part in OF_A_MARKET
    ]
    return [first, markets.section(report, several), *own, *others]


def _by_market(report: RunReport) -> Iterable[Report]:
    return (report,) if report.markets is None else report.markets.reports.values()


@cache
def plotly_js() -> str:
    """The chart library as its package ships it."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    # As the HTML parser reads it: the policy hashes that.
    return get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")


@cache
def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(PARTS), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _hash(script: str) -> Markup:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return Markup("'sha256-{}'").format(base64.b64encode(digest).decode())


def embedded_json(content: object) -> Markup:
    """JSON that is safe inside a script element: nothing in it can end the element or a line."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
