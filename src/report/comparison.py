"""Two runs or more on the sessions they share: paired contrasts arm by arm, and the settings that differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src import run_names
from src.errors import UserError
from src.plain_text import foreign
from src.report.conclusions import EXPLORATORY, contrast_entry
from src.report.model.arms import Contrast
from src.report.model.bars import Data
from src.report.model.base import Count, Date, Figure, Maybe, Part
from src.report.model.report import Report, RunReport
from src.report.model.run import Rules
from src.report.schema import read_report
from src.statistics.intervals import Interval, paired_interval
from src.statistics.samples import Float64, holm

SEED = 0
"""Of the bootstrap, so that the same runs give the same intervals."""


class ComparisonError(UserError):
    """Runs that cannot be compared."""


@dataclass(frozen=True)
class Run:
    """A run with the letter it is called by."""

    label: str
    path: Path
    """Its report.json."""
    report: Report
    data: Data
    rules: Rules
    dates: Sequence[str]
    """Of its sealed sessions."""

    @property
    def words(self) -> str:
        """How an error names it."""
        return f"{self.label} ({foreign(self.path)})"

    @property
    def seeds(self) -> list[int]:
        """Empty where the report names none."""
        return self.report.seeds.values if self.report.seeds is not None else []

    def nets(self, arm: str, dates: Sequence[str]) -> Float64:
        """Net P&L of some of its sealed sessions, float64[seeds, sessions], US dollars."""
        place = {date: i for i, date in enumerate(self.dates)}
        return np.array(self.report.nets_by_seed(arm), np.float64)[:, [place[date] for date in dates]]


class ComparedRun(Part):
    """A run of a comparison."""

    label: str
    report: str
    """Path of its report.json, as it was given."""
    name: str
    finished_utc: Maybe[str] = None
    seeds: list[int]
    sealed_sessions: Count
    arms: list[str]
    leaked: bool
    """Whether a leak check of it failed."""


class ArmContrast(Contrast):
    """An arm of one run less the same arm of the first."""

    run: str
    against_run: str
    usd: Figure
    """Mean net P&L per shared session, seeds averaged, of `run`."""
    against_usd: Figure
    """The same of `against_run`."""
    seed_error_usd: Figure
    """Standard error of the difference over seeds, which the interval leaves out; null with a single seed on a side."""
    identical: bool
    """Whether no shared session differs."""


class Comparison(Part):
    """What is written down with --output."""

    comparison_version: Literal[1]
    market: str
    bars_fingerprint: str
    rules: Rules
    sessions: list[Date]
    """The sealed sessions that all runs share."""
    runs: list[ComparedRun]
    settings: dict[str, dict[str, Any]]
    """By key with dots: the value in each run that has it, by label. Only keys that differ."""
    contrasts: list[ArmContrast]
    """Of every later run with the first, adjusted together by Holm's method; identical arms are not counted."""

    def to_json_dict(self) -> dict[str, Any]:
        """As the file has it: parts that were left out have no key."""
        return self.model_dump(exclude_unset=True)

    def arms_only_in(self) -> dict[str, list[str]]:
        """By label, the arms that not every run has."""
        shared = set.intersection(*(set(run.arms) for run in self.runs))
        return {run.label: only for run in self.runs if (only := [arm for arm in run.arms if arm not in shared])}


def read_runs(paths: Sequence[Path], market: str | None = None) -> list[Run]:
    """The runs of these folders or report.json files, called A, B, C and so on; of runs of several markets the part of
    `market`.

    Raises: ComparisonError for fewer than two runs or one without sealed sessions or that market, ReportError for one
    without a report that can be read.
    """
    if len(paths) < 2:
        raise ComparisonError(
            f"A comparison needs two runs or more, and {len(paths)} was given: name another run's folder, such as "
            "logs/<run>."
        )
    return [_read(_label(i), path, market) for i, path in enumerate(paths)]


