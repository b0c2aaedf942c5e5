"""Checkpoints: folders written atomically, verified before use, never pickled."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from src.agent.checkpoint_files import (
    FILE_NAME,
    MANIFEST,
    Contents,
    Damage,
    encode,
    plain_facts,
    read_folder,
    write_folder,
)
from src.errors import UserError
from src.files import NO_SPACE, sync_folder

NAME: Final = re.compile(r"checkpoint-(\d{12})", re.ASCII)
# Temporary names: being written, replaced by one of the same step, being removed.
PASSING: Final = re.compile(r"\.(checkpoint-\d{12})\.(partial|replaced|removed)", re.ASCII)


class CheckpointError(UserError):
    """A checkpoint cannot be written, or a folder of checkpoints cannot be used."""


class CheckpointMismatch(UserError):
    """A checkpoint belongs to a training with other inputs, so it would give another result."""


@dataclass(frozen=True)
class Snapshot:
    """Content of a checkpoint, independent of its storage.

    `tensors`: by part ("policy", "optimizer", "environment", "generators"), each a flat mapping of name to CPU tensor.
    `state`: text, truth values, integers of any size, any floats, None, lists, mappings by text; tuples become lists.
    """

    step: int
    """num_timesteps of the phase when it was taken."""
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A verified checkpoint in new memory; parts and tensors in alphabetical order."""

    snapshot: Snapshot
    path: Path
    not_bitwise: list[str]
    """Differences of the machine in words; empty if resuming gives the same bits."""


