"""Section: the bars. What their files were taken to be, what is missing, odd or left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from src.market.quality import recurring_words
from src.report.model.bars import ClockCandidate, Coverage, Data, Finding, LeftOut, Outlier, Quality, Reading, Roll
from src.report.model.report import Report
from src.report.page.blocks import (
    Bullets,
    Chart,
    Choice,
    Column,
    Facts,
    Figure,
    Folded,
    Named,
    Section,
    Table,
    Text,
    Words,
    given,
    term,
)
from src.report.page.drawing import Arrays, chart_text, role
from src.report.quality_words import bars_words, reading_sentences
from src.wording import NOTHING, percent, plain

ROWS_SHOWN = 8
"""A longer table is folded."""
ROWS_MOST = 400
"""Rows of a table on the page; report.json has all of them."""
COLUMNS = {"session": "Session", "week": "Week", "month": "Month"}
LABEL = "New York hour"
_GAP_PX_FROM = 70
"""Up to so many columns, cells are set apart by a pixel."""
_SCALE = {
    "len": 150,
    "lenmode": "pixels",
    "thickness": 9,
    "orientation": "h",
    "x": 1,
    "xanchor": "right",
    "y": 1,
    "yanchor": "bottom",
    "ypad": 6,
    "outlinewidth": 0,
    "tickformat": ".0%",
    "tickvals": [0, 0.5, 1],
    "ticks": "",
}


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    title, data = "Data quality", report.data
    if data is None or data.quality is None:
        return Section("quality", title, (), "This report does not describe the quality of its bars.")
    quality = data.quality
    blocks: list[Any] = []
    if data.synthetic:
        blocks.append(Text(Markup("These bars are SYNTHETIC: the toolkit's generator made them, no file did.")))
    blocks.append(Facts(_reading_facts(data, quality)))
    blocks += _clock_tables(quality.reading)
    recurring = quality.holes.recurring
    if recurring:
        blocks.append(Bullets([given(f"{recurring_words(hole.model_dump())}.") for hole in recurring]))
    blocks += _coverage_chart(quality.coverage)
    if quality.findings:
        blocks.append(Table("Defects and what was done about them", _finding_columns(), quality.findings))
    blocks += _lists(quality)
    return Section("quality", title, blocks)


def _reading_facts(data: Data, quality: Quality) -> list[tuple[Words, Words]]:
    reading, sessions, absent = quality.reading, quality.sessions, quality.absent_dates
    pairs: list[tuple[Words, Words]] = [("bars", given(bars_words(data, quality).removeprefix("Bars: ")))]
    if reading is not None:
        names = {"Clock": term("bar_clock", "clock")}
        for label, sentences in reading_sentences(reading):
            pairs += [(names.get(label, label.lower()), given(sentence)) for sentence in sentences]
    usable = f"{plain(sessions.usable)} of {plain(sessions.found)} usable"
    pairs.append(("sessions", usable))
    pairs.append((term("absent_dates", "absent trade dates"), given(", ".join(absent) or "none")))
    return pairs


def _clock_tables(reading: Reading | None) -> list[Any]:
    """The readings of the times that were compared, the chosen one first."""
    rows = [
        Named("chosen" if candidate is clock.chosen else NOTHING, candidate)
        for clock in (reading.clocks if reading is not None else ())
        for candidate in (clock.chosen, *clock.others)
    ]
    columns: list[Column[Named[ClockCandidate]]] = [
        Column("time zone", lambda c: given(c.of.zone), numeric=False),
        Column("stamp at the bar's", lambda c: c.of.stamp, numeric=False),
        Column("bars in closed hours", lambda c: f"{plain(c.of.closed)} of {plain(c.of.bars)}"),
        Column(term("cash_step", "volume step at 09:30"), lambda c: plain(c.of.cash_step, 1)),
        Column("", lambda c: c.name, numeric=False),
    ]
    if len(rows) < 2:
        return []
    return [Folded("Readings of the times that were compared", [Table("Readings of the times", columns, rows)])]


def _coverage_chart(coverage: Coverage) -> list[Any]:
    if not coverage.scheduled:
        return []
    caption = Markup("{}: fraction of the bars that the CME calendar schedules.").format(
        term("bar_coverage", "Coverage")
    )
    says = f"{caption.striptags()} Overall {percent(coverage.frac, 2)}. {_least_covered(coverage)}"
    choice = Choice("Columns", [f"By {coverage.unit}", "By weekday"])
    return [Chart("coverage-chart", caption, says, 400, coverage_figures(coverage), [choice])]


def _least_covered(coverage: Coverage) -> str:
    """The weekday and hour with the smallest fraction, for readers who cannot see the map."""
    cells = [
        (frac, day, hour)
        for hour, row in zip(coverage.hours, coverage.by_weekday, strict=True)
        for day, frac in zip(coverage.weekdays, row, strict=True)
        if frac is not None
    ]
    frac, day, hour = min(cells)
    return f"Least on {day}s at {hour}: {percent(frac, 1)}."


def _finding_columns() -> list[Column[Finding]]:
    return [
        Column("defect", lambda f: given(f.kind), numeric=False),
        Column(term("finding_verdict", "verdict"), lambda f: f.verdict, numeric=False),
        Column("count", lambda f: plain(f.count)),
        Column("where", lambda f: given(f.where or NOTHING), numeric=False),
        Column("done", lambda f: given(f.done), numeric=False),
    ]


def _lists(quality: Quality) -> list[Any]:
    sessions, holes, odd = quality.sessions, quality.holes, quality.outliers
    left_out: list[Column[LeftOut]] = [
        Column("trade date", lambda s: s.date, numeric=False),
        Column("reason", lambda s: given(s.reason), numeric=False),
    ]
    rolls: list[Column[Roll]] = [
        Column("first session", lambda r: r.trade_date, numeric=False),
        Column("from", lambda r: given(r.before or NOTHING), numeric=False),
        Column("to", lambda r: given(r.after or NOTHING), numeric=False),
        Column("gap, points", lambda r: f"{r.gap_points:+,.6g}"),
        Column(
            "known by",
            lambda r: "the contracts' names" if r.source == "contracts" else "its jump in price",
            numeric=False,
        ),
    ]
    missing: list[Column[Any]] = [
        Column("trade date", lambda h: h.trade_date, numeric=False),
        Column("from, New York", lambda h: h.start, numeric=False),
        Column("bars", lambda h: plain(h.bars)),
        Column("place", lambda h: getattr(h, "place", NOTHING), numeric=False),
    ]
    outlying: list[Column[Outlier]] = [
        Column("bar, New York", lambda b: b.start, numeric=False),
        Column("kind", lambda b: b.kind, numeric=False),
        Column("points", lambda b: f"{b.points:,.6g}"),
        Column("usual range", lambda b: f"{b.usual_points:,.6g}"),
        Column("times the usual", lambda b: plain(b.ratio, 1)),
    ]
    tables: tuple[tuple[Words, list[Column[Any]], list[Any], int], ...] = (
        (term("left_out", "Sessions left out"), left_out, sessions.left_out, len(sessions.left_out)),
        (term("roll", "Rolls"), rolls, quality.rolls, len(quality.rolls)),
        (term("hole", "Holes"), missing, holes.listed, holes.count),
        (term("outlier", "Outliers"), outlying, odd.listed, odd.count),
        (
            "Stretches without volume",
            missing,
            quality.zero_volume.listed,
            quality.zero_volume.stretches,
        ),
    )
    return [_table(caption, columns, rows, count) for caption, columns, rows, count in tables if rows]


def _table(caption: Words, columns: list[Column[Any]], rows: list[Any], count: int) -> Table[Any] | Folded:
    shown = rows[:ROWS_MOST]
    kept = "report.json lists" if count == len(rows) else "the run listed"
    note = f"The first {len(shown):,} of {count:,}; {kept} {len(rows):,}." if count > len(shown) else ""
    table = Table(caption, columns, shown, note)
    if len(shown) <= ROWS_SHOWN:
        return table
    return Folded(f"{Markup(caption).striptags()}: {count:,}", [table])


def coverage_figures(coverage: Coverage) -> list[Figure]:
    """Fractions of the scheduled bars by hour: one map by period, one by weekday."""
    return [
        _coverage_map(coverage.periods, coverage.hours, coverage.by_period, f"{coverage.unit} of "),
        _coverage_map(coverage.weekdays, coverage.hours, coverage.by_weekday, ""),
    ]


def _coverage_map(
    columns: Sequence[str], hours: Sequence[str], rows: Sequence[Sequence[float | None]], of: str
) -> Figure:
    gap = 1 if len(columns) <= _GAP_PX_FROM else 0
    trace = {
        "type": "heatmap",
        "x": [chart_text(name) for name in columns],
        "y": list(hours),
        "z": [list(row) for row in rows],
        "zmin": 0,
        "zmax": 1,
        # What is there is quiet; what is missing stands out.
        "colorscale": [[0, role("vermillion")], [0.9, role("orange", 0.55)], [1, role("blue", 0.2)]],
        "hoverongaps": False,
        "xgap": gap,
        "ygap": 1,
        "hovertemplate": f"{of}%{{x}}, %{{y}}: %{{z:.1%}}<extra></extra>",
        "colorbar": _SCALE,
    }
    layout: dict[str, Any] = {
        "xaxis": {"type": "category", "showgrid": False, "nticks": 8, "tickangle": 0},
        "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "nticks": 12},
        "hovermode": "closest",
        "margin": {"l": 60, "r": 22, "t": 44, "b": 46},
    }
    narrow = {
        "xaxis": {**layout["xaxis"], "nticks": 5},
        "margin": {"l": 44, "r": 8, "t": 64, "b": 46},
    }
    return Figure([trace], layout, [("y", LABEL)], narrow=narrow)
