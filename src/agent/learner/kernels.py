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
    """d by a tanh layer's outputs `h` becomes d by its sums, in place; added up in `bias_gradient` over the rows."""
    rows, units = h.shape
    for i in range(rows):
        for j in range(units):
            v = d[i, j] * (_ONE - h[i, j] * h[i, j])
            d[i, j] = v
            bias_gradient[j] += v


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def relu_backward(h, d, bias_gradient):
    """The same for a layer of relu."""
    rows, units = h.shape
    for i in range(rows):
        for j in range(units):
            v = d[i, j] if h[i, j] > _ZERO else _ZERO
            d[i, j] = v
            bias_gradient[j] += v


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def single_output(h, weight, out):
    """out = h @ weight.T for a single output, [rows, 1]: a third of the time of a product of matrices."""
    rows, units = h.shape
    for i in range(rows):
        total = _ZERO
        for j in range(units):
            total += h[i, j] * weight[0, j]
        out[i, 0] = total


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def single_backward(h, d, weight, d_below, weight_gradient):
    """Backward of `single_output`, both products in one pass; `weight_gradient` is added to."""
    rows, units = h.shape
    for i in range(rows):
        slope = d[i, 0]
        for j in range(units):
            d_below[i, j] = slope * weight[0, j]
            weight_gradient[0, j] += slope * h[i, j]


@njit(cache=True)
def gather(source, rows, blank_from, blank_to, x):
    """x[i] = source[rows[i]], with columns [blank_from, blank_to) zero; `source` may be of any numbers."""
    width = np.uint64(x.shape[1])
    for i in range(len(rows)):
        row = np.uint64(rows[i])
        for j in range(width):
            x[i, j] = source[row, j]
        x[i, blank_from:blank_to] = _ZERO


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


ILLEGAL = -1e8
"""The logit of an illegal action, as in sb3-contrib: where none is legal, all are alike."""
COLUMNS = 128
"""Rows of a minibatch that go through the loss at once, side by side in vectors."""


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def _exp(x):
    """e**x of float64 without a branch, so that a loop of it is vectorized: relative error 1e-13 below 100."""
    x = -700.0 if x < -700.0 else x
    s = x * (1.0 / 1024.0)
    y = 1.0 + s * (1.0 / 7.0)
    y = 1.0 + s * (1.0 / 6.0) * y
    y = 1.0 + s * (1.0 / 5.0) * y
    y = 1.0 + s * (1.0 / 4.0) * y
    y = 1.0 + s * (1.0 / 3.0) * y
    y = 1.0 + s * (1.0 / 2.0) * y
    y = 1.0 + s * y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    return y


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def _softmax(logits, bias, terms, masks, rows, start, n, legal, log_p, p):
    """What is legal (1 or 0), log-probabilities and probabilities, float64[actions, n], of rows start ... start + n - 1
    of `logits`, to which rows[start] ... of `terms` and `masks` belong. NaN where a logit is."""
    n_actions = logits.shape[1]
    largest, total = np.empty(COLUMNS), np.zeros(COLUMNS)
    for i in range(n):
        row = rows[start + i]
        for k in range(n_actions):
            z = np.float64(logits[start + i, k]) + np.float64(bias[k]) + np.float64(terms[row, k])
            legal[k, i] = 1.0 if masks[row, k] != 0 else 0.0
            log_p[k, i] = z if masks[row, k] != 0 else ILLEGAL
    for i in range(n):
        largest[i] = log_p[0, i]
    for k in range(1, n_actions):
        for i in range(n):
            largest[i] = log_p[k, i] if log_p[k, i] > largest[i] else largest[i]
    for k in range(n_actions):
        for i in range(n):
            log_p[k, i] -= largest[i]
            p[k, i] = _exp(log_p[k, i])
            total[i] += p[k, i]
    for i in range(n):
        largest[i] = math.log(total[i])
    for k in range(n_actions):
        for i in range(n):
            log_p[k, i] -= largest[i]
            p[k, i] /= total[i]


