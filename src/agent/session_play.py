"""A trained policy playing whole sessions in one compiled call, to the bit as step by step.

Most of an observation depends on the bar alone. Its part of the first layer's sums is computed once a bar and kept:
simulated attempts come back to the same bars hundreds of times.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from src.agent.deciding import (
    COLUMNS,
    N_INPUTS,
    N_MARKET,
    N_OWN,
    NOT_FINITE,
    TILE,
    WIDEST,
    Decider,
    add_product,
    choose_one,
    layer_of,
    likeliest,
    logits_of,
    masked_shares,
    nothing_kept,
    upper_layers,
)
from src.trading.account_rules import has_passed
from src.trading.kernel import (
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
    N_OBS,
    N_WINDOW_FEATURES,
    OPINION,
    WINDOW,
    WINDOW_BARS,
)
from src.trading.session_batch import SessionBatch

TABLE_BYTES = 32 << 20
"""Memory for bars' sums, 32,768 bars with the default networks: more bars are computed at every visit."""
NO_GOAL = np.iinfo(np.int64).max

_OWN_COLUMNS = COLUMNS[-N_OWN:]
_WINDOW_LEN = WINDOW.stop
_ACCOUNT_AT, _RISK_AT, _OPINION_AT = ACCOUNT_STATE.start, ACCOUNT_RISK.start, OPINION.start


