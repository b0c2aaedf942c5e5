"""A trained policy's decisions, compiled: its networks' sums in a fixed order of a row's own numbers.

A row's result does not depend on the rows beside it, as it does in a library's product of matrices. So a batch may be
cut and joined as is fastest, and finished accounts need no computing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from torch import nn

from src.agent.learner.coverage import ACTIVATIONS, why_no_plain_networks
from src.agent.learner.kernels import add_bias_relu, add_bias_tanh
from src.agent.policy import LOG_P_MIN, FlattenWithoutOpinion
from src.trading.layout import (
    ACCOUNT_RISK,
    ACCOUNT_STATE,
    CONTEXT,
    N_ACTIONS,
    N_CONTEXT_FEATURES,
    N_OBS,
    OPINION,
    WINDOW,
)

TILE = 32
"""Rows that go through all layers together, two at a time."""
_BLOCK = 64
"""Inputs of a layer whose weights are read for a whole tile: they stay in the first-level cache."""
_LANES = 16
"""Widths are filled with zeros to a multiple of it: loops without a rest."""

KEPT_BYTES = 32 << 20
"""Memory for what is kept of bars, 16,000 bars with the default networks."""

NOT_FINITE = "The policy's output is not finite, so no action can be chosen from it."

IS_RELU, N_LAYERS, WIDEST, LAYERS = range(4)
"""Places in `shape`; from LAYERS on the inputs, outputs and start of each layer, its weights [inputs, outputs] before
its biases."""
_FACTS = 3


def _padded(width: int) -> int:
    return width + -width % _LANES


N_MARKET = WINDOW.stop + N_CONTEXT_FEATURES + -(WINDOW.stop + N_CONTEXT_FEATURES) % 4
"""Inputs of the first layer that the bar alone decides (filled up to a multiple of four); the account's follow."""
N_OWN = 8 + 5 + N_ACTIONS
N_INPUTS = _padded(N_MARKET + N_OWN)
COLUMNS = np.r_[WINDOW, CONTEXT, ACCOUNT_STATE, ACCOUNT_RISK, OPINION]
"""Columns of an observation in the order of the inputs."""
PLACES = np.r_[0 : N_MARKET - (-(WINDOW.stop + N_CONTEXT_FEATURES) % 4), N_MARKET : N_MARKET + N_OWN]
"""The input that reads each of them."""


