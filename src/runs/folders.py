"""Which folder a pipeline run lives in, and that only one runs at a time below an output folder."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from src.errors import UserError
from src.evidence.run_folder import check_writable
from src.runs.ledger import LEDGER_NAME

MODE = "pipeline"
LOG_NAME = "metrics.jsonl"
MADE_BESIDES = {
    "phase2": ("base.zip", "tensorboard/base"),
    "phase3": (
        "hybrid.zip",
        *(f"tensorboard/{name}" for name in ("rl_only", "hybrid", "hybrid_placebo")),
        "report.json",
        "report.html",
    ),
}
"""What a phase leaves outside of its own folder."""
_NAME = re.compile(rf"{MODE}_([A-Z0-9]+)_(\d{{8}}-\d{{6}})(?:-(\d+))?")
_LOCK, _HOLDER = ".pipeline.lock", ".pipeline.holder"


@contextmanager
def only_run_in(output_dir: Path) -> Iterator[None]:
    """UserError when another pipeline is at work there. The lock is the system's: a dead process holds none."""
    check_writable(output_dir)
    lock, holder = FileLock(output_dir / _LOCK), output_dir / _HOLDER
    try:
        lock.acquire(timeout=0)
    except Timeout:
        process = holder.read_text(encoding="utf-8") if holder.exists() else "unknown"
        raise UserError(
            f"Another pipeline (process {process}) is at work in {output_dir}. Wait for it, stop it, or name another "
            f"folder with --output-dir."
        ) from None
    try:
        holder.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def newest_run(output_dir: Path, market: str | None) -> Path | None:
    """The pipeline run of a market (None: of any) that was begun last; None where there is none."""
    return next(iter(runs_of(output_dir, market)), None)


def runs_of(output_dir: Path, market: str | None) -> list[Path]:
    """The pipeline runs of a market (None: of any), the one begun last first."""
    runs = [path.parent for path in output_dir.glob(f"{MODE}_{market or '*'}_*/{LEDGER_NAME}")]
    return sorted((folder for folder in runs if _NAME.fullmatch(folder.name)), key=_begun, reverse=True)


def _begun(folder: Path) -> tuple[str, int]:
    """When a run began, by its name, and the number that tells runs of one second apart."""
    _, when, number = _NAME.fullmatch(folder.name).groups()  # type: ignore[union-attr]
    return when, int(number or 1)


def log_length(run: Path) -> int:
    """Bytes in the log of a run's trainings; 0 before the first row."""
    log = run / LOG_NAME
    return log.stat().st_size if log.exists() else 0


def set_aside(run: Path, phase: str) -> Path | None:
    """Move what a phase has left into a folder beside, with a copy of the log; None if it has left nothing."""
    left = [path for name in MADE_BESIDES.get(phase, ()) if (path := run / name).exists()]
    own = run / phase
    if not own.exists() and not left:
        return None
    taken = {path.name for path in run.glob(f"{phase}.before-*")}
    aside = next(path for n in itertools.count(1) if (path := run / f"{phase}.before-{n}").name not in taken)
    if own.exists():
        own.rename(aside)
    else:
        aside.mkdir()
    for path in left:
        kept = aside / path.relative_to(run)
        kept.parent.mkdir(exist_ok=True)
        path.rename(kept)
    if (run / LOG_NAME).exists():
        shutil.copy2(run / LOG_NAME, aside / LOG_NAME)
    return aside