def _label(i: int) -> str:
    """A to Z, then A2 and so on."""
    turn, letter = divmod(i, 26)
    return chr(ord("A") + letter) + (str(turn + 1) if turn else "")


def _read(label: str, path: Path, market: str | None) -> Run:
    file = path / run_names.REPORT if path.is_dir() else path
    whole = read_report(file)
    report = _of_market(file, whole, market) if whole.markets is not None or market is not None else whole
    if report.data is None or report.rules is None or not report.arms or not report.session_dates:
        raise ComparisonError(
            f"{foreign(file)} has no sealed sessions with results by arm, so there is nothing to compare: it was run "
            "on environments of your own, or stopped before its evaluation. Name a run that was evaluated on bars."
        )
    return Run(label, file, report, report.data, report.rules, report.session_dates)


def _of_market(file: Path, report: RunReport, market: str | None) -> Report:
    reports = {report.run.market: report} if report.markets is None else report.markets.reports
    if market is None:
        raise ComparisonError(
            f"{foreign(file)} is of several markets: add --market with one of {', '.join(reports)}, to compare the "
            "runs on that market."
        )
    if market not in reports:
        raise ComparisonError(
            f"{foreign(file)} has no market {foreign(market)}: it has {', '.join(map(str, reports))}. Name one that "
            "every run has."
        )
    return reports[market]


def compare(runs: Sequence[Run]) -> Comparison:
    """Every later run with the first, on the sealed sessions that all share.

    Notes: net P&L is averaged over seeds; a contrast is the mean of the differences by session, with the interval of
    `paired_interval`. Contrasts are adjusted together by Holm's method, since none was fixed in advance.

    Raises: ComparisonError where bars or rules differ, or no session or arm is shared.
    """
    first, *later = runs
    for run in later:
        _refuse_other_market(first, run)
    dates = _shared_dates(runs)
    pairs = [(run, arm) for run in later for arm in first.report.arms if arm in run.report.arms]
    if not pairs:
        raise ComparisonError(
            f"{first.words} shares no arm with the others: it has {', '.join(first.report.arms)}. Compare runs that "
            "trained the same arms."
        )
    found = [_differences(first, run, arm, dates) for run, arm in pairs]
    intervals = [paired_interval(differences, seed=SEED) for differences in found]
    tested = [i for i, of in enumerate(intervals) if of.p_value is not None and bool(np.any(found[i]))]
    adjusted = dict(zip(tested, holm([intervals[i].p_value or 0.0 for i in tested]).tolist(), strict=True))
    return Comparison(
        comparison_version=1,
        market=first.report.run.market,
        bars_fingerprint=first.data.fingerprint,
        rules=first.rules,
        sessions=list(dates),
        runs=[_compared(run) for run in runs],
        settings=settings_that_differ(runs),
        contrasts=[
            _contrast(first, run, arm, dates, interval, adjusted.get(i))
            for i, ((run, arm), interval) in enumerate(zip(pairs, intervals, strict=True))
        ],
    )


def _refuse_other_market(first: Run, run: Run) -> None:
    """Raise where the two did not trade the same bars under the same rules."""
    if first.data.fingerprint != run.data.fingerprint:
        raise ComparisonError(
            f"Runs on different bars cannot be compared. {first.words} traded {_bars(first)}; {run.words} traded "
            f"{_bars(run)}. Run one of them again on the other's bars."
        )
    if _rules_key(first.rules, run.rules) != _rules_key(run.rules, first.rules):
        raise ComparisonError(
            f"Runs under different rules cannot be compared. {first.words} traded under {_rules(first)}; {run.words} "
            f"under {_rules(run)}. Run one of them again with the other's environment.rule_profile."
        )


def _rules_key(rules: Rules, other: Rules) -> tuple[str, ...]:
    """What tells two rules apart: their content, or name and date if a report of an earlier version lacks it."""
    if rules.fingerprint is not None and other.fingerprint is not None:
        return (rules.fingerprint,)
    return rules.profile, rules.as_of


