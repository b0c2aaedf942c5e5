"""Section: what the advice said, which fusion rules decided, and how well it forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from src.report.advisor_words import advisor_lines
from src.report.model.advice import Advice, Forecaster, Horizon, Knowledge, ReliabilityBin, SideMix, Skill
from src.report.model.arms import AdviceUse
from src.report.model.report import Report
from src.report.page.blocks import (
    Bullets,
    Chart,
    Column,
    Figure,
    Heading,
    Named,
    Section,
    Table,
    Text,
    given,
    named,
    term,
)
from src.report.page.drawing import Arrays, Style, bars_across, legend_entry, line, role
from src.wording import NOTHING, percent, plain, signed


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    blocks: list[Any] = []
    if report.advice is not None:
        blocks += _advice_blocks(report.advice)
    used = [Named(name, arm.advice) for name, arm in report.arms.items() if arm.advice is not None]
    if used:
        blocks.append(Table("Decisions changed by advice on the sealed sessions", _use_columns(), used))
    for name, use in used:
        rules = dict(use.rules) if use.rules is not None else {}
        if sum(rules.values()):
            caption = Markup("{} of {} on the sealed sessions, by the rule that decided.").format(
                term("fusion_rule", "Decisions"), given(name)
            )
            says = "; ".join(f"{rule}: {plain(count)}" for rule, count in rules.items())
            blocks.append(Chart("rules-chart", caption, says, 70 + 27 * len(rules), [rules_figure(rules)]))
            break
    if report.forecaster is not None:
        blocks += _forecast_blocks(report.forecaster)
    return Section("advice", "Advice and fusion", blocks, "This run used no advice.")


def _advice_blocks(advice: Advice) -> list[Any]:
    asking, covered = advice.tabulation, advice.coverage
    words = Markup("Advisor {}: answered {} of {} {}; the advice {} {} of the training bars and {} of the sealed bars.")
    said = words.format(
        given(advice.advisor),
        plain(asking.count_k),
        plain(asking.listed),
        term("situation", "situations"),
        term("coverage", "covers"),
        percent(covered.train),
        percent(covered.sealed),
    )
    if asking.label_mass is not None:
        said += Markup(" {} of the probability falls on the answer labels.").format(percent(asking.label_mass, 1))
    if advice.note:
        said += Markup(" Note: {}.").format(given(advice.note.rstrip(".")))
    columns: list[Column[Named[SideMix]]] = [
        Column(term("side", "side of the account"), lambda s: s.name, numeric=False),
        Column("sealed bars", lambda s: plain(s.of.bars)),
        Column(term("entropy", "entropy"), lambda s: percent(s.of.entropy)),
        Column(term("likeliest", "likeliest action"), lambda s: _shares(s.of.likeliest or {}), numeric=False),
    ]
    blocks: list[Any] = [Text(said)]
    if lines := advisor_lines(advice):
        blocks.append(Bullets([given(line) for line in lines]))
    blocks.append(Table("Advice on the sealed bars", columns, named(advice.by_side)))
    if (knowledge := advice.knowledge) is not None and knowledge.before is not None and knowledge.after is not None:
        blocks.append(_knowledge_table(knowledge, {"before": knowledge.before, "after": knowledge.after}))
    return blocks


def _knowledge_table(knowledge: Knowledge, sides: Mapping[str, Skill]) -> Table[Named[Skill]]:
    caption = Markup("The advice as a forecast {} bars ahead, before and after the {} {}, all sessions").format(
        knowledge.horizon, term("knowledge_cutoff", "knowledge cutoff"), knowledge.cutoff or NOTHING
    )

    def days(side: Named[Skill]) -> str:
        return NOTHING if side.of.first is None else f"{side.of.first} to {side.of.last}"

    def interval(side: Named[Skill]) -> str:
        low, high = side.of.low, side.of.high
        return NOTHING if low is None or high is None else f"{signed(100 * low, 1)}% to {signed(100 * high, 1)}%"

    columns: list[Column[Named[Skill]]] = [
        Column("sessions that are", lambda s: s.name, numeric=False),
        Column("days", days, numeric=False),
        Column("sessions", lambda s: plain(s.of.sessions)),
        Column(term("hit_rate", "hit rate"), lambda s: percent(s.of.hit_rate, 1)),
        Column("chance", lambda s: percent(s.of.chance_rate, 1)),
        Column(
            term("forecast_skill", "skill"),
            lambda s: NOTHING if s.of.skill is None else f"{signed(100 * s.of.skill, 1)}%",
        ),
        Column(term("interval", "CI"), interval),
    ]
    return Table(caption, columns, named(sides))


def _shares(shares: Mapping[Any, float]) -> str:
    """Largest first, without those that round to zero."""
    ordered = sorted(shares.items(), key=lambda share: -share[1])
    return ", ".join(f"{name} {percent(share)}" for name, share in ordered if share >= 0.005) or NOTHING


def _use_columns() -> list[Column[Named[AdviceUse]]]:
    def advised(use: AdviceUse) -> str:
        return percent(use.advised / use.choices if use.choices else None)

    return [
        Column(term("arm", "arm"), lambda u: given(u.name), numeric=False),
        Column(term("choices", "decisions"), lambda u: plain(u.of.choices)),
        Column(term("advised", "advised"), lambda u: advised(u.of)),
        Column(term("changed", "changed by advice"), lambda u: percent(u.of.changed_frac, 1)),
    ]


def _forecast_blocks(forecaster: Forecaster) -> list[Any]:
    columns: list[Column[Named[Horizon]]] = [
        Column(term("horizon", "bars ahead"), lambda h: h.name),
        Column(term("forecast_n", "n"), lambda h: plain(h.of.n)),
        Column("sessions", lambda h: plain(h.of.sessions)),
        Column(term("hit_rate", "hit rate"), lambda h: percent(h.of.hit_rate, 1)),
        Column(term("up_rate", "up moves"), lambda h: percent(h.of.up_rate, 1)),
        Column(term("forecast_up_rate", "forecast up"), lambda h: percent(h.of.forecast_up_rate, 1)),
        Column(term("rank_correlation", "rank corr."), lambda h: signed(h.of.information_coefficient, 3)),
        Column(term("brier", "Brier"), lambda h: plain(h.of.brier, 4)),
        Column(term("brier_of_up_rate", "Brier, base rate"), lambda h: plain(h.of.brier_of_up_rate, 4)),
    ]
    said = Markup("Forecast: {}. Outcome: {}. No intervals: neighbouring windows overlap.").format(
        given(forecaster.forecast), given(forecaster.outcome)
    )
    note = Markup("{} {} on {} bars.").format(
        term("momentum_correlation", "Rank correlation with momentum"),
        signed(forecaster.momentum.correlation, 3),
        plain(forecaster.momentum.n),
    )
    blocks: list[Any] = [
        Heading("The advice as a forecast"),
        Text(said),
        Table("The advice as a forecast, sealed bars", columns, named(forecaster.horizons), note),
    ]
    binned = {name: of.reliability for name, of in forecaster.horizons.items() if of.reliability}
    if binned:
        caption = Markup("{} of the advice: a calibrated forecast lies on the diagonal. Larger marks: more bars.")
        caption = caption.format(term("calibration", "Calibration"))
        figure = reliability_figure(binned)
        blocks.append(Chart("calibration-chart", caption, str(caption.striptags()), 440, [figure], most_px=560))
    else:
        blocks.append(Text(Markup("This run did not compute calibration.")))
    return blocks


def rules_figure(rules: Mapping[str, int]) -> Figure:
    """Decisions by the fusion rule that made them."""
    total = sum(rules.values()) or 1
    texts = [f"{plain(count)}, {percent(count / total)}" for count in rules.values()]
    return bars_across(list(rules), list(rules.values()), texts, ["green"] * len(rules), "Decisions")


def reliability_figure(horizons: Mapping[str, Sequence[ReliabilityBin]]) -> Figure:
    """Forecast probability against observed frequency, by bins; a calibrated forecast lies on the diagonal."""
    looks = (
        Style("blue", "solid", "circle"),
        Style("vermillion", "dash", "square"),
        Style("green", "dot", "diamond"),
        Style("purple", "dashdot", "cross"),
    )
    traces: list[dict[str, Any]] = []
    legend = []
    most = max(b.n for bins in horizons.values() for b in bins)
    for k, (horizon, bins) in enumerate(horizons.items()):
        style = looks[k % len(looks)]
        sizes = [5 + 13 * (b.n / most) ** 0.5 for b in bins]
        marker = {"size": sizes, "symbol": style.symbol, "color": role(style.role, 0.75), "line": {"width": 0}}
        points = {"x": [b.said_up_frac for b in bins], "y": [b.up_frac for b in bins], "mode": "lines+markers"}
        text = [plain(b.n) for b in bins]
        form = "forecast %{x:.0%}, observed %{y:.1%}, %{text} bars<extra></extra>"
        look = {"marker": marker, "line": line(style, 1.2), "legendgroup": horizon}
        traces.append({**points, **look, "text": text, "hovertemplate": form})
        label = f"{horizon} bar{'s' if horizon != '1' else ''} ahead"
        legend.append(legend_entry(label, style, group=horizon, kind="points"))
    diagonal = {"type": "line", "x0": 0, "y0": 0, "x1": 1, "y1": 1, "layer": "below"}
    layout = {
        "xaxis": {
            "range": [0, 1],
            "tickformat": ".0%",
            "title": {"text": "forecast: probability of up"},
            "showgrid": True,
        },
        "yaxis": {"range": [0, 1], "tickformat": ".0%"},
        "shapes": [diagonal | {"line": {"color": role("ink", 0.6), "width": 1, "dash": "dash"}}],
        "hovermode": "closest",
    }
    return Figure(traces, layout, [("y", "Observed fraction of up moves")], legend)
