"""Section: several markets of one run side by side, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from markupsafe import Markup

from src.agent.members import ArmName
from src.report.markets_words import evaluated, short_interval
from src.report.model.arms import Contrast
from src.report.model.markets import AgreementOf, ArmOverMarkets, MarketsContrast, NetInterval
from src.report.model.report import Markets, Report, RunReport
from src.report.page.blocks import Chart, Column, Folded, Heading, Named, Section, Table, Text, given, named, term
from src.report.sections.contrast import contrast_figure
from src.wording import NOTHING, duration, percent, plain, signed_usd, usd

ALL = "all, by date"


def section(report: RunReport, markets: Markets) -> Section:
    """The section."""
    blocks: list[Any] = []
    if markets.arms:
        blocks += _arm_blocks(markets)
    for contrast in markets.contrasts:
        blocks += _contrast_blocks(contrast)
    if markets.advice:
        blocks += [Heading("Where the advice helps"), _advice_table(markets)]
    blocks += _rank_blocks(markets)
    blocks += [Heading("What the markets took"), _took_table(report, markets)]
    return Section("markets", "Markets side by side", blocks)


def _arm_blocks(markets: Markets) -> list[Any]:
    words = Markup(
        "Net P&amp;L per session with 95% {}, which are not adjusted for the number of arms and markets. The column "
        "<em>{}</em> averages over the markets of each date first: a date counts once, however many markets moved "
        "together on it."
    ).format(term("interval", "intervals"), ALL)
    columns: list[Column[Named[ArmOverMarkets]]] = [
        Column(term("arm", "arm"), lambda r: given(r.name), numeric=False),
        Column(ALL, lambda r: _net(r.of.pooled)),
        *(
            Column[Named[ArmOverMarkets]](given(symbol), lambda r, symbol=symbol: _net(r.of.by_market.get(symbol)))  # type: ignore[misc]
            for symbol in evaluated(markets)
        ),
    ]
    return [Text(words), Table("Arms by market, net P&L per session", columns, named(markets.arms))]


def _net(net: NetInterval | None) -> str:
    if net is None or net.mean_usd is None:
        return NOTHING
    if net.low_usd is None or net.high_usd is None:
        return signed_usd(net.mean_usd)
    return f"{signed_usd(net.mean_usd)} ({signed_usd(net.low_usd)} to {signed_usd(net.high_usd)})"


def _contrast_blocks(contrast: MarketsContrast) -> list[Any]:
    rows = {ALL: contrast.pooled, **contrast.by_market}
    kind = "pre-registered" if contrast.pooled.role == "primary" else contrast.pooled.role
    of = f"{contrast.arm} − {contrast.against}"
    words = Markup(
        "Over all markets this is the {} contrast: {}. The markets' own intervals are not adjusted; their {} is "
        "adjusted over the markets."
    ).format(kind, given(contrast.pooled.words or NOTHING), term("p_holm", "Holm p"))
    columns: list[Column[Named[Contrast]]] = [
        Column("market", lambda r: given(r.name), numeric=False),
        Column("mean", lambda r: signed_usd(r.of.mean_usd)),
        Column(term("interval", "CI"), lambda r: short_interval(r.of).partition(" (")[2].rstrip(")") or NOTHING),
        Column(term("p_value", "p"), lambda r: plain(r.of.p_value, 3)),
        Column(term("p_holm", "Holm p"), lambda r: plain(r.of.holm_p_value, 3)),
        Column(term("minimum_detectable", "detectable"), lambda r: usd(r.of.minimum_detectable_usd)),
        Column("sessions or dates", lambda r: plain(r.of.sessions)),
        Column(term("seed", "seeds"), lambda r: ", ".join(signed_usd(v) for v in r.of.seed_means_usd) or NOTHING),
    ]
    caption = Markup("{} by market, per session.").format(given(of))
    says = "; ".join(f"{name}: {short_interval(row)}" for name, row in rows.items())
    figure = contrast_figure(list(rows.values()), list(rows))
    return [
        Heading(of),
        Text(words),
        Chart(f"markets-{contrast.against}-chart", caption, says, 90 + 50 * len(rows), [figure]),
        Table(f"{of} by market, per session", columns, named(rows)),
    ]


class _Helped(NamedTuple):
    symbol: str
    effect: str
    folds: str
    covered: str
    changed: str


def _advice_table(markets: Markets) -> Table[_Helped]:
    rows = []
    for symbol, of in markets.advice.items():
        report = markets.reports[symbol]
        use = report.arms[ArmName.HYBRID].advice if ArmName.HYBRID in report.arms else None
        rows.append(
            _Helped(
                symbol,
                "no evidence either way" if of.effect == "open" else of.effect,
                f"{of.folds_ahead} of {of.folds}" if of.folds else NOTHING,
                NOTHING if report.advice is None else percent(report.advice.coverage.sealed),
                NOTHING if use is None else percent(use.changed_frac, 1),
            )
        )
    columns: list[Column[_Helped]] = [
        Column("market", lambda r: given(r.symbol), numeric=False),
        Column("advice", lambda r: r.effect, numeric=False),
        Column(term("fold", "folds"), lambda r: r.folds),
        Column("sealed bars covered", lambda r: r.covered),
        Column("decisions changed", lambda r: r.changed),
    ]
    note = (
        "Advice helps where the hybrid beats both its placebo and RL alone, each Holm-adjusted over the markets. "
        "Folds: in how many the hybrid earned more than its placebo, a count and no test."
    )
    return Table("Advice by market", columns, rows, note)


def _rank_blocks(markets: Markets) -> list[Any]:
    found = markets.agreement
    if found is None:
        return []
    words = Markup("Do the arms keep their order over {}? {}.").format(found.unit, given(found.words.capitalize()))
    rows: dict[str, AgreementOf] = {f"all {found.unit}": found, **found.by_market}
    columns: list[Column[Named[AgreementOf]]] = [
        Column("over", lambda r: given(r.name), numeric=False),
        Column(found.unit, lambda r: plain(r.of.blocks)),
        Column(term("kendalls_w", "Kendall's W"), lambda r: plain(r.of.kendalls_w, 2)),
        Column(term("p_value", "p"), lambda r: plain(r.of.p_value, 3)),
        *(
            Column[Named[AgreementOf]](given(arm), lambda r, arm=arm: plain(r.of.mean_ranks.get(arm), 1))  # type: ignore[misc]
            for arm in found.mean_ranks
        ),
    ]
    note = (
        "Mean rank of each arm, 1 the best. Markets of the same dates move together and folds share training sessions, "
        "so there are fewer independent blocks than counted, and p is smaller than it should be."
    )
    return [Heading("Rank stability"), Text(words), Table("Ranks of the arms", columns, named(rows), note)]


class _Took(NamedTuple):
    symbol: str
    trainings: int
    timesteps: int
    seconds: float


def _took_table(report: RunReport, markets: Markets) -> Table[_Took]:
    rows = [_took(symbol, of) for symbol, of in markets.reports.items()]
    columns: list[Column[_Took]] = [
        Column("market", lambda r: given(r.symbol), numeric=False),
        Column("trainings", lambda r: plain(r.trainings)),
        Column(term("timesteps", "timesteps"), lambda r: plain(r.timesteps)),
        Column("training time", lambda r: duration(r.seconds)),
    ]
    note = f"The whole run took {duration(report.execution_time)}. Trainings are with folds, timesteps without."
    return Table("Trainings by market", columns, rows, note)


def _took(symbol: str, report: Report) -> _Took:
    members = report.time.members if report.time is not None else []
    seconds = sum(sum(member.seconds.values()) for member in members)
    return _Took(symbol, len(members), report.timesteps_total, seconds)


def of_market(section: Section, symbol: str) -> Section:
    """A section of a market's own report, its title and all ids with the market before them."""
    prefix = f"{symbol.lower()}-"
    blocks = [_prefixed(block, prefix) for block in section.blocks]
    return Section(f"{prefix}{section.id}", f"{symbol}: {section.title}", blocks, section.absent, symbol)


def _prefixed(block: Any, prefix: str) -> Any:
    changes: Mapping[str, Any] = {}
    if isinstance(block, Chart):
        changes = {"id": f"{prefix}{block.id}"}
    elif isinstance(block, Table) and block.chosen_by:
        changes = {"chosen_by": f"{prefix}{block.chosen_by}"}
    elif isinstance(block, Folded):
        changes = {"blocks": [_prefixed(inner, prefix) for inner in block.blocks]}
    return replace(block, **changes) if changes else block
