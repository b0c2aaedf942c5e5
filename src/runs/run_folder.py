"""Run folders: one per run, made once all input is valid, never shared."""

from __future__ import annotations

import hashlib
import os
import re
from datetime import datetime
from pathlib import Path

from src.errors import UserError
from src.files import read_regular
from src.outputs import OutputError, check_writable

_SEAL = "# SHA-256 of what follows this line: "


def sealed(text: str) -> str:
    """A configuration under a first line with its hash; what is written so is read back by `check_seal`."""
    return f"{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def check_seal(path: Path) -> None:
    """UserError for a run's configuration that is not as the run wrote it. One without a hash is of an earlier version
    and passes."""
    try:
        first, _, text = read_regular(path).partition(b"\n")
        if not first.startswith(_SEAL.encode()[:10]):
            return
        if first == f"{_SEAL}{hashlib.sha256(text).hexdigest()}".encode():
            return
        why = "it was changed: its content differs from the SHA-256 in its first line"
    except OSError as error:
        why = error.strerror or str(error)
    raise UserError(
        f"The settings {path} of the run to resume cannot be used ({why}). Name its original settings with "
        f"--config FILE, or give its original options."
    )


def make_run_folder(output_dir: Path, mode: str, market: str) -> Path:
    """A new folder `<mode>_<market>_<local time>` below `output_dir`, with a number where the name is taken.

    Names sort by the order in which the runs of a mode began: where the clock went back behind the newest of them, the
    new folder takes that one's time and the next number. Raises OutputError.
    """
    check_writable(output_dir)
    try:
        while True:
            folder = output_dir / _next_name(output_dir, mode, market)
            try:
                folder.mkdir()
            except FileExistsError:  # another process was quicker
                continue
            return folder
    except OSError as error:
        raise OutputError(
            f"No run folder can be made in {output_dir} ({error.strerror or error}). Free space on that disk, or name "
            f"another folder with --output-dir."
        ) from error


def _next_name(output_dir: Path, mode: str, market: str) -> str:
    """The name of a new run, behind those of every earlier run of that mode."""
    stamp, number = f"{datetime.now():%Y%m%d-%H%M%S}", 1
    pattern = re.compile(rf"{re.escape(mode)}_[A-Z0-9-]+_(\d{{8}}-\d{{6}})(?:-(\d+))?")
    for name in os.listdir(output_dir):
        if (found := pattern.fullmatch(name)) and (found[1], int(found[2] or 1)) >= (stamp, number):
            stamp, number = found[1], int(found[2] or 1) + 1
    return f"{mode}_{market}_{stamp}" + (f"-{number}" if number > 1 else "")
