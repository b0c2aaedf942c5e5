"""Section: the trained policies under many firms' rules."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from src.report.model.accounts import Payout, Quartiles, SurvivalArm, SurvivalRow
from src.report.model.report import Report
from src.report.page.blocks import Bullets, Column, Folded, Section, Table, Text, given, term
from src.report.page.drawing import Arrays
from src.report.survival_words import size_words, survival_lines
from src.wording import NOTHING, percent, plain

Row = tuple[SurvivalRow, str, SurvivalArm]


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    title = "Would it pass anywhere?"
    survival = report.survival
    if survival is None or not survival.rows:
        none = "This run compared no rule profiles, which --rules all does without training anything again."
        return Section("survival", title, (), none)
    words = Markup(
        "The same policies attempt every profile on the same {} sealed sessions, {} a trade asked for. All of it is a "
        "simulated rule check: a pass here is no promise of one there, and a firm that bans {} pays no bot."
    ).format(plain(survival.sessions), _contracts(survival.contracts), term("automation", "automation"))
    tried = [(row, name, arm) for row in survival.rows for name, arm in row.arms.items()]
    blocks: list[Any] = [Text(words), Bullets([given(line) for line in survival_lines(survival)])]
    blocks.append(Table("Simulated attempts by rule profile", _columns(), tried))
    blocks.append(Table("What ended the attempts that did not pass", _ending_columns(), tried))
    if any(arm.payout is not None for _, _, arm in tried):
        funded = [(row, name, arm) for row, name, arm in tried if arm.payout is not None]
        blocks.append(Table("First payout of the funded account", _payout_columns(), funded))
    open_points = [_open(row) for row in survival.rows if row.conflicts or row.unverified]
    if open_points:
        blocks.append(Folded("What the sources leave open", [Bullets(open_points)]))
    return Section("survival", title, blocks)


def _contracts(contracts: int) -> str:
    return "1 contract" if contracts == 1 else f"{plain(contracts)} contracts"


def _columns() -> list[Column[Row]]:
    return [
        *_names(),
        Column(term("p_pass", "P(pass)"), lambda r: percent(r[2].passed_frac)),
        Column(term("pass_interval", "95% CI"), lambda r: _between(r[2].passed_low_frac, r[2].passed_high_frac)),
        Column(term("automation", "automation"), lambda r: r[0].automation or NOTHING, numeric=False),
        Column(term("p_breach", "P(breach)"), lambda r: percent(r[2].breached_frac)),
        Column("95% CI", lambda r: _between(r[2].breached_low_frac, r[2].breached_high_frac)),
        Column(term("days_to_pass", "median days"), lambda r: _days(r[2].days_to_pass)),
    ]


def _ending_columns() -> list[Column[Row]]:
    return [
        *_names(),
        Column("account", lambda r: size_words(r[0]), numeric=False),
        Column("drawdown", lambda r: percent(r[2].breached_by.get("drawdown"))),
        Column("daily limit", lambda r: percent(r[2].breached_by.get("daily limit") or None)),
        Column(term("p_expired", "P(expired)"), lambda r: percent(r[2].expired_frac)),
        Column(term("attempt", "attempts"), lambda r: plain(r[2].attempts)),
        Column("note", lambda r: given(r[2].session_reason) if r[2].session_reason else NOTHING, numeric=False),
    ]


def _names() -> list[Column[Row]]:
    return [
        Column(term("rule_profile", "profile"), lambda r: given(r[0].profile), numeric=False),
        Column(term("arm", "arm"), lambda r: given(r[1]), numeric=False),
    ]


def _payout_columns() -> list[Column[Row]]:
    def paid(row: Row) -> Payout:
        assert row[2].payout is not None
        return row[2].payout

    return [
        *_names(),
        Column(term("first_payout", "P(first payout)"), lambda r: percent(paid(r).first_frac)),
        Column("95% CI", lambda r: _between(paid(r).first_low_frac, paid(r).first_high_frac)),
        Column("once funded", lambda r: percent(paid(r).funded_frac)),
        Column("95% CI", lambda r: _between(paid(r).funded_low_frac, paid(r).funded_high_frac)),
        Column(term("p_breach", "P(breach)"), lambda r: percent(paid(r).breached_frac)),
        Column(term("days_to_pass", "median days"), lambda r: _days(paid(r).days_to_payout)),
        Column(term("attempt", "attempts"), lambda r: plain(paid(r).attempts)),
    ]


def _between(low: float | None, high: float | None) -> str:
    return NOTHING if low is None or high is None else f"{percent(low)} to {percent(high)}"


def _days(quartiles: Quartiles | None) -> str:
    """Median and the middle half: `12 (8 to 19)`."""
    if quartiles is None:
        return NOTHING
    first, median, third = (plain(days) for days in quartiles)
    return f"{median} ({first} to {third})"


def _open(row: SurvivalRow) -> Markup:
    words = given(" ".join((*row.conflicts, *row.unverified)))
    return Markup("<strong>{}:</strong> {}").format(given(row.profile), words)
