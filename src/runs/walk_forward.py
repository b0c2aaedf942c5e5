"""Walk-forward folds: train on earlier sessions, test on the next block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from src.agent.advising import tabulate_advice
from src.agent.market import Market
from src.agent.rollout_plan import RolloutPlan
from src.agent.trainer import EVALUATION_PHASE, Trainer
from src.agent.training import phase_seed
from src.clean_up import closing
from src.errors import BarDataError
from src.evaluation.arms import standard_arms
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.playing import evaluate
from src.evaluation.sealed import check_advice, check_drawn
from src.market.bars import frozen
from src.market.split import Split, embargo_for
from src.runs.bench import Bench
from src.runs.results import FOLD
from src.statistics.intervals import paired_interval


def folds_of(market: Market, n_folds: int, embargo: int | None) -> list[Split]:
    """`n_folds` splits of the usable sessions in time order, cut into one block more than there are folds: fold k
    trains on the blocks up to k and tests on the next, after the embargo. BarDataError where a block would be empty."""
    usable = np.flatnonzero(market.tables.sessions.usable)
    gap = embargo_for(len(usable), embargo)
    blocks = np.array_split(usable, n_folds + 1)
    if min(map(len, blocks)) <= gap:
        raise BarDataError(
            f"{len(usable)} usable sessions are too few for {n_folds} walk-forward folds with an embargo of {gap}: "
            f"give more bars or fewer folds (evidence.walk_forward, --walk-forward)."
        )
    return [
        Split(
            train=frozen(np.concatenate(blocks[: k + 1]), np.int32),
            validation=frozen(usable[:0], np.int32),
            test=frozen(blocks[k + 1][gap:], np.int32),
            embargo=gap,
        )
        for k in range(n_folds)
    ]


def walk_forward(
    bench: Bench,
    market: Market,
    trainer: Trainer,
    plans: tuple[RolloutPlan, RolloutPlan],
    train_base: Callable[..., Any],
    fine_tune: Callable[..., Any],
    leaks: list[str],
) -> dict[str, Any]:
    """Report section `walk_forward`: each fold's trainings are its own, of the first seed.

    `leaks` takes a sentence for each fold that trained or asked for advice outside of its training sessions.
    """
    config = bench.config
    assert bench.advisor is not None
    folds = []
    counted = bench.fusion.counts.copy()
    splits = folds_of(market, config.evidence.walk_forward, config.data.embargo_sessions)
    for k, split in enumerate(splits, start=1):
        bench.display.say(
            f"fold {k} of {len(splits)}: {len(split.train)} sessions to train on, {len(split.test)} to test"
        )
        own = replace(market, split=split)
        unused: dict[str, Any] = {"training": []}  # the report has the run's own trainings
        table, asking = tabulate_advice(
            own, bench.advisor, config.llm, quick=config.test_mode.quick, cache=bench.kept_features()
        )
        with closing(trainer.make_env(own)) as env:
            base = train_base(bench, trainer, plans[0], env, unused, own, fold=f"{FOLD}{k}-")
            bench.count_lookups(env)
        trained = fine_tune(bench, own, trainer, plans[1], base, table, unused, first=False, fold=f"{FOLD}{k}-")
        bench.release(base)
        if leak := check_advice(own, table, asking) or check_drawn(own, unused["training"]):
            leaks.append(f"fold {k}: {leak}")
        arms = standard_arms(
            trained.rl_only,
            trained.hybrid,
            bench.fusion,
            phase_seed(trainer.seed, EVALUATION_PHASE),
            (trained.placebo, trained.placebo_table),
        )
        assembly = FeatureAssembly(own.tables.context, table)
        with bench.phase(f"{FOLD}{k}-evaluation", f"{len(arms)} arms on its {len(split.test)} sessions"):
            results = evaluate(arms, own.first_bars(split.test), bench.pool, assembly)
        difference = paired_interval(
            results["hybrid"].net_usd - results["hybrid_placebo"].net_usd, seed=config.test_mode.seed
        )
        folds.append(
            {
                "fold": k,
                "train": _part(own, split.train),
                "test": _part(own, split.test),
                "net_usd_per_session": {name: float(result.net_usd.mean()) for name, result in results.items()},
                "difference_usd": difference.mean,
                "low_usd": difference.low,
                "high_usd": difference.high,
            }
        )
    bench.fusion.counts[:] = counted  # the report's are of the run's own arms
    return {
        "folds": folds,
        "words": "Each fold trains from scratch on earlier sessions, first seed only. Difference: hybrid - placebo.",
    }


def _part(market: Market, sessions: Any) -> dict[str, Any]:
    dates = market.tables.sessions.date
    return {"sessions": len(sessions), "first": str(dates[sessions[0]]), "last": str(dates[sessions[-1]])}
