"""What trained policies are put through on sessions they never saw: tasks of a run, and the sections made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.advisor.table import AdviceTable, empty_table
from src.agent.market import Market
from src.agent.members import FINE_TUNED, ArmName, Training
from src.agent.trainer import EVALUATION_PHASE, Trainer
from src.agent.training import phase_seed
from src.configuration import Configuration
from src.evaluation.arms import Arm, HybridArm, PolicyArm, standard_arms
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.attempts import pass_facts, sessions_to_expiry, simulate_attempts
from src.evaluation.cost_stress import CostStress, stress_costs
from src.evaluation.forecast import forecast_facts
from src.evaluation.placebo import placebo_facts, placebo_table
from src.evaluation.playing import FreshBatches, evaluate
from src.evaluation.reliance import reliance_arms
from src.evaluation.seeds import SeededResults, by_arm, seeded_arms
from src.evaluation.survival import SurvivalTable
from src.evaluation.trade_list import TradeBook, save_trades
from src.evaluation.trade_log import chart_facts, choose_sessions, record
from src.market.contracts import get_contract
from src.report.conclusions import contrast_facts, seed_facts, statistics_facts
from src.report.edge import before_costs, edge_facts, means_of, trend_of
from src.report.facts import advice_facts
from src.report.still_learning import still_learning_facts
from src.runs.context import AnyContext
from src.runs.inputs import trial_inputs
from src.runs.member_work import KEEPS_QUARTERS, Advice, load_quarters, load_weights
from src.runs.watch import Watch
from src.statistics.intervals import block_length, paired_interval
from src.statistics.trials import TrialLedger, configuration_hash
from src.trading.session_batch import SessionBatch

TRADES_NAME = "trades.npy"
"""The sealed sessions' trades, in the folder of the evaluation."""


@dataclass(frozen=True)
class EvaluationJob:
    """Trained members of some seeds, by seed and training their folders, and the advice the hybrids heard."""

    config: Configuration
    trainer: Trainer
    members: Mapping[int, Mapping[Training, Path]]
    advice: Advice

    def policy(self, market: Market, seed: int, training: Training) -> Any:
        """A trained policy, from the weights it left."""
        llm = None if training == Training.RL_ONLY else self.config.llm
        return self.trainer.policy(market, load_weights(self.members[seed][training]), llm)

    def trained_arms(self, market: Market, seed: int) -> list[Arm]:
        """RL alone and the hybrid of a seed."""
        rl_only = self.policy(market, seed, Training.RL_ONLY)
        return [
            PolicyArm(ArmName.RL_ONLY, rl_only, sees_advice=False),
            HybridArm(self.policy(market, seed, Training.HYBRID)),
        ]


# Tasks in a worker


def stress_task(job: EvaluationJob, market: Market, watch: Watch) -> dict[str, Any]:
    """The trained arms of the job's one seed under other slippage."""
    (seed,) = job.members
    table = job.advice.load()
    stress = stress_costs(
        job.trained_arms(market, seed),
        market.first_bars(market.split.test),
        market.tape(table),
        market.session_params,
        FeatureAssembly(market.tables.context, table),
        job.config.evidence.stress_slippage_ticks,
    )
    return asdict(stress)


def reliance_task(job: EvaluationJob, market: Market, watch: Watch) -> dict[str, Any]:
    """The trained hybrid of one seed on other advice than its own, at evaluation only: how it leans on advice, not what
    advice is worth."""
    (seed,) = job.members
    table = job.advice.load()
    hybrid = job.policy(market, seed, Training.HYBRID)
    arms = reliance_arms(hybrid, table, seed, late_decisions=job.config.evidence.late_decisions)
    for arm in arms.values():
        arm.keep_bars(len(market.tables.flags))
    assembly = FeatureAssembly(market.tables.context, table)
    results = evaluate(list(arms.values()), market.first_bars(market.split.test), _fresh(market), assembly)
    facts: dict[str, Any] = {}
    for fed, arm in arms.items():
        use = results[arm.name].advice
        assert use is not None
        net = float(results[arm.name].net_usd.mean())
        facts[fed] = {"net_usd_per_session": net, "changed": use.changed, "choices": use.choices}
    return facts