@njit(cache=True, error_model="numpy")
def sample(logits, bias, terms, masks, noise, rows, actions, log_probs):
    """Draw an action in every row; False where a log-probability is not finite, so that no action can be drawn.

    The action is the largest p / noise, noise ~ Exp(1): torch's multinomial, from the same random numbers. `rows` are
    0, 1, ...
    """
    n_actions = logits.shape[1]
    legal, log_p, p = (np.empty((n_actions, COLUMNS)), np.empty((n_actions, COLUMNS)), np.empty((n_actions, COLUMNS)))
    finite = True
    for start in range(0, len(rows), COLUMNS):
        n = min(COLUMNS, len(rows) - start)
        _softmax(logits, bias, terms, masks, rows, start, n, legal, log_p, p)
        for i in range(n):
            best, chosen = F(-1.0), 0
            for k in range(n_actions):
                score = F(p[k, i]) / noise[start + i, k]
                chosen = k if score > best else chosen
                best = score if score > best else best
            actions[start + i] = chosen
            log_probs[start + i] = log_p[chosen, i]
            finite = finite and math.isfinite(log_p[chosen, i])
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


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def _surrogates(log_ratio, advantage, n, clip, slope, sums):
    """Count the clipped surrogate losses of `n` rows, and leave their derivatives by the log-probability in `slope`."""
    losses, clipped_rows, kl = 0.0, 0.0, 0.0
    for i in range(n):
        ratio = _exp(log_ratio[i])
        bounded = 1.0 - clip if ratio < 1.0 - clip else ratio
        bounded = 1.0 + clip if bounded > 1.0 + clip else bounded
        plain, clipped = advantage[i] * ratio, advantage[i] * bounded
        slope[i] = 0.0 if clipped < plain else -plain  # a ratio that was not clipped is equal to the bit
        losses -= clipped if clipped < plain else plain
        clipped_rows += 1.0 if abs(ratio - 1.0) > clip else 0.0
        kl += (ratio - 1.0) - log_ratio[i]
    sums[POLICY_LOSS] += losses
    sums[CLIPPED] += clipped_rows
    sums[KL] += kl


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def policy_gradient(
    logits, bias, terms, masks, actions, old_log_probs, advantages, rows, mean, scale, n, clip, ent_coef,
    d, d_bias, sums,
):  # fmt: skip
    """d: the loss's derivative by the logits of some of a minibatch's `n` rows, added up in d_bias over the rows.

    Row i of `logits` and `d` belongs to rows[i] of `terms`, `masks`, `actions`, `old_log_probs` and `advantages`, whose
    normalized value is (advantage - mean) / scale.
    """
    n_actions = logits.shape[1]
    legal, log_p, p = (np.empty((n_actions, COLUMNS)), np.empty((n_actions, COLUMNS)), np.empty((n_actions, COLUMNS)))
    log_ratio, advantage, slope, entropy = (np.empty(COLUMNS), np.empty(COLUMNS), np.empty(COLUMNS), np.empty(COLUMNS))
    chosen = np.empty(COLUMNS, np.int64)
    for start in range(0, len(rows), COLUMNS):
        m = min(COLUMNS, len(rows) - start)
        _softmax(logits, bias, terms, masks, rows, start, m, legal, log_p, p)
        for i in range(m):
            row = rows[start + i]
            chosen[i] = actions[row]
            log_ratio[i] = log_p[chosen[i], i] - old_log_probs[row]
            advantage[i] = (advantages[row] - mean) / scale
            entropy[i] = 0.0
        _surrogates(log_ratio, advantage, m, clip, slope, sums)
        for k in range(n_actions):
            for i in range(m):
                entropy[i] -= legal[k, i] * p[k, i] * log_p[k, i]
        for i in range(m):
            sums[ENTROPY] += entropy[i]
        for k in range(n_actions):
            total = 0.0
            for i in range(m):
                by_policy = slope[i] * ((1.0 if chosen[i] == k else 0.0) - p[k, i])
                by_entropy = ent_coef * p[k, i] * (log_p[k, i] + entropy[i])
                p[k, i] = legal[k, i] * (by_policy + by_entropy) / n
            for i in range(m):
                d[start + i, k] = p[k, i]
                total += p[k, i]
            d_bias[k] += total


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
    d_bias[0] += total


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _sum_of_squares(part):
    total = _ZERO
    for i in range(len(part)):
        total += part[i] * part[i]
    return total


@njit(cache=True, error_model="numpy")
def norm(gradient):
    """Euclidean norm of a flat gradient; squares of a part are added in float32, the parts' sums in float64."""
    total = 0.0
    for begin in range(0, len(gradient), 4096):
        total += np.float64(_sum_of_squares(gradient[begin : begin + 4096]))
    return math.sqrt(total)


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def _stepped(weight, gradient, first, second, keep, gain, decay, rate, back, small):
    first += keep * (gradient - first)
    second = second * decay + gain * gradient * gradient
    return weight - rate * first / (np.sqrt(second) * back + small), first, second


@njit(cache=True, error_model="numpy", fastmath=CONTRACT)
def adam(weights, gradient, first, second, scale, step_size, beta1, beta2, eps, root):
    """One step of torch's Adam on flat arrays. The gradient counts times `scale`; `step_size` is the rate over the
    first moment's correction, `root` 1 over the square root of the second's."""
    keep, gain, decay = F(1.0 - beta1), F(1.0 - beta2), F(beta2)
    rate, back, small, times = F(step_size), F(root), F(eps), F(scale)
    for i in range(len(weights)):
        weights[i], first[i], second[i] = _stepped(
            weights[i], gradient[i] * times, first[i], second[i], keep, gain, decay, rate, back, small
        )


HEIGHT = 32
"""Outputs whose gradients are turned at once."""


@njit(cache=True)
def adam_turned(weights, turned, first, second, scale, step_size, beta1, beta2, eps, root):
    """The same for the weights of a layer [outputs, inputs], flat, whose gradient `turned` is [inputs, outputs]."""
    inputs, outputs = turned.shape
    block = np.empty(HEIGHT * inputs, np.float32)
    for top in range(0, outputs, HEIGHT):
        height = min(HEIGHT, outputs - top)
        for j in range(inputs):
            for i in range(height):
                block[i * inputs + j] = turned[j, top + i]
        begin, end = top * inputs, (top + height) * inputs
        adam(
            weights[begin:end], block[: end - begin], first[begin:end], second[begin:end],
            scale, step_size, beta1, beta2, eps, root,
        )  # fmt: skip
