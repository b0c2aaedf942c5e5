"""The ledger of a run: how far its tasks and phases are, and what they took. One JSON file, written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from src import run_names
from src.agent.ppo import Library
from src.errors import UserError
from src.files import plain_json, read_regular, write_json
from src.runs.run_files import FileFacts
from src.runs.spaced import Spaced

Status = Literal["pending", "running", "done", "failed", "timed_out", "interrupted"]


class TaskEntry(BaseModel):
    """A task that was begun. What it made, and whether that holds, its own folder says."""

    model_config = ConfigDict(extra="forbid")

    status: Status = "pending"
    inputs: dict[str, str] = Field(default_factory=dict)
    """What it was begun with, by key."""
    tries: int = 0
    failures: list[str] = Field(default_factory=list)


class PhaseEntry(BaseModel):
    """One phase. Seconds are of all its tries together, memory in GB (10^9 bytes)."""

    model_config = ConfigDict(extra="forbid")

    status: Status = "pending"
    timesteps: dict[str, int] = Field(default_factory=dict)
    """Timesteps done by member, up to the newest checkpoint of one that is not finished."""
    seconds: float = 0.0
    tries: int = 0
    failures: list[str] = Field(default_factory=list)
    torch_threads: int | None = None
    memory_before: dict[str, float] = Field(default_factory=dict)
    memory_after: dict[str, float] = Field(default_factory=dict)
    gpu_utilization: float | None = None
    cpu_percent: float | None = None
    not_bitwise: list[str] = Field(default_factory=list)
    """Why its result may differ in the last bits from that of an uninterrupted run; empty if there is no reason."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[2] = 2
    phases: dict[str, PhaseEntry]
    tasks: dict[str, TaskEntry] = Field(default_factory=dict)
    products: Library | None = None
    group: int | None = Field(None, ge=1)
    files: dict[str, FileFacts] = Field(default_factory=dict)
    sha256: str
    """Of all the rest as compact JSON."""


def seal(content: Mapping[str, Any]) -> str:
    """SHA-256 of a ledger's content without its own."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Ledger:
    """The entries by phase name; `save` after every change that must survive."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.path = folder / run_names.LEDGER
        self.phases = {name: PhaseEntry() for name in names}
        self.tasks: dict[str, TaskEntry] = {}
        self.products: Library | None = None
        """The library that multiplies the fused learner's matrices, in every training of the run."""
        self.group: int | None = None
        """At most how many members train together, where they do."""
        self.files: dict[str, FileFacts] = {}
        """Files the run has made, by path in its folder."""
        self.save_soon = Spaced(self.save)
        """Saves what may be lost if the run is killed: nothing that a resumed run could not find in the tasks' folders.
        Where saving is slow, not every time."""

    @classmethod
    def read(cls, folder: Path, names: tuple[str, ...]) -> Ledger:
        """The ledger of a run; UserError for one that is missing or not readable."""
        ledger = cls(folder, names)
        try:
            raw = json.loads(read_regular(ledger.path).decode("utf-8"))
            if isinstance(raw, dict) and raw.get("format") == 1:
                raise ValueError("an earlier version of the toolkit wrote it")
            content = _File.model_validate(raw)
            if content.sha256 != seal(raw):
                raise ValueError("it was changed: its content differs from its own SHA-256")
        except (OSError, ValueError, RecursionError) as error:  # pydantic's is a ValueError
            reason = str(error).splitlines()[0]
            raise UserError(
                f"The ledger {ledger.path} cannot be read ({reason}). Leave out --auto-resume and --start-phase to "
                f"begin a new run."
            ) from None
        if set(content.phases) != set(names):
            raise UserError(
                f"The ledger {ledger.path} holds the phases {sorted(content.phases)}, not {list(names)}. Leave out "
                f"--auto-resume and --start-phase to begin a new run."
            )
        ledger.phases = {name: content.phases[name] for name in names}
        ledger.tasks, ledger.files = content.tasks, content.files
        ledger.products, ledger.group = content.products, content.group
        return ledger

    def save(self) -> None:
        """Write the ledger atomically. UserError if that fails."""
        try:
            content = plain_json(
                _File(
                    phases=self.phases,
                    tasks=self.tasks,
                    products=self.products,
                    group=self.group,
                    files=self.files,
                    sha256="",
                ).model_dump()
            )
            write_json(self.path, {**content, "sha256": seal(content)})
        except OSError as error:
            raise UserError(
                f"The ledger {self.path} cannot be written ({error.strerror or error}). Free space on that disk, or "
                f"see that the folder can be written, then continue with --auto-resume: what the ledger held is kept."
            ) from error


def differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What changed between two sets of inputs, in words."""
    return [
        f"{key} was {recorded.get(key) or 'not there'}, is {now.get(key) or 'not there'}"
        for key in sorted(recorded.keys() | now.keys())
        if recorded.get(key) != now.get(key)
    ]
