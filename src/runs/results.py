"""What every run does at its end: check, measure, judge, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from src import run_names
from src.advisor.table import AdviceTable
from src.advisor.table_file import load_table
from src.advisor.tabulation import TabulationRecord
from src.agent.market import Market
from src.agent.members import Training
from src.agent.other_machine import OtherMachine
from src.agent.trainer import Trainer
from src.evaluation.knowledge import knowledge_facts
from src.evaluation.leak_words import SEALED
from src.evaluation.leaks import with_finding
from src.evaluation.production import ProductionTrial
from src.evaluation.production_forecast import production_facts
from src.evaluation.sealed import check_advice, check_drawn
from src.evaluation.seeds import SeededResults
from src.evaluation.setting_trials import nothing_tried
from src.files import write_json
from src.monitoring.timelines import hardware_timeline, learning_curves
from src.report.complete import complete_report
from src.report.facts import (
    SCHEMA_VERSION,
    asking_facts,
    data_facts,
    is_passed,
    judge_targets,
    rules_facts,
    run_facts,
)
from src.report.model.report import RunReport
from src.report.page import write_page
from src.report.schema import ReportError
from src.report.sweep import shrinkage_facts
from src.report.targets import GPU_UTILIZATION
from src.runs.cached import cache_facts
from src.runs.context import RunContext
from src.runs.evaluations import evaluation_sections
from src.runs.ledger import Ledger
from src.runs.market_reports import joined_leaks, joined_pools, markets_facts
from src.runs.phase_targets import phase_facts, phase_targets
from src.runs.plan import ADVICE_NAME, TRAINING_STAGE, Plan
from src.runs.run_plan import RunPlan
from src.runs.tasks import Results

PIPELINE_PHASES = ("phase1", "phase2", "phase3")


def report_of(
    context: RunContext,
    plan: RunPlan,
    results: Results,
    ledger: Ledger,
    trainer: Trainer,
    test_name: str,
    workers: int,
) -> RunReport:
    """The report of a run from what its tasks have left, written with its page."""
    config, folder = context.config, ledger.path.parent
    plans = plan.of_markets
    threads = max((entry.torch_threads or 0 for entry in ledger.phases.values()), default=0)
    run = run_facts(config.test_mode, config.hardware, folder, threads, trainer.device)
    rows = [row for of in plans for row in _rows(of, results)]
    report: dict[str, Any] = {"run": run | {"workers": workers}, "training": rows, "arms": {}}
    report["time"] = _times(plans, results)
    report |= _production(context, plans, results, workers, str(trainer.device))
    parts: dict[str, dict[str, Any]] = {}
    if len(plans) == 1:
        report |= _market_sections(plans[0], results) | _swept(context, plans[0], results)
    else:
        parts = _sections_by_market(context, plans, results)
        for of in plans:
            parts[of.symbol] |= _production(context, [of], results, workers, str(trainer.device), plans[0])
        report |= joined_leaks({symbol: of["look_ahead"] for symbol, of in parts.items() if "look_ahead" in of})
        report |= joined_pools([of["env_pool"] for of in parts.values() if "env_pool" in of])
    device, own_targets = str(trainer.device), {}
    if set(ledger.phases) == set(PIPELINE_PHASES):
        report["phases"] = phase_facts(ledger)
        gpu_counts, no_gpu = gpu_use(context, device)
        own_targets = phase_targets(config, ledger, gpu_counts=gpu_counts, why_not=no_gpu)
    return finish(context, test_name, report, device, folder, own_targets, parts)


def _sections_by_market(context: RunContext, plans: Sequence[Plan], results: Results) -> dict[str, dict[str, Any]]:
    """The sections of every market. The run's fusion counts what it decided in all of them."""
    parts, counts = {}, np.zeros_like(context.fusion.counts)
    for plan in plans:
        context.fusion.counts[:] = 0.0
        parts[plan.symbol] = _market_sections(plan, results) | {"fusion": context.fusion.get_stats()}
        counts += context.fusion.counts
    context.fusion.counts[:] = counts
    return parts


