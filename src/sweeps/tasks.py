"""The tasks of a setting: base training in quarters, fine-tuning, and what its policies earn on validation sessions.

Each quarter of base training is a task that ends with a checkpoint, and the next quarter continues from it. A setting
stopped after a quarter costs no more. One that is not stopped ends with the bits of a training that never paused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.advisor.choose import AnyAdvisor
from src.advisor.table import empty_table
from src.agent.market import Market, account_constants
from src.agent.members import ArmName, Training
from src.agent.quarters import QUARTERS
from src.agent.rollout_plan import RolloutPlan
from src.agent.trainer import Trainer
from src.configuration import Configuration
from src.evaluation.arms import Arm, PolicyArm
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.playing import FreshBatches, evaluate
from src.runs.context import MarketContext, RunContext
from src.runs.inputs import evaluation_inputs
from src.runs.member_work import Advice, MemberJob, load_weights, own_market, train_member
from src.runs.plan import ADVICE_NAME, EVALUATION_STAGE, Means, Plan
from src.runs.tasks import Results, Task
from src.runs.watch import Watch
from src.sweeps.space import Setting


@dataclass(frozen=True)
class SettingContext(MarketContext):
    """One setting of a sweep: its configuration, the accounts it makes of the market, and its advisor."""

    own_advisor: AnyAdvisor | None = None

    @property
    def advisor(self) -> AnyAdvisor | None:
        """The setting's."""
        return self.own_advisor


@dataclass(frozen=True)
class ScoreJob:
    """Trained policies of one setting, by seed their folders. `params` are its constants of an account, `advice` what
    its policies hear; None where they hear nothing."""

    config: Configuration
    trainer: Trainer
    training: Training
    members: Mapping[int, Path]
    params: np.ndarray
    advice: Advice | None


class SettingTasks:
    """Makes the tasks of one setting, in the sweep's folder. `base` is the run's own market."""

    def __init__(
        self, context: RunContext, setting: Setting, trainer: Trainer, advisor: AnyAdvisor, means: Means, folder: Path
    ) -> None:
        config, (base,) = setting.config, context.markets.values()
        symbol = config.test_mode.markets[0]
        rules, params = account_constants(config.environment, symbol)
        market = replace(base, rules=rules, params=params)
        of_setting = SettingContext(context, config.of_market(symbol), market, context.pool, advisor)
        self.setting = setting
        self._market = market
        self._trainer = trainer
        self._plan = Plan(of_setting, trainer, means=means, setting=setting.number)
        self._plan.place(folder)
        self._base_plan = of_setting.plans()[0]

    @property
    def pauses(self) -> list[int]:
        """Timesteps at which base training pauses: the ends of the rollouts that reach a quarter."""
        return pauses_of(self._base_plan)

    @property
    def timesteps(self) -> int:
        """Of base training and of fine-tuning, one seed."""
        return sum(plan.actual for plan in self._plan.context.plans())

    def advice(self) -> list[Task]:
        """The frozen table of advice."""
        return self._plan.advice()

    def quarters(self, quarter: int) -> list[Task]:
        """Base training of every seed up to the end of a quarter, 1 to 3, and what the policies earn there."""
        pauses = [0, *self.pauses]
        since, until = pauses[quarter - 1], pauses[quarter]
        return [self._quarter(base, quarter, since, until) for base in self._bases()]

    def bases(self, reached: int) -> list[Task]:
        """Base training of every seed to its end, after so many quarters."""
        since = [0, *self.pauses][reached]
        return [_with(base, self._market, since=since) for base in self._bases()]

    def fine_tuned(self, training: Training) -> list[Task]:
        """Fine-tuning of every seed."""
        found = [task for task in self._plan.fine_tuned() if task.member is not None]
        return [_with(task, self._market) for task in found if task.member and task.member.training == training]

    def score(self, training: Training) -> Task:
        """What the fine-tuned policies earn on the validation sessions."""
        names = {seed: self._name(training, seed) for seed in self._plan.seeds}
        advice = self._plan.name_of("advice")
        is_advised = training != Training.RL_ONLY
        tables = {"tables": self._plan.tables_of(0)}

        def inputs(results: Results) -> Mapping[str, str]:
            read = {f"weights of {name}": results[name].facts["weights"] for name in names.values()}
            heard = {"advice table": results[advice].facts["sha256"]} if is_advised else {}
            return evaluation_inputs(self.setting.config, (), read | heard | tables)

        def job(results: Results) -> ScoreJob:
            folders = {seed: results[name].folder for seed, name in names.items()}
            heard = results[advice] if is_advised else None
            table = None if heard is None else Advice(heard.folder / ADVICE_NAME, heard.facts["sha256"])
            return ScoreJob(self.setting.config, self._trainer, training, folders, self._market.params, table)

        return Task(
            self._plan.name_of("score"), EVALUATION_STAGE, f"setting {self.setting.number} score",
            f"{training} on {len(self._market.split.validation)} validation sessions",
            score_task, inputs, job, (*names.values(), *([advice] if is_advised else [])),
            market=self._plan.symbol,
        )  # fmt: skip

    # Parts

    def _bases(self) -> list[Task]:
        return self._plan.bases()

    def _name(self, training: Training, seed: int) -> str:
        return next(name for name in self._plan.member_names([training]) if f"/seed-{seed}/" in name)

    def _quarter(self, base: Task, quarter: int, since: int, until: int) -> Task:
        assert base.member is not None
        before = [self._quarter_name(base, quarter - 1)] if quarter > 1 else []
        return replace(
            _with(base, self._market, since=since, until=until),
            name=self._quarter_name(base, quarter),
            title=f"{base.title}, quarter {quarter}",
            what=f"to {until:,} of {base.timesteps:,} timesteps",
            work=quarter_task,
            inputs=lambda results: {**base.inputs(results), "until": str(until)},
            needs=before,
            timesteps=until - since,
        )

    def _quarter_name(self, base: Task, quarter: int) -> str:
        assert base.member is not None
        return self._plan.name_of(f"base-quarter-{quarter}", seed=base.member.seed)


