"""One account of a member among many, compiled: the functions of `kernel.py` over concatenated tables.

The CPU calls the functions named `..._members`; `cuda.py` compiles `step_one`, `begin_one` and `observe_one` for a GPU,
one thread an account, so both run the same code.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from src.trading.kernel import (
    draw_training_account,
    equity_cents,
    step_account,
    write_account,
    write_action_mask,
    write_opinion,
    write_risk,
)
from src.trading.layout import (
    ACCOUNT_RISK,
    ACCOUNT_STATE,
    CLOSE,
    N_ACTIONS,
    N_CONTEXT_FEATURES,
    N_WINDOW_FEATURES,
    WINDOW,
    WINDOW_BARS,
)

PADDING = WINDOW_BARS - 1
"""Rows of zeros before the bars of each market, so that every window of 20 rows exists."""
N_OWN_ACCOUNT = ACCOUNT_STATE.stop - ACCOUNT_STATE.start
N_OWN_RISK = ACCOUNT_RISK.stop - ACCOUNT_RISK.start
N_OWN = N_OWN_ACCOUNT + N_OWN_RISK + N_ACTIONS
"""What an observation has of the account itself: the account, risk and opinion slices, in this order."""

_RISK_AT = N_OWN_ACCOUNT
_OPINION_AT = N_OWN_ACCOUNT + N_OWN_RISK
_WINDOW_LEN = WINDOW.stop
_CONTEXT_AT = ACCOUNT_STATE.stop
_OBS_RISK_AT = ACCOUNT_RISK.start

MEMBER = np.dtype(
    [
        ("row", np.int64),  # its market's first bar in the tables
        ("end", np.int64),
        ("advice_row", np.int64),
        ("advice_end", np.int64),
        ("starts_row", np.int64),
        ("starts_end", np.int64),
        ("distances_row", np.int64),
    ],
    align=True,
)
"""Where a member's part of the concatenated tables is. The tables are, in order: prices, flags, situation, atr_ticks
(`row` to `end` of each), advice, starts, distances."""


@njit(cache=True)
def observe_one(a, where, tables, p, mask, own):
    """Fill `mask` (bool[6]) and `own` (float32[19]) of one account; returns its row of the tables."""
    prices, flags, situation, _, advice, _, _ = tables
    prices, flags = prices[where.row : where.end], flags[where.row : where.end]
    write_action_mask(a, prices, flags, p, mask)
    close_ticks = np.int64(prices[a.bar, CLOSE])
    equity = np.float64(equity_cents(a, close_ticks, p))
    write_account(a, close_ticks, equity, flags, p, own, 0)
    write_risk(a, close_ticks, equity, p, own, _RISK_AT)
    situation, advice = situation[where.row : where.end], advice[where.advice_row : where.advice_end]
    write_opinion(a, close_ticks, situation, advice, mask, own, _OPINION_AT)
    return where.row + a.bar


@njit(cache=True)
def begin_one(a, where, tables, p):
    """Begin the account's next training episode."""
    draw_training_account(a, tables[5][where.starts_row : where.starts_end], p)


@njit(cache=True)
def step_one(k, action, where, tables, p, now, last):
    """Step account `k`, begin its next episode if it ended, and observe it.

    `now` is (accounts, bars, own, masks, rewards, endings), `last` (accounts, bars, own, masks) of accounts that ended.
    """
    accounts, bars, own, masks, rewards, endings = now
    last_accounts, last_bars, last_own, last_masks = last
    prices, flags = tables[0][where.row : where.end], tables[1][where.row : where.end]
    atr_ticks = tables[3][where.row : where.end]
    distances = tables[6][where.distances_row : where.distances_row + where.end - where.row]
    a = accounts[k]
    reward, ending = step_account(a, action, prices, flags, atr_ticks, distances, p, masks[k])
    rewards[k] = reward
    endings[k] = ending
    if ending != 0:
        last_bars[k] = observe_one(a, where, tables, p, last_masks[k], last_own[k])
        last_accounts[k] = accounts[k]
        begin_one(a, where, tables, p)
    bars[k] = observe_one(a, where, tables, p, masks[k], own[k])


@njit(cache=True, nogil=True)
def step_members(n_envs, actions, members, tables, params, now, last):
    """Step all accounts; account k is one of member k // n_envs."""
    for k in range(len(actions)):
        m = k // n_envs
        step_one(k, actions[k], members[m], tables, params[m], now, last)


@njit(cache=True, nogil=True)
def observe_members(n_envs, members, tables, params, now):
    """Fill bars, own values and masks of all accounts from their records."""
    accounts, bars, own, masks, _, _ = now
    for k in range(len(accounts)):
        m = k // n_envs
        bars[k] = observe_one(accounts[k], members[m], tables, params[m], masks[k], own[k])


@njit(cache=True, nogil=True)
def begin_members(n_envs, chosen, members, tables, params, accounts):
    """Begin the next training episode of the accounts of the members that are `chosen`, bool[members]."""
    for k in range(len(accounts)):
        m = k // n_envs
        if chosen[m]:
            begin_one(accounts[k], members[m], tables, params[m])


@njit(cache=True)
def expand_one(row, own, window_flat, context, out):
    """The whole observation, float32[261], from a row of the tables and the account's own values."""
    # Unsigned indices: with signed ones numba checks wrap-around at every element.
    offset = np.uint64((row - PADDING) * N_WINDOW_FEATURES)
    for k in range(np.uint64(_WINDOW_LEN)):
        out[k] = window_flat[offset + k]
    for k in range(N_OWN_ACCOUNT):
        out[_WINDOW_LEN + k] = own[k]
    for k in range(N_CONTEXT_FEATURES):
        out[_CONTEXT_AT + k] = context[row, k]
    for k in range(N_OWN_RISK + N_ACTIONS):
        out[_OBS_RISK_AT + k] = own[N_OWN_ACCOUNT + k]


@njit(cache=True, nogil=True)
def expand_all(rows, own, window_flat, context, out):
    """`expand_one` for rows int64[k], own float32[k, 19] and out float32[k, 261]."""
    for i in range(len(rows)):
        expand_one(rows[i], own[i], window_flat, context, out[i])


@njit(cache=True)
def write_element(row, column, own, window_flat, context, out):
    """One value of the whole observation, as `expand_one` writes it."""
    if column < _WINDOW_LEN:
        out[column] = window_flat[(row - PADDING) * N_WINDOW_FEATURES + column]
    elif column < _CONTEXT_AT:
        out[column] = own[column - _WINDOW_LEN]
    elif column < _OBS_RISK_AT:
        out[column] = context[row, column - _CONTEXT_AT]
    else:
        out[column] = own[column - _OBS_RISK_AT + N_OWN_ACCOUNT]
