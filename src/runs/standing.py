"""Where a run stands: which folder it goes on in, what of it is done, and what its inputs have overtaken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.agent.checkpoints import CheckpointMismatch
from src.errors import UserError
from src.evidence.console_summary import print_summary
from src.evidence.run_folder import make_run_folder
from src.runs.bench import Bench
from src.runs.folders import newest_run, set_aside
from src.runs.ledger import Ledger, PhaseEntry, differences
from src.runs.results import REPORT_NAME

PHASES = ("phase1", "phase2", "phase3")
TITLES = {"phase1": "data and environments", "phase2": "base training", "phase3": "advice and hybrid"}


class Standing:
    """The folder and the ledger of a run, once `open` was called. `inputs` says what a phase depends on now."""

    folder: Path
    ledger: Ledger

    def __init__(
        self, bench: Bench, start_phase: int, auto_resume: bool, inputs: Callable[[str], dict[str, str]]
    ) -> None:
        self._bench = bench
        self._start_phase = start_phase
        self._auto_resume = auto_resume
        self._inputs = inputs
        self._say = bench.display.say

    def entry(self, name: str) -> PhaseEntry:
        """The ledger's entry of a phase."""
        return self.ledger.phases[name]

    def earlier_run(self, output_dir: Path) -> Path | None:
        """The run to go on with, None to begin one. UserError where a later phase is to start without one."""
        market = self._bench.config.test_mode.market
        earlier = newest_run(output_dir, market)
        if self._start_phase > 1 and earlier is None:
            raise UserError(
                f"Phase {self._start_phase} needs what the phases before it make, and {output_dir} holds no pipeline "
                f"run of {market}. Run it without --start-phase, or name its folder with --output-dir."
            )
        if self._auto_resume and earlier is None:
            self._say(f"{output_dir} holds no pipeline run of {market} to go on with: a new one begins")
        return earlier if self._auto_resume or self._start_phase > 1 else None

    def open(self, earlier: Path | None, output_dir: Path) -> None:
        bench = self._bench
        if earlier is None:
            run = bench.config.test_mode
            self.folder = make_run_folder(output_dir, run.mode, run.market)
            self.ledger = Ledger(self.folder, PHASES)
        else:
            self.folder = earlier
            self.ledger = Ledger.read(earlier, PHASES)
            self._say(f"going on with {earlier}")
        bench.write_to(self.folder)
        bench.spent_before_s = sum(entry.seconds for entry in self.ledger.phases.values())
        self.ledger.save()

    def check_what_is_there(self) -> None:
        """Forget what was made from other inputs, or is to be begun anew; nothing of it is deleted."""
        anew = False
        for number, name in enumerate(PHASES, start=1):
            entry = self.entry(name)
            changed = differences(entry.inputs, self._inputs(name)) if entry.inputs else []
            if number < self._start_phase:
                self._must_be_done(number, name, changed)
            elif number == self._start_phase and self._start_phase > 1 and not self._auto_resume:
                anew = True
            elif changed and entry.status != "done" and not anew and number > 1:
                raise CheckpointMismatch(
                    f"{name} of {self.folder} was begun with other inputs: {'; '.join(changed)}. Give the options it "
                    f"was begun with, or --start-phase {number} to begin it anew."
                )
            elif changed and not anew:
                self._say(f"{name} is done again, because its inputs changed: {'; '.join(changed)}")
                anew = True
            if anew:
                self.forget(name)

    def _must_be_done(self, number: int, name: str, changed: list[str]) -> None:
        if self.entry(name).status != "done":
            raise UserError(
                f"Phase {self._start_phase} needs phase {number} ({TITLES[name]}), which is {self.entry(name).status} "
                f"in {self.folder}. Go on with --auto-resume, or start with --start-phase {number}."
            )
        if changed:
            raise CheckpointMismatch(
                f"Phase {self._start_phase} cannot build on {name} of {self.folder}, made with other inputs: "
                f"{'; '.join(changed)}. Give the options it was made with, or --start-phase {number}."
            )

    def forget(self, name: str) -> None:
        aside = set_aside(self.folder / name)
        if aside is not None:
            self._say(f"what {name} had made is kept in {aside}")
        self.ledger.phases[name] = PhaseEntry()
        self.ledger.save()

    def complete(self) -> dict[str, Any] | None:
        """The report of a run that has nothing left to do."""
        path = self.folder / REPORT_NAME
        if any(entry.status != "done" for entry in self.ledger.phases.values()) or not path.exists():
            return None
        self._say(f"every phase of {self.folder} is done: nothing is left to do")
        report = json.loads(path.read_text(encoding="utf-8"))
        print_summary(self._bench.console, report, self.folder)
        return report
