"""Tasks of a run: what each reads, the folder it fills, and whether what lies there still holds.

A task is done when its folder holds `task.json`, which is written last and atomically: the inputs it was made from,
what the report says of it, and size and SHA-256 of every other file it made. So a run may be killed at any instant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from src.agent.members import Member
from src.files import plain_json, read_regular, write_json
from src.runs.run_files import FileFacts, damage, facts_of

TASK_NAME = "task.json"


@dataclass(frozen=True)
class Done:
    """A finished task: its folder, and what the report and later tasks read of it."""

    folder: Path
    facts: Mapping[str, Any]


Results = Mapping[str, Done]
"""Finished tasks by name."""


@dataclass(frozen=True)
class Task:
    """One step of a run. `name` is the path of its folder below the run's.

    `inputs` is everything its result depends on, by flat name: it is asked once the tasks it needs are done, and a
    finished task with the same inputs is not done again. `work(job(results), market, watch)` returns the facts; it runs
    in a worker process, where `work` must be a function of a module and the job must pickle, or `here`. `alone`:
    nothing runs meanwhile, because it measures the machine or takes all of it.
    """

    name: str
    stage: str
    """What the clock, the hardware samples and the console call it: "training", "evaluation", ..."""
    title: str
    what: str
    work: Callable[[Any, Any, Any], Mapping[str, Any]]
    inputs: Callable[[Results], Mapping[str, str]]
    job: Callable[[Results], Any]
    needs: Sequence[str] = ()
    market: str = ""
    """The symbol of the market whose tables it reads."""
    here: bool = False
    alone: bool = False
    member: Member | None = None
    timesteps: int = 0
    """Of a member."""
    left: Callable[[Any, Callable[[str], None]], Mapping[str, Any] | None] | None = None
    """Of a task that failed for good: `left(job, say)` gives facts with which later tasks can do, or None."""
    together: Hashable | None = None
    """Of a member: its shape. Members of one shape can train together; None: it trains alone."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int = 1
    inputs: dict[str, str]
    facts: dict[str, Any]
    files: dict[str, FileFacts]
    sha256: str = ""


@dataclass(frozen=True)
class Found:
    """What lies in a task's folder: the inputs it was made from and the result, or why there is none ("" where the
    task was never finished)."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    done: Done | None = None
    why_not: str = ""


def finish_task(folder: Path, inputs: Mapping[str, str], facts: Mapping[str, Any], files: Sequence[str]) -> Done:
    """Write `task.json` behind everything else; `files` are names in the folder. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    content = plain_json(_File(inputs=dict(inputs), facts=dict(facts), files=facts_of(folder, files)).model_dump())
    content["sha256"] = _seal(content)
    write_json(folder / TASK_NAME, content)
    return Done(folder, content["facts"])


def find_task(folder: Path) -> Found:
    """What lies in a task's folder, every file of it checked."""
    path = folder / TASK_NAME
    try:
        raw = json.loads(read_regular(path).decode("utf-8"))
        content = _File.model_validate(raw)
        if content.format != 1:
            return Found(why_not=f"{TASK_NAME} has format {content.format}, which this version does not read")
        if content.sha256 != _seal(raw):
            return Found(why_not=f"{TASK_NAME} was changed: its content differs from its own SHA-256")
    except FileNotFoundError:
        return Found()
    except (OSError, ValueError, RecursionError) as error:  # pydantic's is a ValueError
        return Found(why_not=f"{TASK_NAME} cannot be read ({str(error).splitlines()[0]})")
    wrong = {name: why for name, facts in content.files.items() if (why := damage(folder, name, facts))}
    if wrong:
        return Found(content.inputs, why_not="; ".join(f"{name}: {why}" for name, why in wrong.items()))
    return Found(content.inputs, Done(folder, content.facts))


def _seal(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
