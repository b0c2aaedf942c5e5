"""numpy's Mersenne Twister and its shuffle, compiled: a thread that draws with it does not hold Python's lock.

`RandomState.permutation` draws the same numbers, but the thread that drives a GPU waits for it meanwhile.

References: Matsumoto & Nishimura, Mersenne Twister, ACM Transactions on Modeling and Computer Simulation 8, 1998.
"""

from __future__ import annotations

import numpy as np
from numba import njit

N, M = 624, 397
_MATRIX = np.uint32(0x9908B0DF)
_UPPER, _LOWER = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)


@njit(cache=True, nogil=True)
def _refill(key):
    """The next 624 words of the state `key`, uint32[624]."""
    for k in range(N):
        y = (key[k] & _UPPER) | (key[(k + 1) % N] & _LOWER)
        odd = _MATRIX if y & np.uint32(1) else np.uint32(0)
        key[k] = key[(k + M) % N] ^ (y >> np.uint32(1)) ^ odd


@njit(cache=True, nogil=True)
def _tempered(y):
    y ^= y >> np.uint32(11)
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    return y ^ (y >> np.uint32(18))


@njit(cache=True, nogil=True)
def draw_orders(keys, positions, rows, out):
    """Permutations of `rows` int32[n] for each member and epoch, each member's `RandomState.permutation` of them.

    `keys` uint32[members, 624] and `positions` int64[members] are the states, which go on; `out` int32[epochs, members,
    n] gets the rows plus n for each member before.
    """
    epochs, members, n = out.shape
    for m in range(members):
        key, at = keys[m], positions[m]
        for e in range(epochs):
            order = out[e, m]
            for k in range(n):
                order[k] = rows[k] + m * n
            mask = np.uint32(1)
            while mask < np.uint32(n - 1):
                mask = (mask << np.uint32(1)) | np.uint32(1)
            for i in range(n - 1, 0, -1):
                while mask >> np.uint32(1) >= np.uint32(i):
                    mask >>= np.uint32(1)
                j = np.uint32(n)
                while j > np.uint32(i):
                    if at == N:
                        _refill(key)
                        at = 0
                    j = _tempered(key[at]) & mask
                    at += 1
                kept = order[i]
                order[i] = order[j]
                order[j] = kept
        positions[m] = at