def _with(task: Task, market: Market, since: int = 0, until: int | None = None) -> Task:
    """A training of a setting: on accounts of its own, and for itself, because others of its shape have other
    settings."""

    def job(results: Results) -> MemberJob:
        return replace(task.job(results), params=market.params, since=since, until=until)

    return replace(task, job=job, left=None, together=None)


def pauses_of(plan: RolloutPlan) -> list[int]:
    """The ends of the first rollouts that reach the quarters of a training, each once, without its end."""
    rollout = plan.n_envs * plan.n_steps
    ends = [-(-quarter * plan.actual // QUARTERS // rollout) * rollout for quarter in range(1, QUARTERS)]
    return sorted({end for end in ends if end < plan.actual})


# Tasks in a worker


def quarter_task(job: MemberJob, market: Market, watch: Watch) -> dict[str, Any]:
    """Train up to a quarter; net P&L of the base policy by validation session."""
    facts = train_member(job, market, watch)
    own = own_market(job, market)
    assert own is not None
    policy = job.trainer.policy(own, load_weights(job.folder), None)
    del facts["files"]  # the training's, which goes on in the same folder
    return {**facts, "net_usd": _played(own, [PolicyArm(Training.BASE, policy, sees_advice=False)], None)[0]}


def score_task(job: ScoreJob, market: Market, watch: Watch) -> dict[str, Any]:
    """Net P&L of the policies of a setting, a row a seed, by validation session."""
    own = replace(market, params=job.params)
    llm = None if job.training == Training.RL_ONLY else job.config.llm
    arms: list[Arm] = [
        PolicyArm(f"{job.training}@{seed}", job.trainer.policy(own, load_weights(folder), llm), sees_advice=bool(llm))
        for seed, folder in job.members.items()
    ]
    return {"seeds": list(job.members), "net_usd": _played(own, arms, job.advice)}


def _played(market: Market, arms: Sequence[Arm], advice: Advice | None) -> list[list[float]]:
    table = empty_table() if advice is None else advice.load()
    batches = FreshBatches(market.tape(empty_table()), market.session_params)
    first_bars = market.first_bars(market.split.validation)
    results = evaluate(arms, first_bars, batches, FeatureAssembly(market.tables.context, table))
    return [results[arm.name].net_usd.tolist() for arm in arms]


def training_of(arm: ArmName) -> Training:
    """The training that makes an arm."""
    return Training(arm)
