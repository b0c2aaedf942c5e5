"""What the trained policies of every seed are put through on sessions they never saw: report sections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from src.advisor.table import AdviceTable
from src.agent.market import Market
from src.agent.trainer import EVALUATION_PHASE
from src.agent.training import phase_seed
from src.evaluation.arms import HybridArm, PolicyArm, standard_arms
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.attempts import pass_facts, simulate_attempts
from src.evaluation.cost_stress import CostStress, stress_costs
from src.evaluation.forecast import forecast_facts
from src.evaluation.placebo import placebo_facts
from src.evaluation.playing import evaluate
from src.evaluation.reliance import reliance_arms
from src.evaluation.seeds import SeededResults, by_arm, seeded_arms
from src.evaluation.trade_log import chart_facts, choose_sessions, record
from src.report.conclusions import seed_facts, statistics_facts
from src.report.facts import advice_facts
from src.runs.bench import Bench
from src.runs.inputs import trial_inputs
from src.statistics.intervals import block_length
from src.statistics.trials import TrialLedger, configuration_hash
from src.trading.session_batch import SessionBatch


@dataclass(frozen=True)
class Trained:
    """The fine-tuned policies of one seed, and the permuted advice its placebo was trained on."""

    rl_only: MaskableActorCriticPolicy
    hybrid: MaskableActorCriticPolicy
    placebo: MaskableActorCriticPolicy
    placebo_table: AdviceTable


def evaluated(bench: Bench, market: Market, table: AdviceTable, trained: Mapping[int, Trained]) -> dict[str, Any]:
    """Every arm and seed on the validation and on the sealed sessions, what that allows to be concluded, and the advice
    as a forecast: report sections."""
    bench.fusion.counts[:] = 0.0  # of a try that failed
    assembly = FeatureAssembly(market.tables.context, table)
    results = {
        part: _played(bench, market, part, sessions, assembly, trained)
        for part, sessions in (("validation", market.split.validation), ("sealed", market.split.test))
    }
    sealed = results["sealed"]
    report: dict[str, Any] = {
        "arms": sealed.summaries(),
        "validation_arms": results["validation"].summaries(),
        # Before what follows looks opinions up as well.
        "advice": advice_facts(market, table, assembly),
        "forecaster": forecast_facts(market, table),
        "session_dates": [str(market.tables.sessions.date[i]) for i in market.split.test],
        "seeds": seed_facts(sealed),
        "placebo": placebo_facts(
            table,
            next(iter(trained.values())).placebo_table,
            market.situation[market.bars_of(market.split.test)],
        ),
    }
    plain = FeatureAssembly(market.tables.context, table)
    stress = _stressed(bench, market, table, plain, trained)
    report["statistics"] = statistics_facts(
        sealed,
        bench.config.test_mode.seed,
        stress,
        TrialLedger(bench.config.evidence.trials_path),
        _sealed_fingerprint(market),
        configuration_hash(trial_inputs(bench.config, bench.plans())),
    )
    report["reliance"] = _reliance(bench, market, table, plain, trained, sealed)
    report["sessions"] = _charted(bench, market, plain, next(iter(trained.values())), sealed)
    if not bench.config.test_mode.quick:
        report["pass_simulation"] = _attempted(bench, market, table, next(iter(trained.values())), sealed)
    return report


def _played(
    bench: Bench,
    market: Market,
    part: str,
    sessions: Any,
    assembly: FeatureAssembly,
    trained: Mapping[int, Trained],
) -> SeededResults:
    arms = seeded_arms(
        {
            seed: standard_arms(
                of_seed.rl_only,
                of_seed.hybrid,
                bench.fusion,
                phase_seed(seed, EVALUATION_PHASE),
                (of_seed.placebo, of_seed.placebo_table),
            )
            for seed, of_seed in trained.items()
        }
    )
    with bench.phase("evaluation", f"{len(arms)} arms on {len(sessions)} {part} sessions"):
        return by_arm(list(trained), evaluate(arms, market.first_bars(sessions), bench.pool, assembly))


def _stressed(
    bench: Bench, market: Market, table: AdviceTable, assembly: FeatureAssembly, trained: Mapping[int, Trained]
) -> list[CostStress]:
    first_bars, ticks = market.first_bars(market.split.test), bench.config.evidence.stress_slippage_ticks
    with bench.phase("costs", f"the trained arms at {', '.join(map(str, ticks))} ticks of slippage"):
        return [
            stress_costs(
                [PolicyArm("rl_only", of_seed.rl_only, sees_advice=False), HybridArm(of_seed.hybrid)],
                first_bars,
                market.tape(table),
                market.session_params,
                assembly,
                ticks,
            )
            for of_seed in trained.values()
        ]


def _reliance(
    bench: Bench,
    market: Market,
    table: AdviceTable,
    assembly: FeatureAssembly,
    trained: Mapping[int, Trained],
    sealed: SeededResults,
) -> dict[str, Any]:
    """The trained hybrid on other advice than its own, at evaluation only: how it leans on advice, not what advice is
    worth."""
    first_bars = market.first_bars(market.split.test)
    net: dict[str, list[float]] = {}
    changed: dict[str, list[int]] = {}
    choices: dict[str, list[int]] = {}
    with bench.phase("reliance", "the hybrid on late, shuffled, constant and no advice"):
        for seed, of_seed in trained.items():
            arms = reliance_arms(of_seed.hybrid, table, seed, late_decisions=bench.config.evidence.late_decisions)
            results = evaluate(list(arms.values()), first_bars, bench.pool, assembly)
            for fed, arm in arms.items():
                use = results[arm.name].advice
                assert use is not None
                net.setdefault(fed, []).append(float(results[arm.name].net_usd.mean()))
                changed.setdefault(fed, []).append(use.changed)
                choices.setdefault(fed, []).append(use.choices)
    own = sealed.net_usd("hybrid").mean(axis=1)
    rows: list[dict[str, Any]] = [
        {
            "advice": "own",
            "net_usd_per_session": float(own.mean()),
            "changed_frac": None,
            "seed_values_usd": own.tolist(),
        }
    ]
    for fed, values in net.items():
        total = sum(choices[fed])
        rows.append(
            {
                "advice": fed,
                "net_usd_per_session": sum(values) / len(values),
                "changed_frac": sum(changed[fed]) / total if total else None,
                "seed_values_usd": values,
            }
        )
    words = "It shows how much the trained hybrid relies on its advice; it is no evidence of what the advice is worth."
    return {"arm": "hybrid", "rows": rows, "words": words}


def _charted(
    bench: Bench, market: Market, assembly: FeatureAssembly, first: Trained, sealed: SeededResults
) -> list[dict[str, Any]]:
    """A few sealed sessions of the first seed bar by bar."""
    chosen = choose_sessions(sealed.results["hybrid"][0], bench.config.evidence.chart_sessions)
    if not chosen:
        return []
    first_bars = market.first_bars(market.split.test)[[place for place, _ in chosen]]
    arms = [HybridArm(first.hybrid), PolicyArm("rl_only", first.rl_only, sees_advice=False)]
    logs = record(arms, first_bars, bench.pool, assembly)
    return [
        chart_facts(market, {name: of_arm[i] for name, of_arm in logs.items()}, why)
        for i, (_, why) in enumerate(chosen)
    ]


def _attempted(
    bench: Bench, market: Market, table: AdviceTable, first: Trained, sealed: SeededResults
) -> dict[str, Any]:
    """Attempts of the first seed's policies at the rule profile's evaluation."""
    settings = bench.config.evidence
    first_bars = market.first_bars(market.split.test)
    tape = market.tape(table)
    with bench.phase("attempts", f"simulating evaluation attempts (limit {settings.pass_budget_s:g} s)"):
        simulation = simulate_attempts(
            [
                PolicyArm("rl_only", first.rl_only, sees_advice=False),
                PolicyArm("hybrid", first.hybrid, sees_advice=True),
            ],
            lambda: SessionBatch(tape, market.session_params),
            first_bars,
            market.rules,
            attempts=settings.pass_attempts,
            budget_s=settings.pass_budget_s,
            seed=bench.config.test_mode.seed,
            block_length=block_length(sealed.net_usd("hybrid")[0]),
            max_days=settings.pass_max_days,
        )
    return pass_facts(simulation)


def _sealed_fingerprint(market: Market) -> str:
    """What trials are counted on: the sealed sessions' bars under the rules they were played with."""
    facts = [market.tables.bars.fingerprint, market.rules.name, market.split.test.tolist()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
