"""The hardware-maximized validation: every phase in one go, and nothing kept to go on from."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from src.agent.export import export_base, export_hybrid
from src.agent.phases import Market, Trainer, compile_kernel, tabulate_advice
from src.agent.ppo import TimedMaskablePPO
from src.agent.rollout_plan import RolloutPlan
from src.agent.training import set_threads
from src.errors import InterruptedRun
from src.evidence.console_summary import print_summary
from src.evidence.production import estimate_production
from src.evidence.report import asking_facts, data_facts, rules_facts, run_facts
from src.evidence.run_folder import check_writable, make_run_folder
from src.runs.bench import Bench
from src.runs.results import evaluated, finish, look_ahead


def run_validation(bench: Bench) -> dict[str, Any]:
    """From bars to report; UserError for input to mend, InterruptedRun when stopped."""
    try:
        return _to_the_end(bench)
    except KeyboardInterrupt:
        if bench.folder is None:
            raise
        raise InterruptedRun(f"Stopped. What was logged so far is kept in {bench.folder}.") from None


def _to_the_end(bench: Bench) -> dict[str, Any]:
    config = bench.config
    trainer, plans = bench.trainer(), bench.plans()
    check_writable(Path(config.test_mode.output_dir))
    with bench.open():
        threads = set_threads(config.hardware)
        own_env = bench.own_env(trainer)
        bench.load_market(own_env)
        folder = make_run_folder(Path(config.test_mode.output_dir), config.test_mode.mode, config.test_mode.market)
        bench.write_to(folder)
        report: dict[str, Any] = {
            "run": run_facts(config.test_mode, config.hardware, folder, threads, trainer.device),
            "training": [],
            "arms": {},
        }
        base = _base(bench, trainer, plans[0], own_env, report)
        if bench.market is not None:
            _with_advice(bench, bench.market, trainer, plans[1], base, report)
        else:
            bench.release(base)
        report = finish(bench, "hardware_maximized_validation", report, str(trainer.device), folder)
    print_summary(bench.console, report, folder)
    return report


def _base(
    bench: Bench, trainer: Trainer, plan: RolloutPlan, own_env: VecEnv | None, report: dict[str, Any]
) -> TimedMaskablePPO:
    """Base training and what production would take; their sections go into the report."""
    market = bench.market
    assert bench.folder is not None
    if market is not None:
        with bench.phase("compile", "the account kernel: slow on a machine's first run only"):
            compile_kernel(market)
    what = f"PPO over {plan.n_envs} accounts, {plan.actual:,} timesteps"
    with closing(own_env or trainer.make_env(market)) as env:
        with bench.phase("base", what), bench.logged("base", plan) as (callback, _):
            base, record = trainer.base(env, plan, [callback])
        report["training"].append(record.to_dict())
        with bench.phase("production", "a rollout with the production networks"):
            report["production_estimate"] = asdict(estimate_production(trainer, env, plan))
    export_base(base, bench.folder / "base.zip")
    return base


def _with_advice(
    bench: Bench, market: Market, trainer: Trainer, plan: RolloutPlan, base: TimedMaskablePPO, report: dict[str, Any]
) -> None:
    """Advice, fine-tuning with and without it, evaluation and the look-ahead check; sections into the report."""
    config, advisor = bench.config, bench.advisor
    assert advisor is not None
    assert bench.folder is not None
    report |= {"data": data_facts(market), "rules": rules_facts(market)}
    say, progress, quick = bench.display.say, bench.display.record, config.test_mode.quick
    with bench.phase("advice", f"{advisor.name} on the training sessions' situations"):
        table, asking = tabulate_advice(market, advisor, config.llm, quick=quick, say=say, progress=progress)
    models = {}
    for name, llm in (("rl_only", None), ("hybrid", config.llm)):
        what = f"fine-tuning from base weights, {plan.actual:,} timesteps"
        with (
            closing(trainer.make_env(market, None if llm is None else table)) as env,
            bench.phase(name, what),
            bench.logged(name, plan) as (callback, _),
        ):
            models[name], record = trainer.finetune(base, env, plan, [callback], llm)
        bench.release(models[name])
        report["training"].append(record.to_dict())
    export_hybrid(models["hybrid"], bench.folder / "hybrid.zip")
    bench.release(base)
    report |= evaluated(bench, market, table, models)
    report["advice"] |= asking_facts(asking, config.llm)
    report["look_ahead"] = look_ahead(bench, market)
