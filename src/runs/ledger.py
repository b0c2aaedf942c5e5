"""The pipeline's ledger: inputs, results, time and memory of each phase. One JSON file, written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from src.agent.ppo import Library
from src.errors import UserError
from src.files import plain_json, read_regular, write_json
from src.runs.run_files import FileFacts

LEDGER_NAME = "ledger.json"
Status = Literal["pending", "running", "done", "failed", "timed_out", "interrupted"]


class Part(BaseModel):
    """Something a phase has finished: one training, the advice."""

    model_config = ConfigDict(extra="forbid")

    facts: dict[str, Any]
    """What the report says of it."""
    log_bytes: int
    """Length of metrics.jsonl behind it: rows after belong to what was not finished."""
    log_tail: str = ""
    """Rows of a training after its last checkpoint, which holds the others."""


class PhaseEntry(BaseModel):
    """One phase. Seconds are of all its tries together, memory in GB (10^9 bytes)."""

    model_config = ConfigDict(extra="forbid")

    status: Status = "pending"
    inputs: dict[str, str] = Field(default_factory=dict)
    """Inputs its result depends on, by key."""
    result: str = ""
    """Fingerprint of what it made; an input of the phase after it."""
    parts: dict[str, Part] = Field(default_factory=dict)
    timesteps: dict[str, int] = Field(default_factory=dict)
    """Timesteps done by training, up to the newest checkpoint of one that is not finished."""
    seconds: float = 0.0
    tries: int = 0
    failures: list[str] = Field(default_factory=list)
    log_bytes: int = 0
    """Length of metrics.jsonl when the run went on without its end."""
    torch_threads: int | None = None
    products: Library | None = None
    """The library that multiplied the fused learner's matrices: phases after it, and a resumed one, keep it."""
    memory_before: dict[str, float] = Field(default_factory=dict)
    memory_after: dict[str, float] = Field(default_factory=dict)
    gpu_utilization: float | None = None
    cpu_percent: float | None = None
    not_bitwise: list[str] = Field(default_factory=list)
    """Why its result may differ in the last bits from that of an uninterrupted run; empty if there is no reason."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    phases: dict[str, PhaseEntry]
    files: dict[str, FileFacts] = Field(default_factory=dict)
    sha256: str | None = None
    """Of all the rest as compact JSON; ledgers of earlier versions have none."""


def seal(content: Mapping[str, Any]) -> str:
    """SHA-256 of a ledger's content without its own."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Ledger:
    """The entries by phase name; `save` after every change that must survive."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.path = folder / LEDGER_NAME
        self.phases = {name: PhaseEntry() for name in names}
        self.files: dict[str, FileFacts] = {}
        """Files the run has made, by path in its folder; empty in a ledger of an earlier version."""

    @classmethod
    def read(cls, folder: Path, names: tuple[str, ...]) -> Ledger:
        """The ledger of a run; UserError for one that is missing or not readable."""
        ledger = cls(folder, names)
        try:
            raw = json.loads(read_regular(ledger.path).decode("utf-8"))
            content = _File.model_validate(raw)
            if content.sha256 is not None and content.sha256 != seal(raw):
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
        ledger.files = content.files
        return ledger

    def save(self) -> None:
        """Write the ledger atomically. UserError if that fails."""
        try:
            content = plain_json(_File(phases=self.phases, files=self.files).model_dump())
            write_json(self.path, {**content, "sha256": seal(content)})
        except OSError as error:
            raise UserError(
                f"The ledger {self.path} cannot be written ({error.strerror or error}). Free space on that disk, or "
                f"see that the folder can be written, then continue with --auto-resume: what the ledger held is kept."
            ) from error

    def log_bytes(self, phase: str) -> int:
        """Length of metrics.jsonl where this phase continues: after all it has finished and after the phases before
        it, failed ones too."""
        names = list(self.phases)
        before = names[: names.index(phase)]
        parts = [part for name in (*before, phase) for part in self.phases[name].parts.values()]
        return max([0, *(part.log_bytes for part in parts), *(self.phases[name].log_bytes for name in before)])


def differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What changed between two sets of inputs, in words."""
    return [
        f"{key} was {recorded.get(key) or 'not there'}, is {now.get(key) or 'not there'}"
        for key in sorted(recorded.keys() | now.keys())
        if recorded.get(key) != now.get(key)
    ]
