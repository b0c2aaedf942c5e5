"""The tasks of a run: which there are, what each needs and reads. Both modes are made of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from src.advisor.mock import MockAdvisor
from src.advisor.table_file import save_table
from src.agent.advising import tabulate_advice
from src.agent.market import Market
from src.agent.members import FINE_TUNED, Member, Training
from src.agent.ppo import Library
from src.agent.settings import Learner
from src.agent.trainer import Trainer
from src.clean_up import closing
from src.evaluation.leaks import checks_of, leak_facts
from src.evaluation.production import FEWEST_PAIRS, try_production
from src.evaluation.setting_trials import TrialJob, try_settings, why_not_tried
from src.evaluation.trade_list import MOST_TRADES
from src.runs.context import AnyContext
from src.runs.evaluations import (
    EvaluationJob,
    attempts_task,
    evaluation_task,
    fold_task,
    quarters_task,
    reliance_task,
    stress_task,
    survival_task,
)
from src.runs.inputs import (
    advice_inputs,
    base_inputs,
    data_inputs,
    evaluation_inputs,
    finetune_inputs,
    fusion_inputs,
    tables_fingerprint,
)
from src.runs.member_work import KEEPS_QUARTERS, Advice, MemberJob, leave_weights, train_member
from src.runs.tasks import Results, Task
from src.runs.walk_forward import folds_of
from src.runs.watch import Watch
from src.trading.rules import chosen_profiles

ADVICE_NAME = "advice.safetensors"
TRAINING_STAGE, EVALUATION_STAGE = "training", "evaluation"


def task_name(name: str, *, seed: int | None = None, fold: int = 0, market: str = "") -> str:
    """Of a task that is no training: its folder below the run's. `market` is named where the run has several."""
    of = (f"{market}/" if market else "") + (f"fold-{fold}/" if fold else "")
    return f"tasks/{of}{name}" if seed is None else f"tasks/{of}seed-{seed}/{name}"


@dataclass
class Means:
    """What a run's tasks have of the machine. `threads` are torch's in a training."""

    threads: int = 1
    workers: int = 1
    products: Library | None = None


