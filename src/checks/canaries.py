"""Canaries: the defaults learn a planted edge and earn nothing on a market without one."""

from __future__ import annotations

from dataclasses import asdict

from src.canaries.martingale import martingale_gate
from src.canaries.planted import planted_gate
from src.checks.compute import update_seconds
from src.checks.outcome import RESTORE, Outcome, failed, passed, skipped
from src.checks.setting import Setting
from src.configuration import Configuration

SEED, OTHER_SEED = 0, 1
WORTH_UPDATES = 700
"""What a seed takes, in updates of a minibatch: 500 in 50,000 timesteps; rollouts, two markets and the evaluation."""


def planted(setting: Setting) -> Outcome:
    """Train the defaults on a market with a planted edge; in a quick validation only if time allows.

    One seed in twenty of a sound learner (two of the 40 in docs/canaries.md) falls short of the bar, and which one
    depends on the processor: the check fails where two seeds do.
    """
    threads = setting.threads
    needed = WORTH_UPDATES * update_seconds(Configuration(), [threads])[threads] if setting.quick else 0.0
    left = setting.seconds_left()
    if needed > left:
        return skipped(
            f"{needed:.0f} s needed, {max(0.0, left):.0f} s left: run without --quick", needed_s=needed, left_s=left
        )
    gates = [planted_gate([SEED])]
    in_time = setting.seconds_left() > needed
    if not gates[0].passed and in_time:
        gates.append(planted_gate([OTHER_SEED]))
    gate, shares = gates[-1], [gate.median_share for gate in gates]
    said = f"{', then '.join(f'{share:.2f}' for share in shares)} of the best known policy's P&L"
    figures = {"shares": shares, **gate.rows[0]}
    if not gate.passed and not in_time:
        return skipped(f"{said}; no time for a second seed: run without --quick", **figures)
    if not gate.passed:
        return failed(
            said,
            f"{gate.words[0].upper()}{gate.words[1:]}. More seeds: `python -m src.canaries.planted --seeds 3`. "
            f"{RESTORE}",
            **figures,
        )
    return passed(said, **figures)


def martingale(setting: Setting) -> Outcome:
    """Train the defaults on a market without an edge; compare with random legal decisions on new sessions."""
    _ = setting.threads
    gate = martingale_gate(None, seed=SEED)
    figures = {"agent": asdict(gate.agent), "random_legal": asdict(gate.random_legal)}
    for verdict in (gate.random_legal, gate.agent):
        if not verdict.passed:
            return failed(
                verdict.words,
                f"An agent that earns on a market without an edge sees the future or is paid too much: run the check "
                f"look_ahead, then compare features, fills and generator with the release. {RESTORE}",
                **figures,
            )
    trade = gate.agent.trade
    if trade.low is None:
        return passed(f"agent nearly flat: passes ({trade.trades:,} trades)", **figures)
    return passed(f"no leak found by this check (low {trade.low:+.3f})", **figures)
