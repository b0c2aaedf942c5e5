"""Examples worked by hand from the rules, as data: bars, parameters, actions and the exact state after every step.

Every expectation is derived in the comment above it, in ticks and cents, never read off a run. Both the slow reference
account and the compiled kernel must give it.

Unless an example says otherwise: NQ, 500 cents a tick, 250 cents commission a side, 1 tick slippage, ATR 10 ticks,
stop at 1 ATR (risk R = 10), target at 2 R (20), trail at 1 ATR, a target must be traded through by 1 tick, rewards in
units of 10,000 cents, 5,000,000 cents to start with. So BUY filled at an open of 1000 always gives: entry 1001, stop
991, target 1021, cash 5,000,000 - 250 = 4,999,750.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.reference_account import (
    BREAK_AFTER,
    BUY,
    DECISION,
    DISABLE_TRAIL,
    ENABLE_TRAIL,
    END_AFTER,
    ENTRY_ALLOWED,
    FLAT_BAR,
    HOLD,
    MOVE_TO_BE,
    SELL,
    ReferenceAccount,
    ReferenceMarket,
    ReferenceParams,
    float32,
)

OPEN = ENTRY_ALLOWED | DECISION
LAST = OPEN | BREAK_AFTER | END_AFTER

NQ = ReferenceParams()
ES = replace(NQ, tick_value_cents=1250, commission_cents=225)
# Wide stops (risk 1000 ticks, target 2000), so that the account rules are reached before them.
WIDE = replace(NQ, stop_atr=100.0)
LIVE = replace(WIDE, trail_mode=1, trail_cents=200_000)
END_OF_DAY = replace(WIDE, trail_mode=2, trail_cents=200_000)

Bar = tuple[int, int, int, int]
QUIET: Bar = (1000, 1000, 1000, 1000)
QUIET_HIGH: Bar = (10_000, 10_000, 10_000, 10_000)


@dataclass(frozen=True)
class Example:
    """One worked example. Expected: account fields, reward, terminated, truncated, legal actions, obs by index."""

    name: str
    bars: list[Bar]
    steps: list[tuple[int, dict[str, Any]]]
    params: ReferenceParams = NQ
    flags: list[int] = field(default_factory=list)
    atr: float | list[float] = 10.0
    balance_cents: int = 5_000_000
    peak_cents: int = 5_000_000
    days_left: int = 0

    def market(self) -> ReferenceMarket:
        columns = [list(column) for column in zip(*self.bars, strict=True)]
        flags = self.flags or [OPEN] * (len(self.bars) - 1) + [LAST]
        atr = self.atr if isinstance(self.atr, list) else [self.atr] * len(self.bars)
        return ReferenceMarket(*columns, flags=flags, atr=atr)


# One line a fact, not one line a key: the tables are meant to be read beside the arithmetic.
# fmt: off
TRADES = [
    Example(
        "a long round trip on NQ pays slippage and commission on both sides",
        [QUIET, (1000, 1005, 998, 1004), (1006, 1008, 1005, 1007)],
        [
            # Marked at 1004: 4,999,750 + 3 x 500 = 5,001,250; reward 1,250 / 10,000. Excursions 1005 - 1001 and 1001 -
            # 998.
            (
                BUY,
                {
                    "position": 1, "entry_ticks": 1001, "stop_ticks": 991, "target_ticks": 1021, "risk_ticks": 10,
                    "cash_cents": 4_999_750, "entry_commission_cents": 250, "mfe_ticks": 4, "mae_ticks": 3,
                    "extreme_ticks": 1005, "bars_in_position": 1, "atr_ticks": 10.0, "reward": 0.125,
                    "legal": {HOLD, SELL, MOVE_TO_BE, ENABLE_TRAIL}, "bar": 1,
                },
            ),
            # Out at 1006 - 1 = 1005: 4 x 500 - 250 = 1,750 more: 5,001,500, which is 250 above the mark before.
            (
                SELL,
                {
                    "position": 0, "entry_ticks": 0, "stop_ticks": 0, "target_ticks": 0, "risk_ticks": 0,
                    "atr_ticks": 0.0, "cash_cents": 5_001_500, "peak_cents": 5_001_500, "n_trades": 1, "recent_wins": 1,
                    "n_recent": 1, "entry_commission_cents": 0, "mfe_ticks": 0, "mae_ticks": 0, "reward": 0.025,
                    "terminated": False, "steps": 2,
                },
            ),
        ],
    ),
    Example(
        "a short round trip on NQ with three contracts mirrors it",
        [QUIET, (1000, 1003, 994, 996), (995, 996, 990, 992)],
        [
            # In at 1000 - 1 = 999 with 3 x 250 = 750 commission; stop 1009, target 979. At 996: 4,999,250 + 3 x 3 x
            # 500.
            (
                SELL,
                {
                    "position": -3, "entry_ticks": 999, "stop_ticks": 1009, "target_ticks": 979, "extreme_ticks": 994,
                    "cash_cents": 4_999_250, "mfe_ticks": 5, "mae_ticks": 4, "reward": 0.375,
                },
            ),
            # Out at 995 + 1 = 996: 3 x 3 x 500 = 4,500 less 750: 5,003,000; the mark before was 5,003,750.
            (BUY, {"position": 0, "cash_cents": 5_003_000, "n_trades": 1, "recent_wins": 1, "reward": -0.075}),
        ],
        params=replace(NQ, contracts=3),
    ),
    Example(
        "a long round trip on ES with two contracts",
        [QUIET, (1000, 1004, 999, 1003), (1005, 1006, 1004, 1005)],
        [
            # 1250 cents a tick, 225 a side. Cash 5,000,000 - 450; at 1003: + 2 x 2 x 1250 = 5,000: 5,004,550.
            (BUY, {"position": 2, "entry_ticks": 1001, "cash_cents": 4_999_550, "reward": 0.455}),
            # Out at 1004: 2 x 3 x 1250 = 7,500 less 450: 5,006,600; 2,050 above 5,004,550.
            (SELL, {"cash_cents": 5_006_600, "reward": 0.205, "n_trades": 1}),
        ],
        params=replace(ES, contracts=2),
    ),
    Example(
        "a losing short on ES with two ticks of slippage",
        [QUIET, (1000, 1002, 997, 1001), (1001, 1003, 1000, 1002)],
        [
            # In at 998 (stop 1008, target 978); cash 4,999,775; at 1001: - 3 x 1250 = 4,996,025; reward -3,975 /
            # 10,000.
            (
                SELL,
                {
                    "entry_ticks": 998, "stop_ticks": 1008, "target_ticks": 978, "cash_cents": 4_999_775,
                    "reward": -0.3975,
                },
            ),
            # Out at 1001 + 2 = 1003: - 5 x 1250 - 225: 4,993,300; 2,725 below the mark.
            (
                BUY,
                {"cash_cents": 4_993_300, "reward": -0.2725, "consecutive_losses": 1, "recent_wins": 0, "n_recent": 1},
            ),
        ],
        params=replace(ES, slippage_ticks=2),
    ),
    Example(
        "contracts are cut to what the rules allow",
        [QUIET, (1000, 1000, 1000, 1000)],
        # min(5, 3) = 3 contracts: commission 750, marked one tick of slippage down: 4,999,250 - 3 x 500 = 4,997,750.
        [(BUY, {"position": 3, "cash_cents": 4_999_250, "reward": -0.225})],
        params=replace(NQ, contracts=5, max_contracts=3),
    ),
    Example(
        "no contracts allowed means no entries",
        [QUIET, QUIET],
        [(BUY, {"position": 0, "illegal_actions": 1, "legal": {HOLD}, "obs": {225: 0.0}})],
        params=replace(NQ, max_contracts=0),
    ),
    Example(
        "the stop distance uses the float32 ATR in double precision",
        [QUIET, (1000, 1000, 1000, 1000)],
        # float32(0.7) = 0.69999999; 5 x that + 0.5 = 3.99999994, floor 3. (0.7 x 5 in float32 or from a double 0.7: 4.)
        # Target: floor(1.5 x 3 + 0.5) = floor(5.0) = 5.
        [(BUY, {"risk_ticks": 3, "stop_ticks": 998, "target_ticks": 1006})],
        params=replace(NQ, stop_atr=5.0, target_r=1.5),
        atr=0.7,
    ),
    Example(
        "a tiny ATR still gives a stop and a target one tick away",
        [QUIET, (1000, 1002, 1000, 1001)],
        # floor(0.25 + 0.5) = 0, raised to 1; target floor(0.2 x 1 + 0.5) = 0, raised to 1: 1001 + 1 = 1002, and 1002 is
        # only touched. The stop 1000 is touched by the low: out at min(1000, 1000) - 1 = 999: 4,999,750 - 1,000 - 250.
        [(BUY, {"position": 0, "cash_cents": 4_998_500, "n_trades": 1})],
        params=replace(NQ, target_r=0.2),
        atr=0.25,
    ),
]

STOPS_AND_TARGETS = [
    Example(
        "a stop that is touched fills with slippage",
        [QUIET, (1000, 1002, 999, 1000), (1000, 1001, 991, 995)],
        [
            (BUY, {"reward": -0.075, "mfe_ticks": 1, "mae_ticks": 2}),
            # Low = stop = 991: out at 990: - 11 x 500 - 250 = - 5,750: 4,994,000. Mark before 4,999,750 - 500 =
            # 4,999,250.
            (HOLD, {"position": 0, "cash_cents": 4_994_000, "reward": -0.525, "consecutive_losses": 1}),
        ],
    ),
    Example(
        "a stop missed by one tick leaves the position open",
        [QUIET, (1000, 1002, 992, 1000)],
        [(BUY, {"position": 1, "mae_ticks": 9})],
    ),
    Example(
        "a short's stop fills above it",
        [QUIET, (1000, 1001, 999, 1000), (1000, 1009, 999, 1001)],
        [
            (SELL, {"entry_ticks": 999, "stop_ticks": 1009}),
            # High = 1009: out at 1010: - 11 x 500 - 250: 4,994,000.
            (HOLD, {"position": 0, "cash_cents": 4_994_000}),
        ],
    ),
    Example(
        "a target traded through by one tick fills at its price without slippage",
        [QUIET, (1000, 1002, 999, 1000), (1005, 1022, 1004, 1010)],
        [
            (BUY, {"target_ticks": 1021}),
            # + 20 x 500 - 250 = 9,750: 5,009,500.
            (HOLD, {"position": 0, "cash_cents": 5_009_500, "recent_wins": 1, "consecutive_losses": 0}),
        ],
    ),
    Example(
        "a target touched but not traded through is not filled",
        [QUIET, (1000, 1002, 999, 1000), (1005, 1021, 1004, 1010)],
        # Still long at 1010: 9 ticks x 500 above cash; before, - 1 tick: reward 10 x 500 / 10,000.
        [
            (BUY, {}),
            (HOLD, {"position": 1, "mfe_ticks": 20, "extreme_ticks": 1021, "reward": 0.5, "bars_in_position": 2}),
        ],
    ),
    Example(
        "with nothing to trade through a touched target fills",
        [QUIET, (1000, 1002, 999, 1000), (1005, 1021, 1004, 1010)],
        [(BUY, {}), (HOLD, {"position": 0, "cash_cents": 5_009_500})],
        params=replace(NQ, target_through_ticks=0),
    ),
    Example(
        "a short's target needs a price one tick below it",
        [QUIET, (1000, 1001, 999, 1000), (995, 996, 979, 985), (985, 986, 978, 985)],
        [
            (SELL, {"target_ticks": 979}),
            (HOLD, {"position": -1, "mfe_ticks": 20}),
            (HOLD, {"position": 0, "cash_cents": 5_009_500}),
        ],
    ),
    Example(
        "stop and target in one bar: the stop counts",
        [QUIET, (1000, 1002, 999, 1000), (1000, 1030, 990, 1020)],
        [(BUY, {}), (HOLD, {"position": 0, "cash_cents": 4_994_000, "recent_wins": 0})],
    ),
    Example(
        "the entry bar can stop the position out",
        [QUIET, (1000, 1003, 985, 1002)],
        # In at 1001 and out at 990 in the same bar: - 250 - 5,500 - 250 = - 6,000.
        [(BUY, {"position": 0, "cash_cents": 4_994_000, "n_trades": 1, "reward": -0.6, "legal": {HOLD, BUY, SELL}})],
    ),
    Example(
        "the entry bar can reach the target",
        [QUIET, (1000, 1022, 995, 1002)],
        [(BUY, {"position": 0, "cash_cents": 5_009_500, "n_trades": 1, "reward": 0.95})],
    ),
    Example(
        "an entry slipped past its own stop leaves at the open, not at the stop",
        [QUIET, (1000, 1001, 999, 1000)],
        # Slippage 3: in at 1003, stop 1002 (risk 1), but the bar opens at 1000: out at 1000 - 3 = 997: - 6 x 500 - 500.
        [(BUY, {"position": 0, "cash_cents": 4_996_500, "n_trades": 1})],
        params=replace(NQ, slippage_ticks=3),
        atr=1.0,
    ),
    Example(
        "a stop gapped through fills at the open",
        [QUIET, (1000, 1002, 999, 1000), (985, 1030, 984, 990)],
        # Out at 985 - 1 = 984: - 17 x 500 - 250: 4,999,750 - 8,750 = 4,991,000, though the bar later trades above the
        # target.
        [(BUY, {}), (HOLD, {"position": 0, "cash_cents": 4_991_000})],
    ),
    Example(
        "an open exactly at the stop is a gap to it",
        [QUIET, (1000, 1002, 999, 1000), (991, 1000, 991, 1000)],
        [(BUY, {}), (HOLD, {"position": 0, "cash_cents": 4_994_000})],
    ),
    Example(
        "an open exactly at the stop leaves at once, so the rest of the bar raises no live peak",
        [QUIET, (1000, 1001, 999, 1000), (991, 1015, 991, 1000), QUIET],
        [
            # At 1001 the position is worth 4,999,750, below the peak of 5,000,000; 1015 would be 5,006,750.
            (BUY, {"peak_cents": 5_000_000}),
            (HOLD, {"position": 0, "cash_cents": 4_994_000, "peak_cents": 5_000_000, "breached": 0}),
        ],
        params=replace(NQ, trail_mode=1, trail_cents=200_000),
    ),
    Example(
        "an open just far enough through the target is a gap: what the bar does later is too late",
        [QUIET, (1000, 1002, 999, 1000), (1022, 1023, 985, 990)],
        [(BUY, {"target_ticks": 1021}), (HOLD, {"position": 0, "cash_cents": 5_009_500})],
    ),
    Example(
        "a target gapped through fills at its own price, even when a close was ordered",
        [QUIET, (1000, 1002, 999, 1000), (1040, 1050, 1035, 1045)],
        [(BUY, {}), (SELL, {"position": 0, "cash_cents": 5_009_500, "illegal_actions": 0})],
    ),
    Example(
        "an open at the target is no gap through it: the ordered close fills at the open",
        [QUIET, (1000, 1002, 999, 1000), (1021, 1050, 1015, 1045)],
        # Out at 1021 - 1 = 1020: + 19 x 500 - 250 = 9,250: 5,009,000.
        [(BUY, {}), (SELL, {"position": 0, "cash_cents": 5_009_000})],
    ),
    Example(
        "a short's stop gap and, after it, a short's target gap",
        [QUIET, (1000, 1001, 999, 1000), (1015, 1016, 900, 1000), (1000, 1001, 999, 1000), (970, 975, 969, 970)],
        [
            (SELL, {"stop_ticks": 1009}),
            # Out at 1016: - 17 x 500 - 250: 4,991,000.
            (HOLD, {"position": 0, "cash_cents": 4_991_000, "consecutive_losses": 1}),
            (SELL, {"target_ticks": 979, "cash_cents": 4_990_750}),
            # Out at 979: + 20 x 500 - 250: 5,000,500.
            (
                HOLD,
                {"position": 0, "cash_cents": 5_000_500, "consecutive_losses": 0, "recent_wins": 0b01, "n_recent": 2},
            ),
        ],
    ),
]

ORDERS = [
    Example(
        "the opposite action closes and does not reverse",
        [QUIET, (1000, 1002, 999, 1000), (1000, 1002, 999, 1000), (1000, 1002, 999, 1000)],
        [
            (BUY, {"position": 1}),
            # Out at 999: - 2 x 500 - 250: 4,998,500; flat through the rest of the bar.
            (SELL, {"position": 0, "cash_cents": 4_998_500, "legal": {HOLD, BUY, SELL}}),
            (SELL, {"position": -1, "entry_ticks": 999, "cash_cents": 4_998_250}),
        ],
    ),
    Example(
        "the same side, and orders for a position that is not there, act as HOLD and are counted",
        [QUIET, QUIET, (1000, 1002, 999, 1000), (1000, 1002, 999, 1000), (1000, 1002, 999, 1000)],
        [
            (MOVE_TO_BE, {"position": 0, "illegal_actions": 1, "reward": 0.0, "cash_cents": 5_000_000}),
            (BUY, {"position": 1, "legal": {HOLD, SELL, ENABLE_TRAIL}}),
            (BUY, {"position": 1, "illegal_actions": 2, "cash_cents": 4_999_750, "bars_in_position": 2}),
            (DISABLE_TRAIL, {"position": 1, "illegal_actions": 3}),
        ],
    ),
    Example(
        "an entry is illegal where the bar does not allow one",
        [QUIET, QUIET],
        [(BUY, {"position": 0, "illegal_actions": 1})],
        flags=[DECISION, LAST],
    ),
    Example(
        "a move to break-even needs a close beyond the round-turn cost, and sets the stop to cover exactly that",
        [QUIET, (1000, 1004, 1000, 1003), (1003, 1005, 1002, 1004), (1004, 1006, 1004, 1005), (1005, 1006, 1003, 1003)],
        [
            # Left to pay: 2 x 250 + 1 x 500 = 1,000 cents = exactly 2 ticks. At 1003 the gain is 1,000, not more:
            # illegal.
            (BUY, {"legal": {HOLD, SELL, ENABLE_TRAIL}}),
            (MOVE_TO_BE, {"illegal_actions": 1, "stop_ticks": 991, "legal": {HOLD, SELL, ENABLE_TRAIL, MOVE_TO_BE}}),
            # At 1004 it is legal: stop 1001 + 2 = 1003. There already: no second time.
            (MOVE_TO_BE, {"stop_ticks": 1003, "illegal_actions": 1, "legal": {HOLD, SELL, ENABLE_TRAIL}}),
            # Low 1003: out at 1002, + 500 - 250; the trade nets 500 - 500 = 0: neither a win nor a loss.
            (
                HOLD,
                {
                    "position": 0, "cash_cents": 5_000_000, "n_trades": 1, "recent_wins": 0, "n_recent": 1,
                    "consecutive_losses": 0,
                },
            ),
        ],
    ),
    Example(
        "break-even is rounded to the next tick in the position's favour",
        [QUIET, (1000, 1004, 999, 1003), (1003, 1006, 1003, 1004)],
        [
            # ES: 2 x 225 + 1250 = 1,700 cents = 1.36 ticks. At 1003 the gain is 2,500: legal; stop 1001 + 2 = 1003.
            (BUY, {"legal": {HOLD, SELL, ENABLE_TRAIL, MOVE_TO_BE}}),
            # The next open, 1003, is already there: out at 1002: + 1,250 - 225; cash 5,000,000 - 225 + 1,025.
            (MOVE_TO_BE, {"position": 0, "cash_cents": 5_000_800, "illegal_actions": 0, "recent_wins": 1}),
        ],
        params=ES,
    ),
    Example(
        "a short's break-even lies below its entry",
        [QUIET, (1000, 1000, 995, 996), (995, 996, 994, 995), (995, 997, 994, 997)],
        [
            # In at 999, cost 2 ticks; 996 gains 3: legal; stop 999 - 2 = 997.
            (SELL, {"legal": {HOLD, BUY, ENABLE_TRAIL, MOVE_TO_BE}}),
            (MOVE_TO_BE, {"stop_ticks": 997, "position": -1}),
            # High 997: out at 998: + 500 - 250: back at 5,000,000.
            (HOLD, {"position": 0, "cash_cents": 5_000_000}),
        ],
    ),
    Example(
        "the trail follows completed bars only, never loosens, and leaves the stop where it was when disabled",
        [
            QUIET, (1000, 1005, 999, 1003), (1004, 1015, 996, 1012), (1012, 1013, 1006, 1010),
            (1010, 1025, 1006, 1020), (1020, 1022, 1016, 1021), (1020, 1021, 1015, 1018),
        ],
        [
            # Stop at 2 ATR: 981; target 1001 + 40 = 1041.
            (BUY, {"stop_ticks": 981, "target_ticks": 1041, "extreme_ticks": 1005}),
            # At once: 1005 - 10 = 995. Low 996 holds, though 1015 - 10 = 1005 would not have: the bar must be complete
            # first.
            (ENABLE_TRAIL, {"position": 1, "trailing": 1, "extreme_ticks": 1015, "stop_ticks": 1005}),
            # High 1013 is no new extreme.
            (HOLD, {"stop_ticks": 1005, "legal": {HOLD, SELL, DISABLE_TRAIL}}),
            # Disabled: the extreme still rises to 1025, the stop stays.
            (DISABLE_TRAIL, {"trailing": 0, "stop_ticks": 1005, "extreme_ticks": 1025}),
            # Enabled again: 1025 - 10 = 1015 before the bar; low 1016 holds.
            (ENABLE_TRAIL, {"trailing": 1, "stop_ticks": 1015, "position": 1}),
            # Low 1015: out at 1014: 4,999,750 + 13 x 500 - 250.
            (HOLD, {"position": 0, "trailing": 0, "cash_cents": 5_006_000}),
        ],
        params=replace(NQ, stop_atr=2.0),
    ),
    Example(
        "a trail wider than the stop does not loosen it",
        [QUIET, (1000, 1005, 999, 1003), (1003, 1008, 1000, 1005)],
        # 3 ATR behind 1005 and then 1008 is 975 and 978, below the stop at 991.
        [(BUY, {}), (ENABLE_TRAIL, {"trailing": 1, "stop_ticks": 991, "extreme_ticks": 1008})],
        params=replace(NQ, trail_atr=3.0),
    ),
    Example(
        "a trail pulled past the market leaves at the next open",
        [QUIET, (1000, 1015, 992, 995), (995, 1000, 994, 999)],
        # Extreme 1015: stop 1005, above the open 995: out at 994: 4,999,750 - 7 x 500 - 250.
        [(BUY, {"extreme_ticks": 1015}), (ENABLE_TRAIL, {"position": 0, "cash_cents": 4_996_000})],
    ),
    Example(
        "a short's trail comes down behind the lows",
        [QUIET, (1000, 1001, 990, 992), (992, 993, 985, 986), (986, 995, 986, 990)],
        [
            (SELL, {"stop_ticks": 1009, "extreme_ticks": 990}),
            # 990 + 10 = 1000 at once, 985 + 10 = 995 after the bar.
            (ENABLE_TRAIL, {"stop_ticks": 995, "extreme_ticks": 985}),
            # High 995: out at 996: 4,999,750 + 3 x 500 - 250.
            (HOLD, {"position": 0, "cash_cents": 5_001_000}),
        ],
    ),
    Example(
        "the ATR is frozen at the entry",
        [QUIET, (1000, 1005, 999, 1003), (1003, 1006, 1002, 1004)],
        [
            (BUY, {"atr_ticks": float32(10.3), "risk_ticks": 10}),
            (ENABLE_TRAIL, {"stop_ticks": 996, "atr_ticks": float32(10.3)}),
        ],
        atr=[10.3, 50.0, 50.0],
    ),
]

SESSIONS = [
    Example(
        "the forced exit fills at the open of the flat bar and ends the session",
        [QUIET, (1000, 1002, 999, 1000), (1003, 1030, 900, 950)],
        [
            (BUY, {"terminated": False}),
            # Out at 1003 - 1 = 1002: + 500 - 250: 5,000,000; the rest of the bar is nothing to a flat account.
            (
                HOLD,
                {
                    "position": 0, "cash_cents": 5_000_000, "terminated": True, "truncated": False, "bar": 2,
                    "reward": 0.075, "days_left": 29,
                },
            ),
        ],
        params=replace(NQ, expiry_days=30),
        flags=[OPEN, DECISION | END_AFTER, FLAT_BAR | BREAK_AFTER],
        days_left=30,
    ),
    Example(
        "an order that would fill on the flat bar is dropped",
        [QUIET, (1003, 1030, 900, 950)],
        [(BUY, {"position": 0, "cash_cents": 5_000_000, "terminated": True, "reward": 0.0, "illegal_actions": 0})],
        flags=[OPEN | END_AFTER, FLAT_BAR | BREAK_AFTER],
    ),
    Example(
        "on the flat bar a gapped target still fills at its own price",
        [QUIET, (1000, 1002, 999, 1000), (1040, 1041, 1035, 1036)],
        [(BUY, {}), (HOLD, {"position": 0, "cash_cents": 5_009_500, "terminated": True})],
        flags=[OPEN, DECISION | END_AFTER, FLAT_BAR | BREAK_AFTER],
    ),
    Example(
        "an early close brings the flat bar forward; entries stop one decision before it",
        [QUIET, (1000, 1002, 999, 1000), (990, 991, 989, 990), QUIET, QUIET],
        [
            (SELL, {"position": -1, "legal": {HOLD, BUY, ENABLE_TRAIL}, "obs": {225: 0.0}}),
            # Out at 990 + 1 = 991: + 8 x 500 - 250: 5,003,500. The session of bars 3 and 4 is another account's.
            (HOLD, {"position": 0, "cash_cents": 5_003_500, "terminated": True, "bar": 2}),
        ],
        flags=[OPEN, DECISION | END_AFTER, FLAT_BAR | BREAK_AFTER, OPEN, LAST],
    ),
    Example(
        "a hole closes the position at the last close and the ordered close is not filled beyond it",
        [QUIET, (1000, 1006, 999, 1005), (1200, 1300, 1100, 1250), (1250, 1251, 1249, 1250)],
        [
            (BUY, {"position": 1, "reward": 0.175}),
            # Out at 1005 - 1 = 1004: + 3 x 500 - 250: 5,001,000; the mark was 4,999,750 + 2,000 = 5,001,750.
            (
                SELL,
                {
                    "position": 0, "cash_cents": 5_001_000, "reward": -0.075, "terminated": False, "bar": 2,
                    "n_trades": 1, "legal": {HOLD},
                },
            ),
            (HOLD, {"reward": 0.0, "bar": 3}),
        ],
        flags=[OPEN, OPEN | BREAK_AFTER, DECISION, LAST],
    ),
    Example(
        "an entry ordered before a hole is not filled",
        [QUIET, (1200, 1300, 1100, 1250), (1250, 1251, 1249, 1250)],
        [(BUY, {"position": 0, "cash_cents": 5_000_000, "n_trades": 0, "reward": 0.0, "illegal_actions": 0, "bar": 1})],
        flags=[OPEN | BREAK_AFTER, DECISION, LAST],
    ),
    Example(
        "a session whose rest is missing ends on its last bar",
        [QUIET, (1000, 1006, 999, 1005), (3000, 3000, 3000, 3000)],
        [
            (SELL, {"position": -1, "entry_ticks": 999}),
            # Out at 1005 + 1 = 1006: - 7 x 500 - 250: 4,996,000. The account stays on bar 1: bar 2 is another session.
            (HOLD, {"position": 0, "cash_cents": 4_996_000, "terminated": True, "bar": 1, "days_left": 0}),
        ],
        params=replace(NQ, expiry_days=5),
        flags=[OPEN, OPEN | BREAK_AFTER | END_AFTER, LAST],
        days_left=0,
    ),
    Example(
        "an artificial limit truncates and leaves the position marked",
        [QUIET, (1000, 1002, 999, 1000), (1000, 1005, 999, 1004), QUIET],
        [
            (BUY, {"truncated": False}),
            (HOLD, {"truncated": True, "terminated": False, "position": 1, "cash_cents": 4_999_750, "reward": 0.2}),
        ],
        params=replace(NQ, max_episode_steps=2),
    ),
    Example(
        "the end of the session goes before the limit",
        [QUIET, QUIET],
        [(HOLD, {"truncated": False, "terminated": True})],
        params=replace(NQ, max_episode_steps=1),
        flags=[OPEN | END_AFTER, FLAT_BAR | BREAK_AFTER],
    ),
]

# Base 10,000: BUY at an open of 10,000 gives entry 10,001, stop 9,001, target 12,001, cash 4,999,750.
RULES = [
    Example(
        "a live unrealised peak raises the threshold, and a fall to it in the same bar is a breach",
        [QUIET_HIGH, (10_000, 10_201, 9_900, 10_150), (10_160, 10_401, 10_000, 10_300), QUIET_HIGH],
        [
            # At 10,201: 4,999,750 + 200 x 500 = 5,099,750, the peak; threshold 4,899,750, reached at 10,001 - 200 =
            # 9,801.
            (BUY, {"position": 1, "peak_cents": 5_099_750, "threshold_cents": 4_899_750, "breached": 0}),
            # At 10,401: peak 5,199,750, threshold 4,999,750 = cash: reached at 10,001 itself; the low, 10,000, is
            # below. Out at min(10,001, 10,160) - 1 = 10,000: - 500 - 250: 4,999,000. The mark before: 4,999,750 + 149 x
            # 500 = 5,074,250; reward -75,250 / 10,000 - 10.
            (
                HOLD,
                {
                    "position": 0, "breached": 1, "terminated": True, "peak_cents": 5_199_750, "cash_cents":
                    4_999_000, "threshold_cents": 4_999_750, "reward": -17.525, "days_left": 7,
                },
            ),
        ],
        params=replace(LIVE, expiry_days=30),
        days_left=7,
    ),
    Example(
        "the same bars under the end-of-day rule are no breach, and the threshold moves only at the session's end",
        [
            QUIET_HIGH, (10_000, 10_201, 9_900, 10_150), (10_160, 10_401, 10_000, 10_300),
            (10_300, 10_301, 10_299, 10_300),
        ],
        [
            (BUY, {"peak_cents": 5_000_000, "threshold_cents": 4_800_000, "breached": 0}),
            (HOLD, {"position": 1, "peak_cents": 5_000_000, "threshold_cents": 4_800_000, "breached": 0}),
            # Out at 10,299: + 298 x 500 - 250 = 148,750: 5,148,500; threshold 4,948,500.
            (
                HOLD,
                {"cash_cents": 5_148_500, "peak_cents": 5_148_500, "threshold_cents": 4_948_500, "terminated": True},
            ),
        ],
        params=END_OF_DAY,
        flags=[OPEN, OPEN, DECISION | END_AFTER, FLAT_BAR | BREAK_AFTER],
    ),
    Example(
        "under the end-of-day rule a closed profit does not move the threshold before the session ends",
        [QUIET_HIGH, (10_000, 10_201, 9_900, 10_150), (10_160, 10_170, 10_150, 10_160), QUIET_HIGH],
        # Out at 10,159: + 158 x 500 - 250: 5,078,500.
        [(BUY, {}), (SELL, {"cash_cents": 5_078_500, "peak_cents": 5_000_000, "threshold_cents": 4_800_000})],
        params=END_OF_DAY,
    ),
    Example(
        "the threshold stops rising at the lock",
        [QUIET_HIGH, (10_000, 10_601, 9_900, 10_500), (10_500, 10_501, 10_499, 10_500)],
        [
            # At 10,601: peak 4,999,750 + 600 x 500 = 5,299,750, less 200,000 = 5,099,750, held at start + $100:
            # 5,010,000. That is 10,250 above cash: reached at 10,001 + floor(10,250 / 500) = 10,021. The low, 9,900, is
            # below: a breach, filled at the open, which is worse than the level: 10,000 - 1 = 9,999: - 1,000 - 250:
            # 4,998,500.
            (BUY, {"peak_cents": 5_299_750, "threshold_cents": 5_010_000, "breached": 1, "cash_cents": 4_998_500}),
        ],
        params=replace(LIVE, lock_mode=1, lock_cents=5_010_000),
    ),
    Example(
        "below the lock the threshold trails as without one",
        [QUIET_HIGH, (10_000, 10_201, 9_900, 10_150), QUIET_HIGH],
        [(BUY, {"threshold_cents": 4_899_750})],
        params=replace(LIVE, lock_mode=1, lock_cents=5_010_000),
    ),
    Example(
        "a favourable extreme beyond the target credits the peak with the target only",
        [QUIET_HIGH, (10_000, 10_500, 9_999, 10_400), QUIET_HIGH],
        # Risk 10, target 10,021: peak at least 4,999,750 + 20 x 500 = 5,009,750; out there: cash 5,009,500.
        [(BUY, {"position": 0, "cash_cents": 5_009_500, "peak_cents": 5_009_750, "threshold_cents": 4_809_750})],
        params=replace(LIVE, stop_atr=1.0),
    ),
    Example(
        "a stop nearer than the threshold is hit first",
        [QUIET_HIGH, (10_000, 10_005, 9_000, 9_500), QUIET_HIGH],
        # Stop 9,991 against a threshold near 9,600: out at 9,990: - 5,500 - 250.
        [(BUY, {"position": 0, "breached": 0, "cash_cents": 4_994_000, "terminated": False})],
        params=replace(END_OF_DAY, stop_atr=1.0),
    ),
    Example(
        "a breach is filled at the threshold's price, rounded towards the loss, less slippage",
        [QUIET_HIGH, (10_000, 10_001, 9_602, 9_700), (9_700, 9_701, 9_601, 9_650), QUIET_HIGH],
        [
            # 4,800,000 - 4,999,750 = - 199,750 cents = - 399.5 ticks: equity is still above at 9,602, and below at
            # 9,601.
            (BUY, {"position": 1, "breached": 0}),
            # Out at 9,600: - 401 x 500 - 250: 4,799,000. Mark before: 4,999,750 - 301 x 500 = 4,849,250;
            # reward - 50,250 / 10,000 - 10.
            (HOLD, {"breached": 1, "cash_cents": 4_799_000, "reward": -15.025, "terminated": True, "n_trades": 1}),
        ],
        params=END_OF_DAY,
    ),
    Example(
        "a short's threshold price is rounded the other way",
        [QUIET_HIGH, (10_000, 10_398, 10_000, 10_300), (10_300, 10_399, 10_299, 10_350), QUIET_HIGH],
        [
            (SELL, {"position": -1, "entry_ticks": 9_999, "breached": 0}),
            # 9,999 + 400 = 10,399; out at 10,400: - 401 x 500 - 250.
            (HOLD, {"breached": 1, "cash_cents": 4_799_000}),
        ],
        params=END_OF_DAY,
    ),
    Example(
        "a threshold gapped through is filled at the open",
        [QUIET_HIGH, (10_000, 10_001, 9_990, 10_000), (9_500, 9_600, 9_400, 9_550), QUIET_HIGH],
        # The stop, 9,001, is not gapped. Out at 9,500 - 1 = 9,499: - 502 x 500 - 250: 4,748,500.
        [(BUY, {}), (HOLD, {"breached": 1, "cash_cents": 4_748_500, "terminated": True})],
        params=END_OF_DAY,
    ),
    Example(
        "a balance that lands exactly on the threshold is a breach",
        [QUIET_HIGH, (10_000, 10_001, 9_999, 10_000), (10_000, 10_001, 9_999, 10_000), QUIET_HIGH],
        [
            # Threshold 5,000,000 - 1,500 = 4,998,500; - 1,250 cents = - 2.5 ticks: 9,998, not reached by the lows.
            (BUY, {"position": 1, "threshold_cents": 4_998_500, "breached": 0}),
            # Out at 9,999: - 1,000 - 250: 4,998,500 exactly.
            (SELL, {"cash_cents": 4_998_500, "breached": 1, "terminated": True, "reward": -10.075}),
        ],
        params=replace(END_OF_DAY, trail_cents=1_500),
    ),
    Example(
        "the daily limit flattens, masks entries and is not terminal",
        [QUIET_HIGH, (10_000, 10_001, 9_802, 9_900), (9_900, 9_901, 9_801, 9_850), QUIET_HIGH, QUIET_HIGH],
        [
            # Floor 4,900,000: - 99,750 cents = - 199.5 ticks: reached at 9,801.
            (BUY, {"position": 1, "daily_locked": 0, "obs": {225: 1.0}}),
            # Out at 9,800: - 201 x 500 - 250: 4,899,000. Mark before: 4,999,750 - 101 x 500 = 4,949,250; no penalty.
            (
                HOLD,
                {
                    "position": 0, "daily_locked": 1, "breached": 0, "terminated": False, "cash_cents": 4_899_000,
                    "reward": -5.025, "legal": {HOLD}, "obs": {225: 0.0, 227: 0.0},
                },
            ),
            (BUY, {"position": 0, "illegal_actions": 1, "cash_cents": 4_899_000, "reward": 0.0, "terminated": False}),
        ],
        params=replace(WIDE, daily_limit_cents=100_000),
    ),
    Example(
        "a realised loss beyond the daily limit locks the day as well",
        [QUIET, (1000, 1003, 985, 1002), QUIET],
        # Stopped out at 990 with 4,994,000, at or below 5,000,000 - 5,750. The level itself, - 5,500 cents = - 11
        # ticks: 990, lies below the stop, so it is the costs that reach the limit.
        [(BUY, {"daily_locked": 1, "cash_cents": 4_994_000, "legal": {HOLD}, "breached": 0})],
        params=replace(NQ, daily_limit_cents=5_750),
    ),
    Example(
        "a balance that lands exactly on the daily limit locks the day",
        [QUIET_HIGH, (10_000, 10_001, 9_999, 10_000), (10_000, 10_001, 9_999, 10_000), QUIET_HIGH],
        [
            (BUY, {"position": 1, "daily_locked": 0}),
            # Out at 9,999: 4,999,750 - 1,000 - 250 = 4,998,500 = 5,000,000 - 1,500.
            (SELL, {"cash_cents": 4_998_500, "daily_locked": 1, "terminated": False, "reward": -0.075}),
        ],
        params=replace(WIDE, daily_limit_cents=1_500),
    ),
    Example(
        "a forced exit that ends below the threshold is a breach and no day is counted",
        [QUIET_HIGH, (10_000, 10_001, 9_999, 10_000), (10_000, 10_001, 9_999, 10_000)],
        [
            (BUY, {"position": 1, "breached": 0}),
            # Out at 9,999: 4,998,500, on the threshold of 5,000,000 - 1,500.
            (HOLD, {"cash_cents": 4_998_500, "breached": 1, "terminated": True, "days_left": 7, "reward": -10.075}),
        ],
        params=replace(END_OF_DAY, trail_cents=1_500, expiry_days=30),
        flags=[OPEN, DECISION | END_AFTER, FLAT_BAR | BREAK_AFTER],
        days_left=7,
    ),
    Example(
        "where threshold, daily limit and stop lie on one price the threshold counts",
        [QUIET_HIGH, (10_000, 10_001, 9_801, 9_900), QUIET_HIGH],
        # Risk 200: stop 9,801; floors 4,900,000 both: 9,801. Out at 9,800 in one fill: 4,899,000, under the daily limit
        # too.
        [(BUY, {"breached": 1, "daily_locked": 1, "n_trades": 1, "cash_cents": 4_899_000, "terminated": True})],
        params=replace(END_OF_DAY, stop_atr=20.0, trail_cents=100_000, daily_limit_cents=100_000),
    ),
    Example(
        "two contracts reach the threshold in half the ticks",
        [QUIET_HIGH, (10_000, 10_001, 9_802, 9_900), (9_900, 9_901, 9_801, 9_850), QUIET_HIGH],
        [
            # Cash 4,999,500; - 199,500 cents / 1,000 a tick = - 199.5: 9,801.
            (BUY, {"position": 2, "breached": 0}),
            # Out at 9,800: - 201 x 1,000 - 500: 4,798,000.
            (HOLD, {"breached": 1, "cash_cents": 4_798_000}),
        ],
        params=replace(END_OF_DAY, contracts=2),
    ),
    Example(
        "the profit target is noted when the realised balance reaches it",
        [QUIET, (1000, 1022, 995, 1002), QUIET],
        # + 9,500 to the cent.
        [(BUY, {"cash_cents": 5_009_500, "target_reached": 1, "terminated": False})],
        params=replace(NQ, target_cents=9_500),
    ),
    Example(
        "one cent short of the profit target is not the target",
        [QUIET, (1000, 1022, 995, 1002), QUIET],
        [(BUY, {"cash_cents": 5_009_500, "target_reached": 0})],
        params=replace(NQ, target_cents=9_501),
    ),
    Example(
        "days left do not fall below zero",
        [QUIET, QUIET],
        [(HOLD, {"terminated": True, "days_left": 0})],
        params=replace(NQ, expiry_days=30),
        flags=[OPEN | END_AFTER, FLAT_BAR | BREAK_AFTER],
    ),
    Example(
        "days are not counted where nothing expires",
        [QUIET, QUIET],
        [(HOLD, {"terminated": True, "days_left": 3})],
        flags=[OPEN | END_AFTER, FLAT_BAR | BREAK_AFTER],
        days_left=3,
    ),
    Example(
        "an attempt carried over trails from its own peak",
        [QUIET_HIGH, QUIET_HIGH],
        # Peak 5,150,000: threshold 4,950,000; buffer (5,040,000 - 4,950,000) / 200,000 = 0.45; drawdown 110,000 /
        # 200,000.
        [(HOLD, {"threshold_cents": 4_950_000, "day_start_cents": 5_040_000, "obs": {226: 0.45, 251: 0.55}})],
        params=END_OF_DAY,
        balance_cents=5_040_000,
        peak_cents=5_150_000,
    ),
]

OBSERVED = [
    Example(
        "what the account sees of a long position",
        [QUIET, (1000, 1008, 997, 1006), QUIET],
        [
            # Close 1006, entry 1001, stop 991, target 1021, R 10, ATR 10: to stop 15 / 10, to target 15 / 10, 1 bar of
            # 20, unrealised 5 / 10, excursions (7 - 4) / 10. Equity 4,999,750 + 2,500 = 5,002,250 is above the peak:
            # drawdown 0. Daily buffer (5,002,250 - 4,900,000) / 100,000 = 1.0225.
            (
                BUY,
                {
                    "obs": {
                        220: 1.0, 221: 1.5, 222: 1.5, 223: 0.05, 224: 0.0, 225: 1.0, 226: 1.0, 227: 1.0225,
                        250: 0.5, 251: 0.0, 252: 0.0, 253: 0.5, 254: 0.3,
                    }
                },
            ),
        ],
        params=replace(NQ, daily_limit_cents=100_000),
    ),
    Example(
        "what the account sees of a losing short that trails",
        [QUIET, (1000, 1004, 996, 1003), (1003, 1005, 1001, 1004), QUIET],
        [
            # Entry 999, stop 1009, target 979; at 1003 unrealised - 4 / 10, excursions (3 - 5) / 10.
            (SELL, {"obs": {220: -1.0, 221: 0.6, 222: 2.4, 250: -0.4, 254: -0.2}}),
            # Extreme 996: 1006 at once. At 1004: to stop 2 / 10, to target 25 / 10, - 5 / 10, (3 - 6) / 10. Equity
            # 4,999,750 - 2,500; drawdown 2,750 / (4% of 5,000,000 = 200,000) = 0.01375.
            (
                ENABLE_TRAIL,
                {
                    "stop_ticks": 1006, "obs": {221: 0.2, 222: 2.5, 223: 0.1, 224: 1.0, 250: -0.5, 251: 0.01375, 254:
                    -0.3},
                },
            ),
        ],
    ),
    Example(
        "losses in a row and the win rate follow the trades",
        [
            QUIET, (1000, 1002, 985, 1000), (1000, 1002, 985, 1000), (1000, 1022, 995, 1000), (1000, 1002, 985, 1000),
            QUIET,
        ],
        [
            (BUY, {"consecutive_losses": 1, "recent_wins": 0b0, "n_recent": 1, "obs": {252: 0.2, 253: 0.0}}),
            (BUY, {"consecutive_losses": 2, "recent_wins": 0b00, "n_recent": 2, "obs": {252: 0.4, 253: 0.0}}),
            (BUY, {"consecutive_losses": 0, "recent_wins": 0b001, "n_recent": 3, "obs": {252: 0.0, 253: 1 / 3}}),
            (BUY, {"consecutive_losses": 1, "recent_wins": 0b0010, "n_recent": 4, "obs": {252: 0.2, 253: 0.25}}),
        ],
    ),
    Example(
        "a break-even trade leaves the losing run as it is",
        [QUIET, (1000, 1002, 985, 1000), (1000, 1001, 1000, 1000), (1003, 1004, 1002, 1003), QUIET],
        [
            (BUY, {"consecutive_losses": 1}),
            (BUY, {"position": 1}),
            # Out at 1002: + 500 - 250 - 250 = 0.
            (SELL, {"n_trades": 2, "consecutive_losses": 1, "recent_wins": 0, "n_recent": 2}),
        ],
    ),
]

# fmt: on
EXAMPLES = TRADES + STOPS_AND_TARGETS + ORDERS + SESSIONS + RULES + OBSERVED


@pytest.fixture(params=["reference", "kernel"])
def account_class(request: pytest.FixtureRequest) -> type:
    """The slow account and the compiled one, behind the same methods."""
    if request.param == "reference":
        return ReferenceAccount
    return importlib.import_module("tests.trading.kernel_adapter").KernelAccount


def expect(account: Any, result: Any, expected: dict[str, Any], where: str) -> None:
    for name, value in expected.items():
        if name == "reward":
            assert result.reward == float32(value), where
        elif name in ("terminated", "truncated"):
            assert getattr(result, name) is value or getattr(result, name) == value, f"{where}: {name}"
        elif name == "legal":
            legal = {action for action, allowed in enumerate(account.action_mask()) if allowed}
            assert legal == value, f"{where}: legal actions"
        elif name == "obs":
            observation = account.observation()
            for index, number in value.items():
                assert observation[index] == float32(number), f"{where}: observation {index}"
        else:
            assert getattr(account, name) == value, f"{where}: {name}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_account_does_what_was_worked_out_by_hand(account_class: type, example: Example) -> None:
    account = account_class(example.market(), example.params)
    account.reset(0, example.balance_cents, example.peak_cents, example.days_left)
    for number, (action, expected) in enumerate(example.steps):
        result = account.step(action)
        expect(account, result, expected, f"{example.name}, step {number}")


def test_there_are_as_many_examples_as_the_rules_deserve() -> None:
    assert len(EXAMPLES) >= 25
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES)


def test_only_the_last_ten_trades_count_for_the_win_rate(account_class: type) -> None:
    # One winner (target in the entry bar), then eleven losers (stop in the entry bar): after the eleventh trade the
    # winner has left the window of ten.
    winner, loser = (1000, 1022, 995, 1000), (1000, 1002, 985, 1000)
    example = Example("twelve trades", [QUIET, winner] + [loser] * 11 + [QUIET], [])
    account = account_class(example.market(), example.params)
    account.reset(0, 5_000_000, 5_000_000, 0)
    rates = []
    for _ in range(12):
        account.step(BUY)
        rates.append(account.observation()[253])
    assert rates[:10] == [float32(1 / n) for n in range(1, 11)]
    assert rates[10:] == [0.0, 0.0]
    assert account.n_recent == 10
    assert account.consecutive_losses == 11
    assert account.observation()[252] == 1.0
    # 5,000,000 + 9,500 - 11 x 6,000.
    assert account.cash_cents == 4_943_500


def test_the_window_is_bar_major_oldest_first_and_zero_before_the_first_bar(account_class: type) -> None:
    market = replace(
        Example("window", [QUIET] * 3, []).market(),
        window=[[float(100 * bar + column) for column in range(11)] for bar in range(3)],
        context=[[float(1000 * bar + column) for column in range(22)] for bar in range(3)],
    )
    account = account_class(market, NQ)
    account.reset(0, 5_000_000, 5_000_000, 0)
    account.step(HOLD)
    observation = account.observation()
    assert len(observation) == 261
    assert observation[: 18 * 11] == [0.0] * (18 * 11)
    assert observation[18 * 11 : 220] == [float(column) for column in range(11)] + [100.0 + c for c in range(11)]
    assert observation[228:250] == [1000.0 + column for column in range(22)]


# Long and not winning (close = entry): row 2 of the situation. Legal after the entry: HOLD, SELL, ENABLE_TRAIL.
@pytest.mark.parametrize(
    ("row", "opinion"),
    [
        # Legal mass 0.25 + 0.25 + 0.125 = 0.625; shares 0.4, 0.4, 0.2. Mass on illegal actions is dropped.
        ([0.25, 0.25, 0.25, 0.125, 0.125, 0.0], [0.4, 0.0, 0.4, 0.0, 0.2, 0.0]),
        # A legal action the advisor gave nothing gets 1e-6, so that positive means legal.
        ([0.0, 0.5, 0.5, 0.0, 0.0, 0.0], [1e-6, 0.0, 1.0, 0.0, 1e-6, 0.0]),
        # Legal mass under 1e-3 abstains.
        ([0.0, 0.9995, 0.0005, 0.0, 0.0, 0.0], [0.0] * 6),
        ([0.0] * 6, [0.0] * 6),
    ],
)
def test_advice_is_renormalised_over_what_is_legal(account_class: type, row: list[float], opinion: list[float]) -> None:
    advice = [[0.0] * 6 for _ in range(15)]
    advice[1 * 5 + 2] = row
    bars = [QUIET, (1000, 1002, 999, 1001), QUIET]
    market = replace(Example("advice", bars, []).market(), situation=[0, 1, 2], advice=advice)
    account = account_class(market, NQ)
    account.reset(0, 5_000_000, 5_000_000, 0)
    account.step(BUY)
    assert account.action_mask() == [True, False, True, False, True, False]
    assert account.observation()[255:] == [float32(p) for p in opinion]


# (action, close after the entry bar, side). A close at the entry price is not winning.
@pytest.mark.parametrize(
    ("action", "close", "side"),
    [(HOLD, 1001, 0), (BUY, 1002, 1), (BUY, 1001, 2), (BUY, 1000, 2), (SELL, 998, 3), (SELL, 999, 4), (SELL, 1000, 4)],
)
def test_advice_is_read_for_the_side_the_account_is_on(account_class: type, action: int, close: int, side: int) -> None:
    # Each side's row says HOLD with a probability of its own, and leaves the rest to an action that is then illegal or
    # not.
    advice = [[0.5, 0.1 * (s + 1), 0.1 * (s + 1), 0.0, 0.0, 0.0] for s in range(5)]
    market = replace(Example("side", [QUIET, (1000, 1003, 997, close), QUIET], []).market(), advice=advice)
    account = account_class(market, NQ)
    account.reset(0, 5_000_000, 5_000_000, 0)
    account.step(action)
    p = float32(0.1 * (side + 1))
    others = 2 if side == 0 else 1
    assert account.observation()[255] == float32(0.5 / (0.5 + others * p))


@pytest.mark.parametrize(("close", "to_stop", "to_target"), [(1001, 5.0, 5.0), (1000, 5.0, 5.0), (1002, 5.0, 0.0)])
def test_an_atr_of_zero_leaves_the_observation_finite(
    account_class: type, close: int, to_stop: float, to_target: float
) -> None:
    # Bars without any range before: in at 1000, risk one tick, stop 999, target 1002 (touched, not traded through). A
    # distance in a vanishing ATR is beyond every limit, or nothing.
    bars = [QUIET, (1000, 1002, 1000, close), QUIET]
    example = Example("no range", bars, [], params=replace(NQ, slippage_ticks=0), atr=0.0)
    account = account_class(example.market(), example.params)
    account.reset(0, 5_000_000, 5_000_000, 0)
    account.step(BUY)
    assert account.position == 1
    assert account.risk_ticks == 1
    assert account.observation()[221:223] == [to_stop, to_target]


def test_the_time_in_a_position_is_capped_at_a_hundred_bars(account_class: type) -> None:
    example = Example("patience", [QUIET] * 110, [])
    account = account_class(example.market(), NQ)
    account.reset(0, 5_000_000, 5_000_000, 0)
    account.step(BUY)
    seen = [account.observation()[223]]
    for _ in range(104):
        account.step(HOLD)
        seen.append(account.observation()[223])
    # n bars read n / 20.
    assert seen[:100] == [float32(n / 20) for n in range(1, 101)]
    assert seen[100:] == [5.0] * 5
    assert account.bars_in_position == 105
