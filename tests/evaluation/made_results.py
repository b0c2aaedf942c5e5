"""Arms' results made up for tests of what is concluded from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from src.evaluation.arms import AdviceUse
from src.evaluation.playing import ArmResult
from src.evaluation.seeds import SeededResults


def result_of(
    net_usd: Sequence[float], name: str = "rl_only", *, trades: int = 2, use: AdviceUse | None = None
) -> ArmResult:
    """Sessions with this net P&L, each with so many trades, all of them won or all lost; bars in the position: half."""
    net = np.array(net_usd, np.float64)
    n = len(net)
    never = np.zeros(n, np.bool_)
    return ArmResult(
        name=name,
        net_usd=net,
        gross_usd=net + 3.0,
        commission_usd=np.full(n, 2.0),
        slippage_usd=np.full(n, 1.0),
        max_drawdown_usd=np.abs(net),
        gross_win_usd=np.maximum(net, 0.0),
        gross_loss_usd=np.maximum(-net, 0.0),
        n_trades=np.full(n, trades),
        n_wins=np.where(net > 0, trades, 0),
        bars=np.full(n, 10),
        bars_exposed=np.full(n, 5),
        breached=net < -1000.0,
        daily_locked=never,
        target_reached=never,
        illegal_actions=0,
        actions={0: 7 * n, 1: 2 * n, 2: n, 3: 0, 4: 0, 5: 0},
        advice=use,
    )


def seeded(arms: Mapping[str, Sequence[Sequence[float]]], values: tuple[int, ...] | None = None) -> SeededResults:
    """By arm a row of net P&L a seed; `values` are 0, 1, ... unless given."""
    n_seeds = max(map(len, arms.values()))
    return SeededResults(
        values or tuple(range(n_seeds)),
        {name: tuple(result_of(row, name) for row in rows) for name, rows in arms.items()},
    )