class CheckpointStore:
    """The checkpoints of one training phase, below `folder`; one process at a time may use it.

    inputs: by flat name, everything the training's result depends on; a checkpoint with other inputs is not loaded.
    machine: by flat name, facts that affect only bitwise equality (threads, CPU capability, library versions).
    keep_last: how many intact checkpoints to keep. Nothing is read or written before the first method call.
    Raises TypeError if inputs or machine are not text, ValueError for a keep_last below 1.
    """

    def __init__(
        self, folder: Path, inputs: Mapping[str, str], *, keep_last: int = 3, machine: Mapping[str, str]
    ) -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}; it must be at least 1")
        self.folder = Path(folder)
        self._inputs = plain_facts(inputs, "inputs")
        self._machine = plain_facts(machine, "machine")
        self._keep_last = keep_last
        self._known_intact: set[str] = set()

    def steps(self) -> list[int]:
        """Steps of the checkpoint folders by name, oldest first, unverified. Raises CheckpointError."""
        return [_step_of(name) for name, is_folder in self._listing().items() if is_folder and NAME.fullmatch(name)]

    @property
    def latest_path(self) -> Path | None:
        """Folder of the last of `steps`, or None."""
        steps = self.steps()
        return self.folder / _name_of(steps[-1]) if steps else None

    def save(self, snapshot: Snapshot, *, delete_older: bool = True) -> Path:
        """Write and fsync a checkpoint, then delete all but the newest `keep_last` intact ones.

        Without `delete_older` nothing is deleted before `delete_surplus`: so the members of a group have a common
        checkpoint on disk at every instant.

        A checkpoint of the same step is replaced; later steps belong to an abandoned training and are deleted. Raises
        CheckpointError if the disk refuses; the store then keeps its previous content. Raises TypeError or ValueError
        for a snapshot that cannot be stored, before anything is written.
        """
        contents = Contents(
            snapshot.step,
            {part: dict(tensors) for part, tensors in snapshot.tensors.items()},
            dict(snapshot.state),
            self._inputs,
            self._machine,
        )
        name = _name_of(snapshot.step)
        self._write(name, encode(contents))
        if delete_older:
            self.delete_surplus(snapshot.step)
        return self.folder / name

    def receive(self, name: str, files: Mapping[str, bytes]) -> None:
        """Keep a checkpoint that another machine has written, as `save` would. Raises CheckpointError as `save`;
        ValueError for names that no checkpoint has."""
        if not NAME.fullmatch(name) or not all(re.fullmatch(FILE_NAME, each) for each in files):
            raise ValueError(f"{name!r} with the files {sorted(files)} is no checkpoint")
        last = {MANIFEST: files[MANIFEST]} if MANIFEST in files else {}
        self._write(name, {each: raw for each, raw in files.items() if each != MANIFEST} | last)
        self.delete_surplus(_step_of(name))

    def _write(self, name: str, files: Mapping[str, bytes]) -> None:
        try:
            _make_folder(self.folder)
            self._tidy()
            self._publish(name, files)
        except OSError as error:
            raise self._refused(f"checkpoint {name} cannot be written", error) from error
        self._known_intact.add(name)

    def delete_surplus(self, step: int) -> None:
        """Delete all but the newest `keep_last` intact checkpoints up to `step`, and later ones. Raises
        CheckpointError."""
        try:
            self._tidy()
            self._remove(self._surplus(step))
        except OSError as error:
            name = _name_of(step)
            raise self._refused(f"checkpoint {name} was written, but an older one cannot be deleted", error) from error

    def newest(self, say: Callable[[str], None]) -> Loaded | None:
        """The newest checkpoint whose files all match its manifest, or None.

        say: receives one line for each newer one that is skipped, and why. Raises CheckpointMismatch if it was made
        from other inputs, CheckpointError if the folder cannot be read or cleared of an interrupted write.
        """
        self.tidy()
        for name in reversed(self._names()):
            if (loaded := self._load(name, say)) is not None:
                return loaded
        return None

    def tidy(self) -> None:
        """Undo or finish an interrupted write. Raises CheckpointError."""
        try:
            self._tidy()
        except OSError as error:
            raise self._refused("the remains of an interrupted write cannot be removed", error) from error

    def load(self, step: int, say: Callable[[str], None]) -> Loaded | None:
        """The checkpoint of one of `steps`; None where it is damaged, which `say` is told. Raises as `newest`."""
        return self._load(_name_of(step), say)

    def _load(self, name: str, say: Callable[[str], None]) -> Loaded | None:
        try:
            contents = self._read(name)
        except Damage as damage:
            self._known_intact.discard(name)
            say(f"checkpoint {self.folder / name} was skipped: {damage}")
            return None
        self._known_intact.add(name)
        self._check_inputs(name, contents.inputs)
        snapshot = Snapshot(contents.step, contents.tensors, contents.state)
        return Loaded(snapshot, self.folder / name, _differences(contents.machine, self._machine))

    def clear(self) -> None:
        """Delete every checkpoint, including damaged ones; the phase restarts. Raises CheckpointError."""
        try:
            self._tidy()
            self._remove(self._names())
        except OSError as error:
            raise self._refused("checkpoints cannot be deleted", error) from error

    def _names(self) -> list[str]:
        """Names in the folder that a checkpoint may have, oldest first."""
        return [name for name in self._listing() if NAME.fullmatch(name)]

    def _listing(self) -> dict[str, bool]:
        """Whether each entry is a real folder (not a link), by name in order."""
        try:
            with os.scandir(self.folder) as entries:
                return dict(sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint folder {self.folder} cannot be read ({error.strerror or error}): "
                f"make it a readable and writable folder, then continue with --auto-resume."
            ) from error

    def _read(self, name: str) -> Contents:
        contents = read_folder(self.folder / name)
        if _name_of(contents.step) != name:
            raise Damage(f"manifest.json is of step {contents.step}, which is not the folder's")
        return contents

    def _is_intact(self, name: str) -> bool:
        """Whether the checkpoint was intact when this store last wrote or read it, else whether it is now."""
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
                f"Continue with the original options, or restart that phase with --start-phase N (N: its number)."
            )

    def _publish(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write to a temporary name, then rename; the previous folder is kept until the new one is on disk."""
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
        """Undo or finish an interrupted write: a replaced checkpoint without its successor gets its name back."""
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
        """Checkpoints to delete: all but the newest intact ones up to `step`; damaged ones between them are kept."""
        surplus, kept = [], 0
        for name in reversed(self._names()):
            if _step_of(name) > step or kept >= self._keep_last:
                surplus.append(name)
            else:
                kept += self._is_intact(name)
        return surplus

    def _remove(self, names: Sequence[str]) -> None:
        """Rename and fsync before deleting files, so that no checkpoint is ever partly there."""
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
        kept = f"{intact} is kept" if intact else "there is no earlier checkpoint, so the phase restarts"
        remedy = "Free space on that disk" if error.errno in NO_SPACE else "See that the folder can be written"
        return CheckpointError(
            f"In {self.folder} {what} ({error.strerror or error}). {remedy}, then continue with --auto-resume: {kept}."
        )


def newest_common(stores: Sequence[CheckpointStore], say: Callable[[str], None]) -> list[Loaded] | None:
    """The newest checkpoints of one timestep that all of these trainings have intact, in their order, or None. Raises
    as `CheckpointStore.newest`."""
    for store in stores:
        store.tidy()
    for step in sorted(set.intersection(*(set(store.steps()) for store in stores)), reverse=True):
        found = []
        for store in stores:
            if (loaded := store.load(step, say)) is None:
                break
            found.append(loaded)
        else:
            return found
    return None


def _name_of(step: int) -> str:
    return f"checkpoint-{step:012d}"


def _step_of(name: str) -> int:
    return int(name.rpartition("-")[2])


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, and fsync each name."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    os.mkdir(folder)
    sync_folder(folder.parent)


def _delete(path: Path) -> None:
    """Delete a folder with its files, or a link or file of that name; never the target of a link."""
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
