"""The judgement, the answers and the verdict of a run of several markets.

Conclusions over all markets rest on the pooled contrasts alone, which were fixed before the run. Statements about a
single market are Holm-adjusted over the markets, or labelled as unadjusted.
"""

from __future__ import annotations

from collections.abc import Callable

from src.agent.members import ArmName
from src.report.answers import FAIL, PASS, UNKNOWN, answers, not_measured
from src.report.conclusions import judged, too_little
from src.report.model.arms import Contrast
from src.report.model.report import Answer, Mark, Markets, Overall, Report, RunReport
from src.report.production_words import cost_lines, time_words
from src.report.survival_words import automation_lines
from src.wording import duration, plain, signed_usd


def evaluated(markets: Markets) -> dict[str, Report]:
    """The reports of the markets whose arms were evaluated."""
    return {symbol: report for symbol, report in markets.reports.items() if report.statistics is not None}


def pooled(markets: Markets, against: str) -> Contrast | None:
    """The pooled contrast of the hybrid with another arm."""
    return next((of.pooled for of in markets.contrasts if of.against == against), None)


def overall_of_markets(report: RunReport, markets: Markets) -> Overall:
    """As `conclusions.overall`, by the pooled contrast with not trading."""
    if (leak := report.look_ahead) is not None and not leak.passed:
        return judged("missed", f"Not worth the production run: {leak.wrong}.", f"{leak.found}.")
    edge = pooled(markets, ArmName.FLAT)
    if edge is None:
        missing = [symbol for symbol in markets.reports if symbol not in evaluated(markets)]
        said = f"{', '.join(missing)} left no evaluation." if missing else "No contrast could be computed."
        return judged("not_measured", "Cannot say: the markets were not all evaluated.", said)
    first = next(iter(evaluated(markets).values()))
    assert first.statistics is not None
    if (reason := too_little(report, first.statistics.sample_size)) is not None:
        return reason
    reason_words = f"Hybrid vs not trading, {_all(markets)} pooled: {edge.words}."
    if edge.sign > 0:
        said = "Worth the production run: over all markets it makes money on unseen sessions."
        return judged("met", said, reason_words)
    if edge.sign < 0:
        said = "Not worth the production run as configured: over all markets it loses money on unseen sessions."
        return judged("missed", said, reason_words)
    return judged("not_measured", "No edge shown: nothing here supports the production run.", reason_words)


def answers_of_markets(report: RunReport, markets: Markets) -> list[Answer]:
    """The five answers: leaks and production of the run, the LLM by the pooled contrasts, the others by market."""
    own: dict[str, Callable[[], tuple[Mark, str]]] = {
        "trains": lambda: _by_market(markets, "trains"),
        "survives": lambda: _by_market(markets, "survives"),
        "llm": lambda: _llm(markets),
    }
    found = []
    for answer in answers(report):
        mark, said = own[answer.key]() if answer.key in own else (answer.mark, answer.answer)
        found.append(Answer(key=answer.key, question=answer.question, mark=mark, answer=said))
    return found


def _by_market(markets: Markets, key: str) -> tuple[Mark, str]:
    """The markets' own answers, each market on its own: no for one of them is no, yes for all is yes."""
    given = {symbol: next(a for a in report.answers if a.key == key) for symbol, report in markets.reports.items()}
    if len({answer.answer for answer in given.values()}) == 1:
        first = next(iter(given.values()))
        return first.mark, first.answer
    by_mark = {
        word: [symbol for symbol, answer in given.items() if answer.mark == mark]
        for mark, word in ((PASS, "yes"), (UNKNOWN, "open"), (FAIL, "no"))
    }
    said = "; ".join(f"{word}: {', '.join(symbols)}" for word, symbols in by_mark.items() if symbols)
    mark: Mark = FAIL if by_mark["no"] else UNKNOWN if by_mark["open"] else PASS
    return mark, f"{said[0].upper()}{said[1:]}."


def _llm(markets: Markets) -> tuple[Mark, str]:
    first = next(iter(markets.reports.values()))
    if reason := not_measured(first):
        return UNKNOWN, reason
    placebo, alone = pooled(markets, ArmName.PLACEBO), pooled(markets, ArmName.RL_ONLY)
    if placebo is None or alone is None:
        return UNKNOWN, "Not measured in all markets."
    sizes = f"{signed_usd(placebo.mean_usd)} vs placebo, {signed_usd(alone.mean_usd)} vs RL alone a date."
    if min(placebo.sign, alone.sign) > 0:
        return PASS, f"Helps: {sizes}"
    if min(placebo.sign, alone.sign) < 0:
        return FAIL, f"Hurts: {sizes}"
    return UNKNOWN, f"No evidence either way in {plain(placebo.sessions)} pooled dates."


