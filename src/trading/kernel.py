"""One account's transition, compiled: the same functions serve one environment and a batch of thousands.

Prices and distances are integer ticks, money is integer cents and training draws are fixed point: no float decides
anything, and a transition is the same on every processor. Jitted functions that call each other live here (random
numbers aside) and take facts as arguments, because numba misses edits to a callee in another file; `src.numba_cache`
keeps a cache for each version of all. Never use `parallel=True`: with `cache=True` it crashes across processes.

Prices are compared on the position's side (price x sign): a lower number is worse for long and short alike.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from src.market.flags import BREAK_AFTER, END_AFTER, ENTRY_ALLOWED, FLAT_BAR
from src.splitmix import GOLDEN, ONE, as_share, mix64, scaled
from src.trading.account_rules import (
    contracts_of,
    day_room,
    end_session,
    hit_daily_limit,
    settle,
    size_share,
    threshold_of,
)
from src.trading.distances import STOP, TARGET, TRAIL
from src.trading.layout import (
    ACCOUNT_RISK,
    ACCOUNT_STATE,
    BREACH_BY_DRAWDOWN,
    BUY,
    CLOSE,
    CONTEXT,
    DISABLE_TRAIL,
    DRAWDOWN_SCALE_FRAC,
    ENABLE_TRAIL,
    EXIT_BREACH,
    EXIT_DAILY_LIMIT,
    EXIT_FLAT,
    EXIT_HOLE,
    EXIT_OPPOSITE,
    EXIT_STOP,
    EXIT_TARGET,
    FLAT,
    HIGH,
    HOLD,
    LEGAL_FLOOR,
    LEGAL_MASS_MIN,
    LONG_LOSING,
    LONG_WINNING,
    LOW,
    MOVE_TO_BE,
    N_ACTIONS,
    N_CONTEXT_FEATURES,
    N_RECENT_TRADES,
    N_SIDES,
    N_WINDOW_FEATURES,
    NO_EXIT,
    OPEN,
    OPINION,
    SELL,
    SHORT_LOSING,
    SHORT_WINNING,
    TRAIL_LIVE,
    TRAIL_NONE,
    TRAIL_STATIC,
    WINDOW,
    WINDOW_BARS,
)

_WINDOW_LEN = WINDOW.stop
_ROW = N_WINDOW_FEATURES
_LOOKBACK = WINDOW_BARS - 1
_ACCOUNT_AT = ACCOUNT_STATE.start
_CONTEXT_AT = CONTEXT.start
_RISK_AT = ACCOUNT_RISK.start
_OPINION_AT = OPINION.start
_RECENT_MASK = (1 << N_RECENT_TRADES) - 1
_DRAWS_PER_EPISODE = np.uint64(8)

TERMINATED = 1
TRUNCATED = 2


@njit(cache=True)
def random_bits(key, counter):
    """64 random bits that depend on the account's key and the counter alone."""
    return mix64(key ^ mix64(counter))


@njit(cache=True)
def _clip(value, low, high):
    return min(max(value, low), high)


@njit(cache=True)
def equity_cents(a, price_ticks, p):
    """Balance plus the open position marked at `price_ticks`, before exit costs; int64 cents."""
    return a.cash_cents + a.position * (np.int64(price_ticks) - a.entry_ticks) * p.tick_value_cents


@njit(cache=True, inline="always")  # as a call it costs 3% of a step
def drawdown_frac(a, equity, p):
    """Drawdown from the peak as a share of the trailing amount; `equity` in cents, float64."""
    scale = p.trail_cents / 1.0 if p.trail_mode != TRAIL_NONE else DRAWDOWN_SCALE_FRAC * p.start_balance_cents
    return (a.peak_cents - equity) / scale


@njit(cache=True, inline="always")
def win_rate(a):
    """Share of wins among the recent trades; 0.5 before the first."""
    if a.n_recent == 0:
        return 0.5
    wins = 0
    for k in range(N_RECENT_TRADES):
        wins += (a.recent_wins >> k) & 1
    return wins / a.n_recent


