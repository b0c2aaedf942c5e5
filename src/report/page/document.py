"""report.html from report.json alone: one file that works offline and makes no requests.

Its content security policy allows its own two scripts, by hash, and no requests at all, so text from a run or a file is
displayed and never executed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from src import run_names
from src.files import write_atomically
from src.plain_text import LONGEST_LINE, foreign_values
from src.report.page.blocks import charts_of, given, glossary
from src.report.page.drawing import Arrays
from src.report.schema import ReportError, check_report
from src.report.sections.accounts import pass_section, reliance_section, trades_section
from src.report.sections.advice import advice_section
from src.report.sections.quality import quality_section
from src.report.sections.results import (
    arms_section,
    contrast_section,
    equity_section,
    overall_of,
    verdict_section,
)
from src.report.sections.run import (
    learning_section,
    machine_section,
    provenance_section,
    targets_section,
)

PARTS = Path(__file__).parent
SECTIONS = (
    *(verdict_section, equity_section, contrast_section, arms_section, trades_section, learning_section),
    *(machine_section, advice_section, pass_section, reliance_section, quality_section, provenance_section),
    targets_section,
)


def write_page(report: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of a report (from `report.json` or as a run returns it); ReportError if its shape is wrong."""
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
    source = Path(run_dir) / run_names.REPORT
    try:
        report = json.loads(source.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReportError(
            f"There is no {run_names.REPORT} in {run_dir}: name the folder of a finished run, such as logs/<run>."
        ) from error
    except OSError as error:
        raise ReportError(f"{source} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{source} is damaged: it is not JSON ({error}); restore it, or rerun.") from error
    check_report(report, str(source))
    page = Path(run_dir) / run_names.PAGE
    write_page(report, page)
    return page


def render(report: Mapping[str, Any]) -> str:
    """The page as text, without lone surrogates."""
    # Through JSON: arrays become lists, and a number that JSON does not have becomes null as in report.json.
    plain = json.loads(json.dumps(report, default=lambda value: value.tolist()), parse_constant=lambda _: None)
    content = foreign_values(plain, LONGEST_LINE)
    check_report(content, "The report")
    arrays = Arrays()
    sections = [build(content, arrays) for build in SECTIONS]
    charts = {chart.id: chart.to_dict() for section in sections for chart in charts_of(section.blocks)}
    scripts = {"plotly_js": plotly_js(), "page_js": _part("page.js")}
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            kind=content["test_name"].replace("_", " "),
            run=content["run"],
            synthetic=content.get("data", {}).get("synthetic", False),
            overall=overall_of(content),
            sections=sections,
            glossary=glossary(),
            given=given,
            css=Markup(_part("page.css")),
            chart_json=embedded_json({"charts": charts, "arrays": arrays.kept}),
            script_hashes=Markup(" ").join(_hash(script) for script in scripts.values()),
            **{name: Markup(script) for name, script in scripts.items()},
        )
    )
    return html.encode("utf-8", "replace").decode("utf-8")


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
