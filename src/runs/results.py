"""What every run does once it has trained: evaluate, check, measure, report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.advisor.table import AdviceTable
from src.agent.phases import EVALUATION_PHASE, Market
from src.agent.ppo import TimedMaskablePPO
from src.agent.training import phase_seed
from src.evidence.evaluation import FeatureAssembly, evaluate, standard_arms
from src.evidence.forecast import forecast_facts
from src.evidence.look_ahead import check_prefixes
from src.evidence.report import SCHEMA_VERSION, advice_facts, arm_summary, is_passed, judge_targets, verdict
from src.evidence.run_folder import write_json
from src.runs.bench import Bench

REPORT_NAME = "report.json"


def evaluated(
    bench: Bench, market: Market, table: AdviceTable, models: Mapping[str, TimedMaskablePPO]
) -> dict[str, Any]:
    """Every arm on the validation and on the sealed sessions, and the advice as a forecast: report sections."""
    bench.cache.clear()  # of a try that failed
    bench.fusion.counts[:] = 0.0
    cached = bench.config.performance.cached_llm_features
    assembly = FeatureAssembly(market.tables.context, table, bench.cache if cached else None)
    report: dict[str, Any] = {}
    parts = {"validation": market.split.validation, "sealed": market.split.test}
    for part, sessions in parts.items():
        seed = phase_seed(bench.config.test_mode.seed, EVALUATION_PHASE)
        arms = standard_arms(models["rl_only"].policy, models["hybrid"].policy, bench.fusion, seed)
        with bench.phase("evaluation", f"{len(arms)} arms on {len(sessions)} {part} sessions"):
            results = evaluate(arms, market.first_bars(sessions), bench.pool, assembly)
        report["arms" if part == "sealed" else f"{part}_arms"] = {
            name: arm_summary(result) for name, result in results.items()
        }
    report["advice"] = advice_facts(market, table, assembly)
    report["forecaster"] = forecast_facts(market, table)
    return report


def look_ahead(bench: Bench, market: Market) -> dict[str, Any]:
    """The report's section on whether a feature knows the future."""
    with bench.phase("look-ahead", "features again, from prefixes of the bars"):
        check = check_prefixes(market.tables, bench.config.data, bench.config.environment.trading_hours)
    return {"checks": check.checks, "passed": check.passed, "found": check.found}


def finish(
    bench: Bench,
    test_name: str,
    report: Mapping[str, Any],
    device: str,
    folder: Path,
    own_targets: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Add the figures of the whole run, judge its targets (`own_targets` are judged already), write report.json."""
    bench.stop_clock()
    rows = folder / "metrics.jsonl"
    complete = {
        "test_name": test_name,
        **_measured(bench, report, device, own_targets or {}),
        "log_writes": rows.read_bytes().count(b"\n") if rows.exists() else 0,
        **report,
    }
    complete["verdict"] = verdict(complete)
    write_json(folder / REPORT_NAME, complete)
    return complete


def _measured(
    bench: Bench, report: Mapping[str, Any], device: str, own_targets: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    monitor, training = bench.monitor, report["training"]
    summary = monitor.get_summary()
    on_gpu = summary["gpu_available"] and device.startswith("cuda")
    hit_rate = bench.cache_hit_rate()
    measured = {
        "execution_time": bench.total_time,
        "peak_memory": monitor.get_peak_memory_usage() if on_gpu else monitor.get_peak_ram_usage(),
        "gpu_utilization": monitor.get_average_gpu_utilization() / 100.0 if on_gpu else None,
        "cache_hit_rate": hit_rate,
        "steps_per_s": training[0]["steps_per_s"] if training else None,
    }
    why_not = {
        "gpu_utilization": "trained on the CPU" if summary["gpu_available"] else "no GPU",
        "cache_hit_rate": "the cache was not used",
        "steps_per_s": "no training was finished",
    }
    targets = {**judge_targets(bench.config.validation, measured, why_not), **own_targets}
    return {
        "schema_version": SCHEMA_VERSION,
        "validation_passed": is_passed(targets)
        and report.get("look_ahead", {}).get("passed", True)
        and all(phase["status"] == "done" for phase in report.get("phases", {}).values()),
        "execution_time": bench.total_time,
        "gpu_utilization": measured["gpu_utilization"],
        "cache_hit_rate": hit_rate,
        "peak_memory_gb": measured["peak_memory"],
        "peak_memory_kind": "gpu" if on_gpu else "ram",
        "timesteps_completed": sum(r["timesteps"] for r in training if r["phase"] in ("base", "hybrid")),
        "timesteps_total": sum(r["timesteps"] for r in training),
        "targets": targets,
        "phase_times": bench.phase_times,
        "hardware": summary,
        "cache": bench.cache.get_stats(),
        "fusion": bench.fusion.get_stats(),
        "env_pool": bench.pool.get_stats(),
        "memory_released_mb": bench.released_bytes / 1e6,
    }
