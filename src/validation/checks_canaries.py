"""Canaries: the defaults learn an edge that is there, and earn nothing where there is none."""

from __future__ import annotations

from dataclasses import asdict

from src.configuration import Configuration
from src.evidence.canaries import planted_gate
from src.evidence.martingale import martingale_gate
from src.validation.checks_compute import update_seconds
from src.validation.outcome import RESTORE, Outcome, failed, passed, skipped
from src.validation.setting import Setting

SEED = 0
PLANTED_UPDATES = 500
"""Minibatches of the defaults in 50,000 timesteps: 25 rollouts of two, ten epochs each."""
PLANTED_REST_S = 6.0
"""Rollouts, building two markets and the evaluation, on a core of their own."""


def planted(setting: Setting) -> Outcome:
    """Train the defaults where an edge is known to be; in a quick validation only if there is time for it."""
    threads = setting.threads
    left = setting.seconds_left()
    if setting.quick:
        needed = PLANTED_UPDATES * update_seconds(Configuration(), [threads])[threads] + PLANTED_REST_S
        if needed > left:
            return skipped(
                f"{needed:.0f} s needed here, {max(0.0, left):.0f} s left: run it without --quick",
                needed_s=needed,
                left_s=left,
            )
    gate = planted_gate([SEED])
    figures = {"share": gate.median_share, **gate.rows[0]}
    if not gate.passed:
        return failed(
            f"{gate.median_share:.2f} of the best known policy's net P&L",
            f"{gate.words[0].upper()}{gate.words[1:]}. More seeds: `python -m src.evidence.canaries --seeds 3`. "
            f"{RESTORE}",
            **figures,
        )
    return passed(f"{gate.median_share:.2f} of the best known policy's net P&L", **figures)


def martingale(setting: Setting) -> Outcome:
    """Train the defaults where there is no edge, and play fresh sessions beside random-legal decisions."""
    _ = setting.threads
    gate = martingale_gate(None, seed=SEED)
    figures = {"agent": asdict(gate.agent), "random_legal": asdict(gate.random_legal)}
    for verdict in (gate.random_legal, gate.agent):
        if not verdict.passed:
            return failed(
                verdict.words,
                f"What earns on a market without an edge sees the future or is paid too much: run the check "
                f"look_ahead, then compare features, fills and generator with the release. {RESTORE}",
                **figures,
            )
    trade = gate.agent.trade
    if trade.low is None:
        return passed(f"agent nearly flat: passes ({trade.trades:,} trades)", **figures)
    return passed(f"no leak found by this check, low {trade.low:+.3f} sigma", **figures)
