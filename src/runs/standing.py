"""State of a run: which folder it resumes in, which phases are done, and which are stale because inputs changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.agent.checkpoints import CheckpointMismatch
from src.agent.rollout_plan import RolloutPlan
from src.configuration import Configuration, build_config, load_config_file
from src.errors import UserError
from src.files import read_regular
from src.runs.bench import Bench, plans_of
from src.runs.folders import MADE_BESIDES, MODE, newest_run, runs_of, set_aside
from src.runs.inputs import run_inputs
from src.runs.ledger import LEDGER_NAME, Ledger, PhaseEntry, differences
from src.runs.results import PAGE_NAME, REPORT_NAME
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
from src.runs.run_folder import CONFIG_NAME, make_run_folder

PHASES = ("phase1", "phase2", "phase3")
CHANGING = re.compile(r"metrics\.jsonl$|config\.yaml$|report\.(json|html)$|phase\d/.*/checkpoint-\d+/")
"""Written again while a run is under way, so that their recorded content says nothing then. Checkpoints have manifests
of their own and the log's rows, and the first line of config.yaml is its hash."""
REMADE = (CONFIG_NAME, REPORT_NAME, PAGE_NAME)
"""Made again with other times or settings in them."""
TITLES = {"phase1": "data and environments", "phase2": "base training", "phase3": "advice and hybrid"}


