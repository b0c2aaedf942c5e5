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
    members = [task for task in tasks if task.member is not None and task.name in engine.results]
    seeds = [task.member.seed for task in members if task.member is not None]
    again = []
    for task in members:
        assert task.member is not None
        if task.member.fold or task.member.seed != min(seeds) or task.member.training not in EXPORTED:
            continue
        for kind in FILES:
            name = f"{task.member.training}{kind}"
            source, target = engine.results[task.name].folder / name, state.folder / name
            if not source.exists() or _same(source, target):
                continue
            if name in state.damaged:
                again.append(name)
            write_atomically(target, read_regular(source))
            state.record([name])
    if again:
        say(f"made again from the members: {', '.join(again)}")


def _same(source: Path, target: Path) -> bool:
    return target.exists() and not kind_of(target) and read_regular(source) == read_regular(target)
