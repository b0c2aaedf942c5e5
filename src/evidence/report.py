"""report.json of a run: every figure and what it was measured on; the verdict claims no more than was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import machine, platform, python_version
from typing import Any

import numpy as np
import torch

from src.advisor.choose import BUNDLED, MOCK
from src.advisor.settings import LLMSettings
from src.advisor.table import AdviceTable, coverage
from src.advisor.tabulation import TabulationRecord
from src.agent.phases import Market
from src.agent.settings import HardwareSettings, RunSettings
from src.evidence.evaluation import AdviceUse, ArmResult, FeatureAssembly
from src.evidence.forecast import advice_mix
from src.evidence.targets import TARGETS, ValidationSettings
from src.trading.layout import ACTIONS
from src.trading.routes import WHY

SCHEMA_VERSION = 1
MET, MISSED, NOT_APPLICABLE = "met", "missed", "not_applicable"
ENOUGH_SESSIONS, FEW_SESSIONS = 40, 10
ENOUGH_TIMESTEPS = 50_000
"""Base timesteps in which the defaults learn a planted edge (`src.evidence.canaries`)."""
LIBRARIES = ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy", "numba", "pandas")


def judge_targets(
    validation: ValidationSettings, measured: Mapping[str, float | None], why_not: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Each target with its limit, what was measured and its status.

    `measured` has a value per target of `TARGETS`, None where there was nothing to measure; `why_not` says why.
    """
    return {
        name: judge(
            getattr(validation, field),
            measured.get(name),
            at_most="max" in field,
            required=name in validation.required,
            unset=f"{field} is not set",
            why_not=why_not.get(name, "not measured"),
        )
        for name, field in TARGETS.items()
    }


def judge(
    limit: float | None, measured: float | None, *, at_most: bool, required: bool, unset: str, why_not: str
) -> dict[str, Any]:
    """One target: `unset` says that it has no limit, `why_not` why there was nothing to measure."""
    entry: dict[str, Any] = {"target": limit, "measured": measured, "required": required, "at_most": at_most}
    if limit is None or measured is None:
        entry["status"] = NOT_APPLICABLE
        entry["reason"] = unset if limit is None else why_not
    else:
        entry["status"] = MET if (measured <= limit if at_most else measured >= limit) else MISSED
    return entry