def quarters_task(job: EvaluationJob, market: Market, watch: Watch) -> dict[str, Any]:
    """The policies of one seed as they were at the quarters of their training and at its end, on the validation
    sessions: by training, timesteps [k] and net P&L by session [k, sessions]. A training that failed has none."""
    (seed,) = job.members
    table = job.advice.load()
    steps: dict[Training, list[int]] = {}
    arms: list[Arm] = []
    for training in KEEPS_QUARTERS:
        folder, llm = job.members[seed][training], None if training == Training.BASE else job.config.llm
        kept = load_quarters(folder)
        if not kept:
            continue
        steps[training] = list(kept)
        policies = {step: job.trainer.policy(market, weights, llm) for step, weights in kept.items()}
        arms += [PolicyArm(f"{training}@{step}", of, sees_advice=llm is not None) for step, of in policies.items()]
    played = evaluate(
        arms, market.first_bars(market.split.validation), _fresh(market), FeatureAssembly(market.tables.context, table)
    )
    return {
        training: {"timesteps": of, "net_usd": [played[f"{training}@{step}"].net_usd.tolist() for step in of]}
        for training, of in steps.items()
    }


def attempts_task(job: EvaluationJob, market: Market, watch: Watch) -> dict[str, Any]:
    """Attempts of one seed's policies at the rule profile's evaluation."""
    (seed,) = job.members
    table, settings = job.advice.load(), job.config.evidence
    first_bars, tape = market.first_bars(market.split.test), market.tape(table)
    rl_only, hybrid = job.trained_arms(market, seed)
    played = evaluate([hybrid], first_bars, _fresh(market), FeatureAssembly(market.tables.context, table))
    simulation = simulate_attempts(
        [rl_only, PolicyArm(ArmName.HYBRID, job.policy(market, seed, Training.HYBRID), sees_advice=True)],
        lambda: SessionBatch(tape, market.session_params),
        first_bars,
        market.rules,
        attempts=settings.pass_attempts,
        budget_s=settings.pass_budget_s,
        seed=job.config.test_mode.seed,
        block_length=block_length(played[ArmName.HYBRID].net_usd),
        max_days=settings.pass_max_days,
        expiry=sessions_to_expiry(market, market.rules),
    )
    return pass_facts(simulation)


def survival_task(job: EvaluationJob, market: Market, watch: Watch) -> dict[str, Any]:
    """Attempts of one seed's policies at the evaluations of other rule profiles, and at their first payouts."""
    (seed,) = job.members
    table = job.advice.load()
    rl_only, hybrid = job.trained_arms(market, seed)
    assembly = FeatureAssembly(market.tables.context, table)
    played = evaluate([hybrid], market.first_bars(market.split.test), _fresh(market), assembly)
    return SurvivalTable(
        arms=[rl_only, PolicyArm(ArmName.HYBRID, job.policy(market, seed, Training.HYBRID), sees_advice=True)],
        market=market,
        tape=market.tape(table),
        environment=job.config.environment,
        contract=get_contract(job.config.test_mode.markets[0]),
        settings=job.config.evidence,
        seed=job.config.test_mode.seed,
        block_length=block_length(played[ArmName.HYBRID].net_usd),
    ).make()


def _fresh(market: Market) -> FreshBatches:
    return FreshBatches(market.tape(empty_table()), market.session_params)


# Tasks in the run's own process, with its pool and its fusion


