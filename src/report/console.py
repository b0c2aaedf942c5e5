"""What a finished run prints: judgement and answers, then the details and the report's path. Fits 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from src import run_names
from src.console import uncut
from src.report.answers import FAIL, PASS, UNKNOWN
from src.report.facts import MET, MISSED
from src.report.quality_words import quality_lines
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


def print_summary(console: Console, report: Mapping[str, Any], folder: Path) -> None:
    """Print the report's essence; `report.json` has all of it with more digits."""
    console.print()
    console.print(Text(report["overall"]["judgement"], style="bold"))
    console.print(Padding(Text(report["overall"]["reason"]), (0, 0, 0, 2), expand=False))
    console.print(answers_table(report["answers"], unicode=_has_unicode(console)))
    console.print()
    console.print(Text("Verdict", style="bold"))
    for line in report["verdict"]:
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    if "quality" in report.get("data", {}):
        console.print()
        console.print(Text("Data", style="bold"))
        for line in quality_lines(report["data"], brief=True):
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    if report["arms"]:
        console.print()
        console.print(_arms_table(report["arms"]))
    if "forecaster" in report:
        console.print()
        for line in advice_lines(report):
            console.print(Text(line))
        console.print()
        console.print(_forecast_table(report["forecaster"]))
    console.print()
    console.print(_targets_table(report["targets"]))
    console.print()
    outcome = "All required targets met." if report["validation_passed"] else f"Missed: {', '.join(_missed(report))}."
    console.print(Text(outcome, style="bold"))
    for name, target in report["targets"].items():
        if target["required"] and "remedy" in target:
            console.print(Text(f"{name}: {target['remedy']}."))
    console.print(Text(f"Figures: {folder / run_names.REPORT}"), soft_wrap=True)
    console.print(Text(f"Report: {folder / run_names.PAGE}"), soft_wrap=True)


def _has_unicode(console: Console) -> bool:
    """Whether the console's encoding has the symbols of the marks."""
    try:
        "".join(_SYMBOLS.values()).encode(console.encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def answers_table(answers: list[Mapping[str, str]], *, unicode: bool) -> Table:
    """One line per answer: its mark as a symbol and a word, the question, the answer."""
    symbols = _SYMBOLS if unicode else _ASCII_SYMBOLS
    table = Table.grid(padding=(0, 2))
    for answer in answers:
        mark = answer["mark"]
        question = _QUESTIONS.get(answer["key"], answer["question"])
        table.add_row(Text(f"{symbols[mark]} {mark}", _STYLES[mark]), Text(question), Text(answer["answer"]))
    return uncut(table)


def _missed(report: Mapping[str, Any]) -> list[str]:
    missed = [name for name, target in report["targets"].items() if target["required"] and target["status"] != MET]
    missed += [name for name, phase in report.get("phases", {}).items() if phase["status"] != "done"]
    return missed if report.get("look_ahead", {}).get("passed", True) else [*missed, "the leak checks"]


def _arms_table(arms: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="Sealed sessions, after costs", title_justify="left", box=None, pad_edge=False)
    table.add_column("arm")
    for heading in ("net/session", "trades/day", "win rate", "max drawdown", "breached"):
        table.add_column(heading, justify="right")
    for name, arm in arms.items():
        table.add_row(
            name,
            usd(arm["net_usd_per_session"]),
            plain(arm["trades_per_session"], 1),
            _or_dash(arm["win_rate"], percent),
            usd(arm["max_drawdown_usd"]),
            f"{count(arm['sessions_breached'])} of {arm['sessions']}",
        )
    return uncut(table)


def advice_lines(report: Mapping[str, Any]) -> list[str]:
    """What the advice said while flat on the sealed bars, and how often it changed a decision."""
    flat = report["advice"]["by_side"]["flat"]
    lines = ["Advice on sealed bars while flat: none."]
    if flat["bars"]:
        likeliest = ", ".join(f"{action} {percent(share)}" for action, share in flat["likeliest"].items())
        lines = [f"Advice on sealed bars while flat: {likeliest}; entropy {percent(flat['entropy'])} of maximum."]
    arms = {name: arm["advice"] for name, arm in report["arms"].items() if arm.get("advice")}
    for name, use in arms.items():
        share = "" if use["changed_frac"] is None else f" ({percent(use['changed_frac'], 1)})"
        lines.append(f"Advice changed {use['changed']:,} of {name}'s {use['choices']:,} decisions{share}.")
        rules = ", ".join(f"{rule} {made:,}" for rule, made in use.get("rules", {}).items() if made)
        if rules:
            lines.append(f"Rules that decided in {name}: {rules}.")
    return lines


def _forecast_table(forecaster: Mapping[str, Any]) -> Table:
    title = "Advice as a forecast: p(BUY) - p(SELL) while flat, sealed bars, no CI"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("bars ahead", "n", "sessions", "hit rate", "up moves", "rank corr.", "Brier (base rate)"):
        table.add_column(heading, justify="right")
    for horizon, of in forecaster["horizons"].items():
        table.add_row(
            horizon,
            f"{of['n']:,}",
            str(of["sessions"]),
            _or_dash(of["hit_rate"], percent, 1),
            _or_dash(of["up_rate"], percent, 1),
            _or_dash(of["information_coefficient"], signed, 3),
            f"{_or_dash(of['brier'], plain, 4)} ({_or_dash(of['brier_of_up_rate'], plain, 4)})",
        )
    momentum = forecaster["momentum"]
    table.caption = f"rank corr. with momentum {_or_dash(momentum['correlation'], signed, 3)} on {momentum['n']:,} bars"
    table.caption_justify = "left"
    return uncut(table)


def _or_dash(value: float | None, form: Callable[[float, int], str], digits: int = 0) -> str:
    """A number, or an ASCII dash: not every terminal has the page's."""
    return "-" if value is None else form(value, digits)


def _targets_table(targets: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="Targets", title_justify="left", box=None, pad_edge=False)
    for heading in ("target", "limit", "measured", "status"):
        table.add_column(heading, justify="left" if heading in ("target", "status") else "right")
    for name, target in targets.items():
        bound = "at most" if target["at_most"] else "at least"
        unit = "%" if name.endswith(GPU_UTILIZATION) else ""
        limit = "-" if target["target"] is None else f"{bound} {significant(target['target'])}{unit}"
        measured = "-" if target["measured"] is None else f"{significant(target['measured'])}{unit}"
        status = target["status"] + (f": {target['reason']}" if "reason" in target else "")
        table.add_row(
            name + (" *" if target["required"] else ""),
            limit,
            measured,
            Text(status, _STYLES.get(target["status"], "")),
        )
    table.caption = "* decides the exit code"
    table.caption_justify = "left"
    return uncut(table)
