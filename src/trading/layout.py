"""Action codes, observation slices, and the records of an account and its constants."""

from __future__ import annotations

import numpy as np

HOLD, BUY, SELL, MOVE_TO_BE, ENABLE_TRAIL, DISABLE_TRAIL = range(6)
ACTIONS = ("HOLD", "BUY", "SELL", "MOVE_TO_BE", "ENABLE_TRAIL", "DISABLE_TRAIL")
N_ACTIONS = len(ACTIONS)

OPEN, HIGH, LOW, CLOSE = range(4)
"""Columns of a tape's prices."""

WINDOW_BARS = 20
N_WINDOW_FEATURES = 11
N_CONTEXT_FEATURES = 22
WINDOW = slice(0, WINDOW_BARS * N_WINDOW_FEATURES)
ACCOUNT_STATE = slice(WINDOW.stop, WINDOW.stop + 8)
CONTEXT = slice(ACCOUNT_STATE.stop, ACCOUNT_STATE.stop + N_CONTEXT_FEATURES)
ACCOUNT_RISK = slice(CONTEXT.stop, CONTEXT.stop + 5)
OPINION = slice(ACCOUNT_RISK.stop, ACCOUNT_RISK.stop + N_ACTIONS)
N_OBS = OPINION.stop

TRAIL_NONE, TRAIL_LIVE, TRAIL_END_OF_DAY, TRAIL_STATIC = range(4)
LOCK_NONE, LOCK_AT_LEVEL = range(2)
FLAT, LONG_WINNING, LONG_LOSING, SHORT_WINNING, SHORT_LOSING = range(5)
N_SIDES = 5

NO_EXIT, EXIT_STOP, EXIT_TARGET, EXIT_OPPOSITE, EXIT_FLAT, EXIT_BREACH, EXIT_DAILY_LIMIT, EXIT_HOLE = range(8)
EXIT_REASONS = ("", "stop", "target", "opposite", "flat", "breach", "daily limit", "hole in the bars")
"""Why a position was closed: its stop, its target, the opposite action, the forced exit, the account's threshold or
daily limit reached within the bar, or bars that do not continue."""

NOT_BREACHED, BREACH_BY_DRAWDOWN, BREACH_BY_DAILY_LIMIT = range(3)
BREACHES = ("", "drawdown", "daily limit")
"""Which rule ended an account, by the code in `breached`; the first one counts."""

NO_THRESHOLD_CENTS = -(2**62)
"""Threshold of an account without a drawdown rule: below any balance."""
N_RECENT_TRADES = 10
"""Trades in the recent win rate that the agent observes."""
DRAWDOWN_SCALE_FRAC = 0.04
"""Drawdown that counts as one where no rule gives a trailing amount, as a share of the starting balance."""
LEGAL_MASS_MIN = 1e-3
"""Advice that gives the legal actions less probability than this says nothing about them: it abstains."""
LEGAL_FLOOR = 1e-6
"""Least probability of a legal action, so that p > 0 says which actions are legal."""

ACCOUNT = np.dtype(
    [
        ("key", np.uint64),  # names the account's own random sequence
        ("episode", np.uint64),  # episodes begun: the counter of that sequence
        ("cash_cents", np.int64),  # realized balance, commissions paid
        ("peak_cents", np.int64),
        ("threshold_cents", np.int64),
        ("day_start_cents", np.int64),
        ("best_day_cents", np.int64),  # largest profit of a finished session
        ("entry_commission_cents", np.int64),  # of the open position
        ("commission_paid_cents", np.int64),
        ("slippage_paid_cents", np.int64),
        ("reward_sum", np.float64),  # of the episode
        ("bar", np.int32),
        ("start_bar", np.int32),
        ("start_cash_cents", np.int64),
        ("position", np.int32),  # signed contracts
        ("entry_ticks", np.int32),
        ("stop_ticks", np.int32),
        ("target_ticks", np.int32),
        ("risk_ticks", np.int32),  # R: entry to stop at entry
        ("trail_ticks", np.int32),  # distance of a trailing stop, frozen at entry
        ("extreme_ticks", np.int32),  # best completed-bar extreme since entry
        ("mfe_ticks", np.int32),
        ("mae_ticks", np.int32),
        ("bars_in_position", np.int32),
        ("entry_bar", np.int32),  # the bar at whose open the position was entered
        ("stop_in_bar_ticks", np.int32),  # the stop in force within the last bar that saw a position
        ("closed_position", np.int32),  # signed contracts of the last trade that ended, and what it was
        ("closed_entry_bar", np.int32),
        ("closed_entry_ticks", np.int32),
        ("closed_target_ticks", np.int32),
        ("exit_bar", np.int32),
        ("exit_ticks", np.int32),  # its fill, slippage included
        ("consecutive_losses", np.int32),
        ("n_trades", np.int32),
        ("n_wins", np.int32),
        ("bars_exposed", np.int32),
        ("illegal_actions", np.int32),
        ("steps", np.int32),
        ("days_left", np.int32),
        ("counted_days", np.int32),  # finished sessions that count as trading days
        ("day_over", np.int32),  # 1: the session is finished, and among them if it counts
        ("atr_ticks", np.float32),  # frozen at entry, for observations alone
        ("recent_wins", np.uint16),  # bit 0 is the newest trade, 1 a win
        ("n_recent", np.uint8),
        ("exit_reason", np.uint8),  # of EXIT_REASONS
        ("trailing", np.uint8),
        ("daily_locked", np.uint8),
        ("breached", np.uint8),  # of BREACHES
        ("target_reached", np.uint8),
    ],
    align=True,
)
"""Everything about an account that changes. A snapshot is a copy of the record, compared by its bytes: no padding."""

PARAMS = np.dtype(
    [
        ("contracts", np.int64),
        ("tick_value_cents", np.int64),  # a tick, one contract
        ("commission_cents", np.int64),  # a side, one contract
        ("slippage_ticks", np.int64),
        ("target_through_ticks", np.int64),
        ("max_episode_steps", np.int64),  # 0: none
        ("start_balance_cents", np.int64),
        ("trail_mode", np.int64),
        ("trail_cents", np.int64),
        ("lock_mode", np.int64),
        ("lock_cents", np.int64),
        ("daily_limit_cents", np.int64),  # 0: none
        ("target_cents", np.int64),  # 0: none
        ("expiry_days", np.int64),  # 0: none
        ("max_contracts", np.int64),
        ("daily_breaches", np.int64),  # 1: the daily limit ends the account
        ("consistency_bp", np.int64),  # basis points; 0: none
        ("needed_days", np.int64),  # trading days before a pass
        ("day_profit_cents", np.int64),  # least profit of a trading day; 0: a trade is enough
        *((f"ladder_cents_{k}", np.int64) for k in range(1, 5)),  # profit of each rung
        *((f"ladder_contracts_{k}", np.int64) for k in range(1, 5)),  # 0: no such rung
        ("stop_atr", np.float64),
        ("target_r", np.float64),
        ("trail_atr", np.float64),
        ("reward_scale_cents", np.float64),
        ("breach_penalty", np.float64),  # in reward units
        ("fresh_account_frac", np.float64),  # share of training resets that begin as a new account
        ("min_buffer_frac", np.float64),  # least share of the trailing amount left at a training reset
    ],
    align=True,
)
"""Everything about an account that never changes; field names are those of `kernel.py`."""
