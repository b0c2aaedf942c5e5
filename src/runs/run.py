"""A run of either mode, from configuration to report: begun, or resumed wherever it was killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from src import run_names
from src.agent.learner.products import fastest
from src.agent.learner_choice import choose_learner
from src.agent.market import compile_kernel
from src.agent.members import FINE_TUNED
from src.agent.settings import LOCAL, Learner
from src.agent.trainer import Trainer
from src.clean_up import CleanUps
from src.errors import InterruptedRun, UserError
from src.machine_limits import free_cores
from src.outputs import check_writable, output_errors_in_words
from src.report.console import print_summary
from src.report.page import write_page
from src.report.schema import check_report
from src.runs.cluster.connection import Cluster, check_ray
from src.runs.context import RunContext
from src.runs.engine import Engine
from src.runs.executors import start_server
from src.runs.exports import publish
from src.runs.folders import only_run_in
from src.runs.ledger import Ledger, PhaseEntry
from src.runs.phase_runner import Phase, PhaseRunner
from src.runs.phase_targets import phase_facts
from src.runs.plan import Plan
from src.runs.preflight import needs_on_ray, plan_memory, table_bytes
from src.runs.result_files import write_result_files
from src.runs.results import report_of
from src.runs.run_plan import RunPlan
from src.runs.state import RunState
from src.runs.stopping import StopRequest
from src.runs.tracking import check_tracker, track

WORTH_WORKERS = 100_000
"""Timesteps of all trainings together from which on worker processes save more than the seconds they take to start."""
STORE_COPIES, STORE_MORE_BYTES = 2, 512 * 2**20
"""Room in a local Ray's object store: for the tables, and for what is on its way."""


@dataclass(frozen=True)
class Mode:
    """What distinguishes the two modes: how a run's tasks are grouped."""

    name: str
    test_name: str
    titles: dict[str, str]
    """By phase."""
    phases: Callable[[Plan, RunContext], list[Phase]]
    one_at_a_time: bool = False
    """Whether one run at a time may work below an output folder, not in its own folder alone."""


def run(
    context: RunContext, mode: Mode, *, start_phase: int = 1, auto_resume: bool | None = None, command: str
) -> dict[str, Any]:
    """Do a run's phases from `start_phase` on, or with `auto_resume` from where the newest run below the output folder
    stopped. With None `checkpoint.auto_resume` decides: then only an unfinished run of the same settings is resumed.

    Returns the report, or where the run stops after a phase {"stopped_after", "phases", "validation_passed"}.

    Raises UserError for invalid input and for phases that failed, InterruptedRun when stopped.
    """
    output_dir = Path(context.config.test_mode.output_dir)
    then = f"everything up to the newest checkpoint is kept. Resume with:\n{command}"
    with output_errors_in_words(output_dir, then), ExitStack() as locks, StopRequest() as stop:
        if mode.one_at_a_time:
            locks.enter_context(only_run_in(output_dir))
        process = _Process(context, mode, stop, start_phase, auto_resume, command, locks)
        try:
            report = process.to_the_end(output_dir)
            process.record_files()
            if context.folder is not None and "stopped_after" not in report:
                print_summary(context.console, check_report(report, run_names.REPORT), context.folder)
            process.state.check_all_restored()
            return report
        except UserError:
            with suppress(OSError, UserError):  # what ended the run is to be heard, not this
                process.record_files()
            raise
        except KeyboardInterrupt:
            process.interrupted()
            with suppress(OSError, UserError):
                process.record_files()
            if context.folder is None and not auto_resume:
                raise
            kept = f"nothing below {output_dir} was changed"
            if context.folder is not None:
                kept = f"everything up to the newest checkpoint is kept in {context.folder}"
            raise InterruptedRun(f"Stopped; {kept}. Resume with:\n{command}") from None