@njit(cache=True)
def reset_account(a, bar, balance_cents, peak_cents, days_left, p):
    """Reset to a flat account at the close of `bar`; random sequence and episode counter are unchanged."""
    a.cash_cents = balance_cents
    a.start_cash_cents = balance_cents
    a.day_start_cents = balance_cents
    a.best_day_cents = 0
    a.counted_days = 0
    a.day_over = 0
    a.peak_cents = peak_cents
    a.threshold_cents = threshold_of(peak_cents, p)
    a.days_left = days_left
    a.bar = bar
    a.start_bar = bar
    a.commission_paid_cents = 0
    a.slippage_paid_cents = 0
    a.reward_sum = 0.0
    _clear_position(a)
    a.stop_in_bar_ticks = 0
    a.closed_position = 0
    a.closed_entry_bar = 0
    a.closed_entry_ticks = 0
    a.closed_target_ticks = 0
    a.exit_bar = 0
    a.exit_ticks = 0
    a.exit_reason = NO_EXIT
    a.consecutive_losses = 0
    a.recent_wins = 0
    a.n_recent = 0
    a.n_trades = 0
    a.n_wins = 0
    a.bars_exposed = 0
    a.illegal_actions = 0
    a.steps = 0
    a.daily_locked = 0
    a.breached = 0
    a.target_reached = 0


@njit(cache=True)
def draw_training_account(a, starts, p):
    """Begin the account's next training episode: where, and with how much buffer left.

    The start is a golden-ratio step through all start bars from the account's own offset, so one account's sequence is
    spread evenly over sessions and bars, independent of other accounts. Under a trailing rule, a share
    `fresh_account_frac` are new accounts. In the others the peak is uniform on [start, start + target], the buffer
    uniform on [min_buffer_frac, 1] x the trailing amount (balance never above the peak), days left uniform on
    1..expiry.
    """
    where = scaled(mix64(a.key) + a.episode * GOLDEN, np.uint64(len(starts)))
    counter = a.episode * _DRAWS_PER_EPISODE
    balance = p.start_balance_cents
    peak = balance
    days_left = p.expiry_days
    if p.trail_mode != TRAIL_NONE and random_bits(a.key, counter) >> np.uint64(1) >= as_share(p.fresh_account_frac):
        peak += np.int64(scaled(random_bits(a.key, counter + np.uint64(1)), np.uint64(p.target_cents)))
        least = as_share(p.min_buffer_frac)
        share = least + scaled(random_bits(a.key, counter + np.uint64(2)), ONE - least)
        widest = peak - threshold_of(peak, p) if p.trail_mode == TRAIL_STATIC else p.trail_cents
        buffer = np.int64(scaled(share, np.uint64(2 * widest)))  # 2: a share is in units of 2^-63, not 2^-64
        balance = min(peak, threshold_of(peak, p) + max(1, buffer))
        days_left = np.int64(scaled(random_bits(a.key, counter + np.uint64(3)), np.uint64(p.expiry_days)))
        days_left = min(p.expiry_days, 1 + days_left)
    a.episode += np.uint64(1)
    reset_account(a, starts[where], balance, peak, days_left, p)


