"""What a finished run prints: verdict, arms, targets, where everything is. Fits 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from src.evidence.report import MET, MISSED
from src.evidence.targets import GPU_UTILIZATION
from src.evidence.verdict import count_words

_STYLES = {MET: "green", MISSED: "red"}


def print_summary(console: Console, report: Mapping[str, Any], folder: Path) -> None:
    """Print the report's essence; everything in it stands in `report.json` with more digits."""
    console.print()
    console.print(Text("Verdict", style="bold"))
    for line in report["verdict"]:
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
    console.print(Text(f"Report: {folder / 'report.json'}"), soft_wrap=True)


def _missed(report: Mapping[str, Any]) -> list[str]:
    missed = [name for name, target in report["targets"].items() if target["required"] and target["status"] != MET]
    missed += [name for name, phase in report.get("phases", {}).items() if phase["status"] != "done"]
    return missed if report.get("look_ahead", {}).get("passed", True) else [*missed, "the leak checks"]


def _arms_table(arms: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="Sealed sessions, US dollars after costs", title_justify="left", box=None, pad_edge=False)
    table.add_column("arm")
    for heading in ("net/session", "trades/s.", "win rate", "max drawdown", "breached"):
        table.add_column(heading, justify="right")
    for name, arm in arms.items():
        table.add_row(
            name,
            f"{arm['net_usd_per_session']:,.0f}",
            f"{arm['trades_per_session']:.1f}",
            "-" if arm["win_rate"] is None else f"{arm['win_rate']:.0%}",
            f"{arm['max_drawdown_usd']:,.0f}",
            f"{count_words(arm['sessions_breached'])} of {arm['sessions']}",
        )
    return table


def advice_lines(report: Mapping[str, Any]) -> list[str]:
    """What the advice said while flat on the sealed bars, and what it did in the arms that saw it."""
    flat = report["advice"]["by_side"]["flat"]
    lines = ["Advice on the sealed bars, while flat: none."]
    if flat["bars"]:
        likeliest = ", ".join(f"{action} {share:.0%}" for action, share in flat["likeliest"].items())
        lines = [f"Advice on the sealed bars, while flat: {likeliest}; entropy {flat['entropy']:.0%} of the most."]
    arms = {name: arm["advice"] for name, arm in report["arms"].items() if arm.get("advice")}
    for name, use in arms.items():
        share = "" if use["changed_frac"] is None else f" ({use['changed_frac']:.1%})"
        lines.append(f"It changed {use['changed']:,} of {use['choices']:,} choices of {name}{share}.")
        rules = ", ".join(f"{rule} {count:,}" for rule, count in use.get("rules", {}).items() if count)
        if rules:
            lines.append(f"Who decided in {name}: {rules}.")
    return lines


def _forecast_table(forecaster: Mapping[str, Any]) -> Table:
    title = "Advice as a forecast, sealed bars, no intervals: p(BUY) - p(SELL) while flat"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("bars ahead", "n", "sessions", "hit rate", "up moves", "rank corr.", "Brier (of up rate)"):
        table.add_column(heading, justify="right")
    for horizon, of in forecaster["horizons"].items():
        table.add_row(
            horizon,
            f"{of['n']:,}",
            str(of["sessions"]),
            _or_dash(of["hit_rate"], ".1%"),
            _or_dash(of["up_rate"], ".1%"),
            _or_dash(of["information_coefficient"], "+.3f"),
            f"{_or_dash(of['brier'], '.4f')} ({_or_dash(of['brier_of_up_rate'], '.4f')})",
        )
    momentum = forecaster["momentum"]
    table.caption = f"rank corr. with momentum {_or_dash(momentum['correlation'], '+.3f')} on {momentum['n']:,} bars"
    table.caption_justify = "left"
    return table


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _targets_table(targets: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="Targets", title_justify="left", box=None, pad_edge=False)
    for heading in ("target", "limit", "measured", "status"):
        table.add_column(heading, justify="left" if heading in ("target", "status") else "right")
    for name, target in targets.items():
        bound = "at most" if target["at_most"] else "at least"
        unit = "%" if name.endswith(GPU_UTILIZATION) else ""
        limit = "-" if target["target"] is None else f"{bound} {_figure(target['target'])}{unit}"
        measured = "-" if target["measured"] is None else f"{_figure(target['measured'])}{unit}"
        status = target["status"] + (f": {target['reason']}" if "reason" in target else "")
        table.add_row(
            name + (" *" if target["required"] else ""),
            limit,
            measured,
            Text(status, _STYLES.get(target["status"], "")),
        )
    table.caption = "* decides the exit code"
    table.caption_justify = "left"
    return table


def _figure(value: float) -> str:
    """Three significant digits, and never fewer than the whole number has."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
