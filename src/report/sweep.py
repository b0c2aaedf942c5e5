"""Report section `sweep`: what a sweep found, and what is left of it once the winner is trained again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from src.evaluation.seeds import SeededResults
from src.report.model.sweep import Sweep
from src.statistics.intervals import Interval, paired_interval
from src.statistics.samples import Float64
from src.wording import percent, plain, signed_usd, usd_per_session

MOST_SHOWN = 10
"""Settings in a table of the console."""
DIGITS = 4
"""Significant digits of a value that is drawn at random, or shown."""


def shrinkage_facts(
    sweep: Mapping[str, Any], validation: SeededResults, sealed: SeededResults, *, seed: int
) -> dict[str, Any]:
    """What the winner earned on fresh seeds: on the sessions it was chosen by, session by session against its score,
    and on the sealed ones. `validation` and `sealed` are the results of its run."""
    again: Float64 = validation.net_usd(sweep["arm"])
    difference = paired_interval(again - sweep["net_usd_by_session"], seed=seed)
    unseen = paired_interval(sealed.net_usd(sweep["arm"]), seed=seed)
    return {
        "sweep_usd": _mean(sweep["net_usd_by_session"]),
        "seeds": list(validation.values),
        "seed_means_usd": again.mean(axis=1).tolist(),
        "fresh_usd": float(again.mean()),
        "difference_usd": difference.mean,
        "low_usd": difference.low,
        "high_usd": difference.high,
        "reason": _why_none(difference),
        "sealed_sessions": unseen.n,
        "sealed_usd": unseen.mean,
        "sealed_low_usd": unseen.low,
        "sealed_high_usd": unseen.high,
        "sealed_reason": _why_none(unseen),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _why_none(interval: Interval) -> str:
    return interval.reason if interval.low is None else ""


def sweep_lines(sweep: Sweep) -> list[str]:
    """What the sweep allows to be said, a sentence or two a line."""
    best, settings = sweep.winning, len(sweep.settings)
    stopped = sum(setting.quarters < 4 for setting in sweep.settings)
    lines = [
        f"Setting {best.number} of {settings} earned most on the {sweep.sessions} validation sessions: "
        f"{signed_usd(best.score_usd)}/session with {sweep.arm}"
        + (f"; {stopped} settings were stopped before the end of base training." if stopped else ".")
    ]
    found = sweep.overfitting
    if found.probability is None:
        lines.append(f"Probability of backtest overfitting: unknown, {found.reason}.")
    else:
        lines.append(
            f"Probability of backtest overfitting: {percent(found.probability)}. In that share of {found.splits:,} "
            f"splits the best setting of one half of the sessions is below the median setting on the other half."
            + (" Stopped settings count as they were then, which makes it smaller." if stopped else "")
        )
    lines.append(_deflated_line(sweep))
    return lines + ([] if sweep.shrinkage is None else _shrinkage_lines(sweep))


def _deflated_line(sweep: Sweep) -> str:
    deflated = sweep.deflated_sharpe
    if deflated.probability is None:
        return f"Deflated Sharpe ratio of the winner: unknown, {deflated.reason}."
    needed = sweep.track_record_sessions
    record = (
        "no number of such sessions would show a ratio above zero"
        if needed is None
        else f"minimum track record for a ratio above zero: {needed:,} sessions"
    )
    return (
        f"Deflated Sharpe ratio of the winner over {deflated.trials} trials: {percent(deflated.probability)} that its "
        f"ratio of {plain(deflated.sharpe, 3)} a session is more than the best of as many worthless settings shows "
        f"({plain(deflated.expected_maximum, 3)}); {record}."
    )


def _shrinkage_lines(sweep: Sweep) -> list[str]:
    found = sweep.shrinkage
    assert found is not None
    words = f"without interval ({found.reason})"
    if found.difference_usd is not None and found.low_usd is not None and found.high_usd is not None:
        words = f"a change of {usd_per_session(found.difference_usd, found.low_usd, found.high_usd)}"
    again = (
        f"Trained again on {len(found.seeds)} fresh seeds, the winner earned {signed_usd(found.fresh_usd)}/session on "
        f"the same sessions, where the sweep had {signed_usd(found.sweep_usd)}: {words}."
    )
    if found.sealed_usd is None:
        return [again]
    sealed = f"{signed_usd(found.sealed_usd)}/session ({found.sealed_reason})"
    if found.sealed_low_usd is not None and found.sealed_high_usd is not None:
        sealed = usd_per_session(found.sealed_usd, found.sealed_low_usd, found.sealed_high_usd)
    return [again, f"On the {found.sealed_sessions} sealed sessions, which no setting was chosen on: {sealed}."]


def value_words(value: Any) -> str:
    """A value, short: `0.001`, `[256, 128]`."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    if isinstance(value, Mapping):
        parts = {json.dumps(part) for part in value.values()}
        return parts.pop() if len(parts) == 1 else json.dumps(value)
    return value if isinstance(value, str) else json.dumps(value)


def values_words(values: Mapping[str, Any]) -> str:
    """`learning_rate 0.001, gamma 0.99`: the last part of each key, and its value."""
    return ", ".join(f"{key.rpartition('.')[2]} {value_words(value)}" for key, value in values.items())