def is_passed(targets: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether no required target was missed; a required one that could not be measured counts as missed."""
    return all(target["status"] == MET for target in targets.values() if target["required"])


def arm_summary(result: ArmResult) -> dict[str, Any]:
    """Point figures of one arm, and its net P&L by session."""
    trades = int(result.n_trades.sum())
    bars = int(result.bars.sum())
    return {
        "sessions": len(result.net_usd),
        "net_usd": float(result.net_usd.sum()),
        "net_usd_per_session": _mean(result.net_usd),
        "net_usd_by_session": result.net_usd.tolist(),
        "gross_usd": float(result.gross_usd.sum()),
        "commission_usd": float(result.commission_usd.sum()),
        "slippage_usd": float(result.slippage_usd.sum()),
        "trades": trades,
        "trades_per_session": _mean(result.n_trades),
        "win_rate": float(result.n_wins.sum() / trades) if trades else None,
        "exposure": float(result.bars_exposed.sum() / bars) if bars else 0.0,
        "max_drawdown_usd": float(result.max_drawdown_usd.max(initial=0.0)),
        "sessions_breached": int(result.breached.sum()),
        "sessions_daily_locked": int(result.daily_locked.sum()),
        "sessions_target_reached": int(result.target_reached.sum()),
        **({} if result.advice is None else {"advice": _advice_use(result.advice)}),
        "illegal_actions": result.illegal_actions,
        "actions": {ACTIONS[code]: count for code, count in result.actions.items()},
    }


def _advice_use(use: AdviceUse) -> dict[str, Any]:
    """`changed_frac` is of the choices; only the fused arm has rules."""
    facts = {**asdict(use), "changed_frac": use.changed / use.choices if use.choices else None}
    return facts if use.rules else {name: fact for name, fact in facts.items() if name != "rules"}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def sample_size_words(n_sealed: int) -> str:
    """What so many sealed sessions allow to be said."""
    if n_sealed < FEW_SESSIONS:
        return f"not enough sessions ({n_sealed} of {ENOUGH_SESSIONS}): the figures below are of these sessions only"
    if n_sealed < ENOUGH_SESSIONS:
        return f"low power ({n_sealed} of {ENOUGH_SESSIONS} sessions): point figures, no conclusion"
    return f"{n_sealed} sealed sessions, one seed: point figures without intervals"


def verdict(report: Mapping[str, Any]) -> list[str]:
    """The answers of this run in plain words, each from a figure of the report."""
    lines = []
    training: Sequence[Mapping[str, Any]] = report["training"]
    if training:
        base = training[0]
        share = sum(r["update_s"] for r in training) / sum(r["seconds"] for r in training)
        slow = "the PPO update" if share >= 0.5 else "collecting rollouts"
        lines.append(
            f"Trains: {base['timesteps']:,} base timesteps ({base['timesteps_requested']:,} asked) at "
            f"{base['steps_per_s']:,.0f} steps/s; the bottleneck is {slow} "
            f"({max(share, 1 - share):.0%} of training time)."
        )
    if kept_s := sum(r["checkpoint_s"] for r in training):
        share = kept_s / (kept_s + sum(r["seconds"] for r in training))
        lines.append(f"Checkpoints: {kept_s:.1f} s, {share:.1%} of training time.")
    leak = report.get("look_ahead")
    if leak is not None:
        lines.append(
            f"Look-ahead: no leak found by {leak['checks']} prefix recomputations."
            if leak["passed"]
            else f"Look-ahead: LEAK FOUND: {leak['found']}."
        )
    production = report.get("production_estimate")
    if production:
        lines.append(
            f"Production: {production['timesteps']:,} timesteps would take {_duration(production['hours'])} at the "
            f"{production['steps_per_s']:,.0f} steps/s measured with its networks."
        )
    arms: Mapping[str, Mapping[str, Any]] = report.get("arms", {})
    if "rl_only" in arms:
        lines += _arm_lines(report, arms)
    return lines


def _arm_lines(report: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    n = arms["rl_only"]["sessions"]
    rules = report["rules"]
    difference = arms["hybrid"]["net_usd_per_session"] - arms["rl_only"]["net_usd_per_session"]
    bars = " on SYNTHETIC bars" if report["data"]["synthetic"] else ""
    lines = [f"Evaluation{bars}: {sample_size_words(n)}."]
    trained = report["training"][0]["timesteps"]
    if trained < ENOUGH_TIMESTEPS:
        lines.append(f"Learning: not measured, {trained:,} timesteps are too few to learn ({ENOUGH_TIMESTEPS:,} are).")
    lines.append(
        f"Advice ({report['advice']['advisor']}): hybrid {difference:+,.0f} $/session against RL alone; "
        f"one seed is no evidence either way."
    )
    lines += _advice_lines(report["advice"])
    kept = "; ".join(
        f"{name} breached {arms[name]['sessions_breached']}, at its daily limit {arms[name]['sessions_daily_locked']}"
        for name in ("rl_only", "hybrid", "fused")
    )
    lines.append(f"Simulated rule check ({rules['profile']}, as of {rules['as_of']}), of {n} sessions: {kept}.")
    return lines


def _advice_lines(advice: Mapping[str, Any]) -> list[str]:
    asking, covered = advice["tabulation"], advice["coverage"]
    line = (
        f"Advice covers {asking['count_k']:,} of {asking['listed']:,} situations: {covered['train']:.0%} of the "
        f"training bars, {covered['sealed']:.0%} of the sealed ones; elsewhere it abstains."
    )
    lines = [line if not advice["note"] else f"{line} Note: {advice['note']}."]
    if (quantization := advice["quantization"]) not in (None, "none"):
        share, n = asking["full_precision_agreement"], asking["full_precision_compared"]
        told = (
            f"not measured: {asking['full_precision_why_not']}" if share is None else f"{share:.0%} of {n:,} situations"
        )
        lines.append(f"Weights in {quantization}: same first choice as in full precision: {told}.")
    return lines


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1.0 else f"{hours * 60.0:.1f} min"


def run_facts(
    run: RunSettings, hardware: HardwareSettings, folder: Path, threads: int, device: torch.device
) -> dict[str, Any]:
    """What was run, where, and with which libraries."""
    return {
        "name": folder.name,
        "mode": run.mode,
        "market": run.market,
        "seed": run.seed,
        "quick": run.quick,
        "device": str(device),
        "torch_threads": threads,
        "vec_env": hardware.vec_env,
        "why_vec_env": WHY[hardware.vec_env],
        "versions": versions(),
    }


def data_facts(market: Market) -> dict[str, Any]:
    """Where the bars come from, what was left out of them, and which sessions serve what."""
    bars, sessions, split = market.tables.bars, market.tables.sessions, market.split
    usable = sessions.usable
    parts = {"train": split.train, "validation": split.validation, "sealed": split.test}
    return {
        "source": bars.source,
        "synthetic": bars.synthetic,
        "fingerprint": bars.fingerprint,
        "bars": len(bars),
        "interval_min": bars.interval_s // 60,
        "repairs": dict(bars.repairs),
        "sessions": len(usable),
        "sessions_usable": int(usable.sum()),
        "sessions_left_out": dict(Counter(sessions.reason[i] for i in np.flatnonzero(~usable))),
        "embargo_sessions": split.embargo,
        "split": {
            name: {"sessions": len(ids), "first": str(sessions.date[ids[0]]), "last": str(sessions.date[ids[-1]])}
            for name, ids in parts.items()
        },
    }


def rules_facts(market: Market) -> dict[str, Any]:
    """Which rule profile accounts lived under."""
    return {
        "profile": market.rules.name,
        "as_of": str(market.rules.as_of),
        "note": "simulated rule check: firms change their rules, and what passes here is no promise of passing there",
    }


def advice_facts(market: Market, table: AdviceTable, assembly: FeatureAssembly) -> dict[str, Any]:
    """Who advised, how much was asked, and how often an opinion was at hand when one was looked up."""
    given, asked_for = assembly.opinions_given, assembly.opinion_lookups
    sealed = market.situation[market.bars_of(market.split.test)]
    return {
        "advisor": table.advisor_name,
        "identity": table.advisor_identity,
        "sha256": table.sha256,
        "situations_asked": table.asked,
        "coverage": {
            "train": coverage(table, market.situation[market.bars_of(market.split.train)]),
            "sealed": coverage(table, sealed),
        },
        "by_side": advice_mix(table, sealed),
        "advice_without_model": given / asked_for if asked_for else None,
        "opinion_lookups": asked_for,
    }


def asking_facts(asking: TabulationRecord, llm: LLMSettings) -> dict[str, Any]:
    """How the table came about, and what such advice can be evidence of."""
    notes = {
        BUNDLED: "the bundled model shows almost no market judgement: it makes the tool run out of the box and is no "
        "evidence for LLM trading",
        "tiny": "random weights: for tests only",
        MOCK: "rules of thumb, no language model",
    }
    quantization = None if llm.model == MOCK else llm.quantization
    return {"tabulation": asking.to_dict(), "note": notes.get(asking.model), "quantization": quantization}


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the libraries a result depends on."""
    found = {"python": python_version(), "platform": platform(), "machine": machine()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["torch_cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return found
