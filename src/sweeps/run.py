"""A sweep, from its file to the winner's report: begun, or resumed wherever it was killed.

Every setting is trained as a run trains, by the same engine, and scored on the validation sessions alone. Only the
winner, trained again on fresh seeds by a run of its own in the folder `winner`, plays the sealed sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from src.advisor.choose import AnyAdvisor, make_advisor
from src.agent.advising import try_advisor
from src.agent.learner.products import fastest
from src.agent.market import compile_kernel
from src.agent.trainer import Trainer
from src.configuration import Configuration, build_config
from src.errors import ConfigError, InterruptedRun, UserError
from src.files import write_json
from src.machine_limits import free_cores
from src.outputs import check_writable, output_errors_in_words
from src.plain_text import foreign
from src.runs.context import RunContext
from src.runs.engine import Engine
from src.runs.executors import start_server
from src.runs.folders import newest_run, only_run_in
from src.runs.hardware_maximized import run_hardware_maximized
from src.runs.phase_runner import Phase, PhaseRunner
from src.runs.plan import Means
from src.runs.preflight import plan_memory
from src.runs.run import WORTH_WORKERS
from src.runs.state import RunState
from src.runs.stopping import StopRequest
from src.runs.tasks import Task
from src.statistics.trials import TrialLedger
from src.sweeps.conclusions import Tried, kept, record_trials, sweep_facts, winner_of
from src.sweeps.file import SweepFile, read_sweep
from src.sweeps.folder import KIND, RESULT, WINNER, earlier_sweep, is_finished, write_file
from src.sweeps.optuna_proposals import OptunaProposals, load_optuna
from src.sweeps.proposals import Listed, Proposer, fingerprint, listed
from src.sweeps.space import Setting, Space
from src.sweeps.tasks import SettingTasks, training_of
from src.testing_framework import (
    BatchedCallback,
    EnvironmentStatePool,
    HardwareMonitor,
    OptimizedFeatureCache,
    TestConfig,
    VectorizedDecisionFusion,
)
from src.wording import count

PHASE = "sweep"


def run_sweep(
    config: TestConfig, path: Path | str, console: Console, *, auto_resume: bool | None = None, command: str = ""
) -> dict[str, Any]:
    """Do a sweep of a file over a configuration, or go on with one; the report of the winner's run.

    `auto_resume` None leaves it to `checkpoint.auto_resume`: then only an unfinished sweep of the same file and
    settings is resumed. `command` is what a stopped sweep says to type.

    Raises: UserError for invalid input and for tasks that failed, InterruptedRun when stopped.
    """
    file = read_sweep(path)
    _check_allowed(config, file)
    space = Space(file, config, foreign(path))
    proposals = None if file.method == "optuna" else listed(file, space)
    output_dir = Path(config.test_mode.output_dir)
    command = command or f"run_sweep(config, {str(path)!r}, console, auto_resume=True)"
    then = f"everything up to the newest checkpoint is kept. Resume with:\n{command}"
    with output_errors_in_words(output_dir, then), ExitStack() as locks:
        sweep = _Sweep(_context_of(config, console), file, space, proposals, command, locks)
        folder, facts = sweep.through(output_dir, auto_resume)
        report = _winner_report(config, file, sweep.winner, facts, folder, console, command)
        if "sweep" in report:
            write_json(folder / RESULT, report["sweep"])
            sweep.record_files()
        return report


def _check_allowed(config: Configuration, file: SweepFile) -> None:
    """ConfigError for what a sweep does not do."""
    if config.has_several_markets:
        raise ConfigError(f"A sweep is over one market, not {', '.join(config.test_mode.markets)}: name one.")
    if config.environment.env_class is not None:
        raise ConfigError("A sweep scores settings on bars, which environment.env_class does not have: leave it out.")
    if config.hardware.learner == "population":
        raise ConfigError(
            "hardware.learner is population, which trains members of equal settings together; a sweep's members differ "
            "in theirs. Leave it out."
        )
    if file.keep_frac < 1 and not config.checkpoint.enabled:
        raise ConfigError(
            "checkpoint.enabled is false, so a setting could not go on after a quarter of its training. Set it to "
            "true, or keep_frac of the sweep file to 1."
        )
    if file.method == "optuna":
        load_optuna()


def _context_of(config: Configuration, console: Console) -> RunContext:
    monitoring = config.monitoring
    monitor = HardwareMonitor(monitoring.hardware_interval_s, monitor_gpu=monitoring.monitor_gpu)
    cache, fusion = OptimizedFeatureCache(config.llm.cache_size), VectorizedDecisionFusion(config)
    context = RunContext(config, console, monitor, cache, fusion, BatchedCallback)
    size = config.performance.env_pool_size if config.performance.environment_state_pooling else 0
    context.make_pool = lambda build: EnvironmentStatePool(build, {}, size)
    context.pool = context.make_pool(context.session_batch)
    return context


def _winner_report(
    config: TestConfig,
    file: SweepFile,
    winner: Setting,
    facts: dict[str, Any],
    folder: Path,
    console: Console,
    command: str,
) -> dict[str, Any]:
    """Train the winner again on seeds that the sweep has not used, and put it through all that a run does."""
    first, runs = max(facts["seeds"]) + 1, folder / WINNER
    changes = {
        "test_mode": {"seed": first, "output_dir": str(runs)},
        "evidence": {"seeds": file.fresh_seeds, "walk_forward": config.evidence.walk_forward},
    }
    own = build_config(config.test_mode.mode, winner.config.to_dict(), changes, source=str(folder), model=TestConfig)
    context = _context_of(own, console)
    context.sweep = facts
    context.display.say(f"training setting {winner.number} again on {file.fresh_seeds} fresh seeds from {first} on")
    is_begun = newest_run(runs, own.test_mode.mode, own.test_mode.market_label) is not None
    return run_hardware_maximized(context, auto_resume=is_begun, command=command)


class _Sweep:
    """One process's part of a sweep. `locks` are kept until the winner's run is over."""

    winner: Setting

    def __init__(
        self,
        context: RunContext,
        file: SweepFile,
        space: Space,
        proposals: Listed | None,
        command: str,
        locks: ExitStack,
    ) -> None:
        self._context = context
        self._file = file
        self._space = space
        self._proposals = proposals
        self._command = command
        self._locks = locks
        self._say = context.display.say
        self._means = Means()
        self._tried: list[Tried] = []
        self._advisors: dict[str, AnyAdvisor] = {}
        self._names: dict[str, str] = {}
        """Of tasks that are done, by what their results depend on."""
        self._state: RunState
        self._engine: Engine
        self._runner: PhaseRunner | None = None

    def through(self, output_dir: Path, auto_resume: bool | None) -> tuple[Path, dict[str, Any]]:
        """Train and score every setting; the sweep's folder, and what came of it."""
        try:
            with StopRequest() as stop:
                return self._to_the_end(output_dir, auto_resume, stop)
        except UserError:
            self._record_at_last()
            raise
        except KeyboardInterrupt:
            if self._runner is not None:
                self._runner.interrupted()
            self._record_at_last()
            kept_in = "nothing was changed"
            if self._context.folder is not None:
                kept_in = f"everything up to the newest checkpoint is kept in {self._context.folder}"
            raise InterruptedRun(f"Stopped; {kept_in}. Resume with:\n{self._command}") from None

    def _to_the_end(self, output_dir: Path, auto_resume: bool | None, stop: StopRequest) -> tuple[Path, dict[str, Any]]:
        context, file = self._context, self._file
        trainer = context.trainer()
        earlier = earlier_sweep(output_dir, file, context.config, auto_resume, self._say)
        check_writable(output_dir)
        with context.open():
            if earlier is not None:
                self._locks.enter_context(only_run_in(earlier))
            workers = self._workers(trainer)
            if workers > 1:
                start_server(context.make_callback.__module__)
            context.load_market(None)
            workers = self._fitting(trainer, workers)
            self._state = RunState(context, KIND, [PHASE], 1, auto_resume)
            self._state.open(earlier, output_dir)
            folder = self._state.folder
            if earlier is None:
                self._locks.enter_context(only_run_in(folder))
            context.write_to(folder)
            write_file(folder, file)
            self._means.workers = workers
            if trainer.device.type == "cpu" and context.config.hardware.learner != "stock":
                self._state.ledger.products = self._state.ledger.products or fastest()
            self._means.products = self._state.ledger.products
            self._engine = Engine(context, self._state.ledger, stop, workers)
            self._runner = PhaseRunner(context, self._means, self._engine, self._state, self._command)
            assert context.market is not None
            with context.phase("compile", "the account kernel: slow on a machine's first run only"):
                compile_kernel(context.market)
            proposer: Proposer = self._proposals or OptunaProposals(file, self._space, folder)
            with self._engine.open():
                for batch in proposer.batches():
                    for of in self._batch(batch, trainer, folder):
                        proposer.tell(of.setting, of)
            return folder, self._conclude(proposer, folder)

    # Batches

    def _batch(self, batch: Sequence[Setting], trainer: Trainer, folder: Path) -> list[Tried]:
        """Train and score these settings side by side; those that fall behind at a quarter are stopped there."""
        found = {setting.number: Tried(setting) for setting in batch}
        tasks = {number: self._tasks_of(of.setting, trainer, folder) for number, of in found.items()}
        left = set(found)
        if self._file.keep_frac < 1:
            for quarter in range(1, 1 + max((len(of.pauses) for of in tasks.values()), default=0)):
                judged = {number for number in left if quarter <= len(tasks[number].pauses)}
                left -= judged - self._quarter(quarter, {number: tasks[number] for number in sorted(judged)}, found)
        training = training_of(self._file.arm_name)
        ending = [tasks[number] for number in sorted(left)]
        self._do(task for of in ending for task in of.advice())
        self._do(task for of in ending for task in of.bases(found[of.setting.number].quarters))
        self._do(task for of in ending for task in of.fine_tuned(training))
        scores = {of.setting.number: of.score(training) for of in ending}
        self._do(scores.values())
        for number, task in scores.items():
            found[number].quarters = 4
            found[number].net_usd = np.array(self._engine.results[task.name].facts["net_usd"], np.float64)
        self._tried += found.values()
        return list(found.values())

    def _quarter(self, quarter: int, tasks: dict[int, SettingTasks], found: dict[int, Tried]) -> set[int]:
        """Do a quarter of base training; the numbers of those that go on after it."""
        by_setting = {number: of.quarters(quarter) for number, of in tasks.items()}
        self._do(task for of in by_setting.values() for task in of)
        for number, of_setting in by_setting.items():
            rows = [self._engine.results[task.name].facts["net_usd"] for task in of_setting]
            found[number].net_usd, found[number].quarters = np.array(rows, np.float64), quarter
            found[number].at_quarters[quarter] = found[number].score
        earlier = [of.at_quarters[quarter] for of in self._tried if quarter in of.at_quarters]
        going_on = kept({number: found[number].score for number in tasks}, earlier, self._file.keep_frac)
        if stopped := sorted(tasks.keys() - going_on):
            numbers = f"setting{'s' if len(stopped) > 1 else ''} {', '.join(map(str, stopped))}"
            self._say(f"stopped after quarter {quarter} of base training, behind the others: {numbers}")
        return going_on

    def _do(self, tasks: Iterable[Task]) -> None:
        """Do tasks; one whose result depends on nothing else than that of another takes it."""
        results, fresh, alike = self._engine.results, [], []
        for task in tasks:
            text = fingerprint({"stage": task.stage, **task.inputs(results)})
            if text in self._names:
                alike.append((task.name, self._names[text]))
            else:
                self._names[text] = task.name
                fresh.append(task)
        if fresh:
            self._engine.all_tasks = [*self._engine.all_tasks, *fresh]
            assert self._runner is not None
            self._runner.run(Phase(PHASE, "the sweep", fresh))
        for name, other in alike:
            results[name] = results[other]

    def _tasks_of(self, setting: Setting, trainer: Trainer, folder: Path) -> SettingTasks:
        config = setting.config
        own = Trainer(config.training, config.hardware, config.environment, trainer.device, config.test_mode.seed)
        return SettingTasks(self._context, setting, own, self._advisor(config), self._means, folder)

    def _advisor(self, config: Configuration) -> AnyAdvisor:
        """The advisor of a setting, tried once: most settings have that of the run."""
        heard = ("llm_weight", "use_opinion_features")
        named = [config.llm.model_dump_json(exclude=set(heard)) for config in (self._context.config, config)]
        assert self._context.advisor is not None
        self._advisors.setdefault(named[0], self._context.advisor)
        if named[1] not in self._advisors:
            self._advisors[named[1]] = make_advisor(config.llm)
            try_advisor(self._advisors[named[1]], config.llm, say=self._say)
        return self._advisors[named[1]]

    # What it takes

    def _workers(self, trainer: Trainer) -> int:
        """How many tasks to do at a time: as asked for, else as many as there are free cores, where it is worth it."""
        config = self._context.config
        if trainer.device.type != "cpu":
            return 1
        if config.hardware.workers is not None:
            return config.hardware.workers
        members = (self._file.settings or len(self._known)) * self._file.seeds
        if members * (config.base_timesteps + config.finetune_timesteps) < WORTH_WORKERS:
            return 1
        return min(free_cores(), members)

    @property
    def _known(self) -> list[Setting]:
        """The settings that are known before any is trained."""
        return [] if self._proposals is None else self._proposals.settings

    def _fitting(self, trainer: Trainer, workers: int) -> int:
        """So many workers that every setting fits into memory: each that is known, or each key at its outermost values.

        Raises: ConfigError for a setting that does not fit.
        """
        context, own = self._context, self._context.config
        known = [(f"setting {of.number}", of.config) for of in self._known] or list(self._space.extremes())
        shapes = {self._shape(config): (name, config) for name, config in known}
        try:
            for name, config in shapes.values():
                context.config = config
                try:
                    found = plan_memory(context, trainer, None, workers)
                except ConfigError as error:
                    raise ConfigError(f"{name} of the sweep does not fit into memory. {error}") from error
                if context.memory is None or found.predicted_gb > context.memory.predicted_gb:
                    context.memory = found
                workers = found.workers
        finally:
            context.config = own
        assert context.memory is not None
        for words in filter(None, (context.memory.words, context.memory.fewer_words)):
            self._say(words)
        return workers

    @staticmethod
    def _shape(config: Configuration) -> str:
        """What the memory of a training depends on."""
        parts = config.training.policy_kwargs.net_arch, config.base_timesteps, config.finetune_timesteps
        sizes = config.hardware.vectorized_envs, config.hardware.batch_size, config.training.n_steps
        return repr((*parts, *sizes, config.hardware.vec_env, config.hardware.learner))

    # The end

    def _conclude(self, proposer: Proposer, folder: Path) -> dict[str, Any]:
        context, file = self._context, self._file
        assert context.market is not None
        self.winner = winner_of(self._tried).setting
        first = context.config.test_mode.seed
        repeated = proposer.repeated if isinstance(proposer, OptunaProposals) else 0
        facts = sweep_facts(file, self._space, self._tried, repeated, range(first, first + file.seeds))
        record_trials(TrialLedger(context.config.evidence.trials_path), context.market, file.arm, self._tried)
        if not is_finished(folder):
            write_json(folder / RESULT, facts)
        self._say(f"{count(len(self._tried))} settings tried: setting {self.winner.number} is best")
        self.record_files()
        return facts

    def record_files(self) -> None:
        """Take the sweep's files into its ledger and manifest. Raises OSError."""
        self._state.record_all()

    def _record_at_last(self) -> None:
        if self._context.folder is not None:
            with suppress(OSError, UserError):  # what ended the sweep is to be heard, not this
                self.record_files()