def verdict_of_markets(report: RunReport, markets: Markets) -> list[str]:
    """One sentence per finding: automation (markets share the rules), time, leaks, production, evidence, the LLM over
    all markets and in each, ranks."""
    lines = [*automation_lines(next(iter(markets.reports.values()))), _took(report, markets)]
    if (leak := report.look_ahead) is not None:
        said = f"none found by these checks: {leak.compared}" if leak.passed else f"LEAK FOUND: {leak.found}"
        lines.append(f"Leaks: {said}.")
    if (production := report.production_estimate) is not None:
        seeds = (production.seeds or 1) // len(markets.reports)
        lines.append(
            f"Production: {production.timesteps:,} timesteps for each of {len(markets.reports)} markets"
            f"{f' and {seeds} seeds' if seeds > 1 else ''} would take {time_words(production)}; measured on "
            f"{next(iter(markets.reports))}."
        )
        lines += cost_lines(production)
    if markets.contrasts:
        lines += _evidence(markets)
    if markets.agreement is not None:
        lines.append(f"Ranks: {markets.agreement.words}.")
    lines += [f"{symbol}: {_judgement(of)}" for symbol, of in markets.reports.items()]
    return lines


def _judgement(report: Report) -> str:
    return "nothing was evaluated." if report.overall is None else report.overall.judgement


def _took(report: RunReport, markets: Markets) -> str:
    rows = report.training
    members = len(report.time.members) if report.time is not None else len(rows)
    took = duration(report.execution_time)
    workers = f", up to {report.run.workers} tasks at a time" if (report.run.workers or 1) > 1 else ""
    return (
        f"Run: {len(markets.reports)} markets, {members} trainings, {sum(row.timesteps for row in rows):,} timesteps "
        f"without folds, {took}{workers}."
    )


def _evidence(markets: Markets) -> list[str]:
    first = markets.contrasts[0]
    synthetic = [s for s, of in markets.reports.items() if of.data is not None and of.data.synthetic]
    bars = f" on SYNTHETIC bars of {', '.join(synthetic)}" if synthetic else ""
    seeds = len(first.pooled.seed_means_usd)
    lines = [
        f"Evidence{bars}: {first.pooled.sessions:,} dates, {first.dates_in_all:,} of them sealed in every market, "
        f"{seeds} seed{'' if seeds == 1 else 's'}. A date counts once: its difference is the mean over markets."
    ]
    if reason := not_measured(next(iter(evaluated(markets).values()))):
        return [*lines, f"LLM: {reason[0].lower()}{reason[1:]}"]
    for contrast in markets.contrasts:
        kind = "pre-registered" if contrast.pooled.role == "primary" else contrast.pooled.role
        lines.append(f"{contrast.arm} - {contrast.against}, pooled, {kind}: {contrast.pooled.words}.")
    return [*lines, _where(markets)]


def _where(markets: Markets) -> str:
    """Where the advice helps and where not."""
    measured = evaluated(markets)
    by_effect = {
        word: [symbol for symbol, of in markets.advice.items() if of.effect == effect]
        for effect, word in (("helps", "helps"), ("hurts", "hurts"), ("open", "no evidence either way"))
    }
    said = "; ".join(f"{word} in {', '.join(of)}" for word, of in by_effect.items() if of)
    folds = sum(of.folds for of in markets.advice.values())
    ahead = sum(of.folds_ahead for of in markets.advice.values())
    walked = f" Hybrid ahead of its placebo in {ahead} of {folds} folds (a count, no test)." if folds else ""
    return f"LLM by market, Holm-adjusted over {len(measured)} markets: {said}.{walked}"


def _all(markets: Markets) -> str:
    return f"{len(evaluated(markets))} markets"


def short_interval(contrast: Contrast) -> str:
    """`+$12 (-$40 to +$65)`; the mean alone where there is no interval."""
    if contrast.low_usd is None or contrast.high_usd is None:
        return f"{signed_usd(contrast.mean_usd)} (no CI)" if contrast.mean_usd is not None else "-"
    return f"{signed_usd(contrast.mean_usd)} ({signed_usd(contrast.low_usd)} to {signed_usd(contrast.high_usd)})"
