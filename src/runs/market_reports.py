"""A report of each market of a run of several, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.agent.members import Training
from src.report.complete import complete_report
from src.report.markets import together

OF_THE_RUN = ("summary", "memory", "hardware_timeline", "configuration", "phases")
"""Sections that only the run's own report has."""


def markets_facts(facts: Mapping[str, Any], by_market: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Report section `markets` from the run's facts and the sections of every market."""
    reports = {symbol: complete_report(_of_market(facts, symbol, own)) for symbol, own in by_market.items()}
    plain = {symbol: report.to_json_dict() for symbol, report in reports.items()}
    return {"markets": {"reports": plain, **together(reports, seed)}}


def _of_market(facts: Mapping[str, Any], symbol: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """What the report of a market is made of: its own sections, its trainings, and the machine's figures of the run."""
    training = [row for row in facts["training"] if row["market"] == symbol]
    first = training[0]["seed"] if training else None
    members = [row for row in facts["time"]["members"] if row["market"] == symbol]
    curves = [
        {name: value for name, value in curve.items() if name != "market"}
        for curve in facts["learning"]["curves"]
        if curve.get("market") == symbol
    ]
    met = all(target["status"] == "met" for target in facts["targets"].values() if target["required"])
    return {
        **{name: value for name, value in facts.items() if name not in OF_THE_RUN},
        "run": {**facts["run"], "market": symbol},
        "training": training,
        "time": {**facts["time"], "members": members},
        "learning": {"curves": curves},
        "timesteps_completed": sum(
            row["timesteps"]
            for row in training
            if row["phase"] in (Training.BASE, Training.HYBRID) and row["seed"] == first
        ),
        "timesteps_total": sum(row["timesteps"] for row in training),
        **own,
        "validation_passed": met and own.get("look_ahead", {}).get("passed", True),
    }


def joined_leaks(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Section `look_ahead` over all markets; nothing where none was checked."""
    if not sections:
        return {}
    parts: dict[str, dict[str, Any]] = {}
    for symbol, section in sections.items():
        for name, of_market in section["parts"].items():
            part = parts.setdefault(name, {"checks": 0, "passed": True, "found": "", "strata": {}})
            part["checks"] += of_market["checks"]
            strata, more = part["strata"], of_market["strata"]
            part["strata"] = {key: strata.get(key, 0) + more.get(key, 0) for key in {**strata, **more}}
            if not of_market["passed"]:
                part["found"] = part["found"] or f"{symbol}: {of_market['found']}"
                part["passed"] = False
    found = next((part["found"] for part in parts.values() if not part["passed"]), "")
    checks = sum(part["checks"] for part in parts.values())
    return {"look_ahead": {"checks": checks, "passed": not found, "found": found, "parts": parts}}


def joined_pools(pools: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Section `env_pool` over the evaluations of all markets, each with a pool of its own; nothing without any."""
    if not pools:
        return {}
    total = {name: sum(of[name] for of in pools) for name in pools[0]}
    lasting = total["total_uses"] - total["temporary"]
    return {"env_pool": {**total, "avg_uses_per_env": lasting / total["built"] if total["built"] else 0.0}}