def evaluation_task(context: AnyContext, job: EvaluationJob, folder: Path, most_trades: int) -> dict[str, Any]:
    """Every arm and seed on the validation and on the sealed sessions, and a few sealed sessions bar by bar. Leaves
    the sealed sessions' trades in the task's folder, at most so many."""
    market = context.market
    assert market is not None
    table = job.advice.load()
    context.fusion.counts[:] = 0.0  # of a try that failed
    lent = context.pool.get_stats()
    assembly = FeatureAssembly(market.tables.context, table)
    arms_of = {seed: _standard_arms(context, market, job, seed, table) for seed in job.members}
    played, names = {}, []
    book = TradeBook(most_trades)
    for part, sessions in (("validation", market.split.validation), ("sealed", market.split.test)):
        arms = seeded_arms({seed: arms_of[seed]() for seed in job.members})
        names = [arm.name for arm in arms]
        trades = book if part == "sealed" else None
        results = evaluate(arms, market.first_bars(sessions), context.pool, assembly, trades=trades)
        played[part] = by_arm(list(job.members), results)
    save_trades(book.rows(), folder / TRADES_NAME)
    sealed, first = played["sealed"], next(iter(job.members))
    facts: dict[str, Any] = {
        "played": {part: results.to_dict() for part, results in played.items()},
        # Before what follows looks opinions up as well.
        "advice": advice_facts(market, table, assembly),
        "forecaster": forecast_facts(market, table),
        "placebo": placebo_facts(
            table, placebo_table(table, first), market.situation[market.bars_of(market.split.test)]
        ),
        "sessions": _charted(context, market, job, first, table, sealed),
        # Here, while a worker checks for leaks, and not when everything else is done and the cores are idle.
        "contrasts": contrast_facts(sealed, context.config.test_mode.seed),
        "before_costs": before_costs(sealed, context.config.test_mode.seed),
    }
    return {
        **facts,
        "trades": {"arms": names, "dropped": book.dropped},
        "fusion_counts": context.fusion.counts.tolist(),
        "env_pool": _lent_since(context, lent),
        "files": [TRADES_NAME],
    }


def _lent_since(context: AnyContext, before: Mapping[str, float]) -> dict[str, float]:
    """What the pool lent to this evaluation: not to a fold's, which may come first, or to a try that failed."""
    now = context.pool.get_stats()
    uses, temporary = (now[name] - before[name] for name in ("total_uses", "temporary"))
    each = (uses - temporary) / now["built"] if now["built"] else 0.0
    return {**now, "total_uses": uses, "temporary": temporary, "avg_uses_per_env": each}


def fold_task(context: AnyContext, job: EvaluationJob, own: Market, k: int) -> dict[str, Any]:
    """The arms of a walk-forward fold on its test sessions; the run's fusion counts stay those of its own arms."""
    counted = context.fusion.counts.copy()
    table = job.advice.load()
    (seed,) = job.members
    arms = _standard_arms(context, own, job, seed, table)()
    assembly = FeatureAssembly(own.tables.context, table)
    results = evaluate(arms, own.first_bars(own.split.test), context.pool, assembly)
    context.fusion.counts[:] = counted
    difference = paired_interval(
        results[ArmName.HYBRID].net_usd - results[ArmName.PLACEBO].net_usd, seed=job.config.test_mode.seed
    )
    return {
        "fold": k,
        "train": _part(own, own.split.train),
        "test": _part(own, own.split.test),
        "net_usd_per_session": {name: float(result.net_usd.mean()) for name, result in results.items()},
        "difference_usd": difference.mean,
        "low_usd": difference.low,
        "high_usd": difference.high,
    }


def _standard_arms(context: AnyContext, market: Market, job: EvaluationJob, seed: int, table: AdviceTable) -> Any:
    """Makes the arms of a seed new each time: some count what they do."""
    policies = {training: job.policy(market, seed, training) for training in FINE_TUNED}

    def make() -> list[Arm]:
        return standard_arms(
            policies[Training.RL_ONLY],
            policies[Training.HYBRID],
            context.fusion,
            phase_seed(seed, EVALUATION_PHASE),
            (policies[Training.PLACEBO], placebo_table(table, seed)),
        )

    return make


def _part(market: Market, sessions: NDArray[np.int32]) -> dict[str, Any]:
    dates = market.tables.sessions.date
    return {"sessions": len(sessions), "first": str(dates[sessions[0]]), "last": str(dates[sessions[-1]])}


def _charted(
    context: AnyContext, market: Market, job: EvaluationJob, first: int, table: AdviceTable, sealed: SeededResults
) -> list[dict[str, Any]]:
    """A few sealed sessions of the first seed bar by bar."""
    chosen = choose_sessions(sealed.results[ArmName.HYBRID][0], context.config.evidence.chart_sessions)
    if not chosen:
        return []
    first_bars = market.first_bars(market.split.test)[[place for place, _ in chosen]]
    rl_only, hybrid = job.trained_arms(market, first)
    logs = record([hybrid, rl_only], first_bars, context.pool, FeatureAssembly(market.tables.context, table))
    return [
        chart_facts(market, {name: of_arm[i] for name, of_arm in logs.items()}, why)
        for i, (_, why) in enumerate(chosen)
    ]


