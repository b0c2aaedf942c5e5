"""Several seeds of the same arms on the same sessions, averaged by session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.evidence.evaluation import Arm, ArmResult
from src.evidence.report import arm_summary

WITHOUT_SEEDS = ("flat", "advisor_only")
"""Arms in which nothing is drawn and nothing is trained: one result stands for every seed."""


@dataclass(frozen=True)
class SeededResults:
    """Results on one set of sessions: by arm one result a seed, in the order of `values`; one in all where the arm has
    no seed."""

    values: tuple[int, ...]
    results: Mapping[str, tuple[ArmResult, ...]]

    def net_usd(self, arm: str) -> NDArray[np.float64]:
        """Net P&L, float64[seeds, sessions]; an arm without seeds repeats itself."""
        rows = np.array([result.net_usd for result in self.results[arm]])
        return rows if len(rows) == len(self.values) else np.repeat(rows, len(self.values), axis=0)

    def summaries(self) -> dict[str, dict[str, Any]]:
        """By arm, the summary of each seed averaged: sums and means over sessions of one seed, advice and actions over
        all."""
        return {name: _averaged([arm_summary(result) for result in results]) for name, results in self.results.items()}


def seeded_arms(arms_by_seed: Mapping[int, Sequence[Arm]]) -> list[Arm]:
    """The arms of every seed under names that tell them apart; those without seeds once. For one evaluation of all."""
    chosen: list[Arm] = []
    for place, (seed, arms) in enumerate(arms_by_seed.items()):
        for arm in arms:
            if place and arm.name in WITHOUT_SEEDS:
                continue
            arm.name = f"{arm.name}@{seed}"
            chosen.append(arm)
    return chosen


def by_arm(seeds: Sequence[int], results: Mapping[str, ArmResult]) -> SeededResults:
    """What an evaluation of `seeded_arms` gave, by arm again."""
    found: dict[str, list[ArmResult]] = {}
    for name, result in results.items():
        arm = name.rpartition("@")[0]
        result.name = arm
        found.setdefault(arm, []).append(result)
    return SeededResults(tuple(seeds), {arm: tuple(of_arm) for arm, of_arm in found.items()})


def _averaged(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    if len(summaries) == 1:
        return summaries[0]
    first = summaries[0]
    averaged: dict[str, Any] = {}
    for key, value in first.items():
        values = [summary[key] for summary in summaries]
        if key == "actions":
            averaged[key] = {name: sum(of_seed[name] for of_seed in values) for name in value}
        elif key == "advice":
            averaged[key] = _pooled_advice(values)
        elif key in ("sessions", "illegal_actions"):
            averaged[key] = value if key == "sessions" else sum(values)
        elif isinstance(value, list):
            averaged[key] = np.mean(values, axis=0).tolist()
        else:
            known = [number for number in values if number is not None]
            averaged[key] = float(np.mean(known)) if known else None
    return averaged


def _pooled_advice(uses: list[dict[str, Any]]) -> dict[str, Any]:
    pooled: dict[str, Any] = {name: sum(use[name] for use in uses) for name in ("choices", "advised", "changed")}
    if "rules" in uses[0]:
        pooled["rules"] = dict(sum((Counter(use["rules"]) for use in uses), Counter()))
        pooled["rules"] = {rule: pooled["rules"].get(rule, 0) for rule in uses[0]["rules"]}
    pooled["changed_frac"] = pooled["changed"] / pooled["choices"] if pooled["choices"] else None
    return pooled
