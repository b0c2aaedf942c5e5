"""A cache of feature rows, light enough for a worker process: the public class is `OptimizedFeatureCache`."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def content_key(data: ArrayLike, index: int = 0) -> str:
    """A key made of every value of an array (or a data frame), its shape and type, and an index; the same in every
    process, unlike `hash`."""
    array = np.asarray(data)
    digest = hashlib.blake2b(f"{array.dtype.str}{array.shape}\0{index}\0".encode(), digest_size=16)
    # The bytes of objects are their addresses.
    digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class RowCache:
    """See `src.testing_framework.OptimizedFeatureCache`."""

    def __init__(self, max_size: int = 1000) -> None:
        if max_size < 1:
            raise ValueError(f"max_size is {max_size}; the cache must hold at least 1 row")
        self.max_size = max_size
        self.hits = 0
        self.misses = 0
        self._rows: OrderedDict[Hashable, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()
        self._computing: dict[Hashable, threading.Lock] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Rows and counts; a copy in another process looks up and counts for itself."""
        with self._lock:
            state = {name: value for name, value in vars(self).items() if name not in ("_lock", "_computing")}
            return {**state, "_rows": self._rows.copy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _computing={})

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: Hashable) -> bool:
        """Whether the key is stored; neither counted nor a use."""
        return key in self._rows

    @staticmethod
    def get_key(data_slice: ArrayLike, current_idx: int = 0) -> str:
        """A key made of every value of `data_slice` (an array or a data frame), its shape and type, and an index: equal
        for equal content, in every process."""
        return content_key(data_slice, current_idx)

    def get(self, key: Hashable, *, record: bool = True) -> NDArray[np.float32] | None:
        """The row stored under `key`, which becomes the most recently used, or None."""
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                self.misses += record
                return None
            self._rows.move_to_end(key)
            self.hits += record
            return row

    def put(self, key: Hashable, features: ArrayLike) -> None:
        """Store a copy as the most recently used row; the least recently used one leaves when there are too many."""
        self._store(key, features)

    def _store(self, key: Hashable, features: ArrayLike) -> NDArray[np.float32]:
        row = np.asarray(features, dtype=np.float32)
        if row.ndim != 1:
            raise ValueError(f"features under key {key!r} have shape {row.shape}; one vector is needed")
        # Over bytes, because the owner of a plain array could make it writeable again.
        row = np.frombuffer(row.tobytes(), dtype=np.float32)
        with self._lock:
            rows = self._rows
            rows[key] = row
            rows.move_to_end(key)
            if len(rows) > self.max_size:
                rows.popitem(last=False)
        return row

    def get_or_compute(self, key: Hashable, compute: Callable[[], ArrayLike]) -> NDArray[np.float32]:
        """The row under `key`, computed and stored where it is missing. Threads that ask for a key while it is computed
        wait for it, so each row is computed once; they count as hits, the computation as the miss."""
        row = self.get(key, record=False)
        if row is None:
            with self._lock:
                computing = self._computing.setdefault(key, threading.Lock())
            with computing:
                row = self.get(key, record=False)
                if row is None:
                    try:
                        row = self._store(key, compute())
                    finally:
                        with self._lock:
                            self.misses += 1
                            self._computing.pop(key, None)
                    return row
        with self._lock:
            self.hits += 1
        return row

    def get_batch(self, keys: Iterable[Hashable], *, record: bool = True) -> list[NDArray[np.float32] | None]:
        """`get` for each key in turn."""
        return [self.get(key, record=record) for key in keys]

    def put_batch(self, keys: Sequence[Hashable], rows: Sequence[ArrayLike] | NDArray[Any]) -> None:
        """`put` for each pair in turn; ValueError, before anything is stored, if the lengths differ."""
        if len(keys) != len(rows):
            raise ValueError(f"{len(keys)} keys came with {len(rows)} rows")
        for key, row in zip(keys, rows, strict=True):
            self.put(key, row)

    def get_stats(self) -> dict[str, float]:
        """hits, misses, hit_rate (0.0 before the first lookup), size, max_size."""
        with self._lock:
            hits, misses, size = self.hits, self.misses, len(self._rows)
        hit_rate = hits / (hits + misses) if hits + misses else 0.0
        return {"hits": hits, "misses": misses, "hit_rate": hit_rate, "size": size, "max_size": self.max_size}

    def clear(self) -> None:
        """Forget all rows and counts."""
        with self._lock:
            self._rows.clear()
            self.hits = self.misses = 0
