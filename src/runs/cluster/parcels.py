"""What travels between a run and the nodes that do its tasks: jobs whose paths lie elsewhere, and files as bytes.

No path of one machine has a meaning on another. A node works below a folder of its own, in which everything has the
name that it has below the run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from src.agent.checkpoint_files import Damage, read_folder
from src.agent.checkpoints import NAME, CheckpointStore
from src.files import read_regular, regular_only, write_atomically
from src.runs.member_work import QUARTERS_NAME, WEIGHTS_NAME

READ_OF_A_MEMBER = (WEIGHTS_NAME, QUARTERS_NAME)
"""Files of a finished member that other tasks read."""

Files = dict[str, bytes]
"""By path below the run's folder, "/" between its parts."""


def moved(value: Any, here: Path, there: Path) -> Any:
    """A job with `there` in the place of `here` in every path it holds, also in dataclasses, mappings and sequences."""
    if isinstance(value, Path):
        return there / value.relative_to(here) if value.is_relative_to(here) else value
    if type(value) is dict:
        return {key: moved(item, here, there) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(item, here, there) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        was = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        now = {name: moved(item, here, there) for name, item in was.items()}
        changed = {name: item for name, item in now.items() if item is not was[name] and item != was[name]}
        return replace(value, **changed) if changed else value
    return value


def paths_in(value: Any, below: Path) -> Iterator[Path]:
    """Every path below a folder that a job holds."""
    if isinstance(value, Path):
        if value.is_relative_to(below):
            yield value
    elif type(value) in (dict, list, tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from paths_in(item, below)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from paths_in(getattr(value, each.name), below)


def read_by(job: Any, run: Path, own: Path) -> Files:
    """The files of other tasks that a job reads: those it names, and of folders of members the weights they left."""
    found: Files = {}
    for path in paths_in(job, run):
        if path == own:
            continue
        names = [path] if path.is_file() else [path / name for name in READ_OF_A_MEMBER if (path / name).is_file()]
        found |= {str(PurePosixPath(each.relative_to(run))): read_regular(each) for each in names}
    return found


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> tuple[str, Files] | None:
    """Name and files of the newest intact checkpoint of a training; `say` is told of those that are not."""
    store = CheckpointStore(folder, {}, machine={})
    store.tidy()
    for step in reversed(store.steps()):
        path = folder / f"checkpoint-{step:012d}"
        try:
            read_folder(path)
        except Damage as damage:
            say(f"checkpoint {path} was skipped: {damage}")
            continue
        return path.name, files_of(path)
    return None


def files_of(folder: Path) -> Files:
    """The files of a folder that holds no others."""
    return {path.name: read_regular(path) for path in sorted(folder.iterdir())}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder. ValueError for a name that leads out of it."""
    for name, raw in files.items():
        path = inside(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, raw)


def write_at(path: Path, offset: int, raw: bytes) -> None:
    """Make a log what it is elsewhere: its first `offset` bytes are kept, `raw` follows, and nothing after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", opener=regular_only) as file:
        file.truncate(min(offset, file.tell()))
    with open(path, "ab", opener=regular_only) as file:
        file.write(raw)


def inside(folder: Path, name: str) -> Path:
    """A path below a folder. ValueError for a name that leads out of it."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise ValueError(f"{name!r} is no name of a file below {folder}")
    return folder.joinpath(*parts)


@dataclass
class NewFiles:
    """What a task has made on a node since it was last asked: whole checkpoints, and what its logs have grown by.

    `known` are checkpoints that came from the run.
    """

    run: Path
    own: str
    logs: tuple[Path, ...]
    """Files that grow, or folders of such."""
    known: set[str] = field(default_factory=set)
    _sent: dict[str, int] = field(default_factory=dict)

    def checkpoints(self) -> Iterator[tuple[str, Files]]:
        """Name and files of each new one, oldest first."""
        folder = self.run / self.own
        names = sorted(name for name in os.listdir(folder) if NAME.fullmatch(name)) if folder.is_dir() else []
        for name in names:
            if name not in self.known:
                self.known.add(name)
                yield name, files_of(folder / name)

    def grown(self) -> Iterator[tuple[str, int, bytes]]:
        """Name, offset and bytes of what logs have grown by; a log that was cut is sent from its beginning."""
        found = [path for log in self.logs for path in (sorted(log.rglob("*")) if log.is_dir() else [log])]
        for path in found:
            if not path.is_file():
                continue
            raw, name = read_regular(path), str(PurePosixPath(path.relative_to(self.run)))
            offset = self._sent.get(name, 0)
            offset = offset if offset <= len(raw) else 0
            if self._sent.get(name) != len(raw):
                self._sent[name] = len(raw)
                yield name, offset, raw[offset:]
