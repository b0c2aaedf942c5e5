"""What a finished run prints: judgement and answers, then the details and the report's path. Fits 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from src import run_names
from src.console import uncut
from src.report.answers import FAIL, PASS, UNKNOWN
from src.report.conclusions import missed, overall_of
from src.report.facts import MET, MISSED
from src.report.markets_words import short_interval
from src.report.model.accounts import Survival
from src.report.model.advice import Forecaster
from src.report.model.arms import Arm
from src.report.model.markets import MarketsContrast
from src.report.model.report import Answer, Markets, Report, RunReport
from src.report.model.run import Target
from src.report.model.sweep import Sweep
from src.report.quality_words import quality_lines
from src.report.survival_words import shown_arm
from src.report.sweep import MOST_SHOWN, sweep_lines, values_words
from src.report.targets import GPU_UTILIZATION
from src.wording import count, percent, plain, signed, significant, usd

_STYLES = {MET: "green", MISSED: "red", PASS: "green", FAIL: "red", UNKNOWN: "yellow"}
_SYMBOLS = {PASS: "✓", FAIL: "✗", UNKNOWN: "?"}
_ASCII_SYMBOLS = {PASS: "+", FAIL: "x", UNKNOWN: "?"}
_QUESTIONS = {
    "trains": "Trains?",
    "leaks": "Leaks?",
    "production": "Production?",
    "survives": "Survives?",
    "llm": "LLM worth it?",
}
"""The questions, short enough to leave an answer its line."""


def print_summary(console: Console, report: RunReport, folder: Path) -> None:
    """Print the report's essence; `report.json` has all of it with more digits."""
    judged = overall_of(report)
    console.print()
    console.print(Text(judged.judgement, style="bold"))
    console.print(Padding(Text(judged.reason), (0, 0, 0, 2), expand=False))
    console.print(answers_table(report.answers, unicode=_has_unicode(console)))
    _print_lines(console, "Verdict", report.verdict)
    if report.data is not None and report.data.quality is not None:
        _print_lines(console, "Data", quality_lines(report.data, report.data.quality, brief=True))
    if report.markets is not None:
        _print_markets(console, report.markets)
    if report.sweep is not None:
        _print_lines(console, "Sweep", sweep_lines(report.sweep))
        console.print()
        console.print(sweep_table(report.sweep))
    if report.arms:
        console.print()
        console.print(_arms_table(report.arms))
    if report.survival is not None:
        console.print()
        console.print(survival_table(report.survival))
    if report.forecaster is not None:
        console.print()
        for line in advice_lines(report):
            console.print(Text(line))
        console.print()
        console.print(_forecast_table(report.forecaster))
    console.print()
    console.print(_targets_table(report.targets))
    console.print()
    outcome = "All required targets met." if report.validation_passed else f"Missed: {', '.join(missed(report))}."
    console.print(Text(outcome, style="bold"))
    for name, target in report.targets.items():
        if target.required and target.remedy is not None:
            console.print(Text(f"{name}: {target.remedy}."))
    console.print(Text(f"Figures: {folder / run_names.REPORT}"), soft_wrap=True)
    if (folder / run_names.EXPORTS).is_dir():
        console.print(Text(f"Tables: {folder / run_names.EXPORTS}"), soft_wrap=True)
    console.print(Text(f"Report: {folder / run_names.PAGE}"), soft_wrap=True)


def _print_markets(console: Console, markets: Markets) -> None:
    """Markets by arms, then the data and the arms of every market."""
    if markets.arms:
        console.print()
        console.print(_markets_table(markets))
    for contrast in markets.contrasts[:2]:
        console.print()
        console.print(_contrast_table(contrast))
    for symbol, report in markets.reports.items():
        if report.data is not None and report.data.quality is not None:
            _print_lines(console, f"{symbol}: data", quality_lines(report.data, report.data.quality, brief=True))
        if report.arms:
            console.print()
            console.print(_arms_table(report.arms, f"{symbol}: sealed sessions, after costs"))
        if report.survival is not None:
            console.print()
            console.print(survival_table(report.survival, f"{symbol}: "))