# Sections of the report


def evaluation_sections(
    context: AnyContext,
    facts: Mapping[str, Any],
    stress: Sequence[Mapping[str, Any]],
    reliance: Sequence[Mapping[str, Any]],
    attempts: Mapping[str, Any] | None,
    survival: Mapping[str, Any] | None,
    quarters: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What the evaluation allows to be concluded. `stress`, `reliance` and `quarters` have an entry a seed; a quick run
    has no quarters."""
    market, config = context.market, context.config
    assert market is not None
    sealed = SeededResults.from_dict(facts["played"]["sealed"])
    validation = SeededResults.from_dict(facts["played"]["validation"])
    context.fusion.counts[:] = facts["fusion_counts"]
    report: dict[str, Any] = {
        "arms": sealed.summaries(),
        "validation_arms": validation.summaries(),
        "advice": dict(facts["advice"]),
        "forecaster": facts["forecaster"],
        "session_dates": [str(market.tables.sessions.date[i]) for i in market.split.test],
        "seeds": seed_facts(sealed),
        "placebo": facts["placebo"],
        "statistics": statistics_facts(
            sealed,
            # Evaluations of earlier versions have none.
            facts.get("contrasts") or contrast_facts(sealed, config.test_mode.seed),
            [_cost_stress(of_seed) for of_seed in stress],
            TrialLedger(config.evidence.trials_path),
            sealed_fingerprint(market),
            configuration_hash(trial_inputs(config, context.plans())),
        ),
        "reliance": _reliance(sealed, reliance),
        "sessions": facts["sessions"],
        "env_pool": facts["env_pool"],
    }
    if quarters:
        by_seed = dict(zip(sealed.values, quarters, strict=True))
        report |= still_learning_facts(by_seed, seed=config.test_mode.seed)
    report["edge"] = edge_facts(
        facts.get("before_costs") or before_costs(sealed, config.test_mode.seed),
        next(of for of in report["statistics"]["contrasts"] if of["against"] == ArmName.RANDOM_LEGAL),
        *means_of(sealed),
        trend_of(report.get("still_learning")),
    )
    simulated = {"pass_simulation": attempts, "survival": survival}
    return report | {name: section for name, section in simulated.items() if section is not None}


def _cost_stress(facts: Mapping[str, Any]) -> CostStress:
    rows = {
        name: {arm: np.array(of_arm) for arm, of_arm in facts[name].items()} for name in ("net_usd", "slippage_usd")
    }
    fills = {arm: tuple(counts) for arm, counts in facts["slipped_fills"].items()}
    return CostStress(
        tuple(facts["slippage_ticks"]), rows["net_usd"], rows["slippage_usd"], fills, facts["position_tick_usd"]
    )


def _reliance(sealed: SeededResults, by_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = sealed.net_usd(ArmName.HYBRID).mean(axis=1)
    rows: list[dict[str, Any]] = [
        {
            "advice": "own",
            "net_usd_per_session": float(own.mean()),
            "changed_frac": None,
            "seed_values_usd": own.tolist(),
        }
    ]
    for fed in by_seed[0] if by_seed else ():
        values = [of_seed[fed]["net_usd_per_session"] for of_seed in by_seed]
        total = sum(of_seed[fed]["choices"] for of_seed in by_seed)
        changed = sum(of_seed[fed]["changed"] for of_seed in by_seed)
        rows.append(
            {
                "advice": fed,
                "net_usd_per_session": sum(values) / len(values),
                "changed_frac": changed / total if total else None,
                "seed_values_usd": values,
            }
        )
    words = "It shows how much the trained hybrid relies on its advice; it is no evidence of what the advice is worth."
    return {"arm": ArmName.HYBRID, "rows": rows, "words": words}


def sealed_fingerprint(market: Market) -> str:
    """What trials are counted on: the sealed sessions' bars under the rules they were played with."""
    facts = [market.tables.bars.fingerprint, market.rules.name, market.split.test.tolist()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
