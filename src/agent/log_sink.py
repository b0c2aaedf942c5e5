"""Where training records go: JSON lines, TensorBoard, or a display."""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from stable_baselines3.common.logger import DISABLED, KVWriter, Logger

Record = Mapping[str, Any]


class Sink(Protocol):
    """Takes one record after another. A record is flat: text, numbers, None."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


def train_values(pending: Mapping[str, Any]) -> dict[str, float]:
    """The last update's figures (train/*) in SB3's `logger.name_to_value`, which holds them until its own next dump."""
    return {
        name: float(value)
        for name, value in pending.items()
        if name.startswith("train/") and isinstance(value, int | float | np.number)
    }


def write_to_logger(logger: Logger, record: Record) -> bool:
    """Write the numbers of a record to the outputs of SB3's logger, as `run/...` over `num_timesteps`; whether it has
    any. What others have recorded there and not dumped yet stays pending."""
    outputs = [output for output in logger.output_formats if isinstance(output, KVWriter)]
    if not outputs or logger.level == DISABLED:
        return False
    values = {key if "/" in key else f"run/{key}": record[key] for key in _numbers(record)}
    for output in outputs:
        output.write(values, dict.fromkeys(values, ()), int(record["num_timesteps"]))
    return True


def in_words(record: Record) -> str:
    """A record in one line."""
    parts = [f"{record['num_timesteps']:,} timesteps", f"mean reward {record['mean_reward']:.4g}"]
    if record.get("mean_episode_reward") is not None:
        parts.append(f"{record['episodes']} episodes of mean reward {record['mean_episode_reward']:.4g}")
    if record.get("steps_per_s"):
        parts.append(f"{record['steps_per_s']:,.0f} steps/s")
    return ", ".join(parts)


def _numbers(record: Record) -> list[str]:
    """The names of what can be drawn over timesteps."""
    return [
        key
        for key, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "num_timesteps"
    ]


class JsonLinesSink:
    """One JSON object a line, handed to the operating system line by line, so that a killed run keeps what it logged.

    Opens for appending. `keep_bytes` (a checkpoint's `offset`) cuts what was logged after that checkpoint; a line
    torn by a kill is cut in any case. ValueError if the file is shorter than `keep_bytes`. Numbers that JSON does not
    have (NaN, infinities) become null.
    """

    def __init__(self, path: str | Path, *, keep_bytes: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab")  # noqa: SIM115  (closed by close())
        try:
            size = self._file.tell()
            if keep_bytes is not None and keep_bytes > size:
                raise ValueError(
                    f"{self.path} holds {size} bytes, fewer than the {keep_bytes} that its checkpoint recorded: "
                    "it was changed since"
                )
            self._file.truncate(_whole_lines(self.path, size if keep_bytes is None else keep_bytes))
        except BaseException:
            self._file.close()
            raise

    @property
    def offset(self) -> int:
        """Bytes in the file: what a checkpoint records and gives back as `keep_bytes`."""
        return os.fstat(self._file.fileno()).st_size

    def write(self, record: Record) -> None:
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        self._file.write(json.dumps(finite, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _whole_lines(path: Path, size: int) -> int:
    """The length of the longest beginning of at most `size` bytes that ends with a line."""
    end = size
    with open(path, "rb") as file:
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


class TensorBoardSink:
    """Numbers of each record as scalars over `num_timesteps`; names without a group go under `run/`.

    `purge_step`: on resuming, TensorBoard drops what was logged at or after this many timesteps. Written at once and in
    the caller's thread: TensorBoard's own writer has a thread and a queue, and where memory is short the thread dies
    and whoever writes to the queue, or closes it, waits for ever.
    """

    _made = itertools.count()

    def __init__(self, folder: str | Path, *, purge_step: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = Path(folder)
        _wait_for_a_later_name(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary = Event, Summary
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(self._made)}"
        self._records = RecordWriter(open(folder / name, "wb"))  # noqa: SIM115  (closed by close())
        try:
            self._write(Event(file_version="brain.Event:2"))
            if purge_step is not None:
                self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
            self._records.flush()
        except BaseException:
            self.close()
            raise

    def write(self, record: Record) -> None:
        summary = self._summary(
            value=[
                self._summary.Value(tag=key if "/" in key else f"run/{key}", simple_value=float(record[key]))
                for key in _numbers(record)
            ]
        )
        self._write(self._event(step=int(record["num_timesteps"]), summary=summary))
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


class DisplaySink:
    """Hands each record to a callable, such as the update of a progress display."""

    def __init__(self, display: Callable[[Record], object]) -> None:
        self._display = display

    def write(self, record: Record) -> None:
        self._display(record)

    def close(self) -> None:
        """Nothing to close: the display belongs to its maker."""


def _wait_for_a_later_name(folder: Path) -> None:
    """TensorBoard reads a folder's files in the order of their names, which begin with the second they were made in: a
    file that continues another must not share it."""
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.02)