def _market_sections(plan: Plan, results: Results) -> dict[str, Any]:
    """The sections of one market."""
    config, market = plan.context.config, plan.context.market
    if market is None:
        return {}
    report: dict[str, Any] = {}
    advised = None
    rows = _rows(plan, results)
    if all(task.name in results for task in plan.evaluations()):
        report |= {"data": data_facts(market, config.data.no_trade_bars), "rules": rules_facts(market)}
        report |= _evaluated(plan, results)
        advised = _advised(plan, results, 0)
        report["advice"] |= asking_facts(advised[1], config.llm)
        report["advice"]["knowledge"] = knowledge_facts(market, advised[0], config.llm, config.test_mode.seed)
    if plan.name_of("look-ahead") in results:
        found = results[plan.name_of("look-ahead")].facts
        report["look_ahead"] = with_sessions_read(found, market, rows, advised)
    if plan.folds:
        report["walk_forward"], leaks = _walk_forward(plan, results)
        report["look_ahead"] = with_finding(report["look_ahead"], SEALED, len(plan.folds), "; ".join(leaks))
    return report


def _swept(context: RunContext, plan: Plan, results: Results) -> dict[str, Any]:
    """The section of the sweep whose winner this run trained; nothing for any other run."""
    evaluated = results.get(plan.name_of("evaluation"))
    if context.sweep is None or evaluated is None:
        return {}
    played = {part: SeededResults.from_dict(of) for part, of in evaluated.facts["played"].items()}
    seed = context.config.test_mode.seed
    shrinkage = shrinkage_facts(context.sweep, played["validation"], played["sealed"], seed=seed)
    return {"sweep": {**context.sweep, "shrinkage": shrinkage}}


def _production(
    context: RunContext,
    plans: Sequence[Plan],
    results: Results,
    workers: int,
    device: str,
    tried_by: Plan | None = None,
) -> dict[str, Any]:
    """What production would take on these markets, at the power that the trainings drew; nothing where it was not
    tried. `tried_by` made the trial, where it is not the first of them."""
    measured = results.get((tried_by or plans[0]).name_of("production"))
    if measured is None:
        return {}
    config = context.config
    power_w, power_words = _power(context.monitor.get_summary(), with_gpu=device.startswith("cuda"))
    other = config.hardware.other_machine
    facts = production_facts(
        ProductionTrial(**measured.facts),
        [row for plan in plans for row in _rows(plan, results)],
        workers=workers,
        seeds=config.training.production_seeds * len(plans),
        power_w=power_w,
        power_words=power_words,
        price_usd=config.hardware.price_per_hour,
        other=None if other is None else OtherMachine.parse(other),
    )
    return {"production_estimate": facts}


def _power(hardware: Mapping[str, Any], *, with_gpu: bool) -> tuple[float | None, str]:
    """Mean watts while the run trained and whose they are, or None and why they are not known."""
    drawn = hardware["phases"].get(TRAINING_STAGE, {})
    watts = {"processor": drawn.get("average_cpu_power_w")}
    watts |= {"GPU": drawn.get("average_gpu_power_w")} if with_gpu else {}
    known = {name: watt for name, watt in watts.items() if watt is not None}
    why_not = hardware.get("cpu_power_reason") or "no power was read while the run trained"
    if not known:
        return None, why_not
    without = "" if "processor" in known else f" alone: {why_not}"
    return sum(known.values()), " and ".join(known) + without


def _rows(plan: Plan, results: Results, fold: int = 0) -> list[dict[str, Any]]:
    """The trainings' rows, by seed, in the order they begin."""
    names = plan.member_names(tuple(Training), fold)
    return [dict(results[name].facts["row"]) for name in names if name in results]


