"""The state of a run: which folder it resumes in, and what in it is done, damaged or out of date."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from src import run_names
from src.agent.checkpoints import CheckpointMismatch
from src.configuration import Configuration, build_config, load_config_file
from src.errors import UserError
from src.files import read_regular
from src.runs.context import RunContext, plans_of
from src.runs.engine import Engine
from src.runs.folders import is_at_work, newest_run, runs_of
from src.runs.inputs import run_inputs
from src.runs.ledger import Ledger, PhaseEntry, differences
from src.runs.run_files import (
    FileFacts,
    FilesDamaged,
    damage,
    facts_of,
    files_in,
    manifest_is,
    set_odd_aside,
    write_manifest,
)
from src.runs.run_folder import make_run_folder
from src.runs.tasks import TASK_NAME, Task

CHANGING = re.compile(r"metrics\.jsonl$|config\.yaml$|report\.(json|html)$|tasks/|members/")
"""Written again while a run is under way, so that their recorded content says nothing then, unless their task was done
when it was recorded. Checkpoints and tasks have manifests of their own, and the first line of config.yaml is its
hash."""
REMADE = re.compile(r"config\.yaml$|report\.(json|html)$|(members/.*/)?metrics\.jsonl$|.*/task\.json$")
"""Made again with other times or settings in them."""


class RunState:
    """The folder and the ledger of a run, once `open` was called. `names` are those of its phases, in order."""

    folder: Path
    ledger: Ledger

    def __init__(
        self, context: RunContext, mode: str, names: Sequence[str], start_phase: int, auto_resume: bool | None
    ) -> None:
        self._context = context
        self._mode = mode
        self.names = tuple(names)
        self._start_phase = start_phase
        self._auto_resume = bool(auto_resume)
        self._look_for_unfinished = auto_resume is None and start_phase == 1 and context.config.checkpoint.auto_resume
        self._say = context.display.say
        self.damaged: dict[str, str] = {}
        """Files of a resumed run that are not as recorded, and why; filled by `find_damage`."""
        self._recorded: dict[str, FileFacts] = {}
        self._is_changed = False

    @property
    def first(self) -> str:
        """The name of the first phase."""
        return self.names[0]

    def entry(self, name: str) -> PhaseEntry:
        """The ledger's entry of a phase."""
        return self.ledger.phases[name]

    def earlier_run(self, output_dir: Path) -> Path | None:
        """The run to resume, or None to start one. Raises UserError if a later phase is to start without one."""
        market = self._context.config.test_mode.market_label
        kind = self._mode.replace("_", "-")
        earlier = newest_run(output_dir, self._mode, market)
        if self._start_phase > 1 and earlier is None:
            raise UserError(
                f"Phase {self._start_phase} needs what the phases before it make, and {output_dir} holds no {kind} run "
                f"of {market}. Run it without --start-phase, or name its folder with --output-dir."
            )
        if self._auto_resume and earlier is None:
            self._say(f"{output_dir} holds no {kind} run of {market} to resume: starting a new one")
        return earlier if self._auto_resume or self._start_phase > 1 else None

    def unfinished_run(self, output_dir: Path, engine_of: Callable[[Ledger], Engine]) -> Path | None:
        """What `checkpoint.auto_resume` resumes: the newest run of this market and these settings that left no report.

        The market must be loaded. Where unfinished runs have other settings, the newest one is named and what differs.
        """
        if not self._look_for_unfinished:
            return None
        passed_over = ""
        for folder in runs_of(output_dir, self._mode, self._context.config.test_mode.market_label):
            if (folder / run_names.REPORT).exists() or is_at_work(folder):
                continue
            if not (why_not := self._unlike(folder, engine_of)):
                self._say(f"resuming {folder}, unfinished and of the same settings (--no-auto-resume begins a new run)")
                return folder
            passed_over = passed_over or f"{folder} is unfinished, but {why_not}: a new run begins"
        if passed_over:
            self._say(passed_over)
        return None

    def _unlike(self, folder: Path, engine_of: Callable[[Ledger], Engine]) -> str:
        """How an unfinished run differs from one started now; empty if it does not."""
        try:
            file = folder / run_names.CONFIGURATION
            config: Configuration = build_config(None, load_config_file(file), {}, source=str(file))
            engine = engine_of(Ledger.read(folder, self.names))
            recorded = run_inputs(config, plans_of(config))
        except UserError as error:
            return f"cannot be read ({error})"
        found = differences(recorded, run_inputs(self._context.config, self._context.plans()))
        for words in engine.changes(engine.all_tasks).values():
            found += [difference for difference in words if difference not in found]
        return f"has other settings ({'; '.join(found)})" if found else ""

    def open(self, earlier: Path | None, output_dir: Path) -> None:
        """Make a folder, or read the ledger of the earlier run; nothing of that is touched yet."""
        if earlier is None:
            # By this name a later run finds it, whatever mode the configuration is of.
            self.folder = make_run_folder(output_dir, self._mode, self._context.config.test_mode.market_label)
            self.ledger = Ledger(self.folder, self.names)
            self.ledger.save()
        else:
            self.folder = earlier
            self.ledger = Ledger.read(earlier, self.names)
            if self._auto_resume or self._start_phase > 1:
                self._say(f"resuming {earlier}")

    def check_what_is_there(self, engine: Engine, phases: Sequence[Sequence[Task]]) -> None:
        """Set aside what was made of other inputs, and phases to restart; nothing is deleted.

        Raises UserError, touching nothing, if a training under way was started with other inputs, or if a phase that
        another one is to build on is not there.
        """
        changed = engine.changes(engine.all_tasks)
        if changed and not self._starts_later:
            self._check_under_way(engine, phases, changed)
            self._reopen(engine, phases, changed)
        if self._starts_later:
            for number, tasks in enumerate(phases[: self._start_phase - 1], start=1):
                self._must_be_done(number, tasks, engine, changed)
            for number, tasks in enumerate(phases[self._start_phase - 1 :], start=self._start_phase):
                for task in tasks:
                    engine.forget(task)
                self.ledger.phases[self.names[number - 1]] = PhaseEntry()
            self.outdate_report()
            self.ledger.save()

    def _check_under_way(
        self, engine: Engine, phases: Sequence[Sequence[Task]], changed: Mapping[str, Sequence[str]]
    ) -> None:
        for title, origin in engine.under_way_but_changed(changed).items():
            number = next(n for n, tasks in enumerate(phases, 1) if origin in [task.name for task in tasks])
            restart = f"--start-phase {number}" if number > 1 else "--no-auto-resume"
            raise CheckpointMismatch(
                f"{title} of {self.folder} was started with other inputs: {'; '.join(changed[origin])}. Give its "
                f"original options; or give {restart} to start over."
            )

    def _reopen(self, engine: Engine, phases: Sequence[Sequence[Task]], changed: Mapping[str, Sequence[str]]) -> None:
        """Phases that are not done any more, from the first with a changed task on. One that trains again has a new
        time limit."""
        is_behind = False
        for name, tasks in zip(self.names, phases, strict=True):
            is_behind = is_behind or any(task.name in changed for task in tasks)
            left = [task for task in tasks if not engine.take(task)]
            if not is_behind or not left:
                continue
            entry = self.entry(name)
            entry.status = "pending"
            if trained := {str(task.member) for task in left if task.member is not None}:
                kept = {member: steps for member, steps in entry.timesteps.items() if member not in trained}
                self.ledger.phases[name] = PhaseEntry(timesteps=kept, torch_threads=entry.torch_threads)
        self._is_changed = True
        self.outdate_report()

    @property
    def _starts_later(self) -> bool:
        return self._start_phase > 1 and not self._auto_resume

    def _must_be_done(
        self, number: int, tasks: Sequence[Task], engine: Engine, changed: Mapping[str, Sequence[str]]
    ) -> None:
        name = self.names[number - 1]
        if words := next((changed[task.name] for task in tasks if task.name in changed), None):
            raise CheckpointMismatch(
                f"Phase {self._start_phase} cannot build on {name} of {self.folder}, made with other inputs: "
                f"{'; '.join(words)}. Give the options it was made with, or --start-phase {number}."
            )
        if self.entry(name).status != "done" or not all(engine.take(task) for task in tasks):
            raise UserError(
                f"Phase {self._start_phase} needs phase {number}, which is {self.entry(name).status} in {self.folder}. "
                f"Continue with --auto-resume, or start with --start-phase {number}."
            )

    def find_damage(self) -> None:
        """Look at every file the run has made: what is not as recorded is in `damaged` from now on, and nothing but
        files and folders is left below the run's folder."""
        set_odd_aside(self.folder, self._say)
        is_over = self._all_done()
        self._recorded = dict(self.ledger.files)
        done = self._folders_of_done_tasks()
        self.damaged = {
            name: why
            for name, facts in self._recorded.items()
            if (is_over or not CHANGING.match(name) or not done.isdisjoint(map(str, PurePosixPath(name).parents)))
            and (why := damage(self.folder, name, facts))
        }
        if self.damaged:
            self._say(f"not as the run left them: {in_words(self.damaged)}")

    def _folders_of_done_tasks(self) -> set[str]:
        """Of the tasks that were done when the files were recorded: nothing in them has changed since."""
        return {
            name.removesuffix(f"/{TASK_NAME}")
            for name, facts in self._recorded.items()
            if name.endswith(f"/{TASK_NAME}") and not damage(self.folder, name, facts)
        }

    def _all_done(self) -> bool:
        return all(entry.status == "done" for entry in self.ledger.phases.values())

    def not_restored(self) -> dict[str, str]:
        """Of the damaged files those that are not as recorded now either. Called after `record_all`."""
        files = self.ledger.files
        return {
            name: why
            for name, why in self.damaged.items()
            if files.get(name) != self._recorded[name] and not (REMADE.match(name) and name in files)
        }

    def check_all_restored(self) -> None:
        """Raise FilesDamaged if a file was not as recorded and could not be made again."""
        if lost := self.not_restored():
            raise FilesDamaged(
                f"Files of {self.folder} were not as the run left them and could not be made again: {in_words(lost)}. "
                f"Everything else is as it was, or was made again with the same bytes (except times); the list of "
                f"files now records them as they are."
            )

    def report_is_kept(self) -> bool:
        """Whether the run has a report that is as it was written."""
        return self._all_done() and run_names.REPORT in self.ledger.files and run_names.REPORT not in self.damaged

    def is_complete(self) -> bool:
        """Whether nothing is left to do, and none of the run's files is damaged."""
        of_manifest = {**self.ledger.files, **facts_of(self.folder, [run_names.LEDGER])}
        return self.report_is_kept() and not self.damaged and manifest_is(self.folder, of_manifest)

    def outdate_report(self) -> None:
        """Tasks are done again: an earlier report is not of what they make. It is kept under another name, unless they
        are only done again because they were lost."""
        names = [name for name in (run_names.REPORT, run_names.PAGE) if self.ledger.files.pop(name, None)]
        if not names:
            return
        self.ledger.save()
        if not self._is_changed and self.damaged:
            return
        before = next(
            n for n in itertools.count(1) if not any((self.folder / _aside(name, n)).exists() for name in names)
        )
        for name in names:
            if (self.folder / name).exists():
                (self.folder / name).rename(self.folder / _aside(name, before))
        self._say(f"the earlier report is kept in {self.folder / _aside(run_names.REPORT, before)}")

    def report(self) -> dict[str, Any]:
        """The report as it was written."""
        return json.loads(read_regular(self.folder / run_names.REPORT))

    def record(self, names: Sequence[str]) -> None:
        """Take files as they are into the ledger; the caller saves it. Raises OSError."""
        self.ledger.files |= facts_of(self.folder, names)

    def record_all(self) -> None:
        """Take every file of the run into the ledger and into manifest.json. Raises OSError."""
        self.ledger.files = facts_of(self.folder, [name for name in files_in(self.folder) if name != run_names.LEDGER])
        self.ledger.save()
        write_manifest(self.folder, {**self.ledger.files, **facts_of(self.folder, [run_names.LEDGER])})


def _aside(name: str, n: int) -> str:
    """`report.before-1.json` of `report.json`."""
    path = Path(name)
    return f"{path.stem}.before-{n}{path.suffix}"


def in_words(damaged: Mapping[str, str]) -> str:
    """Names and reasons, the first eight of them."""
    shown = [f"{name} ({why})" for name, why in list(damaged.items())[:8]]
    more = len(damaged) - len(shown)
    return "; ".join(shown) + (f" and {more} more" if more else "")