class Decider:
    """The decisions of a policy with the weights it has now; `why_not` tells for which policies there is none."""

    def __init__(self, policy: Any) -> None:
        layers = [*(part for part in policy.mlp_extractor.policy_net if isinstance(part, nn.Linear)), policy.action_net]
        weights, facts, start, inputs = [], [], 0, N_INPUTS
        for level, layer in enumerate(layers):
            given = layer.weight.detach().cpu().numpy()
            if level == 0:
                given = _by_input(given, blank=type(policy.features_extractor) is FlattenWithoutOpinion)
            outputs = _padded(len(given))
            weight, bias = np.zeros((inputs, outputs), np.float32), np.zeros(outputs, np.float32)
            weight[: given.shape[1], : len(given)] = given.T
            bias[: len(given)] = layer.bias.detach().cpu().numpy()
            weights += [weight.ravel(), bias]
            facts += [inputs, outputs, start]
            start += weight.size + bias.size
            inputs = outputs
        relu = ACTIVATIONS[policy.activation_fn] == "relu"
        widest = max(N_INPUTS, *facts[1::_FACTS])
        self._kept = nothing_kept(0, 0)
        self.weights: NDArray[np.float32] = np.concatenate(weights)
        self.shape: NDArray[np.int64] = np.array([int(relu), len(layers), widest, *facts], np.int64)

    @property
    def units(self) -> int:
        """Outputs of the first layer, filled up."""
        return int(self.shape[LAYERS + 1])

    def keep_bars(self, n_bars: int) -> None:
        """From now on keep the part of the first layer's sums that the bar alone decides: worth its memory where
        sessions of a tape of `n_bars` are played several times."""
        if len(self._kept[2]) != n_bars:
            self._kept = nothing_kept(n_bars, min(n_bars, KEPT_BYTES // (4 * (self.units + N_MARKET))), self.units)

    def logits(
        self, observations: NDArray[np.float32], over: NDArray[np.bool_], bars: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """The networks' logits, float64[n, 6], of observations float32[n, 261] at these bars, int32[n]; zeros where a
        row is `over`. Raises ValueError where one is not finite."""
        logits = np.zeros((len(over), N_ACTIONS))
        if not logits_of(observations, over, bars, self._kept, self.weights, self.shape, logits):
            raise ValueError(NOT_FINITE)
        return logits


def nothing_kept(n_bars: int, capacity: int, units: int = 1) -> tuple[NDArray[Any], ...]:
    """Room for sums and inputs of so many bars, where each bar's are (-1: nowhere), and how many there are."""
    sums, inputs = np.empty((capacity, units), np.float32), np.empty((capacity, N_MARKET), np.float32)
    return sums, inputs, np.full(n_bars, -1, np.int32), np.zeros(1, np.int64)


def decider_of(policy: Any) -> Decider | None:
    """The decisions of a policy; None where its own code must decide."""
    return None if why_not(policy) else Decider(policy)


def likeliest(
    logits: NDArray[np.float64], opinions: NDArray[np.float32], llm_weight: float, masks: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The likeliest legal action of each row, int64[n], the opinions pooled with this weight; the first of equals."""
    actions = np.empty(len(logits), np.int64)
    choose(logits, opinions, llm_weight, masks, actions)
    return actions


def masked_shares(
    logits: NDArray[np.float64], opinions: NDArray[np.float32], llm_weight: float, masks: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The masked distribution of each row, float32[n, 6], the opinions pooled with this weight."""
    probabilities = np.empty((len(logits), N_ACTIONS), np.float32)
    shares(logits, opinions, llm_weight, masks, probabilities)
    return probabilities


def _by_input(weight: NDArray[np.float32], *, blank: bool) -> NDArray[np.float32]:
    """The first layer's weights [outputs, columns] as [outputs, inputs]; `blank`: those of the opinion are zero."""
    ordered = np.zeros((len(weight), N_INPUTS), np.float32)
    ordered[:, PLACES] = weight[:, COLUMNS]
    if blank:
        ordered[:, N_MARKET + N_OWN - N_ACTIONS :] = 0.0
    return ordered


def why_not(policy: Any) -> str | None:
    """Why a policy's own code must decide, in a few words; None where a `Decider` can."""
    if (reason := why_no_plain_networks(policy)) is not None:
        return reason
    if policy.observation_space.shape != (N_OBS,) or getattr(policy.action_space, "n", 0) != N_ACTIONS:
        return "it decides something else"
    replaced = {"get_distribution", "forward", "extract_features"} & set(vars(policy))
    return f"its method {min(replaced)} is replaced" if replaced else None


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _add_two(x0, x1, weight, begin, end, out0, out1):
    """out += x @ weight of two rows, over the inputs begin ... end - 1, whose number is a multiple of four."""
    units = weight.shape[1]
    for k in range(begin, end, 4):
        a0, b0, c0, d0 = x0[k], x0[k + 1], x0[k + 2], x0[k + 3]
        a1, b1, c1, d1 = x1[k], x1[k + 1], x1[k + 2], x1[k + 3]
        wa, wb, wc, wd = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        for j in range(units):
            a, b, c, d = wa[j], wb[j], wc[j], wd[j]
            out0[j] = out0[j] + a0 * a + b0 * b + c0 * c + d0 * d
            out1[j] = out1[j] + a1 * a + b1 * b + c1 * c + d1 * d


@njit(cache=True, error_model="numpy")
def add_product(x, weight, begin, end, rows, out):
    """out += x[:, begin:end] @ weight[begin:end] of the first `rows` rows (an even number), each row's own products in
    the order of its inputs."""
    for low in range(begin, end, _BLOCK):
        high = min(end, low + _BLOCK)
        for i in range(0, rows, 2):
            _add_two(x[i], x[i + 1], weight, low, high, out[i], out[i + 1])


@njit(cache=True, error_model="numpy")
def layer_of(weights, shape, level):
    """Weights [inputs, outputs] and biases of a layer."""
    at = LAYERS + _FACTS * level
    inputs, outputs, start = shape[at], shape[at + 1], shape[at + 2]
    stop = start + inputs * outputs
    return weights[start:stop].reshape(inputs, outputs), weights[stop : stop + outputs]


@njit(cache=True, error_model="numpy")
def upper_layers(sums, weights, shape, rows, other):
    """The last layer's outputs, from the first layer's sums without bias in flat `sums`; both arrays hold a tile of the
    widest layer. Returns the flat array that holds them, and their padded number."""
    here, there = sums, other
    _, bias = layer_of(weights, shape, 0)
    for level in range(1, shape[N_LAYERS]):
        weight, next_bias = layer_of(weights, shape, level)
        inputs, outputs = weight.shape
        h = here[: TILE * inputs].reshape(TILE, inputs)
        if shape[IS_RELU] == 1:
            add_bias_relu(h[:rows], bias)
        else:
            add_bias_tanh(h[:rows], bias)
        out = there[: TILE * outputs].reshape(TILE, outputs)
        out[:rows] = np.float32(0.0)
        add_product(h, weight, 0, inputs, rows, out)
        here, there, bias = there, here, next_bias
    return here, bias


@njit(cache=True)
def _is_known(kept, bar, x):
    """Where a bar's sums are kept, if it was with the same inputs; else -1."""
    _, inputs, places, _ = kept
    if len(places) == 0:
        return -1
    place = places[bar]
    if place < 0:
        return -1
    known, unlike = inputs[place], False
    for k in range(N_MARKET):
        unlike |= known[k] != x[k]
    return -1 if unlike else place


@njit(cache=True)
def _keep(kept, bar, x, sums_of_bar):
    sums, inputs, places, used = kept
    if len(places) == 0 or places[bar] >= 0 or used[0] >= len(sums):
        return
    sums[used[0]] = sums_of_bar
    inputs[used[0]] = x[:N_MARKET]
    places[bar] = used[0]
    used[0] += 1


@njit(cache=True, error_model="numpy", nogil=True)
def logits_of(observations, over, bars, kept, weights, shape, logits):
    """Fill `logits` float64[n, 6] of the rows that are not `over`; returns whether all are finite. `kept` are sums,
    inputs and places of bars, and how many there are; without places none is kept."""
    finite = True
    widest = shape[WIDEST]
    market, own = np.zeros((TILE, N_MARKET), np.float32), np.zeros((TILE, N_INPUTS), np.float32)
    one, other = np.empty(TILE * widest, np.float32), np.empty(TILE * widest, np.float32)
    chosen, missing = np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    weight, _ = layer_of(weights, shape, 0)
    units = weight.shape[1]
    first, sums = one[: TILE * units].reshape(TILE, units), np.empty((TILE, units), np.float32)
    at = 0
    while at < len(over):
        rows, n = 0, 0
        while at < len(over) and rows < TILE:
            if not over[at]:
                chosen[rows] = at
                for k in range(N_OBS - N_OWN):
                    market[n, k] = observations[at, COLUMNS[k]]
                for k in range(N_OWN):
                    own[rows, N_MARKET + k] = observations[at, COLUMNS[N_OBS - N_OWN + k]]
                place = _is_known(kept, bars[at], market[n])
                if place >= 0:
                    first[rows] = kept[0][place]
                else:
                    missing[n] = rows
                    n += 1
                rows += 1
            at += 1
        even = n + n % 2
        sums[:even] = np.float32(0.0)
        add_product(market, weight, 0, N_MARKET, even, sums)
        for k in range(n):
            first[missing[k]] = sums[k]
            _keep(kept, bars[chosen[missing[k]]], market[k], sums[k])
        even = rows + rows % 2
        add_product(own, weight, N_MARKET, N_INPUTS, even, first)
        last, bias = upper_layers(one, weights, shape, even, other)
        n_padded = len(bias)
        for i in range(rows):
            for k in range(N_ACTIONS):
                logits[chosen[i], k] = np.float64(last[i * n_padded + k]) + np.float64(bias[k])
                finite = finite and math.isfinite(logits[chosen[i], k])
    return finite


@njit(cache=True, error_model="numpy")
def _pool(opinion, weight, term):
    """`policy.opinion_pool` of a row, in float64 from the opinion's float32 values."""
    total, legal = 0.0, 0
    for k in range(N_ACTIONS):
        term[k] = -0.0
        if opinion[k] > 0:
            legal += 1
            total += min(max(np.log(np.float64(opinion[k])), LOG_P_MIN), 0.0)
    if legal == 0 or weight == 0.0:
        return
    mean = total / legal
    for k in range(N_ACTIONS):
        if opinion[k] > 0:
            term[k] = weight * (min(max(np.log(np.float64(opinion[k])), LOG_P_MIN), 0.0) - mean)


@njit(cache=True, error_model="numpy")
def choose_one(logits, opinion, weight, mask, term):
    """The likeliest legal action of a row, the first of equals; `term` float64[6] is scratch."""
    _pool(opinion, weight, term)
    best, chosen = -np.inf, 0
    for k in range(N_ACTIONS):
        if mask[k] and logits[k] + term[k] > best:
            best, chosen = logits[k] + term[k], k
    return chosen


@njit(cache=True, error_model="numpy", nogil=True)
def choose(logits, opinions, weight, masks, actions):
    """The likeliest legal action of every row, int64[n]."""
    term = np.empty(N_ACTIONS)
    for i in range(len(actions)):
        actions[i] = choose_one(logits[i], opinions[i], weight, masks[i], term)


@njit(cache=True, error_model="numpy", nogil=True)
def shares(logits, opinions, weight, masks, probabilities):
    """The masked distribution of every row, float32[n, 6]."""
    term = np.empty(N_ACTIONS)
    for i in range(len(logits)):
        _pool(opinions[i], weight, term)
        best, total = -np.inf, 0.0
        for k in range(N_ACTIONS):
            if masks[i, k]:
                best = max(best, logits[i, k] + term[k])
        for k in range(N_ACTIONS):
            term[k] = np.exp(logits[i, k] + term[k] - best) if masks[i, k] else 0.0
            total += term[k]
        for k in range(N_ACTIONS):
            probabilities[i, k] = np.float32(term[k] / total)
