"""The plan of a whole run: the plans of its markets, one after another in every phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from stable_baselines3.common.vec_env import VecEnv

from src.agent.settings import Learner
from src.agent.trainer import Trainer
from src.runs.context import RunContext
from src.runs.phase_runner import Phase
from src.runs.plan import Means, Plan


class RunPlan:
    """The plans of a run by market, in the order of `test_mode.market`; all share `means`."""

    def __init__(
        self, context: RunContext, trainer: Trainer, own_env: VecEnv | None = None, learner: Learner = "fused"
    ) -> None:
        self.means = Means()
        markets = context.of_markets
        self.of_markets = [
            Plan(of, trainer, own_env, self.means, place, len(markets), learner) for place, of in enumerate(markets)
        ]

    def place(self, run: Path) -> None:
        """The run's folder."""
        for plan in self.of_markets:
            plan.place(run)

    def phases(self, of_market: Callable[[Plan], list[Phase]]) -> list[Phase]:
        """The phases of a mode, each with its tasks of every market."""
        by_market = [of_market(plan) for plan in self.of_markets]
        return [
            replace(alike[0], tasks=[task for phase in alike for task in phase.tasks])
            for alike in zip(*by_market, strict=True)
        ]