def _times(plans: Sequence[Plan], results: Results) -> dict[str, Any]:
    """Where the trainings' time went; those of earlier versions did not say."""
    first = plans[0]
    names = [name for of in plans for fold in (0, *of.folds) for name in of.member_names(tuple(Training), fold)]
    done = [results[name].facts for name in names if name in results]
    of_whom = ("phase", "market", "seed", "fold")
    members = [{**{key: facts["row"][key] for key in of_whom}, **facts["time"]} for facts in done if "time" in facts]
    if why := first.why_no_settings:
        return {"members": members, "settings": nothing_tried(why)}
    tried = results.get(first.name_of("settings"))
    return {"members": members} | ({} if tried is None else {"settings": tried.facts})


def _evaluated(plan: Plan, results: Results) -> dict[str, Any]:
    def of_seeds(name: str) -> list[Mapping[str, Any]]:
        return [results[plan.name_of(name, seed=seed)].facts for seed in plan.seeds]

    attempts, survival = (results.get(plan.name_of(name, seed=plan.seeds[0])) for name in ("attempts", "survival"))
    return evaluation_sections(
        plan.context,
        results[plan.name_of("evaluation")].facts,
        of_seeds("costs"),
        of_seeds("reliance"),
        None if attempts is None else attempts.facts,
        None if survival is None else survival.facts,
        [] if plan.context.config.test_mode.quick else of_seeds("quarters"),
    )


def _advised(plan: Plan, results: Results, fold: int) -> tuple[AdviceTable, TabulationRecord]:
    done = results[plan.name_of("advice", fold=fold)]
    asking = dict(done.facts["asking"])
    return load_table(done.folder / ADVICE_NAME, done.facts["sha256"]), TabulationRecord(**asking)


def _walk_forward(plan: Plan, results: Results) -> tuple[dict[str, Any], list[str]]:
    """The section, and a sentence for each fold that trained or asked for advice outside of its training sessions."""
    leaks = []
    for fold in plan.folds:
        own = plan.markets[fold]
        if leak := check_advice(own, *_advised(plan, results, fold)) or check_drawn(own, _rows(plan, results, fold)):
            leaks.append(f"fold {fold}: {leak}")
    section = {
        "folds": [results[plan.name_of("evaluation", fold=fold)].facts for fold in plan.folds],
        "words": "Each fold trains from scratch on earlier sessions, first seed only. Difference: hybrid - placebo.",
    }
    return section, leaks


def with_sessions_read(
    section: Mapping[str, Any],
    market: Market,
    trainings: Sequence[Mapping[str, Any]],
    advice: tuple[AdviceTable, TabulationRecord] | None,
) -> dict[str, Any]:
    """The leak section after training: are all episodes, and all that the advice was made of, of training sessions?"""
    recorded = [row for row in trainings if "sessions_drawn" in row]
    found = check_drawn(market, recorded) or ("" if advice is None else check_advice(market, *advice))
    return with_finding(section, SEALED, len(recorded) + (advice is not None), found)


