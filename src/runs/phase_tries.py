"""One phase after another: its tries, its timeout, what it may use of the machine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from src.errors import BadEnvironmentValue, EnvironmentWorkerError, TrainingDiverged, UserError
from src.files import NO_SPACE
from src.runs.bench import Bench
from src.runs.folders import log_length
from src.runs.ledger import PhaseEntry
from src.runs.resources import apply_usage, freed_words, gpu_share, memory_now, release_all
from src.runs.standing import PHASES, TITLES, Standing
from src.runs.stopping import Deadline, PhaseTimeout, StopRequest

TRIED_AGAIN = (EnvironmentWorkerError, MemoryError, OSError, RuntimeError)
"""Errors that another try may fix. Invalid input, timeouts and diverged training are not among them."""


class PhaseFailed(UserError):
    """A phase failed on every allowed try."""

    exit_code = 1


class PhaseTries:
    """Runs phases. `deadline` is that of the phase at work, `count_time` brings the time it took so far to the disk."""

    def __init__(self, bench: Bench, stop: StopRequest, standing: Standing, command: str) -> None:
        self._bench = bench
        self._stop = stop
        self._standing = standing
        self._command = command
        self._say = bench.display.say
        self._working_on: PhaseEntry | None = None
        self.deadline = Deadline("the report", 1e9, 0.0)
        self.count_time: Callable[[], None] = lambda: None

    def interrupted(self) -> None:
        """Mark the phase that was at work."""
        if self._working_on is not None:
            self._working_on.status = "interrupted"
            self._standing.ledger.save()

    def run(self, name: str, inputs: dict[str, str], work: Callable[[PhaseEntry], str]) -> None:
        """Run a phase and retry errors that another try may fix. Raises UserErrors that stop the run, KeyboardInterrupt
        for a signal."""
        entry, settings = self._standing.entry(name), self._bench.config.pipeline
        with self._resources(name, entry):
            for failures in itertools.count(1):
                try:
                    with self._one_try(name, entry, inputs):
                        entry.result = work(entry)
                    return
                except TRIED_AGAIN as error:
                    if self._stop.requested:  # a signal to the whole group reaches the workers as well
                        raise KeyboardInterrupt from error
                    entry.failures.append(f"{type(error).__name__}: {error}")
                    entry.status = "failed"
                    self._standing.ledger.save()
                    if isinstance(error, OSError) and error.errno in NO_SPACE:
                        raise  # no other try helps
                    if failures <= settings.max_retries_per_phase:
                        self._say(f"{name} failed ({_first_line(error)}); trying again from its newest checkpoint")
                        continue
                    if settings.continue_on_failure and name != "phase1":
                        self._say(f"{name} failed ({_first_line(error)}); continuing with partial results")
                        entry.log_bytes = log_length(self._standing.folder)
                        return
                    raise PhaseFailed(
                        f"{name} ({TITLES[name]}) failed {failures} times. What it has made up to its newest "
                        f"checkpoint is kept in {self._standing.folder}. Last failure: {error}\nResume with:\n"
                        f"{self._command}"
                    ) from error

    @contextmanager
    def _one_try(self, name: str, entry: PhaseEntry, inputs: dict[str, str]) -> Iterator[None]:
        entry.status, entry.inputs, entry.log_bytes = "running", inputs, 0
        entry.tries += 1
        self._working_on = entry
        self._standing.ledger.save()
        began, spent_s = time.perf_counter(), entry.seconds

        def count_time() -> None:
            entry.seconds = spent_s + time.perf_counter() - began
            self._standing.ledger.save()

        self.count_time = count_time
        limit_s = self._bench.config.sections[name].timeout  # type: ignore[attr-defined]
        self.deadline = Deadline(name, limit_s, spent_s)
        try:
            with self.deadline.alarm():
                yield
            self.deadline.check()
            entry.status = "done"
        except PhaseTimeout:
            entry.status = "timed_out"
            raise
        except (TrainingDiverged, BadEnvironmentValue) as error:
            entry.status = "failed"
            kept = f"The newest checkpoint, from before it, is kept in {self._standing.folder}."
            raise type(error)(f"{error} {kept}") from error
        except UserError:
            entry.status = "failed"
            raise
        finally:
            self._working_on = None if entry.status == "done" else entry
            count_time()

    def prepare(self, name: str) -> None:
        """Apply a phase's share of the machine."""
        config, entry = self._bench.config, self._standing.entry(name)
        usage = config.sections[name].gpu_usage  # type: ignore[attr-defined]
        entry.torch_threads = apply_usage(
            usage, config.hardware, entry.torch_threads, reallocate=config.pipeline.reallocate_resources
        )

    def _transition(self, name: str, entry: PhaseEntry, freed: str) -> str:
        """One line: memory freed before a phase, and the phase's share of GPU memory and threads."""
        config = self._bench.config
        share = gpu_share(config.sections[name].gpu_usage, config.hardware, reallocate=True)  # type: ignore[attr-defined]
        gpu = "no GPU" if share is None else f"{share:.0%} of the GPU's memory"
        threads = "1 torch thread" if entry.torch_threads == 1 else f"{entry.torch_threads} torch threads"
        return f"resources for {name}: {freed}; {gpu}; {threads}"

    @contextmanager
    def _resources(self, name: str, entry: PhaseEntry) -> Iterator[None]:
        """Apply the phase's share of the machine; record memory before and after."""
        config = self._bench.config
        held = memory_now()
        if config.pipeline.reallocate_resources:
            release_all()
        entry.memory_before = memory_now()
        self.prepare(name)
        if config.pipeline.reallocate_resources and name != PHASES[0]:
            self._say(self._transition(name, entry, freed_words(held, entry.memory_before)))
        seen = len(self._bench.monitor.metrics_history)
        try:
            yield
        finally:
            entry.memory_after = memory_now()
            readings = self._bench.monitor.metrics_history[seen:]
            entry.gpu_utilization = _mean_share(readings, "gpu_percent")
            entry.cpu_percent = _mean(readings, "tree_cpu_percent")
            self._standing.ledger.save()
        if name != PHASES[-1] and config.pipeline.auto_advance and config.pipeline.pause_between_phases:
            self._say(f"pausing {config.pipeline.pause_between_phases:g} s")
            time.sleep(config.pipeline.pause_between_phases)


def _mean(readings: list[Any], field: str) -> float | None:
    values = [reading[field] for reading in readings if reading[field] is not None]
    return sum(values) / len(values) if values else None


def _mean_share(readings: list[Any], field: str) -> float | None:
    percent = _mean(readings, field)
    return None if percent is None else percent / 100.0


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
