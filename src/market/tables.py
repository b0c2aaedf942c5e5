"""Everything known about a market's bars: the frozen tables that environments and evaluation read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from src.market import flags as flag_bits
from src.market.bars import Bars, frozen
from src.market.sessions import Sessions


@dataclass(frozen=True, eq=False)
class MarketTables:
    """Bars, sessions, and everything derived from them with one row per bar; read-only arrays of length n."""

    bars: Bars
    sessions: Sessions
    prices: NDArray[np.int32]
    """int32[n, 4], C-contiguous: open, high, low, close in ticks."""
    flags: NDArray[np.uint8]
    """Bits of `src.market.flags`."""
    atr_ticks: NDArray[np.float32]
    """Average true range in ticks; 0.0 where its lookback is not complete."""
    window: NDArray[np.float32]
    """float32[n, 11]."""
    context: NDArray[np.float32]
    """float32[n, 22]."""


def missing_slots(
    before_ns: NDArray[np.int64],
    after_ns: NDArray[np.int64],
    halt_start_ns: NDArray[np.int64],
    halt_end_ns: NDArray[np.int64],
    interval_ns: int,
) -> NDArray[np.int64]:
    """Scheduled bar slots strictly between two times of one session, not counting its trading halt."""
    slots = -(-(after_ns - before_ns) // interval_ns) - 1
    halted_ns = np.minimum(after_ns, halt_end_ns) - np.maximum(before_ns + interval_ns, halt_start_ns)
    return np.maximum(slots - np.maximum(halted_ns, 0) // interval_ns, 0)


def run_starts(bars: Bars, sessions: Sessions, no_trade_bars: int) -> NDArray[np.int32]:
    """For each bar the index of the first bar of its run, int32[n]; a run has no gap except closed hours.

    A hole (more than `no_trade_bars` scheduled bars missing inside a session, at its start or at its end, or a whole
    session missing) and a change of contract start a new run. Entry t depends on bars up to t and the schedule only.
    """
    n = len(bars)
    if n == 0:
        return np.zeros(0, dtype=np.int32)
    times, ids, step = bars.open_ns, bars.session_id, bars.interval_ns
    halts = (sessions.halt_start_ns, sessions.halt_end_ns)
    broken = bars.contract[1:] != bars.contract[:-1]
    # Most bars follow the one before directly; only the others need the schedule.
    apart = np.flatnonzero((times[1:] - times[:-1] != step) | (ids[1:] != ids[:-1]))
    previous, current = ids[apart], ids[apart + 1]
    before, after = times[apart], times[apart + 1]
    same = previous == current
    inside = missing_slots(before, after, halts[0][current], halts[1][current], step)
    at_end = missing_slots(before, sessions.close_ns[previous], halts[0][previous], halts[1][previous], step)
    at_start = missing_slots(sessions.open_ns[current] - step, after, halts[0][current], halts[1][current], step)
    absent = np.searchsorted(sessions.missing_dates, sessions.date)
    between = absent[current] != absent[previous]
    broken[apart] |= np.where(
        same, inside > no_trade_bars, (at_end > no_trade_bars) | (at_start > no_trade_bars) | between
    )
    starts = np.zeros(n, dtype=np.int32)
    starts[1:][broken] = np.flatnonzero(broken) + 1
    return np.maximum.accumulate(starts)


def judge_sessions(
    bars: Bars,
    sessions: Sessions,
    run_start: NDArray[np.int32],
    *,
    warmup_bars: int,
    no_trade_bars: int,
    max_hole_bars: int,
) -> Sessions:
    """Sessions with `usable`, `reason` and `first_decision` filled in.

    Which sessions take part is decided with hindsight, equally for every arm; nothing inside a session depends on it.
    """
    lacking = missing_in_hours(bars, sessions, no_trade_bars)
    whole = _window_whole(run_start, warmup_bars)
    enter = np.flatnonzero(_may_enter(bars, sessions) & whole)
    decide = np.flatnonzero(_may_stand(bars, sessions) & whole)
    entries = np.searchsorted(enter, sessions.end_bar) - np.searchsorted(enter, sessions.first_bar)
    earliest = np.searchsorted(decide, sessions.first_bar)
    ids = bars.session_id
    inside = (bars.contract[1:] != bars.contract[:-1]) & (ids[1:] == ids[:-1])
    changes = np.bincount(ids[1:][inside], minlength=len(sessions))
    first_decision = np.full(len(sessions), -1)
    reasons: list[str] = []
    for i in range(len(sessions)):
        reason = ""
        if sessions.flat_slot_ns[i] <= sessions.trade_open_ns[i]:
            reason = "closes before the trading hours"
        elif changes[i]:
            reason = "its contract changes inside the session"
        elif lacking[i] > max_hole_bars:
            reason = f"a hole of {lacking[i]} bars in the trading hours (at most {max_hole_bars})"
        elif entries[i] == 0:
            reason = f"no bar in the trading hours has {warmup_bars} unbroken bars behind it"
        else:  # a bar that may be entered at is a decision bar
            first_decision[i] = decide[earliest[i]]
        reasons.append(reason)
    return replace(
        sessions,
        usable=frozen([not reason for reason in reasons], np.bool_),
        reason=tuple(reasons),
        first_decision=frozen(first_decision, np.int32),
    )


def missing_in_hours(bars: Bars, sessions: Sessions, no_trade_bars: int) -> NDArray[np.int64]:
    """Scheduled bars missing to holes between the trading open and the flat slot, both included; int64[m] per session.

    Up to `no_trade_bars` missing in a row count as bars without trades, not as a hole.
    """
    step = bars.interval_ns
    first, last = sessions.first_bar, sessions.end_bar - 1
    apart = bars.open_ns[1:] - bars.open_ns[:-1] > step
    pairs = np.flatnonzero(apart & (bars.session_id[:-1] == bars.session_id[1:]))
    before = np.concatenate((sessions.open_ns - step, bars.open_ns[pairs], bars.open_ns[last]))
    after = np.concatenate((bars.open_ns[first], bars.open_ns[pairs + 1], sessions.close_ns))
    every = np.arange(len(sessions))
    owner = np.concatenate((every, bars.session_id[pairs], every))
    halts = (sessions.halt_start_ns[owner], sessions.halt_end_ns[owner])
    is_hole = missing_slots(before, after, *halts, step) > no_trade_bars
    after = np.minimum(after, sessions.flat_slot_ns[owner] + step)
    before = np.maximum(before, sessions.trade_open_ns[owner] - step)
    lacking = np.where(is_hole & (after > before), missing_slots(before, after, *halts, step), 0)
    return np.bincount(owner, weights=lacking, minlength=len(sessions)).astype(np.int64)


def bar_flags(bars: Bars, sessions: Sessions, run_start: NDArray[np.int32], *, warmup_bars: int) -> NDArray[np.uint8]:
    """The bits of `src.market.flags`, uint8[n], from judged sessions.

    ENTRY_ALLOWED of bar t depends on bars up to t and the schedule only. BREAK_AFTER is also set where the
    forced exit's bar had no trades: an account that cannot exit at that bar's open exits at the previous close.
    """
    n = len(bars)
    decision = _may_stand(bars, sessions) & sessions.usable[bars.session_id]
    flat = bars.open_ns == sessions.flat_slot_ns[bars.session_id]
    entry = _may_enter(bars, sessions) & _window_whole(run_start, warmup_bars)

    stays = np.zeros(n, dtype=bool)
    stays[:-1] = bars.session_id[1:] == bars.session_id[:-1]
    next_stands = np.zeros(n, dtype=bool)
    next_stands[:-1] = decision[1:]
    next_flat = np.zeros(n, dtype=bool)
    next_flat[:-1] = flat[1:]
    continues = np.zeros(n, dtype=bool)
    continues[:-1] = run_start[1:] == run_start[:-1]

    end_after = decision & ~(stays & next_stands)
    break_after = ~(stays & continues) | (end_after & ~next_flat)
    bits = (
        (entry, flag_bits.ENTRY_ALLOWED),
        (break_after, flag_bits.BREAK_AFTER),
        (flat, flag_bits.FLAT_BAR),
        (decision, flag_bits.DECISION),
        (end_after, flag_bits.END_AFTER),
    )
    flags = np.zeros(n, dtype=np.uint8)
    for holds, bit in bits:
        flags[holds] |= np.uint8(bit)
    flags.setflags(write=False)
    return flags


def _window_whole(run_start: NDArray[np.int32], warmup_bars: int) -> NDArray[np.bool_]:
    return np.arange(len(run_start)) - run_start + 1 >= warmup_bars


def _may_stand(bars: Bars, sessions: Sessions) -> NDArray[np.bool_]:
    """The next scheduled slot of the bar's own session lies in [trade_open, flat_slot], bool[n]."""
    following = bars.open_ns + bars.interval_ns
    return (following >= sessions.trade_open_ns[bars.session_id]) & (
        following <= sessions.flat_slot_ns[bars.session_id]
    )


def _may_enter(bars: Bars, sessions: Sessions) -> NDArray[np.bool_]:
    """As `_may_stand`, but before the flat slot, bool[n]."""
    following = bars.open_ns + bars.interval_ns
    return (following >= sessions.trade_open_ns[bars.session_id]) & (following < sessions.flat_slot_ns[bars.session_id])