class SessionPlayer:
    """Plays sessions of batches on one tape with one policy's decisions; `sees_advice`: it hears the tape's advice."""

    def __init__(self, decider: Decider, n_bars: int, *, sees_advice: bool, llm_weight: float) -> None:
        self._decider = decider
        self._sees_advice, self._llm_weight = sees_advice, llm_weight
        units = decider.units
        capacity = min(n_bars, TABLE_BYTES // (4 * units))
        self._sums = np.empty((capacity, units), np.float32)
        self._places = np.full(n_bars, -1, np.int32)
        self._used = np.zeros(1, np.int64)

    def play(self, batch: SessionBatch, goal_cents: int = NO_GOAL) -> NDArray[np.bool_]:
        """Play the sessions of a batch that has begun to their end; an account that is flat with `goal_cents` or more,
        and that its rules let pass, stops. Returns which did, bool[n]. Raises ValueError where the policy's output is
        not finite."""
        reached = np.zeros(batch.n, np.bool_)
        finite = play_to_the_end(
            batch.arrays, (self._decider.weights, self._decider.shape), (self._sums, self._places, self._used),
            self._sees_advice, self._llm_weight, goal_cents, reached,
        )  # fmt: skip
        if not finite:
            raise ValueError(NOT_FINITE)
        return reached


def load_decisions(batch: SessionBatch, first_bar: int) -> None:
    """Call every kernel of decisions and of a batch of sessions on the session that begins at this bar, so that they
    are compiled, or read from numba's cache."""
    batch.begin([first_bar])
    batch.step(np.zeros(1, np.int64))
    batch.equities_cents(), batch.situations(), batch.risks()
    n, units = 1, 16
    shape = np.array([0, 1, N_INPUTS, N_INPUTS, units, 0], np.int64)
    weights = np.zeros(N_INPUTS * units + units, np.float32)
    logits_of(batch.obs, batch.over, batch.bars(), nothing_kept(0, 0), weights, shape, np.zeros((n, N_ACTIONS)))
    opinions, logits = batch.obs[:, OPINION], np.zeros((n, N_ACTIONS))
    masked_shares(logits, opinions, 0.0, batch.masks), likeliest(logits, opinions, 0.0, batch.masks)
    kept = np.zeros((1, units), np.float32), np.zeros(1, np.int32), np.zeros(1, np.int64)
    batch.over[:] = True
    play_to_the_end(batch.arrays, (weights, shape), kept, False, 0.0, NO_GOAL, np.zeros(n, np.bool_))


@njit(cache=True)
def _write_market(bar, window_flat, context, x):
    """Inputs of the first layer that this bar decides, as `kernel.write_observation` fills their columns."""
    first = bar - (WINDOW_BARS - 1)
    start = 0
    if first < 0:
        start = min(-first * N_WINDOW_FEATURES, _WINDOW_LEN)
        x[:start] = np.float32(0.0)
        first = 0
    offset = first * N_WINDOW_FEATURES
    for k in range(_WINDOW_LEN - start):
        x[start + k] = window_flat[offset + k]
    for k in range(N_CONTEXT_FEATURES):
        x[_WINDOW_LEN + k] = context[bar, k]


@njit(cache=True, error_model="numpy")
def _market_sums(bars, rows, window_flat, context, weight, kept, x, scratch, first):
    """Fill `first` [rows, units] with what the bars add to the first layer's sums; unknown bars' are kept while there
    is room."""
    sums, places, used = kept
    missing = np.empty(TILE, np.int64)
    n = 0
    for i in range(rows):
        place = places[bars[i]]
        if place >= 0:
            first[i] = sums[place]
        else:
            _write_market(bars[i], window_flat, context, x[n])
            missing[n] = i
            n += 1
    if n == 0:
        return
    even = n + n % 2
    scratch[:even] = np.float32(0.0)
    add_product(x, weight, 0, N_MARKET, even, scratch)
    for k in range(n):
        i = missing[k]
        first[i] = scratch[k]
        if places[bars[i]] < 0 and used[0] < len(sums):
            sums[used[0]] = scratch[k]
            places[bars[i]] = used[0]
            used[0] += 1


@njit(cache=True, error_model="numpy", nogil=True)
def play_to_the_end(batch, network, kept, sees_advice, llm_weight, goal_cents, reached):
    """Play every session that is not over to its end. `batch` is `SessionBatch.arrays`, `network` weights and shape of
    a `Decider`. Returns False, in the middle of the sessions, where a logit is not finite."""
    tape, params, accounts, masks, over, distances = batch
    prices, flags, atr_ticks, window_flat, context, situation, advice, _ = tape
    weights, shape = network
    p = params[0]
    weight, _ = layer_of(weights, shape, 0)
    units = weight.shape[1]
    widest = shape[WIDEST]
    market, own = np.zeros((TILE, N_INPUTS), np.float32), np.zeros((TILE, N_INPUTS), np.float32)
    one, other = np.empty(TILE * widest, np.float32), np.empty(TILE * widest, np.float32)
    first, scratch = one[: TILE * units].reshape(TILE, units), np.empty((TILE, units), np.float32)
    obs, logits, term = np.zeros(N_OBS, np.float32), np.empty(N_ACTIONS), np.empty(N_ACTIONS)
    at_play, bars = np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    rows, coming = 0, 0
    while True:
        while rows < TILE and coming < len(accounts):
            a = accounts[coming]
            reached[coming] = has_passed(a, goal_cents, p)
            over[coming] = over[coming] or reached[coming]
            if not over[coming]:
                at_play[rows] = coming
                rows += 1
            coming += 1
        if rows == 0:
            break
        for i in range(rows):
            at = at_play[i]
            a = accounts[at]
            bars[i] = a.bar
            write_action_mask(a, prices, flags, p, masks[at])
            close_ticks = np.int64(prices[a.bar, CLOSE])
            equity = np.float64(equity_cents(a, close_ticks, p))
            write_account(a, close_ticks, equity, flags, p, obs, _ACCOUNT_AT)
            write_risk(a, close_ticks, equity, p, obs, _RISK_AT)
            if sees_advice:
                write_opinion(a, close_ticks, situation, advice, masks[at], obs, _OPINION_AT)
            for k in range(N_OWN):
                own[i, N_MARKET + k] = obs[_OWN_COLUMNS[k]]
        even = rows + rows % 2
        _market_sums(bars, rows, window_flat, context, weight, kept, market, scratch, first)
        add_product(own, weight, N_MARKET, N_INPUTS, even, first)
        last, bias = upper_layers(one, weights, shape, even, other)
        n_padded = len(bias)
        left = 0
        for i in range(rows):
            at = at_play[i]
            a = accounts[at]
            for k in range(N_ACTIONS):
                logits[k] = np.float64(last[i * n_padded + k]) + np.float64(bias[k])
                if not math.isfinite(logits[k]):
                    return False
            opinion = own[i, N_MARKET + N_OWN - N_ACTIONS : N_MARKET + N_OWN]
            action = choose_one(logits, opinion, llm_weight, masks[at], term)
            _, ending = step_account(a, action, prices, flags, atr_ticks, distances, p, masks[at])
            reached[at] = has_passed(a, goal_cents, p)
            over[at] = ending != 0 or reached[at]
            if not over[at]:
                at_play[left] = at
                left += 1
        rows = left
    return True
