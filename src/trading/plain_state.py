"""Pack state into JSON values and byte arrays and restore it exactly, without pickling.

Supported: None, bool, int, float, str, lists, tuples, mappings with string keys, numpy scalars, and arrays of numbers
or dates. Types are restored too, since numpy computes differently with a float than with a float64. A marker is a
mapping with one key that begins with "$".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_KINDS = "biufcmM"  # of numpy's dtypes: bool, integers, floats, complex, durations and dates


class NotPlainError(TypeError):
    """A value that only pickling could store."""


def pack(value: Any, arrays: dict[str, np.ndarray] | None = None, name: str = "") -> Any:
    """Convert `value` to strict JSON; arrays go into `arrays` as uint8 copies (uint8 arrays keep their shape).

    Raises NotPlainError naming the first part that cannot be stored; without `arrays`, no array can.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is list or kind is tuple:
        items = [pack(item, arrays, f"{name}.{i}") for i, item in enumerate(value)]
        return items if kind is list else {"$tuple": items}
    if kind is dict and all(type(key) is str and not key.startswith("$") for key in value):
        return {key: pack(inner, arrays, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
        return {"$scalar": [value.dtype.str, value.tobytes().hex()]}
    if kind is np.ndarray and value.dtype.kind in _KINDS and arrays is not None:
        key = f"{len(arrays)}{name}"
        arrays[key] = (value if value.dtype == np.uint8 else value.ravel().view(np.uint8)).copy()
        return {"$array": [key, value.dtype.str, list(value.shape)]}
    raise NotPlainError(f"{name or 'the value'} is a {kind.__module__}.{kind.__qualname__}: {value!r:.100}")


def unpack(value: Any, arrays: Mapping[str, np.ndarray] | None = None) -> Any:
    """Restore what was packed; arrays are copies."""
    if isinstance(value, list):
        return [unpack(item, arrays) for item in value]
    if not isinstance(value, Mapping):
        return value
    marker: str = next((key for key in value if key.startswith("$")), "")
    content: Any = value.get(marker)
    if marker == "$float":
        return float(content)
    if marker == "$tuple":
        return tuple(unpack(item, arrays) for item in content)
    if marker == "$scalar":
        return np.frombuffer(bytes.fromhex(content[1]), np.dtype(content[0]))[0]
    if marker == "$array":
        key, dtype, shape = content
        return np.array((arrays or {})[key]).reshape(-1).view(np.dtype(dtype)).reshape(shape)
    return {key: unpack(inner, arrays) for key, inner in value.items()}


def is_plain(value: Any) -> bool:
    """Whether `pack` keeps it."""
    try:
        pack(value, {})
    except NotPlainError:
        return False
    return True
