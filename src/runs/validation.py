"""The hardware-maximized validation: every phase in one go, without checkpoints."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from src.advisor.table import AdviceTable
from src.agent.advising import tabulate_advice
from src.agent.export import export_base, export_data, export_hybrid
from src.agent.market import Market, compile_kernel
from src.agent.ppo import TimedMaskablePPO
from src.agent.rollout_plan import RolloutPlan
from src.agent.trainer import Trainer
from src.agent.training import set_threads
from src.clean_up import closing
from src.errors import InterruptedRun
from src.evaluation.leak_words import SEALED
from src.evaluation.leaks import with_finding
from src.evaluation.placebo import placebo_table
from src.evaluation.production import estimate_production
from src.outputs import check_writable, output_errors_in_words
from src.report.console import print_summary
from src.report.facts import asking_facts, data_facts, rules_facts, run_facts
from src.runs.bench import Bench
from src.runs.evaluations import Trained, evaluated
from src.runs.results import drawn, finish, look_ahead, seeded, with_sessions_read
from src.runs.run_files import facts_of, files_in, write_manifest
from src.runs.run_folder import make_run_folder
from src.runs.walk_forward import folds_of, walk_forward


def run_validation(bench: Bench) -> dict[str, Any]:
    """From bars to report; UserError for invalid input, InterruptedRun when stopped."""
    output_dir = Path(bench.config.test_mode.output_dir)
    try:
        with output_errors_in_words(output_dir, "what was written before is kept."):
            try:
                return _to_the_end(bench)
            finally:
                # Once nothing of the run is open any more, however it ended.
                if bench.folder is not None and not isinstance(sys.exception(), OSError):
                    write_manifest(bench.folder, facts_of(bench.folder, files_in(bench.folder)))
    except KeyboardInterrupt:
        if bench.folder is None:
            raise
        raise InterruptedRun(f"Stopped. What was logged so far is kept in {bench.folder}.") from None


def _to_the_end(bench: Bench) -> dict[str, Any]:
    config = bench.config
    trainer, plans = bench.trainer(), bench.plans()
    check_writable(Path(config.test_mode.output_dir))
    with bench.open():
        bench.warn_of_gpu_settings(trainer)
        threads = set_threads(config.hardware)
        own_env = bench.own_env(trainer)
        bench.load_market(own_env)
        if bench.market is not None and config.evidence.walk_forward:
            folds_of(bench.market, config.evidence.walk_forward, config.data.embargo_sessions)  # refused now or never
        folder = make_run_folder(Path(config.test_mode.output_dir), config.test_mode.mode, config.test_mode.market)
        bench.write_to(folder)
        report: dict[str, Any] = {
            "run": run_facts(config.test_mode, config.hardware, folder, threads, trainer.device),
            "training": [],
            "arms": {},
        }
        base = _first_base(bench, trainer, plans[0], own_env, report)
        if bench.market is not None:
            _with_advice(bench, bench.market, trainer, plans, base, report)
        else:
            bench.release(base)
        complete = finish(bench, "Hardware-Maximized Validation", report, str(trainer.device), folder)
    print_summary(bench.console, complete, folder)
    return complete.to_json_dict()


def _first_base(
    bench: Bench, trainer: Trainer, plan: RolloutPlan, own_env: VecEnv | None, report: dict[str, Any]
) -> TimedMaskablePPO:
    """Base training of the first seed and what production would take; their sections go into the report."""
    market = bench.market
    assert bench.folder is not None
    if market is not None:
        with bench.phase("compile", "the account kernel: slow on a machine's first run only"):
            compile_kernel(market)
    with closing(own_env or trainer.make_env(market)) as env:
        base = _trained_base(bench, trainer, plan, env, report, market)
        with bench.phase("production", "a rollout with the production networks"):
            report["production_estimate"] = asdict(estimate_production(trainer, env, plan))
        bench.count_lookups(env)
    export_data(base, export_base(base, bench.folder / "base.zip"))
    return base


def _trained_base(
    bench: Bench,
    trainer: Trainer,
    plan: RolloutPlan,
    env: VecEnv,
    report: dict[str, Any],
    market: Market | None,
    fold: str = "",
) -> TimedMaskablePPO:
    what = f"PPO over {plan.n_envs} accounts, {plan.actual:,} timesteps{_of_seed(bench, trainer)}"
    label = f"{fold}{_label(bench, 'base', trainer)}"
    with bench.phase(f"{fold}base", what), bench.logged(label, plan) as (callback, _):
        base, record = trainer.base(env, plan, [callback])
    report["training"].append(seeded(record.to_dict(), trainer.seed) | drawn(env, market))
    return base


def _with_advice(
    bench: Bench,
    market: Market,
    trainer: Trainer,
    plans: tuple[RolloutPlan, RolloutPlan],
    base: TimedMaskablePPO,
    report: dict[str, Any],
) -> None:
    """Advice, the trainings of every seed, evaluation and the look-ahead check; sections into the report."""
    config, advisor = bench.config, bench.advisor
    assert advisor is not None
    assert bench.folder is not None
    report |= {"data": data_facts(market, config.data.no_trade_bars), "rules": rules_facts(market)}
    say, progress, quick = bench.display.say, bench.record, config.test_mode.quick
    with bench.phase("advice", f"{advisor.name} on the training sessions' situations"):
        table, asking = tabulate_advice(
            market, advisor, config.llm, quick=quick, say=say, progress=progress, cache=bench.kept_features()
        )
    trained: dict[int, Trained] = {}
    for seed in range(trainer.seed, trainer.seed + config.evidence.seeds):
        of_seed = replace(trainer, seed=seed)
        if seed != trainer.seed:
            with closing(of_seed.make_env(market)) as env:
                base = _trained_base(bench, of_seed, plans[0], env, report, market)
                bench.count_lookups(env)
        trained[seed] = fine_tuned(bench, market, of_seed, plans[1], base, table, report, first=seed == trainer.seed)
        bench.release(base)
    report |= evaluated(bench, market, table, trained)
    report["advice"] |= asking_facts(asking, config.llm)
    report["look_ahead"] = with_sessions_read(look_ahead(bench, market), market, report["training"], (table, asking))
    if config.evidence.walk_forward:
        leaks: list[str] = []
        report["walk_forward"] = walk_forward(bench, market, trainer, plans, _trained_base, fine_tuned, leaks)
        report["look_ahead"] = with_finding(
            report["look_ahead"], SEALED, config.evidence.walk_forward, "; ".join(leaks)
        )


def fine_tuned(
    bench: Bench,
    market: Market,
    trainer: Trainer,
    plan: RolloutPlan,
    base: TimedMaskablePPO,
    table: AdviceTable,
    report: dict[str, Any],
    *,
    first: bool,
    fold: str = "",
) -> Trained:
    """RL alone, hybrid and placebo from the same base weights, with equal steps, rate and seed. Of the `first` seed the
    hybrid is exported. `fold`: what names of phases begin with."""
    llm = bench.config.llm
    placebo = placebo_table(table, trainer.seed)
    policies = {}
    for name, settings, heard in (("rl_only", None, None), ("hybrid", llm, table), ("hybrid_placebo", llm, placebo)):
        what = f"fine-tuning from base weights, {plan.actual:,} timesteps{_of_seed(bench, trainer)}"
        with (
            closing(trainer.make_env(market, heard)) as env,
            bench.phase(f"{fold}{name}", what),
            bench.logged(f"{fold}{_label(bench, name, trainer)}", plan) as (callback, _),
        ):
            model, record = trainer.finetune(base, env, plan, [callback], settings)
            bench.count_lookups(env)
            episodes = drawn(env, market)
        if name == "hybrid" and first and bench.folder is not None:
            export_data(model, export_hybrid(model, bench.folder / "hybrid.zip"))
        bench.release(model)
        policies[name] = model.policy
        report["training"].append({**seeded(record.to_dict(), trainer.seed), "phase": name, **episodes})
    return Trained(policies["rl_only"], policies["hybrid"], policies["hybrid_placebo"], placebo)


def _label(bench: Bench, name: str, trainer: Trainer) -> str:
    """A training's name in the log: with its seed, but for the first."""
    return name if trainer.seed == bench.config.test_mode.seed else f"{name}@{trainer.seed}"


def _of_seed(bench: Bench, trainer: Trainer) -> str:
    return f", seed {trainer.seed}" if bench.config.evidence.seeds > 1 else ""