def finish(
    context: RunContext,
    test_name: str,
    report: Mapping[str, Any],
    device: str,
    folder: Path,
    own_targets: Mapping[str, dict[str, Any]] | None = None,
    by_market: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> RunReport:
    """Add the figures of the whole run, judge its targets (`own_targets` are judged already), write report.json and the
    page made of it; `by_market` are the sections of each of several markets. Sections without their shape are a
    ReportError; report.json then has them as they are."""
    context.stop_clock()
    rows = folder / run_names.RECORDS
    lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    facts = {
        "test_name": test_name,
        **_measured(context, report, device, own_targets or {}),
        "log_writes": len(lines),
        **_memory(context),
        **report,
        "time": {**report["time"], "run": {**context.account.facts(), "earlier_s": context.spent_before_s}},
        "learning": {"curves": _curves([json.loads(line) for line in lines])},
        "hardware_timeline": hardware_timeline(context.monitor.metrics_history),
        "configuration": context.config.to_dict(),
    }
    try:
        if by_market:
            facts |= markets_facts(facts, by_market, context.config.test_mode.seed)
        complete = complete_report(facts)
    except ReportError:
        write_json(folder / run_names.REPORT, facts)
        raise
    write_json(folder / run_names.REPORT, complete.to_json_dict())
    write_page(complete, folder / run_names.PAGE)
    return complete


def _curves(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Learning curves by phase and seed. Folds have none: they train as the run does, on less."""
    by_seed: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in records:
        if not row["fold"]:
            by_seed.setdefault((row["market"], row["seed"]), []).append(row)
    several = len({market for market, _ in by_seed}) > 1
    return [
        {**curve, "market": market} if several else curve
        for (market, seed), rows in by_seed.items()
        for curve in learning_curves(rows, seed)
    ]


def _measured(
    context: RunContext, report: Mapping[str, Any], device: str, own_targets: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    monitor, training = context.monitor, report["training"]
    summary = monitor.get_summary()
    gpu_counts, no_gpu = gpu_use(context, device)
    on_gpu = gpu_counts and summary["gpu_available"]
    cache = cache_facts(context)
    hit_rate = cache["hit_rate"]
    context.total_timesteps = sum(r["timesteps"] for r in training)
    measured = {
        "execution_time": context.total_time,
        "peak_memory": monitor.get_peak_memory_usage() if on_gpu else monitor.get_peak_ram_usage(),
        "gpu_utilization": monitor.get_average_gpu_utilization() if on_gpu else None,
        "cache_hit_rate": hit_rate,
        "steps_per_s": training[0]["steps_per_s"] if training else None,
    }
    why_not = {
        "gpu_utilization": no_gpu,
        "cache_hit_rate": cache["words"],
        "steps_per_s": "no training was finished",
    }
    inapplicable = () if gpu_counts else (GPU_UTILIZATION,)
    targets = {**judge_targets(context.config.validation, measured, why_not, inapplicable), **own_targets}
    first = training[0].get("seed") if training else None
    return {
        "schema_version": SCHEMA_VERSION,
        "validation_passed": is_passed(targets)
        and report.get("look_ahead", {}).get("passed", True)
        and all(phase["status"] == "done" for phase in report.get("phases", {}).values()),
        "execution_time": context.total_time,
        "gpu_utilization": measured["gpu_utilization"],
        "cache_hit_rate": hit_rate,
        "peak_memory_gb": measured["peak_memory"],
        "peak_memory_kind": "gpu" if on_gpu else "ram",
        "timesteps_completed": sum(
            r["timesteps"]
            for r in training
            if r["phase"] in (Training.BASE, Training.HYBRID) and r.get("seed") == first
        ),
        "timesteps_total": context.total_timesteps,
        "targets": targets,
        "phase_times": context.phase_times,
        "hardware": summary,
        "summary": context.summary(),
        "cache": cache,
        "fusion": context.fusion.get_stats(),
        "env_pool": context.pool.get_stats(),
        "memory_released_mb": context.released_bytes / 1e6,
    }


def _memory(context: RunContext) -> dict[str, Any]:
    """What was predicted, and the highest sample."""
    if context.memory is None:
        return {}
    summary = context.monitor.get_summary()
    measured = {"measured_gb": summary["peak_ram_gb"], "gpu_measured_gb": None}
    if context.memory.gpu_predicted_gb is not None:
        measured["gpu_measured_gb"] = summary["peak_gpu_memory_gb"]
    return {"memory": context.memory.to_dict() | measured}


def gpu_use(context: RunContext, device: str) -> tuple[bool, str]:
    """Whether GPU utilisation counts in this run (it trains on one that is to be watched), and why there may be no
    figure of it."""
    summary = context.monitor.get_summary()
    if not device.startswith("cuda"):
        return False, "trained on the CPU" if summary["gpu_available"] else "no GPU"
    if not context.config.monitoring.monitor_gpu:
        return False, "monitoring.monitor_gpu is false"
    return True, summary["gpu_reason"] or "NVML read nothing"
