"""Equivalence checks: shortcuts must not change results. Each is run on and off on the same input, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.advisor.live import N_ADVICE_FEATURES, LiveFeatures
from src.advisor.mock import MockAdvisor
from src.advisor.situations import N_SITUATIONS, encode
from src.advisor.table import LABEL_SETS, AdviceTable, empty_table, renormalise, tabulate
from src.agent.market import Market
from src.checks.outcome import RESTORE, Outcome, failed, passed
from src.checks.setting import Setting
from src.evaluation.arms import RandomLegalArm
from src.evaluation.look_ahead import first_bars
from src.market.bars import Bars
from src.testing_framework import EnvironmentStatePool, OptimizedFeatureCache, VectorizedDecisionFusion
from src.trading.gym_env import TradingEnv
from src.trading.layout import ACCOUNT_RISK, N_ACTIONS, N_SIDES
from src.trading.session_batch import SessionBatch

FUSION_BATCHES = (1, 32, 4096)
SESSIONS = 4
SMALL_CACHE = 40
"""Rows of a cache small enough to evict some."""
LIVE_BARS, LIVE_VISITS, ADVICE_BATCHES = 3, 3, 30
POOL_STEPS, PLAYS = 60, 4


def fusion(setting: Setting) -> Outcome:
    """Random decisions, risks, masks and positions through both loops."""
    one, by_one = (VectorizedDecisionFusion(setting.config, sequential=sequential) for sequential in (False, True))
    rng = np.random.default_rng(0)
    for n in FUSION_BATCHES:
        for known in (True, False):
            columns = _decisions(rng, n, known=known)
            fast, slow = one.fuse_batch(*columns), by_one.fuse_batch(*columns)
            if not np.array_equal(fast, slow):
                i = int(np.flatnonzero(fast != slow)[0])
                return failed(
                    f"{int((fast != slow).sum())} of {n} actions differ, the first at {i}: {fast[i]} instead of "
                    f"{slow[i]}",
                    f"Set performance.vectorized_decision_fusion to false until it is fixed. {RESTORE}",
                )
            masks = columns[5]
            if masks is not None and not masks[np.arange(n), fast].all():
                return failed("a fused action is illegal under its mask", RESTORE)
    if not np.array_equal(one.counts, by_one.counts):
        return failed(f"actions agree, counts differ: {one.counts} instead of {by_one.counts}", RESTORE)
    total = one.get_stats()["total"]
    return passed(f"{total:,} decisions alike", decisions=total)


def _decisions(rng: np.random.Generator, n: int, *, known: bool) -> tuple[Any, ...]:
    masks = rng.random((n, N_ACTIONS)) < 0.6
    masks[:, 0] = True
    return (
        rng.integers(0, N_ACTIONS, n),
        rng.random(n, np.float32),
        rng.integers(-1, N_ACTIONS, n),
        rng.random(n, np.float32),
        rng.random(n, np.float32),
        masks if known else None,
        rng.integers(-2, 3, n) if known else None,
    )


def cache(setting: Setting) -> Outcome:
    """Compare features computed on the fly, through a cache that is too small and one of the configured size, with the
    tables."""
    config, market, judge = setting.config, setting.market, MockAdvisor()
    table = tabulate(judge, np.arange(N_SIDES, N_SITUATIONS))
    hours, compared, rate = config.environment.trading_hours, 0, 0.0
    for size in (SMALL_CACHE, config.llm.cache_size):
        kept = OptimizedFeatureCache(size)
        live = LiveFeatures(judge, config.data, hours, cache=kept)
        for visit, (bars, wanted, ask) in enumerate(_visits(market, table)):
            made = live.features(bars, *ask)
            if made.tobytes() != wanted.tobytes():
                columns = np.flatnonzero((made != wanted).any(axis=0))
                return failed(
                    f"visit {visit}: features computed on the fly through a cache of {size} rows differ from the "
                    f"tables' in {len(columns)} of {N_ADVICE_FEATURES} columns",
                    f"Set performance.cached_llm_features to false until it is fixed. {RESTORE}",
                )
            compared += made.size
        rng = np.random.default_rng(0)
        for _ in range(ADVICE_BATCHES):
            # Few of many, so that most are asked again, and a small cache still has to throw some away.
            situations = N_SIDES + rng.integers(0, N_SITUATIONS - N_SIDES, ADVICE_BATCHES) // 40 * 40
            if live.advice(situations).tobytes() != table.probabilities[situations].tobytes():
                return failed(
                    f"advice asked on the fly through a cache of {size} rows differs from the table's",
                    f"Set performance.cached_llm_features to false until it is fixed. {RESTORE}",
                )
            compared += situations.size * N_ACTIONS
        rate = kept.get_stats()["hit_rate"]
    if not rate > 0:
        return failed("the cache never has what was put into it", RESTORE)
    return passed(f"{compared:,} values alike, {rate:.0%} hits", values=compared, hit_rate=rate)


def _visits(market: Market, table: AdviceTable) -> Iterator[tuple[Bars, NDArray[np.float32], tuple[Any, ...]]]:
    """Series that end at a decision bar, the table's features there for some accounts, and the arguments of
    `LiveFeatures.features` for these accounts. Each bar comes up several times."""
    rng = np.random.default_rng(0)
    stood_at = market.bars_of(market.split.validation)
    chosen = [int(bar) for bar in rng.choice(stood_at, LIVE_BARS, replace=False)]
    cut = {bar: first_bars(market.tables.bars, bar + 1) for bar in chosen}
    for bar in chosen * LIVE_VISITS:
        sides = rng.integers(0, N_SIDES, N_SIDES)
        masks = LABEL_SETS[sides]
        risk = rng.random((N_SIDES, ACCOUNT_RISK.stop - ACCOUNT_RISK.start), np.float32)
        opinions = renormalise(table.probabilities[encode(market.situation[bar], sides)], masks)
        context = np.repeat(market.tables.context[[bar]], N_SIDES, axis=0)
        yield cut[bar], np.concatenate([context, risk, opinions], axis=1), (risk, sides, masks)


def pool(setting: Setting) -> Outcome:
    """Compare pooled environments, played and lent again, with new ones: accounts and whole sessions."""
    market = setting.market
    tape = market.tape(empty_table())
    kinds: dict[str, tuple[Callable[[], Any], Play]] = {
        "account": (lambda: TradingEnv(tape, market.params), _play_account),
        "evaluation": (lambda: SessionBatch(tape, market.session_params), partial(_play_sessions, market)),
    }
    for name, (make, play) in kinds.items():
        built: list[Any] = []

        def counted(make: Callable[[], Any] = make, built: list[Any] = built) -> Any:
            built.append(make())
            return built[-1]

        kept, off = EnvironmentStatePool(counted, pool_size=1), EnvironmentStatePool(make, pool_size=0)
        with closing(kept), closing(off):
            for number in range(1, PLAYS + 1):
                lent, new = (_played(one, play, number) for one in (kept, off))
                if lent.tobytes() != new.tobytes():
                    return failed(
                        f"the {name} environment does not play like a new one (loan {number})",
                        f"Set performance.environment_state_pooling to false until it is fixed. {RESTORE}",
                    )
        if len(built) != 1:
            return failed(f"a pool of one {name} environment has built {len(built)}", RESTORE)
    return passed(f"{len(kinds)} kinds lent {PLAYS} times, played like new", plays=PLAYS)


Play = Callable[[Any, int], NDArray[np.float32]]


def _played(lender: EnvironmentStatePool, play: Play, number: int) -> NDArray[np.float32]:
    env_id, env = lender.acquire()
    try:
        return play(env, number)
    finally:
        lender.release(env_id, env)


def _play_account(env: TradingEnv, seed: int) -> NDArray[np.float32]:
    """Observations and rewards of random legal steps, often stopped in the middle of an episode."""
    rng = np.random.default_rng(seed)
    seen = [np.append(env.set_state(env.get_state()), 0.0)]
    for _ in range(POOL_STEPS):
        obs, reward, terminated, truncated, _ = env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))
        seen.append(np.append(obs, reward))
        if terminated or truncated:
            seen.append(np.append(env.reset()[0], 0.0))
    return np.array(seen, np.float32)


def _play_sessions(market: Market, batch: SessionBatch, seed: int) -> NDArray[np.float32]:
    """The same for random-legal accounts on a few sessions, stopped midway."""
    arm = RandomLegalArm(seed)
    seen = [batch.begin(market.first_bars(market.split.validation[:SESSIONS])).copy()]
    for _ in range(POOL_STEPS // 2):
        actions = arm.act(batch, None)
        seen.append(batch.step(actions).copy())
    return np.concatenate([*seen, batch.rewards[:, np.newaxis]], axis=None).astype(np.float32)
