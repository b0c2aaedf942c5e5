"""Several seeds of the same arms on the same sessions, averaged by session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.agent.members import ArmName
from src.evaluation.arms import AdviceUse, Arm
from src.evaluation.playing import ArmResult
from src.evaluation.summaries import arm_summary

WITHOUT_SEEDS = (ArmName.FLAT, ArmName.ADVISOR_ONLY)
"""Arms without randomness or training: one result serves every seed."""
_KINDS = {"NDArray[np.float64]": np.float64, "NDArray[np.int64]": np.int64, "NDArray[np.bool_]": np.bool_}


@dataclass(frozen=True)
class SeededResults:
    """Results on one set of sessions: per arm one result per seed, in the order of `values`, or a single one if the arm
    does not depend on the seed."""

    values: tuple[int, ...]
    results: Mapping[str, tuple[ArmResult, ...]]

    def net_usd(self, arm: str) -> NDArray[np.float64]:
        """Net P&L, float64[seeds, sessions]; an arm without seeds repeats its row."""
        return self._by_seed(arm, "net_usd")

    def gross_usd(self, arm: str) -> NDArray[np.float64]:
        """P&L before commission and slippage, of the same shape."""
        return self._by_seed(arm, "gross_usd")

    def _by_seed(self, arm: str, field: str) -> NDArray[np.float64]:
        rows = np.array([getattr(result, field) for result in self.results[arm]])
        return rows if len(rows) == len(self.values) else np.repeat(rows, len(self.values), axis=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, from which `from_dict` makes equal results."""
        return {
            "seeds": list(self.values),
            "results": {arm: [asdict(result) for result in results] for arm, results in self.results.items()},
        }

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> SeededResults:
        """The results that `to_dict` made plain, also after they were JSON."""
        results = {arm: tuple(map(_result_of, of_arm)) for arm, of_arm in facts["results"].items()}
        return cls(tuple(facts["seeds"]), results)

    def summaries(self) -> dict[str, dict[str, Any]]:
        """By arm, the average of the seeds' summaries; advice use and actions are summed over seeds."""
        return {name: _averaged([arm_summary(result) for result in results]) for name, results in self.results.items()}


def _result_of(facts: Mapping[str, Any]) -> ArmResult:
    values: dict[str, Any] = {}
    for field in fields(ArmResult):
        value = facts[field.name]
        kind = _KINDS.get(str(field.type))
        values[field.name] = value if kind is None else np.array(value, kind)
    values["actions"] = {int(code): count for code, count in facts["actions"].items()}
    values["advice"] = None if facts["advice"] is None else AdviceUse(**facts["advice"])
    return ArmResult(**values)


def seeded_arms(arms_by_seed: Mapping[int, Sequence[Arm]]) -> list[Arm]:
    """The arms of every seed under distinct names, those without seeds once: for one joint evaluation."""
    chosen: list[Arm] = []
    for place, (seed, arms) in enumerate(arms_by_seed.items()):
        for arm in arms:
            if place and arm.name in WITHOUT_SEEDS:
                continue
            arm.name = f"{arm.name}@{seed}"
            chosen.append(arm)
    return chosen


def by_arm(seeds: Sequence[int], results: Mapping[str, ArmResult]) -> SeededResults:
    """Results of evaluating `seeded_arms`, grouped by arm again."""
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