def _markets_table(markets: Markets) -> Table:
    """An arm a row, a market a column; intervals of the markets would not fit."""
    title = "Net P&L per session by market, sealed, after costs"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    symbols = list(next(iter(markets.arms.values())).by_market)
    table.add_column("arm")
    for heading in (*symbols, "by date", "95% CI by date"):
        table.add_column(heading, justify="right")
    for name, arm in markets.arms.items():
        nets = (arm.by_market.get(symbol) for symbol in symbols)
        low, high = arm.pooled.low_usd, arm.pooled.high_usd
        table.add_row(
            name,
            *("-" if net is None or net.mean_usd is None else usd(net.mean_usd) for net in nets),
            "-" if arm.pooled.mean_usd is None else usd(arm.pooled.mean_usd),
            "-" if low is None or high is None else f"{usd(low)} to {usd(high)}",
        )
    return uncut(table)


def _contrast_table(contrast: MarketsContrast) -> Table:
    title = f"{contrast.arm} - {contrast.against} (95% CI not adjusted)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("market")
    for heading in ("difference", "Holm p", "sessions"):
        table.add_column(heading, justify="right")
    for name, of in {**contrast.by_market, "all, by date": contrast.pooled}.items():
        table.add_row(name, short_interval(of), _or_dash(of.holm_p_value, plain, 3), str(of.sessions))
    return uncut(table)


def sweep_table(sweep: Sweep) -> Table:
    """The best settings of a sweep, with what they earned on the validation sessions."""
    shown = sweep.ranked[:MOST_SHOWN]
    of = "" if len(shown) == len(sweep.settings) else f", best {len(shown)} of {len(sweep.settings)}"
    table = Table(title=f"Settings on validation sessions{of}", title_justify="left", box=None, pad_edge=False)
    for heading in ("setting", "quarters", "net/session"):
        table.add_column(heading, justify="right")
    table.add_column("values")
    for setting in shown:
        values = Text(values_words(setting.values))
        table.add_row(str(setting.number), str(setting.quarters), usd(setting.score_usd), values)
    return uncut(table)


def _print_lines(console: Console, heading: str, lines: Sequence[str]) -> None:
    console.print()
    console.print(Text(heading, style="bold"))
    for line in lines:
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


