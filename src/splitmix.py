"""splitmix64: 64 random bits from a counter, the same on every machine and numpy version.

References: Steele, Lea & Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
"""

from __future__ import annotations

import numpy as np
from numba import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / golden ratio: successive multiples are evenly spread."""
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_27, _30, _31, _11, _32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11), np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
ONE = np.uint64(1 << 63)
"""1.0 in the fixed point of `as_share`."""
_TO_UNIT = 1.0 / 9007199254740992.0  # 2^-53


@njit(cache=True)
def mix64(value: np.uint64) -> np.uint64:
    """The output of the generator in state `value`."""
    z = value + GOLDEN
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return z ^ (z >> _31)


@njit(cache=True)
def scaled(bits: np.uint64, n: np.uint64) -> np.uint64:
    """floor(bits / 2^64 x n), exactly: the upper half of the 128-bit product."""
    low, high = bits & _LOW, bits >> _32
    n_low, n_high = n & _LOW, n >> _32
    one, other = low * n_high, high * n_low
    carry = ((low * n_low >> _32) + (one & _LOW) + (other & _LOW)) >> _32
    return high * n_high + (one >> _32) + (other >> _32) + carry


@njit(cache=True)
def as_share(frac: float) -> np.uint64:
    """A fraction in [0, 1] in units of 2^-63: exact, since it is a float64 times a power of two."""
    return np.uint64(frac * 9223372036854775808.0)


@njit(cache=True)
def unit(bits: np.uint64) -> float:
    """A float64 in [0, 1) from the upper 53 bits."""
    return np.float64(bits >> _11) * _TO_UNIT
