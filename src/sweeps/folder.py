"""Where a sweep is: a new folder, or that of an unfinished one of the same file and settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from src import run_names
from src.configuration import Configuration, build_config, load_config_file
from src.errors import UserError
from src.files import read_regular, write_atomically
from src.runs.context import plans_of
from src.runs.folders import is_at_work, newest_run, runs_of
from src.runs.inputs import run_inputs
from src.runs.ledger import differences
from src.runs.run_folder import check_seal, sealed
from src.sweeps.file import SweepFile

KIND = "sweep"
"""What the folder's name begins with."""
FILE, RESULT, WINNER = "sweep.yaml", "sweep.json", "winner"
"""In a sweep's folder: its file as it was read, what it found, and the folder of the winner's run."""


def write_file(folder: Path, file: SweepFile) -> None:
    """Keep the sweep's file, under its hash. Raises OSError."""
    write_atomically(folder / FILE, sealed(yaml.safe_dump(file.model_dump(mode="json"), sort_keys=False)))


def is_finished(folder: Path) -> bool:
    """Whether its winner was trained again."""
    try:
        return "shrinkage" in json.loads(read_regular(folder / RESULT))
    except (OSError, ValueError):
        return False


def earlier_sweep(
    output_dir: Path, file: SweepFile, config: Configuration, auto_resume: bool | None, say: Callable[[str], None]
) -> Path | None:
    """The sweep to resume, None to begin one.

    Raises: UserError for a newest sweep that `auto_resume` names and that is of another file or other settings.
    """
    market = config.test_mode.market_label
    if auto_resume:
        newest = newest_run(output_dir, KIND, market)
        if newest is None:
            say(f"{output_dir} holds no sweep of {market} to resume: starting a new one")
        elif found := _differences(newest, file, config):
            raise UserError(
                f"The sweep {newest} was begun with other settings: {'; '.join(found)}. Give its own file and options, "
                f"or --no-auto-resume to begin a new sweep."
            )
        return newest
    if auto_resume is False or not config.checkpoint.auto_resume:
        return None
    for folder in runs_of(output_dir, KIND, market):
        if is_finished(folder) or is_at_work(folder):
            continue
        try:
            found = _differences(folder, file, config)
        except UserError as error:
            found = [f"it cannot be read ({error})"]
        if not found:
            say(f"resuming {folder}, unfinished and of the same settings (--no-auto-resume begins a new sweep)")
            return folder
        say(f"{folder} is unfinished, but has other settings ({'; '.join(found)}): a new sweep begins")
        break
    return None


def _differences(folder: Path, file: SweepFile, config: Configuration) -> list[str]:
    """How a sweep differs from one begun now, in words. UserError where it cannot be read."""
    for name in (FILE, run_names.CONFIGURATION):
        check_seal(folder / name)
    kept = _flat(yaml.safe_load(read_regular(folder / FILE)))
    settings = folder / run_names.CONFIGURATION
    before: Configuration = build_config(None, load_config_file(settings), {}, source=str(settings))
    return [
        *differences(kept, _flat(file.model_dump(mode="json"))),
        *differences(_inputs(before), _inputs(config)),
    ]


def _inputs(config: Configuration) -> dict[str, str]:
    return run_inputs(config, plans_of(config)) | {"evidence.walk_forward": str(config.evidence.walk_forward)}


def _flat(values: dict[str, Any]) -> dict[str, str]:
    space = {f"space.{key}": json.dumps(value) for key, value in values["space"].items()}
    return {key: json.dumps(value) for key, value in values.items() if key != "space"} | space
