"""Checkpoints: folders that are written whole or not at all, checked before a byte of them is used, never pickled."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from src.agent.checkpoint_files import Contents, Damage, encode, plain_facts, read_folder, write_folder
from src.errors import UserError
from src.files import sync_folder

NAME: Final = re.compile(r"checkpoint-(\d{12})", re.ASCII)
# Names of folders on the way in, out of the way of one of the same step, and on the way out.
PASSING: Final = re.compile(r"\.(checkpoint-\d{12})\.(partial|replaced|removed)", re.ASCII)
NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(UserError):
    """A checkpoint that cannot be written, or a folder of checkpoints that cannot be used."""


class CheckpointMismatch(UserError):
    """A checkpoint of a training that would give another result than the one asked for."""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds, apart from how it is stored.

    `tensors`: by part ("policy", "optimizer", "environment", "generators"), each a flat mapping of name to CPU tensor.
    `state`: text, truth values, integers of any size, any floats, None, lists, mappings by text; tuples become lists.
    """

    step: int
    """num_timesteps of the phase at the moment it was taken."""
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that held, in fresh memory; names of parts and tensors in alphabetical order."""

    snapshot: Snapshot
    path: Path
    not_bitwise: list[str]
    """What of the machine differs, in words; empty where going on gives the same bits."""


class CheckpointStore:
    """The checkpoints of one training phase, below `folder`; one process at a time may use it.

    inputs: by flat name, everything the result of the training depends on; a checkpoint of others is not loaded.
    machine: by flat name, what only bitwise equality depends on (threads, CPU capability, versions of libraries).
    keep_last: how many intact checkpoints stay. Nothing is read or written before the first call of a method.
    Raises TypeError where inputs or machine are not text, ValueError for a keep_last below 1.
    """

    def __init__(
        self, folder: Path, inputs: Mapping[str, str], *, keep_last: int = 3, machine: Mapping[str, str]
    ) -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}; at least 1 checkpoint must stay")
        self.folder = Path(folder)
        self._inputs = plain_facts(inputs, "inputs")
        self._machine = plain_facts(machine, "machine")
        self._keep_last = keep_last
        self._known_intact: set[str] = set()

    def steps(self) -> list[int]:
        """Steps of the checkpoint folders by name, oldest first; none of them is checked. Raises CheckpointError."""
        return [_step_of(name) for name, is_folder in self._listing().items() if is_folder and NAME.fullmatch(name)]

    @property
    def latest_path(self) -> Path | None:
        """Folder of the last of `steps`, None where there is none."""
        steps = self.steps()
        return self.folder / _name_of(steps[-1]) if steps else None

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint and bring it to the disk, then delete all but the newest `keep_last` intact ones.

        A checkpoint of the same step is replaced; those of later steps belong to a training that was left, and go.
        Raises CheckpointError when the disk refuses: the store then holds what it held before. Raises TypeError or
        ValueError for a snapshot that cannot be stored, before anything is written.
        """
        contents = Contents(
            snapshot.step,
            {part: dict(tensors) for part, tensors in snapshot.tensors.items()},
            dict(snapshot.state),
            self._inputs,
            self._machine,
        )
        files = encode(contents)
        name = _name_of(snapshot.step)
        try:
            _make_folder(self.folder)
            self._tidy()
            self._publish(name, files)
        except OSError as error:
            raise self._refused(f"checkpoint {name} cannot be written", error) from error
        self._known_intact.add(name)
        try:
            self._tidy()
            self._remove(self._surplus(snapshot.step))
        except OSError as error:
            raise self._refused(f"checkpoint {name} is written, an older one cannot be deleted", error) from error
        return self.folder / name

    def newest(self, say: Callable[[str], None]) -> Loaded | None:
        """The newest checkpoint whose files are all as its manifest says; None where there is none.

        say: told in one line of each newer one that is passed over, and why. Raises CheckpointMismatch where it was
        made from other inputs, CheckpointError where the folder cannot be read or cleared of a dead write's rest.
        """
        try:
            self._tidy()
        except OSError as error:
            raise self._refused("the rest of a write that died cannot be cleared away", error) from error
        for name in reversed(self._names()):
            try:
                contents = self._read(name)
            except Damage as damage:
                self._known_intact.discard(name)
                say(f"checkpoint {self.folder / name} is passed over: {damage}")
                continue
            self._known_intact.add(name)
            self._check_inputs(name, contents.inputs)
            snapshot = Snapshot(contents.step, contents.tensors, contents.state)
            return Loaded(snapshot, self.folder / name, _differences(contents.machine, self._machine))
        return None

    def clear(self) -> None:
        """Delete every checkpoint, damaged ones too: the phase begins anew. Raises CheckpointError."""
        try:
            self._tidy()
            self._remove(self._names())
        except OSError as error:
            raise self._refused("checkpoints cannot be deleted", error) from error

    def _names(self) -> list[str]:
        """Names that a checkpoint may have, oldest first, whatever they are."""
        return [name for name in self._listing() if NAME.fullmatch(name)]

    def _listing(self) -> dict[str, bool]:
        """By name in order, whether each entry is a folder and no link to one."""
        try:
            with os.scandir(self.folder) as entries:
                return dict(sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint folder {self.folder} cannot be read ({error.strerror or error}): "
                f"make it a folder that can be read and written, then go on with --auto-resume."
            ) from error

    def _read(self, name: str) -> Contents:
        contents = read_folder(self.folder / name)
        if _name_of(contents.step) != name:
            raise Damage(f"manifest.json is of step {contents.step}, which is not the folder's")
        return contents

    def _is_intact(self, name: str) -> bool:
        """Whether the checkpoint held when this store wrote or last read it, else whether it holds now."""
        if name not in self._known_intact:
            try:
                self._read(name)
            except Damage:
                return False
            self._known_intact.add(name)
        return True

    def _check_inputs(self, name: str, recorded: Mapping[str, str]) -> None:
        differences = _differences(recorded, self._inputs)
        if differences:
            raise CheckpointMismatch(
                f"The checkpoint {self.folder / name} is of another training: {'; '.join(differences)}. "
                f"Go on with the same options as then, or begin that phase anew with --start-phase N (N: its number)."
            )

    def _publish(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write beside, then rename; what was there under the name stays in reach until the new one is on the disk."""
        final, partial, replaced = self.folder / name, self._passing(name, "partial"), self._passing(name, "replaced")
        placed = False
        try:
            write_folder(partial, files)
            if os.path.lexists(final):
                os.rename(final, replaced)
                sync_folder(self.folder)
            os.rename(partial, final)
            placed = True
            sync_folder(self.folder)
        except BaseException:
            if placed:
                os.rename(final, partial)
            self._tidy()
            raise

    def _tidy(self) -> None:
        """Undo or end what a dead write began: a replaced checkpoint without its successor gets its name back."""
        for name in self._listing():
            passing = PASSING.fullmatch(name)
            if passing is None:
                continue
            final = self.folder / passing[1]
            if passing[2] == "replaced" and not os.path.lexists(final):
                os.rename(self.folder / name, final)
            else:
                _delete(self.folder / name)

    def _surplus(self, step: int) -> list[str]:
        """All but the newest intact checkpoints up to `step`; damaged ones between those stay to be looked at."""
        surplus, kept = [], 0
        for name in reversed(self._names()):
            if _step_of(name) > step or kept >= self._keep_last:
                surplus.append(name)
            else:
                kept += self._is_intact(name)
        return surplus

    def _remove(self, names: Sequence[str]) -> None:
        """Take the names away and bring that to the disk before a file goes: no checkpoint is ever half there."""
        if not names:
            return
        self._known_intact.difference_update(names)
        for name in names:
            os.rename(self.folder / name, self._passing(name, "removed"))
        sync_folder(self.folder)
        for name in names:
            _delete(self._passing(name, "removed"))

    def _passing(self, name: str, state: str) -> Path:
        return self.folder / f".{name}.{state}"

    def _refused(self, what: str, error: OSError) -> CheckpointError:
        self._known_intact.clear()
        intact = next((name for name in reversed(self._names()) if self._is_intact(name)), None)
        kept = f"{intact} is kept" if intact else "there is no earlier checkpoint, so the phase begins again"
        remedy = "Free space on that disk" if error.errno in NO_SPACE else "See that the folder can be written"
        return CheckpointError(
            f"In {self.folder} {what} ({error.strerror or error}). {remedy}, then go on with --auto-resume: {kept}."
        )


def _name_of(step: int) -> str:
    return f"checkpoint-{step:012d}"


def _step_of(name: str) -> int:
    return int(name.rpartition("-")[2])


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each name brought to the disk."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    os.mkdir(folder)
    sync_folder(folder.parent)


def _delete(path: Path) -> None:
    """Delete a folder with its files, or a link or file that took its name; never what a link points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _differences(was: Mapping[str, str], is_now: Mapping[str, str]) -> list[str]:
    """Each fact that differs, in words, by name."""
    names = sorted(name for name in was.keys() | is_now.keys() if was.get(name) != is_now.get(name))
    return [f"{name} was {_shown(was.get(name))}, is {_shown(is_now.get(name))}" for name in names]


def _shown(value: str | None) -> str:
    if value is None:
        return "not set"
    return value if value.isprintable() and value else repr(value)