class Plan:
    """Makes the tasks of one market of a run, or of a setting of a sweep; `place` says below which folder."""

    def __init__(
        self,
        context: AnyContext,
        trainer: Trainer,
        own_env: VecEnv | None = None,
        means: Means | None = None,
        place: int = 0,
        n_markets: int = 1,
        learner: Learner = "fused",
        setting: int = 0,
    ) -> None:
        self.context = context
        self._context = context
        self.symbol = context.config.test_mode.markets[0]
        self.is_first = place == 0
        self._n_markets = n_markets
        self._means = means or Means()
        self._config = context.config
        self._trainer = trainer
        self._learner = learner
        self._setting = setting
        self._plans = context.plans()
        self._run = Path()
        self._own_env = own_env
        self._tables: dict[int, str] = {}
        config = self._config
        first = config.test_mode.seed
        self.seeds = list(range(first, first + config.evidence.seeds)) if context.market is not None else [first]
        self.markets: dict[int, Market] = {}
        """By fold; 0 is the run's own split."""
        if context.market is not None:
            self.markets[0] = context.market
            splits = folds_of(context.market, config.evidence.walk_forward, config.data.embargo_sessions)
            self.markets |= {k: replace(context.market, split=split) for k, split in enumerate(splits, start=1)}

    def place(self, run: Path) -> None:
        """The run's folder."""
        self._run = run

    @property
    def folds(self) -> list[int]:
        """The walk-forward folds, from 1."""
        return [fold for fold in self.markets if fold]

    def name_of(self, name: str, *, seed: int | None = None, fold: int = 0) -> str:
        """The name of a task that is no training."""
        of = self.symbol if self.is_among else f"setting-{self._setting:03d}" if self._setting else ""
        return task_name(name, seed=seed, fold=fold, market=of)

    @property
    def is_among(self) -> bool:
        """Whether the run has other markets: then names and titles say which one a task is of."""
        return self._n_markets > 1

    def _titled(self, title: str) -> str:
        return f"{self.symbol} {title}" if self.is_among else title

    # Tasks

    def look_ahead(self) -> list[Task]:
        """Whether anything a decision reads, a fill or a fit depends on later bars."""
        if not self.markets:
            return []
        config, market = self._config, self.markets[0]
        checks = ", ".join(checks_of(market, config.data, config.environment.trading_hours))
        return [
            Task(
                self.name_of("look-ahead"), "look-ahead", self._titled("look-ahead"), f"leak checks of {checks}",
                look_ahead_task,
                inputs=lambda _: data_inputs(config, market), job=lambda _: config, market=self.symbol,
            )
        ]  # fmt: skip

    def production(self) -> list[Task]:
        """How long production would take: measured with nothing beside it, on the first market."""
        if not self.is_first:
            return []

        def work(env: VecEnv | None, market: Market | None, watch: Watch) -> Mapping[str, Any]:
            if env is None:
                with closing(self._trainer.make_env(market)) as made:
                    return asdict(try_production(self._trainer, made, self._plans[0]))
            self._own_env = None  # a second try makes its own
            facts = asdict(try_production(self._trainer, env, self._plans[0], most_pairs=FEWEST_PAIRS))
            self._own_env = env
            return facts

        return [
            Task(
                self.name_of("production"), "production", "production", "rollouts with the production networks",
                work,
                inputs=lambda _: self._base_inputs(self._member(Training.BASE)) | self._production_inputs(),
                job=lambda _: self._own_env, here=True, alone=True, market=self.symbol,
            )
        ]  # fmt: skip

    @property
    def why_no_settings(self) -> str:
        """Why no other settings are tried; empty where they are."""
        if self._learner == "population":
            return "members train together, and a trial would train one"
        if self._config.hardware.ray is not None:
            return "Ray does the tasks, and a trial here says nothing of its nodes"
        return why_not_tried(self._timesteps, self._config.monitoring.settings_trial_s)

    @property
    def _timesteps(self) -> int:
        """Of all trainings together."""
        base, finetune = self._plans
        of_one = base.actual + (len(FINE_TUNED) * finetune.actual if self.markets else 0)
        return self._n_markets * (len(self.seeds) + len(self.folds)) * of_one

    def settings(self) -> list[Task]:
        """Which setting would make training faster: tried like any training, with the others beside it."""
        if self.why_no_settings or not self.is_first:
            return []
        seconds = self._config.monitoring.settings_trial_s

        def job(results: Results) -> TrialJob:
            return TrialJob(self._trainer, self._timesteps, self._means.workers, seconds, self._means.products)

        return [
            Task(
                self.name_of("settings"), "settings", "settings", "whether other settings would make training faster",
                try_settings,
                inputs=lambda _: self._base_inputs(self._member(Training.BASE)) | {"trial": str(seconds)},
                job=job, here=True, market=self.symbol,
            )
        ]  # fmt: skip

    def bases(self, fold: int = 0) -> list[Task]:
        """Base training of every seed, or of the first in a fold."""
        return [self._member_task(self._member(Training.BASE, seed, fold)) for seed in self._seeds(fold)]

    def advice(self, fold: int = 0) -> list[Task]:
        """The frozen table of advice."""
        if not self.markets:
            return []
        advisor, market = self._context.advisor, self.markets[fold]
        assert advisor is not None
        return [
            Task(
                self.name_of("advice", fold=fold), "advice", self._titled(f"advice{_of_fold(fold)}"),
                f"{advisor.name} on the training sessions' situations",
                partial(_advise, self._context, market),
                inputs=lambda _: advice_inputs(self._config, self.tables_of(fold)) | {"advisor": advisor.identity},
                job=lambda _: self._run / self.name_of("advice", fold=fold), here=True,
                alone=not isinstance(advisor, MockAdvisor), market=self.symbol,
            )
        ]  # fmt: skip

    def fine_tuned(self, fold: int = 0) -> list[Task]:
        """RL alone, hybrid and placebo of every seed, from the same base weights."""
        if not self.markets:
            return []
        return [
            self._member_task(self._member(training, seed, fold))
            for seed in self._seeds(fold)
            for training in FINE_TUNED
        ]

    def evaluations(self) -> list[Task]:
        """What the trained policies are put through; tasks of a seed need the members of that seed alone."""
        if not self.markets:
            return []
        stressed = ", ".join(map(str, self._config.evidence.stress_slippage_ticks))
        tasks = []
        if not self._config.test_mode.quick:
            limit_s = self._config.evidence.pass_budget_s
            tasks.append(
                self._seed_task(
                    self.seeds[0], "attempts", f"simulating evaluation attempts (limit {limit_s:g} s)", attempts_task,
                    ("pass_budget_s", "pass_attempts", "pass_max_days"),
                )
            )  # fmt: skip
            tasks += [
                self._seed_task(
                    seed, "quarters", "policies of each quarter of training on the validation sessions", quarters_task,
                    (), KEEPS_QUARTERS,
                )
                for seed in self.seeds
            ]  # fmt: skip
        if self._config.evidence.rules:
            tasks.append(
                self._seed_task(
                    self.seeds[0], "survival", "simulating attempts under other rule profiles", survival_task,
                    ("rules", "pass_budget_s", "pass_attempts", "pass_max_days"),
                )
            )  # fmt: skip
        for seed in self.seeds:
            tasks += [
                self._seed_task(
                    seed, "costs", f"the trained arms at {stressed} ticks of slippage", stress_task,
                    ("stress_slippage_ticks",),
                ),
                self._seed_task(
                    seed, "reliance", "the hybrid on late, shuffled, constant and no advice", reliance_task,
                    ("late_decisions",),
                ),
            ]  # fmt: skip
        sessions = sum(len(part) for part in (self.markets[0].split.validation, self.markets[0].split.test))
        tasks.append(self._joint_task(0, f"every arm on {sessions} validation and sealed sessions"))
        return tasks

    def fold(self, k: int) -> list[Task]:
        """The trainings and the evaluation of a walk-forward fold; its advice is a task of its own."""
        split = self.markets[k].split
        what = f"every arm on its {len(split.test)} test sessions, trained on {len(split.train)}"
        return [*self.bases(k), *self.fine_tuned(k), self._joint_task(k, what)]

    # Parts

    def member_names(self, trainings: Sequence[Training], fold: int = 0) -> list[str]:
        """Names of the members' tasks, in the order of the report."""
        return [self._member(training, seed, fold).folder for seed in self._seeds(fold) for training in trainings]

    def _seeds(self, fold: int) -> list[int]:
        return self.seeds[:1] if fold else self.seeds

    def _member(self, training: Training, seed: int | None = None, fold: int = 0) -> Member:
        of_seed = self.seeds[0] if seed is None else seed
        return Member(self.symbol, fold, of_seed, training, self.is_among, self._setting)

    def _member_task(self, member: Member) -> Task:
        is_base = member.training == Training.BASE
        plan = self._plans[0 if is_base else 1]
        advice = self.name_of("advice", fold=member.fold)
        needs = [] if is_base else [member.base.folder]
        needs += [advice] if member.training in (Training.HYBRID, Training.PLACEBO) else []
        what = f"PPO over {plan.n_envs} accounts, {plan.actual:,} timesteps"
        if not is_base:
            what = f"fine-tuning from base weights, {plan.actual:,} timesteps"

        def inputs(results: Results) -> dict[str, str]:
            if is_base:
                return self._base_inputs(member)
            heard = results[advice].facts["sha256"] if advice in needs else ""
            own = finetune_inputs(self._config, plan, results[member.base.folder].facts["weights"], heard)
            return {**own, "training": str(member.training)}

        def job(results: Results) -> MemberJob:
            own = self._context.market is None
            own_env, self._own_env = self._own_env, None  # a second try makes its own
            tensorboard = self._run / "tensorboard" / member.folder.removeprefix("members/")
            return MemberJob(
                config=self._config,
                member=member,
                trainer=replace(
                    self._trainer, seed=member.seed, feature_cache=self._trainer.feature_cache if own else None
                ),
                plan=plan,
                folder=self._run / member.folder,
                inputs=inputs(results),
                threads=self._means.threads,
                products=self._means.products,
                make_callback=self._context.make_callback,
                base=None if is_base else results[member.base.folder].folder,
                advice=_advice_of(results, advice) if advice in needs else None,
                tensorboard=tensorboard if self._config.monitoring.tensorboard else None,
                own_env=own_env,
                after=self._context.count_lookups if own else None,
                split=None if member.fold == 0 else self.markets[member.fold].split,
            )

        title = (
            str(member) if len(self.seeds) > 1 or self.folds or self._setting else self._titled(str(member.training))
        )
        return Task(
            member.folder,
            TRAINING_STAGE,
            title,
            what,
            train_member,
            inputs,
            job,
            tuple(needs),
            market=self.symbol,
            member=member,
            timesteps=plan.actual,
            left=leave_weights if is_base else None,
            together=("base" if is_base else "fine-tuned", plan),
        )

    def _seed_task(
        self,
        seed: int,
        name: str,
        what: str,
        work: Any,
        keys: Sequence[str],
        trainings: Sequence[Training] = FINE_TUNED,
    ) -> Task:
        names = {training: self._member(training, seed).folder for training in trainings}
        title = self._titled(name if len(self.seeds) == 1 else f"{name}, seed {seed}")
        # A target to pass is no constant of an account, so the tables' fingerprint does not hold it.
        rules = {"rules": self.markets[0].rules.model_dump_json()} if work is attempts_task else {}
        if work is survival_task:
            chosen = chosen_profiles(self._config.evidence.rules)
            rules = {f"rules of {profile.name}": profile.model_dump_json() for profile in chosen}
        return Task(
            self.name_of(name, seed=seed), EVALUATION_STAGE, title, what, work,
            lambda of: evaluation_inputs(self._config, keys, self._read([seed], of, trainings=trainings) | rules),
            lambda results: self._evaluation_job({seed: names}, results), (*names.values(), self.name_of("advice")),
            market=self.symbol,
        )  # fmt: skip

    def _joint_task(self, fold: int, what: str) -> Task:
        """Every arm of a fold, or of the run and its seeds: with the run's own fusion and pool, so in its process."""
        seeds = self._seeds(fold)
        names = {seed: {t: self._member(t, seed, fold).folder for t in FINE_TUNED} for seed in seeds}
        advice = self.name_of("advice", fold=fold)

        def work(job: EvaluationJob, market: Market, watch: Watch) -> Mapping[str, Any]:
            if fold:
                return fold_task(self._context, job, self.markets[fold], fold)
            folder = self._run / self.name_of("evaluation")
            return evaluation_task(self._context, job, folder, MOST_TRADES // self._n_markets)

        def inputs(results: Results) -> Mapping[str, str]:
            read = self._read(seeds, results, fold)
            keys = () if fold else ("chart_sessions",)
            return {**evaluation_inputs(self._config, keys, read), **fusion_inputs(self._config)}

        return Task(
            self.name_of("evaluation", fold=fold), EVALUATION_STAGE, self._titled(f"evaluation{_of_fold(fold)}"),
            what, work, inputs, lambda results: self._evaluation_job(names, results, fold),
            (*(name for of_seed in names.values() for name in of_seed.values()), advice), here=True, market=self.symbol,
        )  # fmt: skip

    def _evaluation_job(
        self, names: Mapping[int, Mapping[Training, str]], results: Results, fold: int = 0
    ) -> EvaluationJob:
        folders = {
            seed: {training: results[name].folder for training, name in of_seed.items()}
            for seed, of_seed in names.items()
        }
        trainer = replace(self._trainer, feature_cache=None)
        return EvaluationJob(self._config, trainer, folders, _advice_of(results, self.name_of("advice", fold=fold)))

    def _read(
        self,
        seeds: Sequence[int],
        results: Results,
        fold: int = 0,
        trainings: Sequence[Training] = FINE_TUNED,
    ) -> dict[str, str]:
        """The weights and the advice that an evaluation reads."""
        advice = self.name_of("advice", fold=fold)
        names = [self._member(training, seed, fold).folder for seed in seeds for training in trainings]
        weights = {f"weights of {name}": results[name].facts["weights"] for name in names}
        return {**weights, "advice table": results[advice].facts["sha256"], "tables": self.tables_of(fold)}

    def _base_inputs(self, member: Member) -> dict[str, str]:
        tables = self.tables_of(member.fold)
        return base_inputs(self._config, self._plans[0], str(self._trainer.device), member.seed, tables)

    def _production_inputs(self) -> dict[str, str]:
        training = self._config.training
        return {
            "production timesteps": str(training.production_timesteps),
            "training.production_net_arch": str(training.production_net_arch),
            "share": str(training.finetune_frac),
        }

    def tables_of(self, fold: int) -> str:
        """Fingerprint of what the accounts of a fold read."""
        if not self.markets:
            return "own environments"
        if fold not in self._tables:
            self._tables[fold] = tables_fingerprint(self.markets[fold])
        return self._tables[fold]


def look_ahead_task(config: Any, market: Market, watch: Watch) -> dict[str, Any]:
    """The report's section on leaks, but for what trainings read."""
    checks = checks_of(market, config.data, config.environment.trading_hours)
    return leak_facts([check() for check in checks.values()])


def _advise(context: AnyContext, market: Market, folder: Path, whole: Market, watch: Watch) -> dict[str, Any]:
    """Ask for the advice and freeze it."""

    def progress(record: Any) -> None:
        watch.record(record)
        watch.check()  # a batch is stored by now

    advisor, config = context.advisor, context.config
    assert advisor is not None
    with watch.deferred():
        table, asking = tabulate_advice(
            market,
            advisor,
            config.llm,
            quick=config.test_mode.quick,
            say=watch.say,
            progress=progress,
            cache=context.kept_features(),
        )
    save_table(table, folder / ADVICE_NAME)
    return {"asking": asking.to_dict(), "sha256": table.sha256, "files": [ADVICE_NAME]}


def _advice_of(results: Results, name: str) -> Advice:
    return Advice(results[name].folder / ADVICE_NAME, results[name].facts["sha256"])


def _of_fold(fold: int) -> str:
    return f", fold {fold}" if fold else ""
