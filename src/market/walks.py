"""Inner walks of synthetic bars: exact open, high, low and close of paths of +-1 tick steps.

The functions call each other, so they share this file, random numbers aside: numba's cache notices an edit only in the
file it compiled.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from src.splitmix import GOLDEN, mix64, unit

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

_8, _BYTE = np.uint64(8), np.uint64(0xFF)


def byte_walks() -> tuple[Int64, Int64, Int64]:
    """Sum, highest and lowest point of the eight steps encoded by the bits of each byte, int64[256] each."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    path = np.cumsum(2 * bits - 1, axis=1)
    return path[:, -1].copy(), path.max(axis=1), path.min(axis=1)


@njit(cache=True)
def autoregression(noise: Float64, phi: float) -> Float64:
    """First-order autoregression with unit variance from its first value on."""
    out = np.empty(noise.size, np.float64)
    scale = np.sqrt(1.0 - phi * phi)
    out[0] = noise[0]
    for t in range(1, noise.size):
        out[t] = phi * out[t - 1] + scale * noise[t]
    return out


@njit(cache=True)
def random_bits(seed: np.uint64, counter: int) -> np.uint64:
    """The `counter`-th 64 random bits of a stream, from 1."""
    return mix64(seed + np.uint64(counter - 1) * GOLDEN)


@njit(cache=True)
def walk_bytes(
    price: int, n_bytes: int, extra: int, sums: Int64, tops: Int64, bottoms: Int64, seed: np.uint64, counter: int
) -> tuple[int, int, int, int]:
    """One bar of 8 x n_bytes fair steps plus `extra` (0 or 1): high, low, close and the next counter."""
    high = price
    low = price
    bits = np.uint64(0)
    for k in range(n_bytes):
        if k % 8 == 0:
            counter += 1
            bits = random_bits(seed, counter)
        byte = np.int64(bits & _BYTE)
        bits = bits >> _8
        high = max(high, price + tops[byte])
        low = min(low, price + bottoms[byte])
        price += sums[byte]
    if extra > 0:
        counter += 1
        price += 1 if random_bits(seed, counter) >> np.uint64(63) else -1
        high = max(high, price)
        low = min(low, price)
    return high, low, price, counter


@njit(cache=True)
def walk_fairly(
    level: int, steps: int, extra: Int64, sums: Int64, tops: Int64, bottoms: Int64, seed: np.uint64
) -> Int64:
    """Bars of `steps` fair steps each without gaps: int64[n, 4], open, high, low, close in ticks."""
    out = np.empty((extra.size, 4), np.int64)
    price = level
    counter = 0
    for t in range(extra.size):
        out[t, 0] = price
        high, low, price, counter = walk_bytes(price, steps // 8, extra[t], sums, tops, bottoms, seed, counter)
        out[t, 1] = high
        out[t, 2] = low
        out[t, 3] = price
    return out


@njit(cache=True)
def walk_in_proportion(
    level: int,
    variance: Float64,
    gap: Float64,
    extra: Int64,
    sums: Int64,
    tops: Int64,
    bottoms: Int64,
    seed: np.uint64,
) -> Int64:
    """Bars with enough fair steps to give the return its `variance`, after a gap; int64[n, 4] ticks."""
    out = np.empty((variance.size, 4), np.int64)
    price = level
    counter = 0
    for t in range(variance.size):
        price += round(gap[t] * price)
        out[t, 0] = price
        n_bytes = round(variance[t] * price * price / 8.0)
        high, low, price, counter = walk_bytes(price, n_bytes, extra[t], sums, tops, bottoms, seed, counter)
        out[t, 1] = high
        out[t, 2] = low
        out[t, 3] = price
    return out


@njit(cache=True)
def walk_with_drift(level: int, steps: int, direction: Int64, drift: float, seed: np.uint64) -> Int64:
    """Bars of `steps` steps, each up with probability (1 + direction x drift) / 2; int64[n, 4], no gaps."""
    out = np.empty((direction.size, 4), np.int64)
    price = level
    counter = 0
    for t in range(direction.size):
        up = 0.5 * (1.0 + direction[t] * drift)
        out[t, 0] = price
        high = price
        low = price
        for _ in range(steps):
            counter += 1
            price += 1 if unit(random_bits(seed, counter)) < up else -1
            high = max(high, price)
            low = min(low, price)
        out[t, 1] = high
        out[t, 2] = low
        out[t, 3] = price
    return out
