"""The section about the advice: what it said, what it changed, and how well it forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from src.report.page.blocks import Chart, Column, Heading, Section, Table, Text, given, term
from src.report.page.charts_run import reliability_figure, rules_figure
from src.report.page.drawing import Arrays
from src.wording import NOTHING, percent, plain, signed

Report = Mapping[str, Any]


def advice_section(report: Report, arrays: Arrays) -> Section:
    """What the advice said, which fusion rules decided, and how well it forecasts."""
    blocks: list[Any] = []
    if "advice" in report:
        blocks += _advice_blocks(report["advice"])
    used = [{"name": name, **arm["advice"]} for name, arm in report["arms"].items() if "advice" in arm]
    if used:
        blocks.append(Table("Decisions changed by advice on the sealed sessions", _use_columns(), used))
    for fact in used:
        if fact.get("rules") and sum(fact["rules"].values()):
            caption = Markup("{} of {} on the sealed sessions, by the rule that decided.").format(
                term("fusion_rule", "Decisions"), given(fact["name"])
            )
            says = "; ".join(f"{rule}: {plain(count)}" for rule, count in fact["rules"].items())
            figure = rules_figure(fact["rules"])
            blocks.append(Chart("rules-chart", caption, says, 70 + 27 * len(fact["rules"]), [figure]))
            break
    if "forecaster" in report:
        blocks += _forecast_blocks(report["forecaster"])
    return Section("advice", "Advice and fusion", blocks, "This run used no advice.")


def _advice_blocks(advice: Mapping[str, Any]) -> list[Any]:
    asking, covered = advice["tabulation"], advice["coverage"]
    words = Markup("Advisor {}: answered {} of {} {}; the advice {} {} of the training bars and {} of the sealed bars.")
    said = words.format(
        given(advice["advisor"]),
        plain(asking["count_k"]),
        plain(asking["listed"]),
        term("situation", "situations"),
        term("coverage", "covers"),
        percent(covered["train"]),
        percent(covered["sealed"]),
    )
    if asking.get("label_mass") is not None:
        said += Markup(" {} of the probability falls on the answer labels.").format(percent(asking["label_mass"], 1))
    if advice["note"]:
        said += Markup(" Note: {}.").format(given(advice["note"].rstrip(".")))
    columns = [
        Column(term("side", "side of the account"), lambda s: s["side"], numeric=False),
        Column("sealed bars", lambda s: plain(s["bars"])),
        Column(term("entropy", "entropy"), lambda s: percent(s["entropy"])),
        Column(
            term("likeliest", "likeliest action"),
            lambda s: _shares(s["likeliest"] or {}),
            numeric=False,
        ),
    ]
    sides = [{"side": side, **of} for side, of in advice["by_side"].items()]
    return [Text(said), Table("Advice on the sealed bars", columns, sides)]


def _shares(shares: Mapping[str, float]) -> str:
    """Largest first, without those that round to zero."""
    ordered = sorted(shares.items(), key=lambda share: -share[1])
    return ", ".join(f"{name} {percent(share)}" for name, share in ordered if share >= 0.005) or NOTHING


def _use_columns() -> list[Column]:
    return [
        Column(term("arm", "arm"), lambda u: given(u["name"]), numeric=False),
        Column(term("choices", "decisions"), lambda u: plain(u["choices"])),
        Column(term("advised", "advised"), lambda u: percent(u["advised"] / u["choices"] if u["choices"] else None)),
        Column(term("changed", "changed by advice"), lambda u: percent(u["changed_frac"], 1)),
    ]


def _forecast_blocks(forecaster: Mapping[str, Any]) -> list[Any]:
    horizons: Mapping[str, Mapping[str, Any]] = forecaster["horizons"]
    columns = [
        Column(term("horizon", "bars ahead"), lambda h: h["horizon"]),
        Column(term("forecast_n", "n"), lambda h: plain(h["n"])),
        Column("sessions", lambda h: plain(h["sessions"])),
        Column(term("hit_rate", "hit rate"), lambda h: percent(h["hit_rate"], 1)),
        Column(term("up_rate", "up moves"), lambda h: percent(h["up_rate"], 1)),
        Column(term("forecast_up_rate", "forecast up"), lambda h: percent(h["forecast_up_rate"], 1)),
        Column(term("rank_correlation", "rank corr."), lambda h: signed(h["information_coefficient"], 3)),
        Column(term("brier", "Brier"), lambda h: plain(h["brier"], 4)),
        Column(term("brier_of_up_rate", "Brier, base rate"), lambda h: plain(h["brier_of_up_rate"], 4)),
    ]
    said = Markup("Forecast: {}. Outcome: {}. No intervals: neighbouring windows overlap.").format(
        given(forecaster["forecast"]), given(forecaster["outcome"])
    )
    rows = [{"horizon": horizon, **of} for horizon, of in horizons.items()]
    momentum = forecaster["momentum"]
    note = Markup("{} {} on {} bars.").format(
        term("momentum_correlation", "Rank correlation with momentum"),
        signed(momentum["correlation"], 3),
        plain(momentum["n"]),
    )
    blocks: list[Any] = [
        Heading("The advice as a forecast"),
        Text(said),
        Table("The advice as a forecast, sealed bars", columns, rows, note),
    ]
    binned = {name: of for name, of in horizons.items() if of.get("reliability")}
    if binned:
        caption = Markup("{} of the advice: a calibrated forecast lies on the diagonal. Larger marks: more bars.")
        caption = caption.format(term("calibration", "Calibration"))
        figure = reliability_figure(binned)
        blocks.append(Chart("calibration-chart", caption, str(caption.striptags()), 440, [figure], most_px=560))
    else:
        blocks.append(Text(Markup("This run did not compute calibration.")))
    return blocks
