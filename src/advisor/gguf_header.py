"""The header of a GGUF file, read without loading anything: which tensors there are, and what the tokenizer says.

Every count and length is checked against the size of the file before it is believed. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

MAGIC: Final = b"GGUF"
MAX_TENSORS = MAX_KEYS = 1 << 20
MAX_DIMENSIONS: Final = 4
_SCALARS: Final = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?", None, None, "Q", "q", "d")))
_STRING, _ARRAY = 8, 9


class HeaderError(ValueError):
    """What is wrong with the header of a file of weights."""


@dataclass(frozen=True)
class GgufHeader:
    """metadata by key; elements: numbers in all tensors together; types: GGML type codes of the tensors; needed_bytes:
    how long the file must be at least, by the tensors' offsets."""

    metadata: Mapping[str, Any]
    elements: int
    types: frozenset[int]
    needed_bytes: int


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of a file. Raises HeaderError for what is no GGUF file or cut short, OSError where it cannot be
    read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(file, size)
        if reader.take(4) != MAGIC:
            raise HeaderError("it does not begin as a GGUF file")
        version = reader.scalar("I")
        if version not in (2, 3):
            raise HeaderError(f"its GGUF version is {version}, and 2 and 3 can be read")
        n_tensors, n_keys = reader.scalar("Q"), reader.scalar("Q")
        if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
            raise HeaderError(f"it claims {n_tensors:,} tensors and {n_keys:,} keys")
        metadata = {}
        for _ in range(n_keys):
            key = reader.string()
            metadata[key] = reader.value(reader.scalar("I"))
        elements, last, types = 0, 0, set()
        for _ in range(n_tensors):
            reader.string()
            n_dimensions = reader.scalar("I")
            if n_dimensions > MAX_DIMENSIONS:
                raise HeaderError(f"a tensor claims {n_dimensions:,} dimensions")
            elements += math.prod(reader.scalar("Q") for _ in range(n_dimensions))
            types.add(reader.scalar("I"))
            last = max(last, reader.scalar("Q"))
        needed = file.tell() + last
    if needed > size:
        raise HeaderError(f"it is cut short: its tensors reach to byte {needed:,} at least, and it has {size:,}")
    return GgufHeader(metadata, elements, frozenset(types), needed)


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def take(self, n: int) -> bytes:
        left = self._size - self._file.tell()
        if n > left:
            raise HeaderError(f"its header is cut short: {n:,} bytes are due where {left:,} are left")
        return self._file.read(n)

    def scalar(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def string(self) -> str:
        return self.take(self.scalar("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        code = _SCALARS.get(kind)
        if code is None:
            raise HeaderError(f"a key has a value of the unknown type {kind}")
        return self.scalar(code)

    def _array(self) -> list[Any]:
        kind, n = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            if 8 * n > self._size:
                raise HeaderError(f"a key claims {n:,} texts")
            return [self.string() for _ in range(n)]
        code = _SCALARS.get(kind)
        if code is None:
            raise HeaderError(f"a key has an array of the unknown type {kind}")
        return list(struct.unpack(f"<{n}{code}", self.take(n * struct.calcsize(f"<{code}"))))
