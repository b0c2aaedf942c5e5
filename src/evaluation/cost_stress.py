"""The trained arms under different slippage: how much of the result depends on the cost assumption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.evaluation.arms import Arm, PolicyArm
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.playing import ArmResult, FreshBatches, evaluate
from src.evaluation.settings import SLIPPAGE_TICKS
from src.trading.tape import Tape


@dataclass(frozen=True)
class CostStress:
    """Arms on the same sessions, simulated again at each slippage (not the same fills at another price).

    `net_usd` and `slippage_usd` by arm are float64[k, n]: one row per entry of `slippage_ticks`, one column per
    session; their sum is the P&L before slippage. `slipped_fills` by arm counts the fills that paid slippage, one entry
    per slippage; None at zero ticks, where it is unknown. `position_tick_usd` is one tick of the whole position.
    """

    slippage_ticks: tuple[int, ...]
    net_usd: dict[str, NDArray[np.float64]]
    slippage_usd: dict[str, NDArray[np.float64]]
    slipped_fills: dict[str, tuple[int | None, ...]]
    position_tick_usd: float

    def net_usd_per_session(self, arm: str) -> list[float | None]:
        """Mean net P&L per session at each slippage; None without sessions."""
        return [float(row.mean()) if row.size else None for row in self.net_usd[arm]]

    def before_slippage_usd_per_session(self, arm: str) -> list[float | None]:
        """Mean P&L per session before slippage, at each slippage."""
        rows = self.net_usd[arm] + self.slippage_usd[arm]
        return [float(row.mean()) if row.size else None for row in rows]


def with_slippage(params: NDArray[np.void], ticks: int) -> NDArray[np.void]:
    """A read-only copy of an account's constants, `PARAMS`[1], with this slippage per market or stop fill."""
    stressed = params.copy()
    stressed["slippage_ticks"] = ticks
    stressed.setflags(write=False)
    return stressed


def stress_costs(
    arms: Sequence[Arm],
    first_bars: NDArray[Any],
    tape: Tape,
    params: NDArray[np.void],
    assembly: FeatureAssembly,
    slippage_ticks: Sequence[int] = SLIPPAGE_TICKS,
) -> CostStress:
    """Play the sessions starting at `first_bars` (int[n]) with each arm at each slippage, all else equal.

    `params` are an account's constants in evaluation. Nothing is retrained. More slippage does not always lower net
    P&L, since entries, stops and targets move with the fill and change what happens next.

    Raises: ValueError for no or a negative number of ticks.
    """
    ticks = tuple(int(value) for value in slippage_ticks)
    if not ticks or min(ticks) < 0:
        raise ValueError(f"slippage_ticks must be at least one number of at least 0, not {ticks}")
    for arm in arms:
        if isinstance(arm, PolicyArm):
            arm.keep_bars(len(tape.flags))
    results: list[dict[str, ArmResult]] = []
    for value in ticks:
        pool = FreshBatches(tape, with_slippage(params, value))
        results.append(evaluate(arms, first_bars, pool, assembly))
    contracts = min(int(params[0]["contracts"]), int(params[0]["max_contracts"]))
    tick_usd = int(params[0]["tick_value_cents"]) * contracts / 100.0
    names = [arm.name for arm in arms]
    paid = {name: np.array([by_arm[name].slippage_usd for by_arm in results]) for name in names}
    return CostStress(
        slippage_ticks=ticks,
        net_usd={name: np.array([by_arm[name].net_usd for by_arm in results]) for name in names},
        slippage_usd=paid,
        slipped_fills={
            name: tuple(
                round(row.sum() / (value * tick_usd)) if value else None for value, row in zip(ticks, rows, strict=True)
            )
            for name, rows in paid.items()
        },
        position_tick_usd=tick_usd,
    )