class Standing:
    """The folder and the ledger of a run, once `open` was called. `inputs` says what a phase depends on now."""

    folder: Path
    ledger: Ledger

    def __init__(
        self, bench: Bench, start_phase: int, auto_resume: bool | None, inputs: Callable[[str], dict[str, str]]
    ) -> None:
        self._bench = bench
        self._start_phase = start_phase
        self._auto_resume = bool(auto_resume)
        self._look_for_unfinished = auto_resume is None and start_phase == 1 and bench.config.checkpoint.auto_resume
        self._inputs = inputs
        self._say = bench.display.say
        self.damaged: dict[str, str] = {}
        """Files of a resumed run that are not as recorded, and why; filled by `find_damage`."""
        self._recorded: dict[str, FileFacts] = {}

    def entry(self, name: str) -> PhaseEntry:
        """The ledger's entry of a phase."""
        return self.ledger.phases[name]

    def earlier_run(self, output_dir: Path) -> Path | None:
        """The run to resume, or None to start one. Raises UserError if a later phase is to start without one."""
        market = self._bench.config.test_mode.market
        earlier = newest_run(output_dir, market)
        if self._start_phase > 1 and earlier is None:
            raise UserError(
                f"Phase {self._start_phase} needs what the phases before it make, and {output_dir} holds no pipeline "
                f"run of {market}. Run it without --start-phase, or name its folder with --output-dir."
            )
        if self._auto_resume and earlier is None:
            self._say(f"{output_dir} holds no pipeline run of {market} to resume: starting a new one")
        return earlier if self._auto_resume or self._start_phase > 1 else None

    def unfinished_run(self, output_dir: Path, plans: tuple[RolloutPlan, RolloutPlan]) -> Path | None:
        """What `checkpoint.auto_resume` resumes: the newest run of this market and these settings that left no report.

        The market must be loaded. Where unfinished runs have other settings, the newest one is named and what differs.
        """
        if not self._look_for_unfinished:
            return None
        passed_over = ""
        for folder in runs_of(output_dir, self._bench.config.test_mode.market):
            if (folder / REPORT_NAME).exists():
                continue
            if not (why_not := self._unlike(folder, plans)):
                self._say(f"resuming {folder}, unfinished and of the same settings (--no-auto-resume begins a new run)")
                return folder
            passed_over = passed_over or f"{folder} is unfinished, but {why_not}: a new run begins"
        if passed_over:
            self._say(passed_over)
        return None

    def _unlike(self, folder: Path, plans: tuple[RolloutPlan, RolloutPlan]) -> str:
        """How an unfinished run differs from one started now; empty if it does not."""
        try:
            file = folder / CONFIG_NAME
            config: Configuration = build_config(None, load_config_file(file), {}, source=str(file))
            self.ledger = Ledger.read(folder, PHASES)
            recorded = run_inputs(config, plans_of(config))
        except UserError as error:
            return f"cannot be read ({error})"
        found = differences(recorded, run_inputs(self._bench.config, plans))
        found += [difference for name in PHASES for difference in self.changed(name) if difference not in found]
        return f"has other settings ({'; '.join(found)})" if found else ""

    def open(self, earlier: Path | None, output_dir: Path) -> None:
        """Make a folder, or read the ledger of the earlier run; nothing of that is touched yet."""
        if earlier is None:
            # By this name a later run finds it, whatever mode the configuration is of.
            self.folder = make_run_folder(output_dir, MODE, self._bench.config.test_mode.market)
            self.ledger = Ledger(self.folder, PHASES)
            self.ledger.save()
        else:
            self.folder = earlier
            self.ledger = Ledger.read(earlier, PHASES)
            if self._auto_resume or self._start_phase > 1:
                self._say(f"resuming {earlier}")

    def check_what_is_there(self) -> None:
        """Set aside results of changed inputs and of phases to restart; nothing is deleted.

        Raises UserError, touching nothing, if a phase in progress was started with other inputs or is missing.
        """
        anew = False
        for number, name in enumerate(PHASES, start=1):
            changed = self.changed(name)
            if number < self._start_phase:
                self._must_be_done(number, name, changed)
            elif number == self._start_phase and self._start_phase > 1 and not self._auto_resume:
                anew = True
            elif changed and not anew:
                self._must_not_be_under_way(number, changed)
                self._say(f"{name} runs again, because its inputs changed: {'; '.join(changed)}")
                anew = True
            if anew:
                self.forget(name)

    def changed(self, name: str) -> list[str]:
        """Inputs of a phase that changed since it started, in words."""
        recorded = self.entry(name).inputs
        return differences(recorded, self._inputs(name)) if recorded else []

    def _must_not_be_under_way(self, number: int, changed: list[str]) -> None:
        """From this phase on; the first holds no checkpoint that would be lost."""
        for name in PHASES[max(1, number - 1) :]:
            if self.entry(name).status not in ("pending", "done"):
                restart = "leave out --auto-resume" if number == 1 else f"give --start-phase {number}"
                raise CheckpointMismatch(
                    f"{name} ({TITLES[name]}) of {self.folder} was started with other inputs: {'; '.join(changed)}. "
                    f"Give its original options; or {restart} to start over."
                )

    def _must_be_done(self, number: int, name: str, changed: list[str]) -> None:
        if self.entry(name).status != "done":
            raise UserError(
                f"Phase {self._start_phase} needs phase {number} ({TITLES[name]}), which is {self.entry(name).status} "
                f"in {self.folder}. Continue with --auto-resume, or start with --start-phase {number}."
            )
        if changed:
            raise CheckpointMismatch(
                f"Phase {self._start_phase} cannot build on {name} of {self.folder}, made with other inputs: "
                f"{'; '.join(changed)}. Give the options it was made with, or --start-phase {number}."
            )

    def forget(self, name: str) -> None:
        """Restart a phase: what it made is kept in a folder next to it."""
        aside = set_aside(self.folder, name)
        if aside is not None:
            self._say(f"what {name} had made is kept in {aside}")
        self.ledger.phases[name] = PhaseEntry()
        # The report is of all phases; what an earlier one kept under its own name is as recorded.
        gone = (f"{name}/", *MADE_BESIDES.get(name, ()), REPORT_NAME, PAGE_NAME)
        self.ledger.files = {file: facts for file, facts in self.ledger.files.items() if not file.startswith(gone)}
        self.ledger.save()

    def find_damage(self) -> None:
        """Look at every file the run has made: what is not as recorded is in `damaged` from now on, and nothing but
        files and folders is left below the run's folder."""
        set_odd_aside(self.folder, self._say)
        is_over = self._all_done()
        self._recorded = dict(self.ledger.files)
        self.damaged = {
            name: why
            for name, facts in self._recorded.items()
            if (is_over or not CHANGING.match(name)) and (why := damage(self.folder, name, facts))
        }
        if self.damaged:
            self._say(f"not as the run left them: {in_words(self.damaged)}")

    def _all_done(self) -> bool:
        return all(entry.status == "done" for entry in self.ledger.phases.values())

    def not_restored(self) -> dict[str, str]:
        """Of the damaged files those that are not as recorded now either. Called after `record_all`."""
        files = self.ledger.files
        return {
            name: why
            for name, why in self.damaged.items()
            if files.get(name) != self._recorded[name] and not (name in REMADE and name in files)
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
        """Whether the run has a report that is as it was written. Earlier versions recorded no files."""
        path = self.folder / REPORT_NAME
        if not self._all_done() or not path.exists():
            return False
        return REPORT_NAME not in self.damaged if REPORT_NAME in self.ledger.files else not self.ledger.files

    def complete(self) -> dict[str, Any] | None:
        """The report of a run that has nothing left to do and none of whose files is damaged."""
        files = self.ledger.files
        of_manifest = {**files, **facts_of(self.folder, [LEDGER_NAME])}
        if not self.report_is_kept() or self.damaged or (files and not manifest_is(self.folder, of_manifest)):
            return None
        self._bench.folder = self.folder
        self._say(f"every phase of {self.folder} is done: nothing is left to do")
        return self.report()

    def outdate_report(self) -> None:
        """A phase is done again: an earlier report is not of what it makes. The caller saves the ledger."""
        for name in (REPORT_NAME, PAGE_NAME):
            self.ledger.files.pop(name, None)

    def report(self) -> dict[str, Any]:
        """The report as it was written."""
        return json.loads(read_regular(self.folder / REPORT_NAME))

    def record(self, names: Sequence[str]) -> None:
        """Take files as they are into the ledger; the caller saves it. Raises OSError."""
        self.ledger.files |= facts_of(self.folder, names)

    def record_all(self) -> None:
        """Take every file of the run into the ledger and into manifest.json. Raises OSError."""
        self.ledger.files = facts_of(self.folder, [name for name in files_in(self.folder) if name != LEDGER_NAME])
        self.ledger.save()
        write_manifest(self.folder, {**self.ledger.files, **facts_of(self.folder, [LEDGER_NAME])})


def in_words(damaged: Mapping[str, str]) -> str:
    """Names and reasons, the first eight of them."""
    shown = [f"{name} ({why})" for name, why in list(damaged.items())[:8]]
    more = len(damaged) - len(shown)
    return "; ".join(shown) + (f" and {more} more" if more else "")
