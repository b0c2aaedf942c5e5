"""The words about bars: as the validator prints them, and on the page."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from src.checks.catalogue import CHECKS
from src.checks.outcome import Outcome
from src.checks.runner import Result, lines_of
from src.report.model.bars import Data
from src.report.page.document import render
from src.report.quality_words import quality_lines
from src.report.schema import ReportError
from tests.golden_forms import golden
from tests.report.page_reader import PageReader
from tests.report.page_report import full_report, typed

GOLDEN = Path(__file__).parents[1] / "golden" / "validator_data.txt"
REPORT = full_report(120, 2)


def words_of(data: dict[str, Any]) -> list[str]:
    read = Data.model_validate(data)
    assert read.quality is not None
    return quality_lines(read, read.quality)


@pytest.mark.parametrize("width", [80])
def test_the_validator_prints_the_quality_of_bars(width: int) -> None:
    (check,) = [check for check in CHECKS if check.name == "data"]
    outcome = Outcome("passed", "151,420 bars, 96/120 sessions usable", details=words_of(REPORT["data"]))
    printed = "\n".join(lines_of(Result(check, outcome, 1.5), width)) + "\n"
    assert printed == golden(GOLDEN, printed)


def test_a_missing_bar_is_never_rounded_to_all_of_them() -> None:
    data = copy.deepcopy(REPORT["data"])
    data["quality"]["coverage"] |= {"present": 99_999_999, "scheduled": 100_000_000, "frac": 1.0}
    assert "99.99% of the 100,000,000" in words_of(data)[0]
    data["quality"]["coverage"]["present"] += 1
    assert "all of the 100,000,000" in words_of(data)[0]


def test_the_page_has_every_part_of_the_quality() -> None:
    page = PageReader(render(typed(REPORT)))
    (text,) = [text for attributes, text in page.of("section") if attributes["id"] == "quality"]
    quality = REPORT["data"]["quality"]
    for said in (
        quality["reading"]["clocks"][0]["words"],
        quality["reading"]["dialects"][0],
        quality["reading"]["market"]["words"],
        "Tuesdays stop at 03:45 New York",
        "155 of 5,688",
        "rounded to multiples of 0.25",
        "ESH4",
        "+63.5",
        "its jump in price",
        "2024-02-19",
    ):
        assert said in text
    rows = [text for _, text in page.of("tr") if "a hole of 78 bars" in text]
    assert len(rows) == len(quality["sessions"]["left_out"])
    by_week, by_weekday = page.charts["charts"]["coverage-chart"]["figures"]
    assert by_week["traces"][0]["z"] == quality["coverage"]["by_period"]
    assert by_weekday["traces"][0]["x"] == quality["coverage"]["weekdays"]
    says = [attributes["aria-label"] for attributes, _ in page.of("div", role="img")]
    assert any("Least on Tuesdays at 04:00: 5.0%." in str(said) for said in says)


def test_of_hundreds_of_notes_the_first_are_told_and_the_rest_counted() -> None:
    data = copy.deepcopy(REPORT["data"])
    data["quality"]["reading"]["notes"] = [f"note {k} of a file" for k in range(300)]
    lines = [line for line in words_of(data) if line.startswith("Note: ")]
    assert lines == [*(f"Note: note {k} of a file." for k in range(6)), "Note: and 294 more, in report.json."]


def test_a_report_of_before_has_no_such_section_and_says_so() -> None:
    report = copy.deepcopy(REPORT)
    del report["data"]["quality"]
    page = PageReader(render(typed(report)))
    assert "This report does not describe the quality of its bars." in page.text


def test_synthetic_bars_say_so_in_their_own_section() -> None:
    report = copy.deepcopy(REPORT)
    report["data"]["synthetic"] = True
    report["data"]["quality"]["reading"] = None
    page = PageReader(render(typed(report)))
    (text,) = [text for attributes, text in page.of("section") if attributes["id"] == "quality"]
    assert "These bars are SYNTHETIC" in text
    assert "SYNTHETIC bars of 5 min" in text


def test_a_long_table_is_shortened_on_the_page_with_the_count() -> None:
    report = copy.deepcopy(REPORT)
    report["data"]["quality"]["sessions"]["left_out"] *= 40
    n = len(report["data"]["quality"]["sessions"]["left_out"])
    page = PageReader(render(typed(report)))
    assert f"The first 400 of {n}; report.json lists {n}." in page.text


@pytest.mark.parametrize("rows", ["by_period", "by_weekday"])
def test_a_map_of_another_size_is_refused(rows: str) -> None:
    report = copy.deepcopy(REPORT)
    report["data"]["quality"]["coverage"][rows][3].append(1.0)
    with pytest.raises(ReportError, match=rf"data\.quality\.coverage\.{rows}\[3\]"):
        typed(report)