def _has_unicode(console: Console) -> bool:
    """Whether the console's encoding has the symbols of the marks."""
    try:
        "".join(_SYMBOLS.values()).encode(console.encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def answers_table(answers: Sequence[Answer], *, unicode: bool) -> Table:
    """One line per answer: its mark as a symbol and a word, the question, the answer."""
    symbols = _SYMBOLS if unicode else _ASCII_SYMBOLS
    table = Table.grid(padding=(0, 2))
    for answer in answers:
        mark, question = answer.mark, _QUESTIONS.get(answer.key, answer.question)
        table.add_row(Text(f"{symbols[mark]} {mark}", _STYLES[mark]), Text(question), Text(answer.answer))
    return uncut(table)


def _arms_table(arms: Mapping[str, Arm], title: str = "Sealed sessions, after costs") -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("arm")
    for heading in ("net/session", "trades/day", "win rate", "max drawdown", "breached"):
        table.add_column(heading, justify="right")
    for name, arm in arms.items():
        table.add_row(
            name,
            usd(arm.net_usd_per_session),
            plain(arm.trades_per_session, 1),
            _or_dash(arm.win_rate, percent),
            usd(arm.max_drawdown_usd),
            f"{count(arm.sessions_breached)} of {arm.sessions}",
        )
    return uncut(table)


def survival_table(survival: Survival, market: str = "") -> Table:
    """A rule profile a row, best first; the page has every arm, causes and intervals of breaches."""
    rows = [(row, arm) for row in survival.rows if (arm := shown_arm(row)) is not None]
    name = next((name for row in survival.rows for name, arm in row.arms.items() if arm is shown_arm(row)), "")
    title = f"{market}Rule profiles: {name} on {survival.sessions} sealed sessions, simulated rule check"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("profile")
    table.add_column("bots")
    for heading in ("pass", "95% CI", "breach", "days", "payout"):
        table.add_column(heading, justify="right")
    for row, arm in sorted(rows, key=lambda pair: -pair[1].passed_frac):
        low, high = arm.passed_low_frac, arm.passed_high_frac
        table.add_row(
            row.profile,
            row.automation or "-",
            percent(arm.passed_frac),
            "-" if low is None or high is None else f"{percent(low)}-{percent(high)}",
            percent(arm.breached_frac),
            "-" if arm.days_to_pass is None else plain(arm.days_to_pass[1]),
            "-" if arm.payout is None else percent(arm.payout.first_frac),
        )
    return uncut(table)


def advice_lines(report: Report) -> list[str]:
    """What the advice said while flat on the sealed bars, and how often it changed a decision."""
    flat = report.advice.by_side.get("flat") if report.advice is not None else None
    lines = ["Advice on sealed bars while flat: none."]
    if flat is not None and flat.bars:
        likeliest = ", ".join(f"{action} {percent(share)}" for action, share in (flat.likeliest or {}).items())
        lines = [f"Advice on sealed bars while flat: {likeliest}; entropy {percent(flat.entropy)} of maximum."]
    for name, arm in report.arms.items():
        if (use := arm.advice) is None:
            continue
        share = "" if use.changed_frac is None else f" ({percent(use.changed_frac, 1)})"
        lines.append(f"Advice changed {use.changed:,} of {name}'s {use.choices:,} decisions{share}.")
        if use.rules is not None and any(made for _, made in use.rules):
            rules = ", ".join(f"{rule} {made:,}" for rule, made in use.rules if made)
            lines.append(f"Rules that decided in {name}: {rules}.")
    return lines


def _forecast_table(forecaster: Forecaster) -> Table:
    title = "Advice as a forecast: p(BUY) - p(SELL) while flat, sealed bars, no CI"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("bars ahead", "n", "sessions", "hit rate", "up moves", "rank corr.", "Brier (base rate)"):
        table.add_column(heading, justify="right")
    for horizon, of in forecaster.horizons.items():
        table.add_row(
            horizon,
            f"{of.n:,}",
            str(of.sessions),
            _or_dash(of.hit_rate, percent, 1),
            _or_dash(of.up_rate, percent, 1),
            _or_dash(of.information_coefficient, signed, 3),
            f"{_or_dash(of.brier, plain, 4)} ({_or_dash(of.brier_of_up_rate, plain, 4)})",
        )
    momentum = forecaster.momentum
    table.caption = f"rank corr. with momentum {_or_dash(momentum.correlation, signed, 3)} on {momentum.n:,} bars"
    table.caption_justify = "left"
    return uncut(table)


def _or_dash(value: float | None, form: Callable[[float, int], str], digits: int = 0) -> str:
    """A number, or an ASCII dash: not every terminal has the page's."""
    return "-" if value is None else form(value, digits)


def _targets_table(targets: Mapping[str, Target]) -> Table:
    table = Table(title="Targets", title_justify="left", box=None, pad_edge=False)
    for heading in ("target", "limit", "measured", "status"):
        table.add_column(heading, justify="left" if heading in ("target", "status") else "right")
    for name, target in targets.items():
        bound = "at most" if target.at_most else "at least"
        unit = "%" if name.endswith(GPU_UTILIZATION) else ""
        limit = "-" if target.target is None else f"{bound} {significant(target.target)}{unit}"
        measured = "-" if target.measured is None else f"{significant(target.measured)}{unit}"
        status = target.status + ("" if target.reason is None else f": {target.reason}")
        table.add_row(
            name + (" *" if target.required else ""),
            limit,
            measured,
            Text(status, _STYLES.get(target.status, "")),
        )
    table.caption = "* decides the exit code"
    table.caption_justify = "left"
    return uncut(table)
