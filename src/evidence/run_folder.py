"""One folder a run: made once all input is known to be good, and never shared."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from src.errors import UserError


class OutputError(UserError):
    """A folder that cannot be written."""


def check_writable(output_dir: Path) -> None:
    """OutputError when a run folder could not be made below `output_dir`; makes the folder itself, nothing in it."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise OutputError(
            f"The output folder {output_dir} cannot be written ({error.strerror or error}): "
            f"name another with --output-dir, or change its permissions."
        ) from error


def make_run_folder(output_dir: Path, mode: str, market: str) -> Path:
    """A new folder `<mode>_<market>_<local time>` below `output_dir`; a number is added where the name is taken."""
    check_writable(output_dir)
    name = f"{mode}_{market}_{datetime.now():%Y%m%d-%H%M%S}"
    for attempt in range(1000):
        folder = output_dir / (name if attempt == 0 else f"{name}-{attempt + 1}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise OutputError(f"{output_dir} holds 1000 runs of this second; name another folder with --output-dir.")


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all: under another name, synced, renamed."""
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; a number JSON does not have (NaN, infinities) becomes null."""
    write_atomically(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send this project's log messages to `path` as well, for as long as this lasts."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("src")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
