"""The automated pipeline: data, base training, hybrid; each phase resumes where it was killed.

What is finished stands in the ledger and is not done again; what was being trained goes on from its newest checkpoint.
A run that was killed and resumed ends with bitwise the weights and figures of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text
from stable_baselines3.common.vec_env import VecEnv

from src.advisor.table import AdviceTable
from src.advisor.table_file import load_table, save_table
from src.advisor.tabulation import TabulationRecord
from src.agent.export import export_base, export_hybrid
from src.agent.phases import Market, Trainer, compile_kernel, tabulate_advice
from src.agent.policy import Weights
from src.agent.ppo import TimedMaskablePPO
from src.agent.rollout_plan import RolloutPlan
from src.errors import InterruptedRun, UserError
from src.evidence.console_summary import print_summary
from src.evidence.placebo import placebo_table
from src.evidence.production import estimate_production
from src.evidence.report import asking_facts, data_facts, rules_facts, run_facts
from src.evidence.run_folder import OutputError
from src.runs.bench import Bench
from src.runs.evaluations import Trained, evaluated
from src.runs.folders import log_length, only_run_in
from src.runs.inputs import base_inputs, data_inputs, hybrid_inputs, tables_fingerprint, weights_fingerprint
from src.runs.ledger import Ledger, Part, PhaseEntry
from src.runs.phase_targets import phase_facts, phase_targets
from src.runs.phase_tries import PhaseTries
from src.runs.resources import machine_facts
from src.runs.results import drawn, finish, look_ahead, seeded, with_sessions_read
from src.runs.resumable import Job, ends_whole, kept_weights, store_of, train_resumably
from src.runs.standing import PHASES, TITLES, Standing
from src.runs.stopping import Deadline, StopRequest

TRAININGS: dict[str, tuple[str, ...]] = {
    "phase1": (),
    "phase2": ("base",),
    "phase3": ("rl_only", "hybrid", "hybrid_placebo"),
}


def run_pipeline(bench: Bench, *, start_phase: int = 1, auto_resume: bool = False, command: str = "") -> dict[str, Any]:
    """Run the phases from `start_phase` on, or with `auto_resume` from wherever the newest run below the output folder
    stands. Returns the report, or where the run stops after a phase {"stopped_after", "phases", "validation_passed"}.

    Raises UserError for input to mend and for phases that failed, InterruptedRun when stopped.
    """
    output_dir, command = Path(bench.config.test_mode.output_dir), command or "run_automated_pipeline(auto_resume=True)"
    with only_run_in(output_dir), StopRequest() as stop:
        run = _Pipeline(bench, stop, start_phase, auto_resume, command)
        try:
            report = run.to_the_end(output_dir)
            if bench.folder is not None and "stopped_after" not in report:
                print_summary(bench.console, report, bench.folder)
            return report
        except KeyboardInterrupt:
            run.interrupted()
            if bench.folder is None and not auto_resume:
                raise
            kept = f"nothing below {output_dir} was changed"
            if bench.folder is not None:
                kept = f"everything up to the newest checkpoint is kept in {bench.folder}"
            raise InterruptedRun(f"Stopped; {kept}. Go on with:\n{command}") from None
        except OSError as error:  # outside of the phases, where another try is no remedy
            raise OutputError(
                f"The run cannot write or read its files below {output_dir} ({error}). Free space on that disk, or "
                f"see that its folder can be written; everything up to the newest checkpoint is kept. Go on with:\n"
                f"{command}"
            ) from error


class _Pipeline:
    """One process's part of a run."""

    def __init__(self, bench: Bench, stop: StopRequest, start_phase: int, auto_resume: bool, command: str) -> None:
        self._bench = bench
        self._stop = stop
        self._command = command
        self._say = bench.display.say
        self._standing = Standing(bench, start_phase, auto_resume, self._inputs)
        self._tries = PhaseTries(bench, stop, self._standing, command)
        self.interrupted = self._tries.interrupted
        self._trainer: Trainer
        self._plans: tuple[RolloutPlan, RolloutPlan]
        self._first_env: VecEnv | None = None
        self._base_weights: Weights | None = None
        self._sections: dict[str, Any] | None = None

    def to_the_end(self, output_dir: Path) -> dict[str, Any]:
        bench, standing = self._bench, self._standing
        self._trainer, self._plans = bench.trainer(), bench.plans()
        earlier = standing.earlier_run(output_dir)
        with bench.open():
            self._first_env = bench.own_env(self._trainer)
            began = time.perf_counter()
            bench.load_market(self._first_env)
            loading_s = time.perf_counter() - began
            standing.open(earlier, output_dir)
            standing.check_what_is_there()
            if (report := standing.complete()) is not None:
                return report
            # Not before: a run that refuses to go on leaves the options of the earlier one as they were.
            bench.write_to(self._folder)
            bench.spent_before_s = sum(entry.seconds for entry in self._ledger.phases.values())
            if self._entry("phase1").status != "done":
                self._entry("phase1").seconds += loading_s
            work: dict[str, Callable[[PhaseEntry], str]] = {
                "phase1": self._prepare,
                "phase2": self._train_base,
                "phase3": self._train_hybrid,
            }
            for number, name in enumerate(PHASES, start=1):
                if self._is_done(name):
                    continue
                self._tries.run(name, self._inputs(name), work[name])
                if number < len(PHASES) and not bench.config.pipeline.auto_advance:
                    return self._stopped_after(name)
            return self._report()

    def _is_done(self, name: str) -> bool:
        """Whether a phase is finished, from what is there now, and what it made is at hand."""
        if changed := self._standing.changed(name):  # a phase before it was gone on with in this process
            self._say(f"{name} is done again, because its inputs changed: {'; '.join(changed)}")
            self._standing.forget(name)
        entry = self._entry(name)
        trainings = [training for training in TRAININGS[name] if training in entry.parts]
        if entry.status != "done" or not all(self._is_at_hand(training) for training in trainings):
            return False
        self._say(f"{name} ({TITLES[name]}) is done: {entry.seconds:,.0f} s, tries: {entry.tries}")
        return True

    def _is_at_hand(self, training: str) -> bool:
        """Whether the end of a finished training can be read."""
        return ends_whole(self._job(training), self._plans[0 if training == "base" else 1])

    @property
    def _folder(self) -> Path:
        return self._standing.folder

    @property
    def _ledger(self) -> Ledger:
        return self._standing.ledger

    @property
    def _deadline(self) -> Deadline:
        return self._tries.deadline

    def _entry(self, name: str) -> PhaseEntry:
        return self._standing.entry(name)

    def _inputs(self, name: str) -> dict[str, str]:
        config, market = self._bench.config, self._bench.market
        if name == "phase1":
            return data_inputs(config, market)
        if name == "phase2":
            tables = "" if market is None else tables_fingerprint(market)
            return base_inputs(config, self._plans[0], str(self._trainer.device), tables)
        return hybrid_inputs(config, self._plans[1], self._entry("phase2").result)

    def _finished(self, phase: str, name: str, facts: dict[str, Any]) -> None:
        """A part of a phase is done for good; what a training has logged belongs to it. Before the first one the file
        may hold rows of what is begun anew."""
        trained = name in TRAININGS[phase]
        log_bytes = log_length(self._folder) if trained else self._ledger.log_bytes(phase)
        self._entry(phase).parts[name] = Part(facts=facts, log_bytes=log_bytes)
        self._ledger.save()
        self._deadline.check()

    def _prepare(self, entry: PhaseEntry) -> str:
        bench = self._bench
        if bench.market is None:
            return "own environments"
        with bench.phase("compile", "the account kernel: slow on a machine's first run only"):
            compile_kernel(bench.market)
        self._finished("phase1", "look_ahead", look_ahead(bench, bench.market))
        return tables_fingerprint(bench.market)

    def _train_base(self, entry: PhaseEntry) -> str:
        bench, plan = self._bench, self._plans[0]
        first, self._first_env = self._first_env, None
        with closing(first or self._trainer.make_env(bench.market)) as env:
            model = self._trainer.new_base(env, plan)
            self._train(entry, "base", model, plan, [])
            if "production" not in entry.parts:
                with bench.phase("production", "a rollout with the production networks"):
                    estimate = estimate_production(self._trainer, env, plan)
                self._finished("phase2", "production", asdict(estimate))
        export_base(model, self._folder / "base.zip")
        self._base_weights = weights = dict(model.policy.state_dict())
        bench.release(model)
        return weights_fingerprint(weights)

    def _train_hybrid(self, entry: PhaseEntry) -> str:
        bench, plan, market = self._bench, self._plans[1], self._bench.market
        if market is None:
            return "not applicable"
        base = self._base()
        table = self._advice(entry, market)
        placebo = placebo_table(table, self._trainer.seed)
        llm = bench.config.llm
        models: dict[str, TimedMaskablePPO] = {}
        for name, settings, heard in (
            ("rl_only", None, None),
            ("hybrid", llm, table),
            ("hybrid_placebo", llm, placebo),
        ):
            with closing(self._trainer.make_env(market, heard)) as env:
                models[name], callbacks = self._trainer.new_finetuned(base, env, plan, settings)
                self._train(entry, name, models[name], plan, callbacks)
            bench.release(models[name])
        export_hybrid(models["hybrid"], self._folder / "hybrid.zip")
        rl_only, hybrid, permuted = (models[name].policy for name in ("rl_only", "hybrid", "hybrid_placebo"))
        trained = Trained(rl_only, hybrid, permuted, placebo)
        self._sections = evaluated(bench, market, table, {self._trainer.seed: trained})
        return weights_fingerprint(models["hybrid"].policy.state_dict())

    def _base(self) -> Weights:
        """Base weights: those just trained, else from the newest checkpoint of phase 2."""
        if self._base_weights is not None:
            return self._base_weights
        weights = kept_weights(self._job("base"), self._say)
        if weights is None:
            raise UserError(
                f"Phase 3 needs the weights of phase 2, and {self._folder / 'phase2'} holds no checkpoint. Go on with "
                f"--start-phase 2."
            )
        return weights

    def _advice(self, entry: PhaseEntry, market: Market) -> AdviceTable:
        """The frozen advice table: the one this phase has made already, or asked for now."""
        bench, path = self._bench, self._folder / "phase3" / "advice.safetensors"
        if "advice" in entry.parts:
            return load_table(path, entry.parts["advice"].facts["sha256"])
        advisor = bench.advisor
        assert advisor is not None

        def progress(record: Any) -> None:
            bench.display.record(record)
            self._stop.check()  # a batch is stored by now
            self._deadline.check()

        with bench.phase("advice", f"{advisor.name} on the training sessions' situations"), self._stop.deferred():
            table, asking = tabulate_advice(
                market,
                advisor,
                bench.config.llm,
                quick=bench.config.test_mode.quick,
                say=self._say,
                progress=progress,
            )
        save_table(table, path)
        self._finished("phase3", "advice", asking.to_dict())
        return table

    def _job(self, name: str) -> Job:
        phase = "phase2" if name == "base" else "phase3"
        entry = self._entry(phase)
        inputs = {**(entry.inputs or self._inputs(phase)), "training": name}
        if "advice" in entry.parts and name != "rl_only":
            inputs["advice table"] = entry.parts["advice"].facts["sha256"]
        store = store_of(
            self._folder / phase / name,
            inputs,
            self._bench.config.checkpoint,
            machine_facts(entry.torch_threads),
        )
        return Job(name, phase, store)

    def _train(
        self, entry: PhaseEntry, name: str, model: TimedMaskablePPO, plan: RolloutPlan, callbacks: list[Any]
    ) -> None:
        def saved() -> None:
            entry.timesteps[name] = model.num_timesteps
            self._tries.count_time()

        job = self._job(name)
        record = train_resumably(
            self._bench, job, model, plan, callbacks, finished=name in entry.parts,
            log_bytes=self._ledger.log_bytes(job.phase), stop=self._stop, deadline=self._deadline, saved=saved,
            not_bitwise=entry.not_bitwise,
        )  # fmt: skip
        entry.timesteps[name] = model.num_timesteps
        if record is not None:
            env = None if model.env is None else model.env.unwrapped
            facts = seeded(record.to_dict(), self._trainer.seed) | drawn(env, self._bench.market)
            self._finished(job.phase, name, facts)

    def _stopped_after(self, name: str) -> dict[str, Any]:
        self._say(f"{name} is done; pipeline.auto_advance is false. Go on with:")
        self._bench.console.print(Text(self._command), soft_wrap=True)  # broken, a line would be another command
        return {"stopped_after": name, "phases": phase_facts(self._ledger), "validation_passed": True}

    def _report(self) -> dict[str, Any]:
        bench, ledger = self._bench, self._ledger
        config, market = bench.config, bench.market
        parts = {name: part.facts for entry in ledger.phases.values() for name, part in entry.parts.items()}
        threads = ledger.phases["phase2"].torch_threads or 0
        report: dict[str, Any] = {
            "run": run_facts(config.test_mode, config.hardware, self._folder, threads, self._trainer.device),
            "training": [parts[name] for name in ("base", "rl_only", "hybrid", "hybrid_placebo") if name in parts],
            "arms": {},
        }
        if "production" in parts:
            report["production_estimate"] = parts["production"]
        if market is not None and ledger.phases["phase3"].status == "done":
            if self._sections is None:  # killed after the phase and before its report
                self._tries.prepare("phase3")
                self._train_hybrid(ledger.phases["phase3"])
            report |= {"data": data_facts(market), "rules": rules_facts(market), **(self._sections or {})}
            report["advice"] |= asking_facts(TabulationRecord(**parts["advice"]), config.llm)
        if "look_ahead" in parts:
            assert market is not None
            advice = None
            if ledger.phases["phase3"].status == "done":
                asking = TabulationRecord(**parts["advice"])
                advice = self._advice(ledger.phases["phase3"], market), asking
            report["look_ahead"] = with_sessions_read(parts["look_ahead"], market, report["training"], advice)
        report["phases"] = phase_facts(ledger)
        targets = phase_targets(config, ledger)
        return finish(bench, "automated_pipeline", report, str(self._trainer.device), self._folder, targets)
