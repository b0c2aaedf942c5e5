"""Compiled parts of the fused learner: everything in its networks and its optimizer but the matrix products.

All arrays are C-contiguous float32 unless said otherwise; `h` holds a layer's outputs, `d` the loss's derivative by
them, both [rows, units]. A NaN stays a NaN in every kernel: the check for divergence reads the results.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

F = np.float32
CONTRACT = {"contract", "nsz"}
"""Multiply-adds in one rounding; nothing that assumes finite numbers."""

# tanh(x) = x P(x^2) / Q(x^2) up to |x| = 7.905, where float32's tanh is 1: the coefficients of Eigen's
# ptanh_float (MPL 2.0), absolute error 3e-7.
_BOUND = F(7.90531110763549805)
_P0, _P1, _P2 = F(4.89352455891786e-03), F(6.37261928875436e-04), F(1.48572235717979e-05)
_P3, _P4 = F(5.12229709037114e-08), F(-8.60467152213735e-11)
_P5, _P6 = F(2.00018790482477e-13), F(-2.76076847742355e-16)
_Q0, _Q1 = F(4.89352518554385e-03), F(2.26843463243900e-03)
_Q2, _Q3 = F(1.18534705686654e-04), F(1.19825839466702e-06)
_ONE, _ZERO = F(1.0), F(0.0)


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def add_bias_tanh(h, bias):
    """h = tanh(h + bias), in place."""
    rows, units = h.shape
    for i in range(rows):
        for j in range(units):
            x = h[i, j] + bias[j]
            x = _BOUND if x > _BOUND else x
            x = -_BOUND if x < -_BOUND else x
            s = x * x
            p = (((((_P6 * s + _P5) * s + _P4) * s + _P3) * s + _P2) * s + _P1) * s + _P0
            q = ((_Q3 * s + _Q2) * s + _Q1) * s + _Q0
            h[i, j] = x * p / q


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def add_bias_relu(h, bias):
    """h = max(h + bias, 0), in place."""
    rows, units = h.shape
    for i in range(rows):
        for j in range(units):
            x = h[i, j] + bias[j]
            h[i, j] = _ZERO if x < _ZERO else x


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def tanh_backward(h, d, bias_gradient):
    """d by a tanh layer's outputs `h` becomes d by its sums, in place; `bias_gradient` their sum over the rows."""
    rows, units = h.shape
    bias_gradient[:] = _ZERO
    for i in range(rows):
        for j in range(units):
            v = d[i, j] * (_ONE - h[i, j] * h[i, j])
            d[i, j] = v
            bias_gradient[j] += v


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def relu_backward(h, d, bias_gradient):
    """The same for a layer of relu."""
    rows, units = h.shape
    bias_gradient[:] = _ZERO
    for i in range(rows):
        for j in range(units):
            v = d[i, j] if h[i, j] > _ZERO else _ZERO
            d[i, j] = v
            bias_gradient[j] += v


@njit(cache=True)
def gather(source, rows, blank_from, blank_to, x):
    """x[i] = source[rows[i]], with columns [blank_from, blank_to) zero; `source` may be of any numbers."""
    width = np.uint64(x.shape[1])
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        for j in range(width):
            x[i, j] = source[row, j]
        x[i, blank_from:blank_to] = _ZERO


@njit(cache=True)
def transpose(source, target):
    """target = source.T, in blocks that fit the first-level cache."""
    height, width = source.shape
    for top in range(0, height, 32):
        for left in range(0, width, 32):
            for j in range(left, min(left + 32, width)):
                for i in range(top, min(top + 32, height)):
                    target[j, i] = source[i, j]


@njit(cache=True, error_model="numpy")
def pool_terms(observations, first, weight, log_p_min, terms):
    """`policy.opinion_pool` of every row: what the opinion in the columns from `first` on adds to the logits."""
    rows, n_actions = terms.shape
    for i in range(rows):
        total, legal = _ZERO, 0
        for k in range(n_actions):
            p = observations[i, first + k]
            terms[i, k] = F(-0.0)
            if p > 0:
                legal += 1
                total += _log_p(p, log_p_min)
        if legal == 0 or weight == 0:
            continue
        mean = total / F(legal)
        for k in range(n_actions):
            p = observations[i, first + k]
            if p > 0:
                terms[i, k] = weight * (_log_p(p, log_p_min) - mean)


@njit(cache=True, error_model="numpy")
def _log_p(p, log_p_min):
    return F(min(max(math.log(p), log_p_min), 0.0))


@njit(cache=True, error_model="numpy")
def _log_softmax(logits, bias, terms, mask, log_p):
    """Log-probabilities of one row's legal actions, float64; False where none is legal. NaN where a logit is."""
    n_actions = len(log_p)
    largest, any_legal = -np.inf, False
    for k in range(n_actions):
        log_p[k] = np.float64(logits[k]) + bias[k] + terms[k]
        if mask[k] != 0:
            any_legal = True
            largest = log_p[k] if log_p[k] > largest else largest
    if not any_legal:  # the library's masks are finite: all illegal is all alike
        log_p[:] = -math.log(n_actions)
        return False
    total = 0.0
    for k in range(n_actions):
        if mask[k] != 0:
            total += math.exp(log_p[k] - largest)
    shift = largest + math.log(total)
    for k in range(n_actions):
        log_p[k] -= shift
    return True


