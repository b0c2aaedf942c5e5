"""The point figures of one arm, as report.json holds them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from src.evaluation.arms import AdviceUse
from src.evaluation.playing import ArmResult
from src.trading.layout import ACTIONS


def arm_summary(result: ArmResult) -> dict[str, Any]:
    """Point figures of one arm, and its net P&L by session."""
    trades = int(result.n_trades.sum())
    bars = int(result.bars.sum())
    return {
        "sessions": len(result.net_usd),
        "net_usd": float(result.net_usd.sum()),
        "net_usd_per_session": mean_or_none(result.net_usd),
        "net_usd_by_session": result.net_usd.tolist(),
        "gross_usd": float(result.gross_usd.sum()),
        "commission_usd": float(result.commission_usd.sum()),
        "slippage_usd": float(result.slippage_usd.sum()),
        "trades": trades,
        "trades_per_session": mean_or_none(result.n_trades),
        "win_rate": float(result.n_wins.sum() / trades) if trades else None,
        "exposure": float(result.bars_exposed.sum() / bars) if bars else 0.0,
        "max_drawdown_usd": float(result.max_drawdown_usd.max(initial=0.0)),
        "sessions_breached": int(result.breached.sum()),
        "sessions_daily_locked": int(result.daily_locked.sum()),
        "sessions_target_reached": int(result.target_reached.sum()),
        **({} if result.advice is None else {"advice": _advice_use(result.advice)}),
        "illegal_actions": result.illegal_actions,
        "actions": {ACTIONS[code]: count for code, count in result.actions.items()},
    }


def _advice_use(use: AdviceUse) -> dict[str, Any]:
    """`changed_frac` is of the choices; only the fused arm has rules."""
    facts = {**asdict(use), "changed_frac": use.changed / use.choices if use.choices else None}
    return facts if use.rules else {name: fact for name, fact in facts.items() if name != "rules"}


def mean_or_none(values: np.ndarray) -> float | None:
    """The mean; None of nothing."""
    return float(values.mean()) if len(values) else None
