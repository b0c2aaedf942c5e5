"""The models of a run: those of its first seed, copied from their members to where a user looks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from src.agent.members import Training
from src.files import kind_of, read_regular, write_atomically
from src.runs.engine import Engine
from src.runs.state import RunState
from src.runs.tasks import Task

EXPORTED = (Training.BASE, Training.HYBRID)
FILES = (".zip", ".policy.safetensors", ".policy.json")
NAMES = tuple(f"{training}{kind}" for training in EXPORTED for kind in FILES)


def publish(engine: Engine, state: RunState, tasks: Sequence[Task], say: Callable[[str], None]) -> None:
    """Copy what the first seed's members export into the run's folder, where it is not there or not the same."""
    members = [(task, task.member) for task in tasks if task.member is not None]
    first = min((member.seed for _, member in members), default=0)
    again = []
    for task, member in members:
        if member.fold or member.seed != first or member.training not in EXPORTED or task.name not in engine.results:
            continue
        for kind in FILES:
            file = f"{member.training}{kind}"
            name = f"{member.models}{file}"
            source, target = engine.results[task.name].folder / file, state.folder / name
            if not source.exists() or _same(source, target):
                continue
            if name in state.damaged:
                again.append(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, read_regular(source))
            state.record([name])
    if again:
        say(f"made again from the members: {', '.join(again)}")


def _same(source: Path, target: Path) -> bool:
    return target.exists() and not kind_of(target) and read_regular(source) == read_regular(target)
