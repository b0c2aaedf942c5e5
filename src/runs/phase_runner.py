"""One phase of tasks after another: its timeout, what it may use of the machine, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from src.agent.settings import PhaseSettings
from src.errors import BadEnvironmentValue, TrainingDiverged, UserError
from src.runs.context import RunContext
from src.runs.engine import Engine, TaskFailedForGood
from src.runs.ledger import PhaseEntry
from src.runs.plan import Means
from src.runs.resources import apply_usage, freed_words, gpu_share, memory_now, release_all
from src.runs.state import RunState
from src.runs.stopping import Deadline, PhaseTimeout
from src.runs.tasks import Task


class PhaseFailed(UserError):
    """A phase failed on every allowed try."""

    exit_code = 1


@dataclass(frozen=True)
class Phase:
    """A stage of a run and its tasks. The hardware-maximized run has one, without settings of its own."""

    name: str
    title: str
    tasks: Sequence[Task]
    settings: PhaseSettings | None = None


class PhaseRunner:
    """Runs phases of a run, in their order."""

    def __init__(self, context: RunContext, means: Means, engine: Engine, state: RunState, command: str) -> None:
        self._context = context
        self._means = means
        self._engine = engine
        self._state = state
        self._command = command
        self._say = context.display.say
        self._working_on: PhaseEntry | None = None

    def interrupted(self) -> None:
        """Mark the phase that was at work."""
        if self._working_on is not None:
            self._working_on.status = "interrupted"
            self._state.ledger.save()

    def run(self, phase: Phase) -> None:
        """Do a phase's tasks. Raises UserErrors that stop the run, KeyboardInterrupt for a signal."""
        entry, settings = self._state.entry(phase.name), self._context.config.pipeline
        partial = settings.continue_on_failure and phase.settings is not None and phase.name != "phase1"
        with self._resources(phase, entry):
            try:
                with self._timed(phase, entry) as deadline:
                    tries = 1 + settings.max_retries_per_phase
                    self._engine.run(phase.tasks, entry, deadline, tries, partial=partial)
            except TaskFailedForGood as error:
                if partial:
                    first = (error.last_failure or str(error)).splitlines()[0]
                    self._say(f"{phase.name} failed ({first}); continuing with partial results")
                    return
                name = f"{phase.name} ({phase.title})" if phase.settings is not None else "The run"
                raise PhaseFailed(
                    f"{name} failed: {error}. What it has made up to its newest checkpoint is kept in "
                    f"{self._state.folder}. Last failure: {error.last_failure}\nResume with:\n{self._command}"
                ) from error

    @contextmanager
    def _timed(self, phase: Phase, entry: PhaseEntry) -> Iterator[Deadline]:
        """The phase's timeout over all processes that worked on it, and how it ended."""
        entry.status = "running"
        entry.tries += 1
        self._working_on = entry
        self._state.ledger.save()
        began, spent_s = time.perf_counter(), entry.seconds

        def note_time() -> None:
            entry.seconds = spent_s + time.perf_counter() - began

        def count_time() -> None:
            note_time()
            self._state.ledger.save_soon()

        self._context.count_time = count_time
        deadline = Deadline(phase.name, phase.settings.timeout if phase.settings is not None else 1e9, spent_s)
        try:
            with deadline.alarm():
                yield deadline
            deadline.check()
            entry.status = "done"
        except PhaseTimeout:
            entry.status = "timed_out"
            raise
        except (TrainingDiverged, BadEnvironmentValue) as error:
            entry.status = "failed"
            kept = f"The newest checkpoint, from before it, is kept in {self._state.folder}."
            raise type(error)(f"{error} {kept}") from error
        except (UserError, OSError, MemoryError, RuntimeError):
            entry.status = "failed"
            raise
        finally:
            self._working_on = None if entry.status == "done" else entry
            note_time()
            self._state.ledger.save()
            self._context.count_time = lambda: None

    @contextmanager
    def _resources(self, phase: Phase, entry: PhaseEntry) -> Iterator[None]:
        """Apply the phase's share of the machine; record memory before and after."""
        config, first = self._context.config, self._state.first == phase.name
        held = memory_now()
        if config.pipeline.reallocate_resources and phase.settings is not None:
            release_all()
        entry.memory_before = memory_now()
        self._means.threads = apply_phase(self._context, phase, entry)
        if config.pipeline.reallocate_resources and phase.settings is not None and not first:
            self._say(self._transition(phase, entry, freed_words(held, entry.memory_before)))
        seen = len(self._context.monitor.metrics_history)
        try:
            yield
        finally:
            entry.memory_after = memory_now()
            readings = self._context.monitor.metrics_history[seen:]
            entry.gpu_utilization = _mean_share(readings, "gpu_percent")
            entry.cpu_percent = _mean(readings, "tree_cpu_percent")
            self._state.ledger.save()

    def _transition(self, phase: Phase, entry: PhaseEntry, freed: str) -> str:
        """One line: memory freed before a phase, and the phase's share of GPU memory and threads."""
        assert phase.settings is not None
        share = gpu_share(phase.settings.gpu_usage, self._context.config.hardware, reallocate=True)
        gpu = "no GPU" if share is None else f"{share:.0%} of the GPU's memory"
        threads = "1 torch thread" if entry.torch_threads == 1 else f"{entry.torch_threads} torch threads"
        return f"resources for {phase.name}: {freed}; {gpu}; {threads}"


def apply_phase(context: RunContext, phase: Phase, entry: PhaseEntry) -> int:
    """Set a phase's share of the GPU's memory, and its threads, those it was begun with; returns the threads."""
    config = context.config
    usage = None if phase.settings is None else phase.settings.gpu_usage
    reallocate = config.pipeline.reallocate_resources and usage is not None
    entry.torch_threads = apply_usage(usage, config.hardware, entry.torch_threads, reallocate=reallocate)
    return entry.torch_threads


def _mean(readings: list[Any], field: str) -> float | None:
    values = [reading[field] for reading in readings if reading[field] is not None]
    return sum(values) / len(values) if values else None


def _mean_share(readings: list[Any], field: str) -> float | None:
    percent = _mean(readings, field)
    return None if percent is None else percent / 100.0