@njit(cache=True)
def _break_even_stop(a, p):
    """Entry plus round-turn cost, rounded in the position's favor; the entry price already includes entry slippage."""
    cost = 2 * p.commission_cents + p.slippage_ticks * p.tick_value_cents
    ticks = -((-cost) // p.tick_value_cents)
    return a.entry_ticks + ticks if a.position > 0 else a.entry_ticks - ticks


@njit(cache=True)
def write_action_mask(a, prices, flags, p, mask):
    """Fill `mask` (bool[6]) with what is legal at the close of the account's bar."""
    mask[HOLD] = True
    if a.position == 0:
        entry = (flags[a.bar] & ENTRY_ALLOWED) != 0 and a.daily_locked == 0 and contracts_of(a, p) >= 1
        mask[BUY] = entry
        mask[SELL] = entry
        mask[MOVE_TO_BE] = False
        mask[ENABLE_TRAIL] = False
        mask[DISABLE_TRAIL] = False
        return
    sign = 1 if a.position > 0 else -1
    cost = 2 * p.commission_cents + p.slippage_ticks * p.tick_value_cents
    gain = sign * (np.int64(prices[a.bar, CLOSE]) - a.entry_ticks) * p.tick_value_cents
    mask[BUY] = sign < 0
    mask[SELL] = sign > 0
    mask[MOVE_TO_BE] = gain > cost and sign * (a.stop_ticks - _break_even_stop(a, p)) < 0
    mask[ENABLE_TRAIL] = a.trailing == 0
    mask[DISABLE_TRAIL] = a.trailing == 1


@njit(cache=True)
def _clear_position(a):
    a.position = 0
    a.entry_bar = 0
    a.entry_ticks = 0
    a.stop_ticks = 0
    a.target_ticks = 0
    a.risk_ticks = 0
    a.extreme_ticks = 0
    a.mfe_ticks = 0
    a.mae_ticks = 0
    a.bars_in_position = 0
    a.entry_commission_cents = 0
    a.trail_ticks = 0
    a.atr_ticks = np.float32(0.0)
    a.trailing = 0


@njit(cache=True)
def _exit(a, price_ticks, reason, p):
    """Close the position at `price_ticks`, less slippage unless it is the target's limit order; record the trade."""
    sign = 1 if a.position > 0 else -1
    size = abs(a.position)
    if reason != EXIT_TARGET:
        price_ticks = price_ticks - sign * p.slippage_ticks
        a.slippage_paid_cents += p.slippage_ticks * p.tick_value_cents * size
    gross = a.position * (price_ticks - a.entry_ticks) * p.tick_value_cents
    commission = p.commission_cents * size
    net = gross - commission - a.entry_commission_cents
    a.cash_cents += gross - commission
    a.commission_paid_cents += commission
    a.n_trades += 1
    if net > 0:
        a.n_wins += 1
        a.consecutive_losses = 0
    elif net < 0:
        a.consecutive_losses += 1
    a.recent_wins = ((a.recent_wins << 1) | (1 if net > 0 else 0)) & _RECENT_MASK
    a.n_recent = min(N_RECENT_TRADES, a.n_recent + 1)
    a.closed_position = a.position
    a.closed_entry_bar = a.entry_bar
    a.closed_entry_ticks = a.entry_ticks
    a.closed_target_ticks = a.target_ticks
    a.exit_bar = a.bar if reason == EXIT_HOLE else a.bar + 1
    a.exit_ticks = price_ticks
    a.exit_reason = reason
    _clear_position(a)


@njit(cache=True)
def _enter(a, sign, open_ticks, atr_ticks, distances, p):
    """Open a position on the side of `sign` at `open_ticks` plus slippage; these distances are kept until it ends."""
    size = contracts_of(a, p)
    a.position = sign * size
    a.entry_bar = a.bar + 1
    a.entry_ticks = open_ticks + sign * p.slippage_ticks
    a.entry_commission_cents = p.commission_cents * size
    a.cash_cents -= a.entry_commission_cents
    a.commission_paid_cents += a.entry_commission_cents
    a.slippage_paid_cents += p.slippage_ticks * p.tick_value_cents * size
    a.atr_ticks = atr_ticks
    a.risk_ticks = distances[STOP]
    a.trail_ticks = distances[TRAIL]
    a.stop_ticks = a.entry_ticks - sign * a.risk_ticks
    a.target_ticks = a.entry_ticks + sign * distances[TARGET]
    a.extreme_ticks = a.entry_ticks
    a.stop_in_bar_ticks = a.stop_ticks


@njit(cache=True)
def _trail_stop(a, sign):
    a.stop_ticks = sign * max(sign * a.stop_ticks, sign * a.extreme_ticks - a.trail_ticks)


@njit(cache=True)
def _inside_bar(a, open_ticks, high_ticks, low_ticks, p):
    """An open position within a bar: raise the peak, test the nearest adverse level, then the target."""
    sign = 1 if a.position > 0 else -1
    best = sign * (high_ticks if sign > 0 else low_ticks)
    worst = sign * (low_ticks if sign > 0 else high_ticks)
    entry = sign * a.entry_ticks
    target = sign * a.target_ticks
    target_filled = best - target >= p.target_through_ticks
    a.bars_exposed += 1
    if p.trail_mode == TRAIL_LIVE:
        favourable = target if target_filled else best
        a.peak_cents = max(a.peak_cents, equity_cents(a, sign * favourable, p))
        a.threshold_cents = threshold_of(a.peak_cents, p)
    tick_cents = p.tick_value_cents * abs(a.position)
    level = sign * np.int64(a.stop_ticks)
    reason = EXIT_STOP
    if p.daily_limit_cents > 0 and a.daily_locked == 0:
        at_limit = entry + (a.day_start_cents - p.daily_limit_cents - a.cash_cents) // tick_cents
        if at_limit >= level:
            level = at_limit
            reason = EXIT_DAILY_LIMIT
    if p.trail_mode != TRAIL_NONE:
        at_threshold = entry + (a.threshold_cents - a.cash_cents) // tick_cents
        if at_threshold >= level:
            level = at_threshold
            reason = EXIT_BREACH
    if worst <= level:
        _exit(a, sign * min(level, sign * open_ticks), reason, p)
        if reason == EXIT_BREACH:
            a.breached = BREACH_BY_DRAWDOWN
        elif reason == EXIT_DAILY_LIMIT:
            hit_daily_limit(a, p)
    elif target_filled:
        _exit(a, np.int64(a.target_ticks), EXIT_TARGET, p)
    else:
        a.extreme_ticks = sign * max(sign * a.extreme_ticks, best)
        a.mfe_ticks = max(a.mfe_ticks, best - entry)
        a.mae_ticks = max(a.mae_ticks, entry - worst)
        a.bars_in_position += 1
        if a.trailing == 1:
            _trail_stop(a, sign)


@njit(cache=True)
def _order_stop(a, action, sign, p):
    """Apply a stop order before the next bar; `sign` is the position's."""
    if action == MOVE_TO_BE:
        a.stop_ticks = _break_even_stop(a, p)
    elif action == ENABLE_TRAIL:
        a.trailing = 1
        _trail_stop(a, sign)
    elif action == DISABLE_TRAIL:
        a.trailing = 0


@njit(cache=True)
def _at_open(a, action, closing, open_ticks, atr_ticks, distances, is_flat_bar, p):
    """The open of the next bar: gaps through stop and target, then market orders, then the forced exit."""
    if a.position != 0:
        sign = 1 if a.position > 0 else -1
        a.stop_in_bar_ticks = a.stop_ticks
        if sign * (open_ticks - a.stop_ticks) <= 0:
            _exit(a, open_ticks, EXIT_STOP, p)
        elif sign * (open_ticks - a.target_ticks) >= p.target_through_ticks:
            _exit(a, np.int64(a.target_ticks), EXIT_TARGET, p)
        elif closing:
            _exit(a, open_ticks, EXIT_OPPOSITE, p)
        elif is_flat_bar:
            _exit(a, open_ticks, EXIT_FLAT, p)
    elif action in (BUY, SELL) and not is_flat_bar:
        _enter(a, 1 if action == BUY else -1, open_ticks, atr_ticks, distances, p)


@njit(cache=True)
def step_account(a, action, prices, flags, atr_ticks, distances, p, mask):
    """Decide at the close of the account's bar, act from the next one.

    `mask` (bool[6]) holds the actions that are legal now; an illegal action is treated as HOLD and counted. Returns
    (reward float32, ending), where ending is 0, TERMINATED or TRUNCATED.
    """
    t = np.int64(a.bar)
    if action < 0 or action >= N_ACTIONS or not mask[action]:
        action = HOLD
        a.illegal_actions += 1
    equity_before = equity_cents(a, prices[t, CLOSE], p)
    a.steps += 1
    breached_before = a.breached
    broken = (flags[t] & BREAK_AFTER) != 0
    session_over = (flags[t] & END_AFTER) != 0
    closing = False
    if a.position != 0:
        sign = 1 if a.position > 0 else -1
        _order_stop(a, action, sign, p)
        closing = (action == BUY and sign < 0) or (action == SELL and sign > 0)
    if broken:
        mark = np.int64(prices[t, CLOSE])
        if a.position != 0:
            _exit(a, mark, EXIT_HOLE, p)
    else:
        u = t + 1
        open_ticks = np.int64(prices[u, OPEN])
        mark = np.int64(prices[u, CLOSE])
        is_flat_bar = (flags[u] & FLAT_BAR) != 0
        session_over = session_over or is_flat_bar
        _at_open(a, action, closing, open_ticks, atr_ticks[t], distances[t], is_flat_bar, p)
        if a.position != 0:
            _inside_bar(a, open_ticks, np.int64(prices[u, HIGH]), np.int64(prices[u, LOW]), p)
    if a.position == 0:
        settle(a, p)
    reward = np.float64(equity_cents(a, mark, p) - equity_before) / p.reward_scale_cents
    ending = 0
    if a.breached != 0 and breached_before == 0:
        reward -= p.breach_penalty
        ending = TERMINATED
    elif session_over:
        ending = TERMINATED
        end_session(a, p)
    elif p.max_episode_steps > 0 and a.steps >= p.max_episode_steps:
        ending = TRUNCATED
    if not (broken and session_over):
        a.bar = t + 1
    # Rounded before summing, so that the episode sum matches the rewards SB3 saw.
    reward32 = np.float32(reward)
    a.reward_sum += np.float64(reward32)
    return reward32, ending


@njit(cache=True)
def account_side(a, close_ticks):
    """The account's part of a situation: flat, or long/short and winning/losing at this close."""
    if a.position == 0:
        return FLAT
    if a.position > 0:
        return LONG_WINNING if close_ticks > a.entry_ticks else LONG_LOSING
    return SHORT_WINNING if close_ticks < a.entry_ticks else SHORT_LOSING


@njit(cache=True)
def write_opinion(a, close_ticks, situation, advice, mask, obs, at):
    """Six values of `obs` from `at` on: the advice on the account's situation, over what is legal."""
    row = situation[a.bar] * N_SIDES + account_side(a, close_ticks)
    mass = 0.0
    for k in range(N_ACTIONS):
        if mask[k]:
            mass += np.float64(advice[row, k])
    for k in range(N_ACTIONS):
        if mask[k] and mass >= LEGAL_MASS_MIN:
            obs[at + k] = np.float32(max(np.float64(advice[row, k]) / mass, LEGAL_FLOOR))
        else:
            obs[at + k] = np.float32(0.0)


@njit(cache=True)
def write_account(a, close_ticks, equity, flags, p, obs, at):
    """The account slice, eight values of `obs` from `at` on; `equity` in cents, float64."""
    sign = 0
    if a.position != 0:
        sign = 1 if a.position > 0 else -1
    atr = max(np.float64(a.atr_ticks), 1e-9)
    obs[at] = sign
    obs[at + 1] = _clip(sign * (close_ticks - a.stop_ticks) / atr, -5.0, 5.0)
    obs[at + 2] = _clip(sign * (a.target_ticks - close_ticks) / atr, -5.0, 5.0)
    obs[at + 3] = min(a.bars_in_position / 20.0, 5.0)
    obs[at + 4] = a.trailing
    entry = (flags[a.bar] & ENTRY_ALLOWED) != 0 and a.daily_locked == 0 and contracts_of(a, p) >= 1
    obs[at + 5] = size_share(a, p) if entry else 0.0
    obs[at + 6] = 1.0
    if p.trail_mode != TRAIL_NONE:
        obs[at + 6] = _clip((equity - a.threshold_cents) / p.trail_cents, 0.0, 5.0)
    obs[at + 7] = day_room(a, equity, p)


@njit(cache=True)
def write_risk(a, close_ticks, equity, p, obs, at):
    """The risk slice, five values of `obs` from `at` on."""
    obs[at] = 0.0
    obs[at + 4] = 0.0
    if a.position != 0:
        sign = 1 if a.position > 0 else -1
        obs[at] = _clip(sign * (close_ticks - a.entry_ticks) / a.risk_ticks, -5.0, 5.0)
        obs[at + 4] = _clip((a.mfe_ticks - a.mae_ticks) / a.risk_ticks, -5.0, 5.0)
    obs[at + 1] = _clip(drawdown_frac(a, equity, p), 0.0, 5.0)
    obs[at + 2] = min(a.consecutive_losses, 5) / 5.0
    obs[at + 3] = win_rate(a)


@njit(cache=True)
def write_observation(a, prices, flags, window_flat, context, situation, advice, p, mask, obs, with_tables):
    """Fill `obs` (float32[261]) at the close of the account's bar; `window_flat` is the window table as one row.

    Without `with_tables` the context and opinion slices are not written; the caller fills them.
    """
    # Unsigned indices: with signed ones numba checks wrap-around at every element (130 ns vs. 45 ns per window).
    first = np.int64(a.bar) - _LOOKBACK
    start = 0
    if first < 0:
        start = -first * _ROW
        for k in range(min(start, _WINDOW_LEN)):
            obs[k] = np.float32(0.0)
        first = 0
    offset = np.uint64(first * _ROW)
    for k in range(np.uint64(_WINDOW_LEN - start)):
        obs[np.uint64(start) + k] = window_flat[offset + k]
    close_ticks = np.int64(prices[a.bar, CLOSE])
    equity = np.float64(equity_cents(a, close_ticks, p))
    write_account(a, close_ticks, equity, flags, p, obs, _ACCOUNT_AT)
    write_risk(a, close_ticks, equity, p, obs, _RISK_AT)
    if with_tables:
        for k in range(N_CONTEXT_FEATURES):
            obs[_CONTEXT_AT + k] = context[a.bar, k]
        write_opinion(a, close_ticks, situation, advice, mask, obs, _OPINION_AT)


@njit(cache=True)
def observe_batch(tape, params, accounts, masks, obs, with_tables):
    """Current masks (bool[n, 6]) and observations (float32[n, 261]) of every account."""
    p = params[0]
    prices, flags, _, window_flat, context, situation, advice, _ = tape
    for i in range(len(accounts)):
        write_action_mask(accounts[i], prices, flags, p, masks[i])
        write_observation(
            accounts[i], prices, flags, window_flat, context, situation, advice, p, masks[i], obs[i], with_tables
        )


@njit(cache=True)
def reset_batch(accounts, starts, params):
    """Begin the next training episode of every account."""
    for i in range(len(accounts)):
        draw_training_account(accounts[i], starts, params[0])


@njit(cache=True)
def step_batch(tape, params, block, actions, obs, rewards):
    """Step every account and begin the next episode of those that ended.

    `tape` is `Tape.arrays`, `block` is `AccountBlock.arrays`: plain tuples. Named ones make a step of 32 16% slower.

    Shapes: actions int64[n]; obs float32[n, 261]; rewards float32[n]. Of the block: masks bool[n, 6] (read, then
    overwritten); endings uint8[n]. For an account that ended, row i of `last_accounts`, `last_obs` and `last_masks`
    holds its state before the reset. Returns how many ended.
    """
    p = params[0]
    prices, flags, atr_ticks, window_flat, context, situation, advice, starts = tape
    accounts, masks, endings, last_accounts, last_obs, last_masks, distances = block
    ended = 0
    for i in range(len(accounts)):
        a = accounts[i]
        reward, ending = step_account(a, actions[i], prices, flags, atr_ticks, distances, p, masks[i])
        rewards[i] = reward
        endings[i] = ending
        if ending != 0:
            ended += 1
            write_action_mask(a, prices, flags, p, last_masks[i])
            write_observation(
                a, prices, flags, window_flat, context, situation, advice, p, last_masks[i], last_obs[i], True
            )
            last_accounts[i] = accounts[i]
            draw_training_account(a, starts, p)
        write_action_mask(a, prices, flags, p, masks[i])
        write_observation(a, prices, flags, window_flat, context, situation, advice, p, masks[i], obs[i], True)
    return ended


@njit(cache=True)
def step_sessions(tape, params, accounts, masks, over, distances, actions, rewards):
    """Step every account that is not `over` (bool[n], updated); episodes do not restart. Masks are only read."""
    p = params[0]
    prices, flags, atr_ticks = tape[0], tape[1], tape[2]
    for i in range(len(accounts)):
        rewards[i] = 0.0
        if not over[i]:
            reward, ending = step_account(accounts[i], actions[i], prices, flags, atr_ticks, distances, p, masks[i])
            rewards[i] = reward
            over[i] = ending != 0


@njit(cache=True)
def equities_of(accounts, prices, params):
    """Balance plus the open position at the last close, int64[n] cents."""
    out = np.empty(len(accounts), np.int64)
    for i in range(len(accounts)):
        out[i] = equity_cents(accounts[i], prices[accounts[i].bar, CLOSE], params[0])
    return out


@njit(cache=True)
def situations_of(accounts, prices, situation):
    """Market situation and account side as one number, int64[n]."""
    out = np.empty(len(accounts), np.int64)
    for i in range(len(accounts)):
        a = accounts[i]
        out[i] = np.int64(situation[a.bar]) * N_SIDES + account_side(a, prices[a.bar, CLOSE])
    return out


@njit(cache=True)
def risks_of(accounts, prices, params):
    """Share of the drawdown buffer used (below 0 at a new high) and recent win rate, float64[n, 2]."""
    out = np.empty((len(accounts), 2), np.float64)
    for i in range(len(accounts)):
        a = accounts[i]
        out[i, 0] = drawdown_frac(a, np.float64(equity_cents(a, prices[a.bar, CLOSE], params[0])), params[0])
        out[i, 1] = win_rate(a)
    return out