class _Process:
    """One process's part of a run."""

    def __init__(
        self,
        context: RunContext,
        mode: Mode,
        stop: StopRequest,
        start_phase: int,
        auto_resume: bool | None,
        command: str,
        locks: ExitStack,
    ) -> None:
        self._context = context
        self._mode = mode
        self._stop = stop
        self._command = command
        self._locks = locks
        self._say = context.display.say
        self.state = RunState(context, mode.name, list(mode.titles), start_phase, auto_resume)
        self._runner: PhaseRunner | None = None
        self._wrote = False

    def to_the_end(self, output_dir: Path) -> dict[str, Any]:
        context, state = self._context, self.state
        trainer = context.trainer()
        if (ray := context.config.hardware.ray) is not None:
            check_ray(ray)
        chosen = choose_learner(context.config.hardware, trainer.environment, trainer.device)
        earlier = state.earlier_run(output_dir)
        check_writable(output_dir)
        check_tracker(context.config.monitoring)
        with context.open() as stack:
            context.warn_of_settings(trainer, chosen.learner)
            if chosen.words:
                self._say(chosen.words)
            own_env = context.own_env(trainer)
            began = time.perf_counter()
            if (workers := self._workers(trainer, chosen.learner)) > 1 and ray is None:
                start_server(context.make_callback.__module__)
            context.load_market(own_env)
            loading_s = time.perf_counter() - began
            context.memory = plan_memory(context, trainer, own_env, workers, chosen.learner)
            workers = context.memory.workers
            for words in filter(None, (context.memory.words, context.memory.fewer_words)):
                self._say(words)
            if ray is not None:
                context.cluster = self._cluster(ray, trainer, workers, stack)
                workers = workers if context.cluster.is_local else self._most_on(context.cluster)
                at_once = f"up to {workers} tasks" if workers > 1 else "one task"
                self._say(f"{context.cluster.words}; {at_once} at a time")
            plan = RunPlan(context, trainer, own_env, chosen.learner)
            plan.means.workers = workers
            earlier = earlier or state.unfinished_run(output_dir, lambda found: self._engine(plan, found, 1))
            if earlier is not None:
                self._lock(earlier)
            state.open(earlier, output_dir)
            if earlier is None:
                self._lock(state.folder)
            first = state.entry(state.first)
            if trainer.device.type == "cpu" and context.config.hardware.learner != "stock":
                state.ledger.products = state.ledger.products or fastest()
            plan.means.products = state.ledger.products
            engine = self._engine(plan, state.ledger, workers, self._group(context.memory.group))
            phases = self._phases_of(plan)
            state.check_what_is_there(engine, [phase.tasks for phase in phases])
            state.find_damage()
            if state.is_complete() and all(engine.take(task) for task in engine.all_tasks):
                context.folder = state.folder
                self._say(f"every task of {state.folder} is done: nothing is left to do")
                return state.report()
            # Not before: a run that refuses to resume leaves the earlier run's options unchanged.
            context.write_to(state.folder)
            self._wrote = True
            context.spent_before_s = sum(entry.seconds for entry in state.ledger.phases.values())
            if first.status != "done":
                first.seconds += loading_s
            self._runner = PhaseRunner(context, plan.means, engine, state, self._command)
            with engine.open():
                if stopped_after := self._phases(phases, engine, workers):
                    return stopped_after
                if state.report_is_kept():
                    report = state.report()
                    write_page(check_report(report, run_names.REPORT), state.folder / run_names.PAGE)
                    self._export(plan, engine)
                    return report
            return self._report(plan, engine, trainer, workers)

    def _lock(self, run: Path) -> None:
        """One process at a time works in a run's folder. UserError where another one does."""
        if not self._mode.one_at_a_time:  # else the lock of the output folder is held
            self._locks.enter_context(only_run_in(run))

    def _phases_of(self, plan: RunPlan) -> list[Phase]:
        return plan.phases(lambda of_market: self._mode.phases(of_market, self._context))

    def _engine(self, plan: RunPlan, ledger: Ledger, workers: int, group: int = 0) -> Engine:
        plan.place(ledger.path.parent)
        engine = Engine(self._context, ledger, self._stop, workers, group)
        engine.all_tasks = [task for phase in self._phases_of(plan) for task in phase.tasks]
        return engine

    def _group(self, planned: int | None) -> int:
        """How many members train together: as many as when the run began, where memory now has room for more.

        Members round otherwise in groups of another size. A number that the user asks for is taken as it is.
        """
        asked, ledger = self._context.config.hardware.group, self.state.ledger
        if planned is not None and asked is None and ledger.group is not None:
            planned = min(planned, ledger.group)
        ledger.group = planned if planned is not None else ledger.group
        return planned or 0

    def _workers(self, trainer: Trainer, learner: Learner) -> int:
        """How many tasks to do at a time: as asked for, else as many as there are free cores, where it is worth it."""
        config = self._context.config
        if config.hardware.ray is not None:  # of a cluster's cores not one need be of this machine
            return config.hardware.workers or free_cores() if config.hardware.ray == LOCAL else 1
        if trainer.device.type != "cpu" or config.environment.env_class is not None:
            return 1  # on a GPU members share one device; environments of a user's own are workers themselves
        if config.hardware.workers is not None:
            return config.hardware.workers
        if learner == "population":
            return 1  # members train together in this process
        base, finetune = self._context.plans()
        members = len(config.test_mode.markets) * config.evidence.seeds
        if members * (base.actual + len(FINE_TUNED) * finetune.actual) < WORTH_WORKERS:
            return 1
        return min(free_cores(), members * len(FINE_TUNED))

    def _cluster(self, address: str, trainer: Trainer, workers: int, stack: CleanUps) -> Cluster:
        """The connection to Ray, until the run ends. ConfigError where there is none."""
        context = self._context
        task_bytes, gpu_share = needs_on_ray(context, trainer)
        tables = sum(map(table_bytes, context.markets.values()))
        room = STORE_COPIES * tables + STORE_MORE_BYTES
        cluster = Cluster(address, cores=workers, store_bytes=room, task_bytes=task_bytes, gpu_share=gpu_share)
        stack.call(cluster.close)
        return cluster

    def _most_on(self, cluster: Cluster) -> int:
        """How many tasks to hand to a cluster at a time: as asked for, else one for each of its cores now."""
        return self._context.config.hardware.workers or max(1, cluster.cores)

    def _phases(self, phases: Sequence[Phase], engine: Engine, workers: int) -> dict[str, Any] | None:
        """Do what is not done; a report where the run is to stop after a phase."""
        context, state = self._context, self.state
        assert self._runner is not None
        compiled = context.market is None
        for phase in phases:
            entry = state.entry(phase.name)
            if entry.status == "done" and all(engine.take(task) for task in phase.tasks):
                publish(engine, state, phase.tasks, self._say)
                if len(phases) > 1:
                    self._say(f"{phase.name} ({phase.title}) is done: {entry.seconds:,.0f} s, tries: {entry.tries}")
                continue
            if entry.status == "done":  # of other inputs, or lost: its time does not count
                state.ledger.phases[phase.name] = PhaseEntry(torch_threads=entry.torch_threads)
            state.outdate_report()
            if not compiled and context.market is not None:
                with context.phase("compile", "the account kernel: slow on a machine's first run only"):
                    compile_kernel(context.market)
                compiled = True
                if workers > 1 and context.cluster is None:
                    self._say(f"up to {workers} tasks at a time, each in a process of its own")
            try:
                self._runner.run(phase)
            except BaseException:
                with suppress(OSError, UserError):  # what ended the run is to be heard, not this
                    publish(engine, state, phase.tasks, self._say)
                raise
            publish(engine, state, phase.tasks, self._say)
            if phase is not phases[-1]:
                pipeline = context.config.pipeline
                if not pipeline.auto_advance:
                    return self._stopped_after(phase)
                if pipeline.pause_between_phases:
                    self._say(f"pausing {pipeline.pause_between_phases:g} s")
                    time.sleep(pipeline.pause_between_phases)
        return None

    def _stopped_after(self, phase: Phase) -> dict[str, Any]:
        self._say(f"{phase.name} is done; pipeline.auto_advance is false. Resume with:")
        self._context.console.print(Text(self._command), soft_wrap=True)  # broken, a line would be another command
        phases = phase_facts(self.state.ledger)
        return {"stopped_after": phase.name, "phases": phases, "validation_passed": True}

    def _report(self, plan: RunPlan, engine: Engine, trainer: Trainer, workers: int) -> dict[str, Any]:
        report = report_of(
            self._context, plan, engine.results, self.state.ledger, trainer, self._mode.test_name, workers
        )
        self.state.record([run_names.REPORT, run_names.PAGE])
        self.state.ledger.save()
        self._export(plan, engine)
        return report.to_json_dict()

    def _export(self, plan: RunPlan, engine: Engine) -> None:
        """The tables of the results, and the run in the user's tracker."""
        formats = self._context.config.monitoring.exports
        write_result_files(plan.of_markets, engine.results, formats, self.state.folder, self._say)
        track(self._context.config, self.state.folder, self._say)

    def record_files(self) -> None:
        """Once nothing of the run is open any more: take its files into the ledger and manifest.json."""
        if self._wrote:
            self.state.record_all()

    def interrupted(self) -> None:
        """Mark the phase that was at work."""
        if self._runner is not None:
            self._runner.interrupted()
