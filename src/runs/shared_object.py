"""An object with large arrays that worker processes map instead of copying."""

from __future__ import annotations

import copyreg
import io
import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

ALIGNMENT = 64
"""Bytes; what vector instructions of any processor like best."""


@dataclass(frozen=True)
class Mapped:
    """Where the object is: what a worker needs to have it. The pickle was made by the parent process of this run."""

    path: str
    spans: tuple[tuple[int, int], ...]
    skeleton: bytes = field(repr=False)

    def load(self) -> Any:
        """The object; its arrays are read-only views of the mapped file, but copies where they are not contiguous."""
        if not self.spans:
            return pickle.loads(self.skeleton)
        with open(self.path, "rb") as file:
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return pickle.loads(self.skeleton, buffers=[whole[start:end] for start, end in self.spans])


class SharedObject:
    """Writes an object's arrays into a file without a name, which the system frees when the last process that maps it
    has ended, however it ended. Where there is no /proc the file has a name until `close`."""

    def __init__(self, value: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        skeleton = _pickled(value, buffers)
        self._file = tempfile.NamedTemporaryFile(prefix="tables-", delete=False)  # noqa: SIM115  (closed by close())
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        try:
            spans = _written(self._file, buffers)
            if os.path.exists(path):
                os.unlink(self._file.name)
            else:
                path = self._file.name
        except BaseException:
            self.close()
            raise
        self.mapped = Mapped(path, spans, skeleton)

    def close(self) -> None:
        """Forget the file; workers that have mapped it keep it."""
        self._file.close()
        if os.path.lexists(self._file.name):
            os.unlink(self._file.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _pickled(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    """The pickle without the arrays' contents, which go into `buffers`."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5, buffer_callback=buffers.append)
    pickler.dispatch_table = copyreg.dispatch_table | {MappingProxyType: _proxy}
    pickler.dump(value)
    return file.getvalue()


def _proxy(mapping: Any) -> tuple[Any, ...]:
    """How to make a read-only mapping, which Python does not pickle itself."""
    return _read_only, (dict(mapping),)


def _read_only(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(mapping)


def _written(file: Any, buffers: Sequence[pickle.PickleBuffer]) -> tuple[tuple[int, int], ...]:
    spans = []
    for buffer in buffers:
        file.write(bytes(-file.tell() % ALIGNMENT))
        start = file.tell()
        file.write(buffer.raw())
        spans.append((start, file.tell()))
    file.flush()
    return tuple(spans)
