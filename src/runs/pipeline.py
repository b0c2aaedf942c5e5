"""The automated pipeline: data, base training, hybrid; each phase resumes where it was killed.

The ledger records what is finished, which is not repeated; a training in progress resumes from its newest checkpoint.
A run that was killed and resumed ends with bitwise the weights and figures of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text
from stable_baselines3.common.vec_env import VecEnv

from src.advisor.table import AdviceTable
from src.advisor.table_file import load_table, save_table
from src.advisor.tabulation import TabulationRecord
from src.agent.advising import tabulate_advice
from src.agent.export import export_base, export_data, export_hybrid
from src.agent.market import Market, compile_kernel
from src.agent.policy import Weights
from src.agent.ppo import TimedMaskablePPO
from src.agent.rollout_plan import RolloutPlan
from src.agent.trainer import Trainer
from src.clean_up import closing
from src.errors import InterruptedRun, UserError
from src.evaluation.placebo import placebo_table
from src.evaluation.production import estimate_production
from src.files import read_regular
from src.outputs import output_errors_in_words
from src.report.console import print_summary
from src.report.facts import asking_facts, data_facts, rules_facts, run_facts
from src.report.page import write_page
from src.report.schema import check_report
from src.runs.bench import Bench
from src.runs.evaluations import Trained, evaluated
from src.runs.folders import EXPORTS, LOG_NAME, TRAININGS, only_run_in
from src.runs.inputs import base_inputs, data_inputs, hybrid_inputs, tables_fingerprint, weights_fingerprint
from src.runs.ledger import Ledger, Part, PhaseEntry
from src.runs.phase_targets import phase_facts, phase_targets
from src.runs.phase_tries import PhaseTries
from src.runs.resources import machine_facts
from src.runs.results import PAGE_NAME, REPORT_NAME, drawn, finish, gpu_use, look_ahead, seeded, with_sessions_read
from src.runs.resumable import Job, ends_whole, kept_weights, restore_log, store_of, train_resumably
from src.runs.standing import PHASES, TITLES, Standing
from src.runs.stopping import Deadline, StopRequest


def run_pipeline(
    bench: Bench, *, start_phase: int = 1, auto_resume: bool | None = None, command: str = ""
) -> dict[str, Any]:
    """Run the phases from `start_phase` on, or with `auto_resume` from where the newest run below the output folder
    stopped. With None `checkpoint.auto_resume` decides: then only an unfinished run of the same settings is resumed.

    Returns the report, or where the run stops after a phase {"stopped_after", "phases", "validation_passed"}.

    Raises UserError for invalid input and for phases that failed, InterruptedRun when stopped.
    """
    output_dir, command = Path(bench.config.test_mode.output_dir), command or "run_automated_pipeline(auto_resume=True)"
    then = f"everything up to the newest checkpoint is kept. Resume with:\n{command}"
    with output_errors_in_words(output_dir, then), only_run_in(output_dir), StopRequest() as stop:
        run = _Pipeline(bench, stop, start_phase, auto_resume, command)
        try:
            report = run.to_the_end(output_dir)
            run.record_files()
            if bench.folder is not None and "stopped_after" not in report:
                print_summary(bench.console, check_report(report, REPORT_NAME), bench.folder)
            run.check_all_restored()
            return report
        except UserError:
            with suppress(OSError, UserError):  # what ended the run is to be heard, not this
                run.record_files()
            raise
        except KeyboardInterrupt:
            run.interrupted()
            with suppress(OSError, UserError):
                run.record_files()
            if bench.folder is None and not auto_resume:
                raise
            kept = f"nothing below {output_dir} was changed"
            if bench.folder is not None:
                kept = f"everything up to the newest checkpoint is kept in {bench.folder}"
            raise InterruptedRun(f"Stopped; {kept}. Resume with:\n{command}") from None


class _Pipeline:
    """One process's part of a run."""

    def __init__(
        self, bench: Bench, stop: StopRequest, start_phase: int, auto_resume: bool | None, command: str
    ) -> None:
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
        self._wrote = False
        self._log_kept: int | None = None
        """Length of the log that the checkpoints of the training at work hold."""

    def to_the_end(self, output_dir: Path) -> dict[str, Any]:
        bench, standing = self._bench, self._standing
        self._trainer, self._plans = bench.trainer(), bench.plans()
        earlier = standing.earlier_run(output_dir)
        with bench.open():
            bench.warn_of_gpu_settings(self._trainer)
            self._first_env = bench.own_env(self._trainer)
            began = time.perf_counter()
            bench.load_market(self._first_env)
            loading_s = time.perf_counter() - began
            standing.open(earlier or standing.unfinished_run(output_dir, self._plans), output_dir)
            standing.check_what_is_there()
            if earlier is not None:
                standing.find_damage()
            if (report := standing.complete()) is not None:
                return report
            # Not before: a run that refuses to resume leaves the earlier run's options unchanged.
            bench.write_to(self._folder)
            self._wrote = True
            if earlier is not None:
                jobs = [self._job(name) for names in TRAININGS.values() for name in names]
                parts = {name: part for entry in self._ledger.phases.values() for name, part in entry.parts.items()}
                restore_log(self._folder, jobs, parts, self._say)
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
                standing.outdate_report()
                self._tries.run(name, self._inputs(name), work[name])
                if number < len(PHASES) and not bench.config.pipeline.auto_advance:
                    return self._stopped_after(name)
            if standing.report_is_kept():
                report = standing.report()
                write_page(check_report(report, REPORT_NAME), self._folder / PAGE_NAME)
                return report
            return self._report()

    def record_files(self) -> None:
        """Once nothing of the run is open any more: take its files into the ledger and manifest.json."""
        if self._wrote:
            self._standing.record_all()

    def check_all_restored(self) -> None:
        """As `Standing.check_all_restored`."""
        self._standing.check_all_restored()

    def _is_done(self, name: str) -> bool:
        """Whether a phase is finished, from what is there now, and what it made is at hand: a damaged export is made
        again."""
        if changed := self._standing.changed(name):  # an earlier phase was resumed in this process
            self._say(f"{name} runs again, because its inputs changed: {'; '.join(changed)}")
            self._standing.forget(name)
        entry = self._entry(name)
        if entry.status != "done":
            return False
        lost = [export for export in EXPORTS[name] if export in self._standing.damaged and export in self._ledger.files]
        trainings = [training for training in TRAININGS[name] if training in entry.parts]
        # With all exports and the report intact nothing needs the checkpoints any more.
        if (lost or not self._standing.report_is_kept()) and not all(map(self._is_at_hand, trainings)):
            return False
        if lost:
            self._tries.prepare(name)
            self._export_again(name, entry)
            self._say(f"made again from the checkpoints: {', '.join(lost)}")
        self._say(f"{name} ({TITLES[name]}) is done: {entry.seconds:,.0f} s, tries: {entry.tries}")
        return True

    def _export_again(self, name: str, entry: PhaseEntry) -> None:
        if name == "phase2":
            self._train_base(entry)
        elif self._bench.market is not None:
            self._export_hybrid(self._fine_tuned(entry, "hybrid", self._advice(entry, self._bench.market)))

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
        """Record a finished part of a phase; a training's log rows belong to it. Before the first one the file
        may hold rows of an attempt that is restarted."""
        trained = name in TRAININGS[phase]
        part = Part(facts=facts, log_bytes=self._ledger.log_bytes(phase))
        if trained:
            rows = read_regular(self._folder / LOG_NAME)
            part = Part(facts=facts, log_bytes=len(rows), log_tail=self._tail_of(rows))
        self._entry(phase).parts[name] = part
        self._ledger.save()
        self._deadline.check()

    def _tail_of(self, rows: bytes) -> str:
        """What the log holds behind the last checkpoint of the training at work; "" where there are none."""
        return "" if self._log_kept is None else rows[self._log_kept :].decode()

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
            bench.count_lookups(env)
        zipped = export_base(model, self._folder / "base.zip")
        self._standing.record([path.name for path in (zipped, *export_data(model, zipped))])
        self._base_weights = weights = dict(model.policy.state_dict())
        bench.release(model)
        return weights_fingerprint(weights)

    def _train_hybrid(self, entry: PhaseEntry) -> str:
        bench, market = self._bench, self._bench.market
        if market is None:
            return "not applicable"
        table = self._advice(entry, market)
        placebo = placebo_table(table, self._trainer.seed)
        models = {
            name: self._fine_tuned(entry, name, heard)
            for name, heard in (("rl_only", None), ("hybrid", table), ("hybrid_placebo", placebo))
        }
        self._export_hybrid(models["hybrid"])
        rl_only, hybrid, permuted = (models[name].policy for name in ("rl_only", "hybrid", "hybrid_placebo"))
        trained = Trained(rl_only, hybrid, permuted, placebo)
        self._sections = evaluated(bench, market, table, {self._trainer.seed: trained})
        return weights_fingerprint(models["hybrid"].policy.state_dict())

    def _fine_tuned(self, entry: PhaseEntry, name: str, heard: AdviceTable | None) -> TimedMaskablePPO:
        """A fine-tuning from base weights, trained or as it was when it was finished."""
        plan, llm = self._plans[1], None if heard is None else self._bench.config.llm
        with closing(self._trainer.make_env(self._bench.market, heard)) as env:
            model, callbacks = self._trainer.new_finetuned(self._base(), env, plan, llm)
            self._train(entry, name, model, plan, callbacks)
            self._bench.count_lookups(env)
        self._bench.release(model)
        return model

    def _export_hybrid(self, model: TimedMaskablePPO) -> None:
        zipped = export_hybrid(model, self._folder / "hybrid.zip")
        self._standing.record([path.name for path in (zipped, *export_data(model, zipped))])

    def _base(self) -> Weights:
        """Base weights: those just trained, else from the newest checkpoint of phase 2."""
        if self._base_weights is not None:
            return self._base_weights
        weights = kept_weights(self._job("base"), self._say)
        if weights is None:
            raise UserError(
                f"Phase 3 needs the weights of phase 2, and {self._folder / 'phase2'} holds no checkpoint. Resume with "
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
            bench.record(record)
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
                cache=bench.kept_features(),
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
        def saved(log_bytes: int) -> None:
            self._log_kept = log_bytes
            entry.timesteps[name], entry.products = model.num_timesteps, model.products
            self._tries.count_time()

        job, self._log_kept = self._job(name), None
        model.products = next((e.products for e in self._ledger.phases.values() if e.products), None)
        record = train_resumably(
            self._bench, job, model, plan, callbacks, finished=name in entry.parts,
            log_bytes=self._ledger.log_bytes(job.phase), stop=self._stop, deadline=self._deadline, saved=saved,
            not_bitwise=entry.not_bitwise,
        )  # fmt: skip
        entry.timesteps[name], entry.products = model.num_timesteps, model.products
        if record is not None:
            env = None if model.env is None else model.env.unwrapped
            facts = seeded(record.to_dict(), self._trainer.seed) | drawn(env, self._bench.market)
            self._finished(job.phase, name, facts)

    def _stopped_after(self, name: str) -> dict[str, Any]:
        self._say(f"{name} is done; pipeline.auto_advance is false. Resume with:")
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
        report |= {"production_estimate": parts["production"]} if "production" in parts else {}
        if market is not None and ledger.phases["phase3"].status == "done":
            if self._sections is None:  # killed after the phase and before its report
                self._tries.prepare("phase3")
                self._train_hybrid(ledger.phases["phase3"])
            data = data_facts(market, config.data.no_trade_bars)
            report |= {"data": data, "rules": rules_facts(market), **(self._sections or {})}
            report["advice"] |= asking_facts(TabulationRecord(**parts["advice"]), config.llm)
        if "look_ahead" in parts:
            assert market is not None
            advice = None
            if ledger.phases["phase3"].status == "done":
                asking = TabulationRecord(**parts["advice"])
                advice = self._advice(ledger.phases["phase3"], market), asking
            report["look_ahead"] = with_sessions_read(parts["look_ahead"], market, report["training"], advice)
        report["phases"] = phase_facts(ledger)
        device = str(self._trainer.device)
        gpu_counts, no_gpu = gpu_use(bench, device)
        targets = phase_targets(config, ledger, gpu_counts=gpu_counts, why_not=no_gpu)
        complete = finish(bench, "Automated Pipeline", report, device, self._folder, targets)
        self._standing.record([REPORT_NAME, PAGE_NAME])
        ledger.save()
        return complete.to_json_dict()
