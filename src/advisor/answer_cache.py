"""A language model's answers, read through a cache: asking again in this process reads memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from src.advisor.live import answer_key
from src.advisor.table import Float32


class AnswerCache(Protocol):
    """Interface of a cache of answers."""

    def __contains__(self, key: Hashable) -> bool: ...

    def get(self, key: Hashable) -> Float32 | None: ...

    def put(self, key: Hashable, features: Any) -> None: ...


def through_cache(
    cache: AnswerCache,
    identity: str,
    stored: Mapping[int, Float32],
    known_before: frozenset[int],
    situations: NDArray[np.int64],
) -> dict[int, Float32]:
    """The answers to these situations, read through the cache.

    Answers known before are put there first, uncounted, so that a miss is a situation the model was asked about now.
    """
    found: dict[int, Float32] = {}
    for situation in situations.tolist():
        key = answer_key(identity, situation)
        if situation in known_before and key not in cache:
            cache.put(key, stored[situation])
        row = cache.get(key)
        if row is None:
            row = stored[situation]
            cache.put(key, row)
        found[situation] = row
    return found
