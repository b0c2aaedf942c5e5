"""Section: the settings of a sweep, and the winner trained again."""

from __future__ import annotations

from markupsafe import Markup

from src.report.model.report import Report
from src.report.model.sweep import Sweep, SweepSetting
from src.report.page.blocks import Bullets, Column, Heading, Section, Table, Text, given, term
from src.report.sweep import sweep_lines, value_words
from src.wording import plain, signed_usd


def section(report: Report, sweep: Sweep) -> Section:
    """The section, of a run that trains the winner of a sweep."""
    space = "; ".join(f"{key}: {words}" for key, words in sweep.space.items())
    how = Markup(
        "Settings were chosen by method {}, and scored by {} of {} on the validation sessions, {} each. The space: {}."
    ).format(
        given(sweep.method), term("net_per_session", "net P&L per session"), given(sweep.arm), _seeds(sweep),
        given(space),
    )  # fmt: skip
    note = (
        "A setting that was stopped has the score of its base policy at the quarter where it was. Every setting is a "
        "trial of the deflated Sharpe ratio."
    )
    columns: list[Column[SweepSetting]] = [
        Column("setting", lambda r: plain(r.number)),
        *(
            Column[SweepSetting](given(key), lambda r, key=key: given(value_words(r.values[key])))  # type: ignore[misc]
            for key in sweep.space
        ),
        Column("quarters trained", lambda r: plain(r.quarters)),
        Column(term("net_per_session", "net/session"), lambda r: signed_usd(r.score_usd)),
        Column(term("session_sharpe", "Sharpe per session"), lambda r: plain(r.sharpe, 3)),
    ]
    return Section(
        "sweep",
        "The sweep that chose these settings",
        [
            Bullets([given(line) for line in sweep_lines(sweep)]),
            Heading("Settings"),
            Text(how),
            Table("Settings, best first", columns, sweep.ranked, note),
        ],
    )


def _seeds(sweep: Sweep) -> str:
    return "1 seed" if len(sweep.seeds) == 1 else f"{len(sweep.seeds)} seeds"
