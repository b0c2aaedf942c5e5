"""What every run does at its end: check, measure, judge, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from src.advisor.table import AdviceTable
from src.advisor.tabulation import TabulationRecord
from src.agent.market import Market
from src.evaluation.leak_words import SEALED
from src.evaluation.leaks import checks_of, leak_facts, with_finding
from src.evaluation.sealed import check_advice, check_drawn, drawn_sessions
from src.files import write_json
from src.monitoring.timelines import hardware_timeline, learning_curves
from src.report.complete import complete_report
from src.report.facts import SCHEMA_VERSION, is_passed, judge_targets
from src.report.model.report import Report
from src.report.page import write_page
from src.report.schema import ReportError
from src.report.targets import GPU_UTILIZATION
from src.runs.bench import Bench
from src.runs.cached import cache_facts

REPORT_NAME, PAGE_NAME = "report.json", "report.html"
FOLD = "fold"
"""How the names of a walk-forward fold's phases begin."""


def look_ahead(bench: Bench, market: Market) -> dict[str, Any]:
    """The report's section on leaks: whether anything a decision reads, a fill or a fit depends on later bars."""
    config = bench.config
    checks = checks_of(market, config.data, config.environment.trading_hours)
    with bench.phase("look-ahead", f"leak checks of {', '.join(checks)}"):
        return leak_facts([check() for check in checks.values()])


def drawn(env: VecEnv | None, market: Market | None) -> dict[str, Any]:
    """What a training's row of the report says of the sessions it drew; nothing for a user's own environments."""
    found = None if env is None or market is None else drawn_sessions(env, market)
    return {} if found is None else {"sessions_drawn": found.to_dict()}


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
    bench: Bench,
    test_name: str,
    report: Mapping[str, Any],
    device: str,
    folder: Path,
    own_targets: Mapping[str, dict[str, Any]] | None = None,
) -> Report:
    """Add the figures of the whole run, judge its targets (`own_targets` are judged already), write report.json and the
    page made of it. Sections without their shape are a ReportError; report.json then has them as they are."""
    bench.stop_clock()
    rows = folder / "metrics.jsonl"
    lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    facts = {
        "test_name": test_name,
        **_measured(bench, report, device, own_targets or {}),
        "log_writes": len(lines),
        **report,
        "learning": {"curves": _curves([json.loads(line) for line in lines], bench.config.test_mode.seed)},
        "hardware_timeline": hardware_timeline(bench.monitor.metrics_history),
        "configuration": bench.config.to_dict(),
    }
    try:
        complete = complete_report(facts)
    except ReportError:
        write_json(folder / REPORT_NAME, facts)
        raise
    write_json(folder / REPORT_NAME, complete.to_json_dict())
    write_page(complete, folder / PAGE_NAME)
    return complete


def _curves(records: Sequence[Mapping[str, Any]], first_seed: int) -> list[dict[str, Any]]:
    """Learning curves by phase and seed; rows of other seeds than the first carry theirs behind an @. Folds have none:
    they train as the run does, on less."""
    by_seed: dict[int, list[dict[str, Any]]] = {}
    for row in records:
        phase, _, seed = str(row["phase"]).partition("@")
        if phase.startswith(FOLD):
            continue
        by_seed.setdefault(int(seed) if seed else first_seed, []).append({**row, "phase": phase})
    return [curve for seed, rows in by_seed.items() for curve in learning_curves(rows, seed)]


def _measured(
    bench: Bench, report: Mapping[str, Any], device: str, own_targets: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    monitor, training = bench.monitor, report["training"]
    summary = monitor.get_summary()
    gpu_counts, no_gpu = gpu_use(bench, device)
    on_gpu = gpu_counts and summary["gpu_available"]
    cache = cache_facts(bench)
    hit_rate = cache["hit_rate"]
    bench.total_timesteps = sum(r["timesteps"] for r in training)
    measured = {
        "execution_time": bench.total_time,
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
    targets = {**judge_targets(bench.config.validation, measured, why_not, inapplicable), **own_targets}
    first = training[0].get("seed") if training else None
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
        "timesteps_completed": sum(
            r["timesteps"] for r in training if r["phase"] in ("base", "hybrid") and r.get("seed") == first
        ),
        "timesteps_total": bench.total_timesteps,
        "targets": targets,
        "phase_times": bench.phase_times,
        "hardware": summary,
        "summary": bench.summary(),
        "cache": cache,
        "fusion": bench.fusion.get_stats(),
        "env_pool": bench.pool.get_stats(),
        "memory_released_mb": bench.released_bytes / 1e6,
    }


def gpu_use(bench: Bench, device: str) -> tuple[bool, str]:
    """Whether GPU utilisation counts in this run (it trains on one that is to be watched), and why there may be no
    figure of it."""
    summary = bench.monitor.get_summary()
    if not device.startswith("cuda"):
        return False, "trained on the CPU" if summary["gpu_available"] else "no GPU"
    if not bench.config.monitoring.monitor_gpu:
        return False, "monitoring.monitor_gpu is false"
    return True, summary["gpu_reason"] or "NVML read nothing"


def seeded(record_facts: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A training record as the report shows it."""
    return {**record_facts, "seed": seed}