def _bars(run: Run) -> str:
    data, market = run.data, foreign(run.report.run.market)
    known_by = f"fingerprint {foreign(data.fingerprint[:12])}"
    return f"{data.bars:,} {data.interval_min}-minute bars of {market} from {foreign(data.source)} ({known_by})"


def _rules(run: Run) -> str:
    rules = run.rules
    content = "" if rules.fingerprint is None else f" (fingerprint {foreign(rules.fingerprint[:12])})"
    return f"{foreign(rules.profile)} as of {foreign(rules.as_of)}{content}"


def _shared_dates(runs: Sequence[Run]) -> list[str]:
    first, *later = runs
    shared = set(first.dates).intersection(*(run.dates for run in later))
    if not shared:
        spans = "; ".join(f"{run.words} has {len(run.dates)}, {run.dates[0]} to {run.dates[-1]}" for run in runs)
        raise ComparisonError(
            f"The runs share no sealed session: {spans}. Run them again with the same split (section data)."
        )
    return sorted(shared)


def _differences(first: Run, run: Run, arm: str, dates: Sequence[str]) -> Float64:
    """Net P&L of an arm in one run less that in the first: by seed and session where both have the same seeds, else
    float64[1, sessions] of the means over seeds."""
    one, other = first.nets(arm, dates), run.nets(arm, dates)
    if first.seeds == run.seeds and one.shape == other.shape:
        return other - one
    return (other.mean(axis=0) - one.mean(axis=0))[np.newaxis]


def _contrast(
    first: Run, run: Run, arm: str, dates: Sequence[str], interval: Interval, holm_p_value: float | None
) -> ArmContrast:
    one, other = first.nets(arm, dates), run.nets(arm, dates)
    entry = contrast_entry(f"{arm} of {run.label}", f"{arm} of {first.label}", EXPLORATORY, interval, holm_p_value)
    return ArmContrast(
        **(entry | {"arm": arm, "against": arm}),
        run=run.label,
        against_run=first.label,
        usd=float(other.mean()),
        against_usd=float(one.mean()),
        seed_error_usd=_seed_error(one, other),
        identical=not np.any(_differences(first, run, arm, dates)),
    )


def _seed_error(one: Float64, other: Float64) -> float | None:
    """sqrt(v / k + v' / k') of the variances of the means of k and k' seeds; None where either has a single seed."""
    if min(len(one), len(other)) < 2:
        return None
    return math.sqrt(sum(float(nets.mean(axis=1).var(ddof=1)) / len(nets) for nets in (one, other)))


def _compared(run: Run) -> ComparedRun:
    facts = run.report.run
    finished = {} if facts.finished_utc is None else {"finished_utc": facts.finished_utc}
    return ComparedRun(
        label=run.label,
        report=str(run.path),
        name=facts.name,
        seeds=run.seeds,
        sealed_sessions=len(run.dates),
        arms=list(run.report.arms),
        leaked=run.report.leaked,
        **finished,
    )


def settings_that_differ(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Keys whose values are not the same in all runs, with the values by label; a run without a key has no entry.

    Besides the configuration: the device, the libraries, and the advice the run was given (`run.`, `advice.`).
    """
    by_run = {run.label: dict(_facts(run.report)) for run in runs}
    keys = dict.fromkeys(key for facts in by_run.values() for key in facts)
    told = {key: {label: facts[key] for label, facts in by_run.items() if key in facts} for key in keys}
    return {
        key: values
        for key, values in told.items()
        if len(values) < len(runs) or any(value != next(iter(values.values())) for value in values.values())
    }


def _facts(report: Report) -> Iterator[tuple[str, Any]]:
    yield from flat_settings(report.configuration or {})
    yield "run.device", report.run.device
    yield from flat_settings(report.run.versions, "run.versions.")
    if report.advice is not None:
        yield "advice.advisor", report.advice.advisor
        yield "advice.sha256", report.advice.sha256


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below a section with its path, keys joined by dots; lists are values."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flat_settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
