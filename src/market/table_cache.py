"""Tables made from large files are kept in the user's cache folder and mapped from there the next time.

An entry is a folder named by a SHA-256 over all that its arrays depend on: the content of the files and where they are,
the settings, the calendar's overrides, this room's source and the versions of the libraries. Its manifest holds a
CRC-32 of every array. Every array is read through and compared before it is used, and a damaged entry is rebuilt: also
one of a machine that lost its power while writing, so entries are renamed into place but not brought to the disk,
which would take longer than all else. CRC-32 (3 GiB/s a core, four times SHA-256) finds damage; it does not protect
against somebody who may write to the folder.

BARS_CACHE_DIR names another folder; `BARS_CACHE_DIR=off` switches the cache off.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from src.files import read_regular, sha256_of
from src.market.bars import BAR_ARRAYS, Bars
from src.market.files.reading import Reading
from src.market.sessions import OVERRIDES_FILE, Sessions
from src.market.tables import MarketTables
from src.numba_cache import user_cache_folder

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "BARS_CACHE_DIR"
WORTH_BYTES = 1 << 20
"""Smaller inputs are read again: that takes no longer than looking them up."""
MOST_BYTES = 4 << 30
MOST_ENTRIES = 64
MANIFEST = "manifest.json"

_FORMAT = 1
_MAPPED_BYTES = 1 << 16  # smaller arrays are read: an empty one cannot be mapped
_BLOCK_BYTES = 1 << 22
_ABANDONED_S = 86_400
_LIBRARIES = ("numpy", "pandas", "pyarrow", "numba", "pandas_market_calendars", "exchange_calendars", "tzdata")
_ROOM = Path(__file__).resolve().parent
_TABLE_ARRAYS = ("prices", "flags", "atr_ticks", "window", "context")
_READING = TypeAdapter(Reading)


class TableCache:
    """The entries in one folder. Several processes may use it at once; no failure of it ends a run."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        """None: nothing is kept."""

    @classmethod
    def of_user(cls) -> TableCache:
        """The folder that BARS_CACHE_DIR names, else that of the user's cache."""
        named = os.environ.get(FOLDER_VARIABLE)
        if named is not None:
            return cls(None if named.strip().lower() in ("", "off") else Path(named))
        try:
            return cls(user_cache_folder() / "bars")
        except RuntimeError:  # a user without a home
            return cls(None)

    def load(self, key: str) -> MarketTables | None:
        """The tables of an entry, mapped read-only; None if there is none or it is damaged."""
        if self.folder is None:
            return None
        entry = self.folder / key
        try:
            if not entry.is_dir():
                return None
            tables = _read_entry(entry)
            with suppress(OSError):  # the time of the last use, for eviction; the folder may be read-only
                os.utime(entry / MANIFEST)
        except (OSError, ValueError, KeyError, TypeError) as error:  # damaged, or just evicted by another process
            logger.info("%s: this entry of the cache cannot be used and is rebuilt (%s)", entry, error)
            _remove(entry)
            return None
        return tables

    def store(self, key: str, tables: MarketTables) -> None:
        """Keep an entry; where that fails, a warning says why and nothing is kept."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder))
            try:
                _write_entry(partial, tables)
                _put_in_place(partial, self.folder / key)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            _evict(self.folder, key)
        except OSError as error:
            logger.warning(
                "%s: the tables of these bars cannot be kept (%s), so the next run reads the file again. Free space "
                "there, or set %s to another folder or to off.",
                self.folder, error.strerror or error, FOLDER_VARIABLE,
            )  # fmt: skip


def key_of(path: Path, files: Sequence[Path], choices: Mapping[str, Any]) -> str | None:
    """Name of the entry for these files under the given choices; None if they are not worth one, or cannot be read.

    `path` is the file or folder that the user gave: messages and reports name it.
    """
    try:
        if sum(file.stat().st_size for file in files) < WORTH_BYTES:
            return None
        with ThreadPoolExecutor(2) as pool:
            contents = [digest for _, digest in pool.map(lambda file: sha256_of(file.resolve()), files)]
        parts = {
            "format": _FORMAT,
            "path": str(path),
            "files": [[str(file), content] for file, content in zip(files, contents, strict=True)],
            "choices": dict(choices),
            "calendar": sha256_of(OVERRIDES_FILE)[1],
            "code": _code_version(),
        }
    except OSError as error:
        logger.debug("%s: no entry in the cache (%s)", path, error)
        return None
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:40]


@lru_cache(maxsize=1)
def _code_version() -> str:
    """A digest of this room's source, of the versions of the libraries and of the processor."""
    digest = hashlib.sha256(_processor().encode())
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            digest.update(f"{name}={version(name)}\0".encode())
    for source in sorted(_ROOM.rglob("*.py")):
        digest.update(source.relative_to(_ROOM).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def _evict(folder: Path, newest: str) -> None:
    """Remove the entries used longest ago until what is left is within the limits, and abandoned partial ones."""
    found: list[tuple[float, int, Path]] = []
    for entry in folder.iterdir():
        with suppress(OSError):  # another process removes it
            if entry.name.startswith(".part-"):
                if time.time() - entry.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != newest and entry.is_dir():
                found.append(((entry / MANIFEST).stat().st_mtime, _size_of(entry), entry))
    room = MOST_BYTES - _size_of(folder / newest)
    for place, (_, size, entry) in enumerate(sorted(found, reverse=True), start=1):
        room -= size
        if room < 0 or place >= MOST_ENTRIES:
            _remove(entry)


def _remove(entry: Path) -> None:
    """Remove an entry: it is gone at once, so that nobody finds half of it; who has mapped it keeps its arrays."""
    with suppress(OSError):  # another process was first, or the folder is read-only
        aside = entry.with_name(f".part-{entry.name}-{os.getpid()}-{time.monotonic_ns()}")
        os.rename(entry, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _size_of(entry: Path) -> int:
    return sum(file.stat().st_size for file in entry.iterdir())


def _processor() -> str:
    """The processor and what it can do: numpy chooses its loops by that, and logarithms differ in the last bit."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
    return f"{platform.machine()} {platform.processor()}"


def _arrays_of(tables: MarketTables) -> dict[str, NDArray[Any]]:
    arrays = {f"bars-{name}": getattr(tables.bars, name) for name in BAR_ARRAYS}
    arrays |= {name: getattr(tables, name) for name in _TABLE_ARRAYS}
    arrays |= {f"sessions-{name}": getattr(tables.sessions, name) for name in _session_arrays()}
    return arrays


def _session_arrays() -> list[str]:
    return [column.name for column in fields(Sessions) if column.name != "reason"]


def _write_entry(folder: Path, tables: MarketTables) -> None:
    bars = tables.bars
    checks = {name: _write_array(folder / f"{name}.npy", array) for name, array in _arrays_of(tables).items()}
    content = json.dumps(
        {
            "arrays": checks,
            "reasons": tables.sessions.reason,
            "reading": None if bars.reading is None else _READING.dump_python(bars.reading, mode="json"),
            "bars": {
                "market": bars.market,
                "interval_s": bars.interval_s,
                "source": bars.source,
                "contract_names": bars.contract_names,
                "fingerprint": bars.fingerprint,
                "repairs": dict(bars.repairs),
                "synthetic": bars.synthetic,
            },
        }
    )
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"sha256": hashlib.sha256(content.encode()).hexdigest(), "content": content}, file)


def _write_array(path: Path, array: NDArray[Any]) -> list[int]:
    """Write; its size in bytes and CRC-32."""
    with path.open("xb") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
    return _check_of(path)


def _check_of(path: Path) -> list[int]:
    """Size in bytes and CRC-32 of a file."""
    block = bytearray(_BLOCK_BYTES)
    size = check = 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            check = zlib.crc32(memoryview(block)[:count], check)
            size += count
    return [size, check]


def _put_in_place(partial: Path, entry: Path) -> None:
    try:
        os.rename(partial, entry)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another process was first; its entry has the same key, so the same arrays.


def _read_entry(entry: Path) -> MarketTables:
    """Raises OSError, ValueError, KeyError or TypeError for an entry that is not what was written."""
    outer = json.loads(read_regular(entry / MANIFEST))
    if hashlib.sha256(outer["content"].encode()).hexdigest() != outer["sha256"]:
        raise ValueError("its manifest is damaged")
    content = json.loads(outer["content"])
    names = list(content["arrays"])
    with ThreadPoolExecutor(2) as pool:
        checks = list(pool.map(lambda name: _check_of(entry / f"{name}.npy"), names))
    for name, check in zip(names, checks, strict=True):
        if check != content["arrays"][name]:
            raise ValueError(f"{name}.npy is damaged")
    arrays = {name: _mapped(entry / f"{name}.npy") for name in names}
    reading, own = content["reading"], content["bars"]
    return MarketTables(
        bars=Bars(
            **{name: arrays[f"bars-{name}"] for name in BAR_ARRAYS},
            market=own["market"],
            interval_s=own["interval_s"],
            source=own["source"],
            contract_names=tuple(own["contract_names"]),
            fingerprint=own["fingerprint"],
            repairs=MappingProxyType(own["repairs"]),
            synthetic=own["synthetic"],
            reading=None if reading is None else _READING.validate_python(reading),
        ),
        sessions=Sessions(
            **{name: arrays[f"sessions-{name}"] for name in _session_arrays()}, reason=tuple(content["reasons"])
        ),
        **{name: arrays[name] for name in _TABLE_ARRAYS},
    )


def _mapped(path: Path) -> NDArray[Any]:
    large = path.stat().st_size >= _MAPPED_BYTES
    array = np.asarray(np.load(path, mmap_mode="r" if large else None, allow_pickle=False))
    array.setflags(write=False)
    return array