@njit(cache=True, error_model="numpy")
def sample(logits, bias, terms, masks, noise, actions, log_probs):
    """Draw an action in every row; False where a log-probability is not finite, so that no action can be drawn.

    The action is the largest p / noise, noise ~ Exp(1): torch's multinomial, from the same random numbers.
    """
    rows, n_actions = logits.shape
    log_p = np.empty(n_actions)
    finite = True
    for i in range(rows):
        any_legal = _log_softmax(logits[i], bias, terms[i], masks[i], log_p)
        best, chosen = F(-1.0), 0
        for k in range(n_actions):
            if masks[i, k] != 0 or not any_legal:
                score = F(math.exp(log_p[k])) / noise[i, k]
                if score > best:
                    best, chosen = score, k
        actions[i] = chosen
        log_probs[i] = log_p[chosen]
        finite = finite and math.isfinite(log_p[chosen])
    return finite


@njit(cache=True, error_model="numpy")
def moments(values, rows):
    """Mean and standard deviation (of a sample) of values[rows]."""
    n = len(rows)
    total = 0.0
    for i in range(n):
        total += values[rows[i]]
    mean, squares = total / n, 0.0
    for i in range(n):
        squares += (values[rows[i]] - mean) ** 2
    return mean, math.sqrt(squares / (n - 1))


POLICY_LOSS, VALUE_LOSS, ENTROPY, CLIPPED, KL, N_SUMS = range(6)
"""Places in `sums`, float64[5]: sums over the rows of a minibatch."""


@njit(cache=True, error_model="numpy")
def _surrogate(log_ratio, advantage, clip, sums):
    """Count one row's clipped surrogate loss; return its derivative by the log-probability."""
    ratio = math.exp(log_ratio)
    bounded = min(max(ratio, 1.0 - clip), 1.0 + clip)
    plain, clipped = advantage * ratio, advantage * bounded
    sums[POLICY_LOSS] -= clipped if clipped < plain else plain
    sums[CLIPPED] += abs(ratio - 1.0) > clip
    sums[KL] += (ratio - 1.0) - log_ratio
    return 0.0 if clipped < plain else -plain  # a ratio that was not clipped is equal to the bit


@njit(cache=True, error_model="numpy")
def policy_gradient(
    logits, bias, terms, masks, actions, old_log_probs, advantages, rows, mean, scale, n, clip, ent_coef,
    d, d_bias, sums,
):  # fmt: skip
    """d: the loss's derivative by the logits of one part of a minibatch of `n` rows, d_bias its sum over the rows.

    Row i of `logits` and `d` belongs to rows[i] of `terms`, `masks`, `actions`, `old_log_probs` and `advantages`, whose
    normalized value is (advantage - mean) / scale.
    """
    n_actions = logits.shape[1]
    log_p, totals = np.empty(n_actions), np.zeros(n_actions)
    for i in range(len(rows)):
        r = rows[i]
        any_legal = _log_softmax(logits[i], bias, terms[r], masks[r], log_p)
        chosen = actions[r]
        g = _surrogate(log_p[chosen] - old_log_probs[r], (advantages[r] - mean) / scale, clip, sums) / n
        entropy = 0.0
        for k in range(n_actions):
            if masks[r, k] != 0:
                entropy -= math.exp(log_p[k]) * log_p[k]
        sums[ENTROPY] += entropy
        for k in range(n_actions):
            v = 0.0
            if masks[r, k] != 0 and any_legal:
                p = math.exp(log_p[k])
                v = g * ((1.0 if k == chosen else 0.0) - p)
                if ent_coef != 0.0:
                    v += ent_coef / n * p * (log_p[k] + entropy)
            d[i, k] = v
            totals[k] += v
    d_bias[:] = totals


@njit(cache=True, error_model="numpy")
def value_gradient(values, bias, returns, old_values, rows, n, clip, vf_coef, d, d_bias, sums):
    """The same for the value network's output, float32[rows, 1]. `clip`: how far a value may be from the old one; below
    0: anywhere."""
    total = 0.0
    for i in range(len(rows)):
        r = rows[i]
        value = values[i, 0] + bias[0]
        inside = True
        if clip >= 0.0:
            moved = value - old_values[r]
            inside = not abs(moved) > clip
            value = old_values[r] + (moved if inside else math.copysign(clip, moved))
        error = value - returns[r]
        sums[VALUE_LOSS] += error * error
        v = vf_coef * 2.0 * error / n if inside else 0.0
        d[i, 0] = v
        total += v
    d_bias[0] = total


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _part_norm(gradient, begin, end):
    total = _ZERO
    for i in range(begin, end):
        total += gradient[i] * gradient[i]
    return total


@njit(cache=True, error_model="numpy")
def norm(gradient):
    """Euclidean norm of a flat gradient; a thousand squares are added in float32, their sums in float64."""
    total = 0.0
    for begin in range(0, len(gradient), 1024):
        total += np.float64(_part_norm(gradient, begin, min(begin + 1024, len(gradient))))
    return math.sqrt(total)


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def adam(weights, gradient, first, second, scale, step_size, beta1, beta2, eps, root):
    """One step of torch's Adam on flat arrays. The gradient counts times `scale`; `step_size` is the rate over the
    first moment's correction, `root` 1 over the square root of the second's."""
    keep, gain = F(1.0 - beta1), F(1.0 - beta2)
    decay, small, back, rate = F(beta2), F(eps), F(root), F(step_size)
    times = F(scale)
    for i in range(len(weights)):
        g = gradient[i] * times
        m = first[i] + keep * (g - first[i])
        v = second[i] * decay + gain * g * g
        first[i], second[i] = m, v
        weights[i] -= rate * m / (np.sqrt(v) * back + small)
