"""A comparison as a table of 80 columns, JSON, Markdown or HTML; and the README's tables updated from it."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from src.benchmarks.claims import claims_of, reasons_of
from src.benchmarks.comparison import CONFIDENCE, ComparedRow, Comparison, differences, is_paired
from src.benchmarks.file import BASELINE, OPTIMIZED, BenchmarkRun
from src.console import uncut
from src.errors import UserError
from src.files import read_regular, write_atomically
from src.outputs import check_output_file
from src.wording import measured, ratio_words, three_digits

COLUMNS: Final = 80
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
"""The lines of a README that enclose the tables."""
_INTERVAL = f"{CONFIDENCE:.0%} interval"


class ReadmeError(UserError):
    """A README whose tables cannot be replaced."""


def as_table(comparison: Comparison, fail_below: float | None = None) -> str:
    """Plain text of at most 80 columns."""
    console = Console(file=io.StringIO(), width=COLUMNS, color_system=None, markup=False, emoji=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    table.add_column("")
    for heading in (*comparison.headings, "ratio", _INTERVAL):
        table.add_column(heading, justify="right")
    table.add_column("")
    suite = ""
    for row in comparison.rows:
        if row.first.suite != suite:
            suite = row.first.suite
            table.add_row(suite)
        case, *cells = _cells(row)
        table.add_row(f" {case}", *cells)
    console.print(uncut(table))
    claims = claims_of(comparison)
    if claims:
        console.print()
        told = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
        told.add_column("what was promised")
        told.add_column("promised", justify="right")
        told.add_column("measured", justify="right")
        told.add_column("")
        for claim in claims:
            told.add_row(claim.what, claim.promised, claim.measured, claim.verdict)
        console.print(uncut(told))
    for line in [*reasons_of(claims), *_endings(comparison, fail_below)]:
        console.print()
        console.print(line, highlight=False)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in written.splitlines())


def as_json(comparison: Comparison, fail_below: float | None = None) -> str:
    """Every figure; seconds are of one operation."""
    content = {
        "first": _about(comparison.first),
        "second": _about(comparison.second),
        "confidence": CONFIDENCE,
        "rows": [_row_values(row) for row in comparison.rows],
        "rows_alike": comparison.rows_alike,
        "claims": [vars(claim) for claim in claims_of(comparison)],
        "notes": list(comparison.notes),
        "fail_below": fail_below,
        "rows_below": [] if fail_below is None else [list(row.first.key) for row in rows_below(comparison, fail_below)],
    }
    return json.dumps(content, indent=2, allow_nan=False)


def as_markdown(comparison: Comparison, fail_below: float | None = None) -> str:
    """The tables and their notes as Markdown."""
    blocks = []
    claims = claims_of(comparison)
    if claims:
        rows = [[claim.what, claim.promised, claim.measured, claim.verdict] for claim in claims]
        blocks.append(_markdown_table(["what", "promised", "measured", ""], rows, right=(1, 2)))
    if reasons := reasons_of(claims):
        blocks.append("\n".join(f"- {_plain(line)}" for line in reasons))
    rows = [[row.first.suite, *_cells(row)] for row in comparison.rows]
    blocks.append(_markdown_table(["suite", "case", *_headings(comparison), ""], rows, right=(2, 3, 4, 5)))
    blocks.append(_plain(" ".join(_endings(comparison, fail_below))))
    return "\n\n".join(blocks)


def as_html(comparison: Comparison, fail_below: float | None = None) -> str:
    """A complete HTML page."""
    first, second = comparison.headings
    rows = [[row.first.suite, *_cells(row), f"{row.first.way} / {row.second.way}"] for row in comparison.rows]
    parts = [_html_table(["suite", "case", *_headings(comparison), "", "how"], rows)]
    claims = claims_of(comparison)
    if claims:
        told = [[claim.what, claim.promised, claim.measured, claim.verdict, claim.reason] for claim in claims]
        parts.append(_html_table(["what", "promised", "measured", "", ""], told))
    parts += [f"<p>{html.escape(line)}</p>" for line in _endings(comparison, fail_below)]
    title = html.escape(f"{first} and {second}")
    style = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:left}td{border-top:1px solid #ccc}"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style></head>\n<body>\n<h1>{title}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>"
    )


FORMATS: Final[Mapping[str, Callable[[Comparison, float | None], str]]] = {
    "table": as_table,
    "json": as_json,
    "markdown": as_markdown,
    "html": as_html,
}


def rows_below(comparison: Comparison, bound: float) -> list[ComparedRow]:
    """The rows that fall below a bound."""
    return [row for row in comparison.rows if row.is_below(bound)]


def write_comparison(path: Path, text: str) -> None:
    """Write a comparison to a file, in a folder that is made where it is missing. OutputError where it cannot be."""
    check_output_file(path)
    write_atomically(path, text)


def update_readme(path: Path, comparison: Comparison) -> None:
    """Put the Markdown between the marker lines of a file. Raises ReadmeError if the lines are missing, repeated or out
    of order, or if the README may not show this comparison."""
    if why := _unfit(comparison):
        raise ReadmeError(
            f"{path} is unchanged, because {why}: measure both modes in one go (python benchmark_framework.py "
            f"--pair) and compare {BASELINE}.json with {OPTIMIZED}.json."
        )
    try:
        text = read_regular(path).decode("utf-8")  # a link would be replaced, a pipe waited for
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReadmeError(f"{path} cannot be read ({reason}): name the README with --update-readme.") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ReadmeError(
            f"{path} must hold the line {BEGIN} and below it the line {END}, each once: add them where the tables "
            f"belong."
        )
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    try:
        write_atomically(path, f"{before}{BEGIN}\n{as_markdown(comparison)}\n{END}{after}")
    except OSError as error:
        raise ReadmeError(f"{path} cannot be written ({error.strerror or error}): change its permissions.") from error


def _unfit(comparison: Comparison) -> str:
    """Why the README may not show this comparison; empty if it may."""
    first, second = comparison.first, comparison.second
    if (first.mode, second.mode) != (BASELINE, OPTIMIZED):
        return f"its tables compare {BASELINE} with {OPTIMIZED}, and this is {first.mode} against {second.mode}"
    if first.quick or second.quick:
        return "a quick run does not show how fast anything is"
    if found := differences(first, second):
        return f"the two runs are not of the same work on the same machine ({found[0]})"
    if not is_paired(first, second):
        return "the two runs were not measured in turns, as a pair"
    return ""


def _headings(comparison: Comparison) -> list[str]:
    return [*comparison.headings, "ratio", _INTERVAL]


def _cells(row: ComparedRow) -> list[str]:
    """Case, both times, ratio, interval, verdict."""
    interval = "-" if row.low is None or row.high is None else f"{three_digits(row.low)}-{three_digits(row.high)}"
    times = [measured(side.median_s) for side in (row.first, row.second)]
    return [row.first.case, *times, ratio_words(row.ratio), interval, row.verdict]


def _endings(comparison: Comparison, fail_below: float | None) -> list[str]:
    """How to read the figures, where they were measured, the notes, and the rows below the bound."""
    first, second = comparison.headings
    alike, n = comparison.rows_alike, len(comparison.rows)
    lines = [
        *([] if alike is None else [f"{alike} of {n} rows show no difference ({alike / n:.1%})."]),
        f"Times are medians of one operation; the ratio is {first} over {second}, above 1 where {second} is faster.",
        *_measured(comparison),
        *comparison.notes,
    ]
    if fail_below is not None:
        below = rows_below(comparison, fail_below)
        names = "; ".join(f"{', '.join(row.first.key)} ({ratio_words(row.ratio)})" for row in below)
        lines.append(f"Below {fail_below:g}: {names}." if below else f"No row is below {fail_below:g}.")
    return lines


def _measured(comparison: Comparison) -> list[str]:
    """When, where, on which code and how often: one line, or one a side where they differ in more than the time."""
    runs = (comparison.first, comparison.second)
    if len({_where(run) for run in runs}) > 1:
        named = zip(comparison.headings, runs, strict=True)
        return [f"Measured {run.created[:10]} ({name}) on {_where(run)}." for name, run in named]
    dates = " and ".join(dict.fromkeys(run.created[:10] for run in runs))
    return [f"Measured {dates} on {_where(runs[0])}."]


def _where(run: BenchmarkRun) -> str:
    machine = run.machine["identity"]
    commit = run.revision.get("commit")
    code = "" if commit is None else f", revision {str(commit)[:12]}{' changed' if run.revision.get('changed') else ''}"
    processes = "one process" if run.processes == 1 else f"{run.processes} processes"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB{code}; {processes} a mode, "
        f"{run.repeats} repeats each"
    )


def _about(run: BenchmarkRun) -> dict[str, Any]:
    named = ("mode", "quick", "created", "repeats", "processes", "revision", "machine")
    return {name: getattr(run, name) for name in named}


def _row_values(row: ComparedRow) -> dict[str, Any]:
    return {
        "suite": row.first.suite,
        "case": row.first.case,
        "unit": row.first.unit,
        "first_s": row.first.median_s,
        "second_s": row.second.median_s,
        "first_way": row.first.way,
        "second_way": row.second.way,
        "ratio": row.ratio,
        "low": row.low,
        "high": row.high,
        "verdict": row.verdict,
    }


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    rule = ["---:" if column in right else "---" for column in range(len(headings))]
    return "\n".join(f"| {' | '.join(map(_plain, row))} |" for row in (headings, rule, *rows))


def _plain(text: str) -> str:
    """Text with Markdown's special characters escaped."""
    for character in "\\|<*_`":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "\n".join(["<table>", line("th", headings), *(line("td", row) for row in rows), "</table>"])
