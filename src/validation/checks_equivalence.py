"""Shortcuts that must change no result: each switched on and off on the same input, and compared bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.advisor.mock import MockAdvisor
from src.advisor.settings import LLMSettings
from src.advisor.table import AdviceTable, empty_table, freeze_table
from src.agent.phases import Market, tabulate_advice
from src.evidence.assembly import AdviceFeed, FeatureAssembly, RowCache, TableFeed
from src.evidence.evaluation import RandomLegalArm
from src.testing_framework import EnvironmentStatePool, OptimizedFeatureCache, VectorizedDecisionFusion
from src.trading.gym_env import TradingEnv
from src.trading.layout import N_ACTIONS, N_SIDES
from src.trading.session_batch import SessionBatch
from src.validation.outcome import RESTORE, Outcome, failed, passed
from src.validation.setting import Setting

FUSION_BATCHES = (1, 32, 4096)
SESSIONS = 4
SMALL_CACHE = 40
"""Rows of a cache that has to throw some away in every session."""
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
                    f"{int((fast != slow).sum())} of {n} actions differ, the first at {i}: {fast[i]} for {slow[i]}",
                    f"Set performance.vectorized_decision_fusion to false until it is mended. {RESTORE}",
                )
            masks = columns[5]
            if masks is not None and not masks[np.arange(n), fast].all():
                return failed("a fused action is illegal under its mask", RESTORE)
    if not np.array_equal(one.counts, by_one.counts):
        return failed(f"actions agree, counts differ: {one.counts} for {by_one.counts}", RESTORE)
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
    """Two arms step through the same sessions by a cache too small for them, and as many without one."""
    market = setting.market
    table = tabulate_advice(market, MockAdvisor(), LLMSettings(model="mock"))[0]
    sizes = (SMALL_CACHE, setting.config.llm.cache_size)
    compared, rate = 0, 0.0
    for size in sizes:
        kept = OptimizedFeatureCache(size)
        pairs = zip(_assembled(market, table, kept), _assembled(market, table, None), strict=True)
        for step, ((context, opinions), (plain_context, plain_opinions)) in enumerate(pairs):
            for what, on, off in (("context", context, plain_context), ("advice", opinions, plain_opinions)):
                if on.tobytes() != off.tobytes():
                    return failed(
                        f"step {step}: {what} features through a cache of {size} rows differ",
                        f"Set performance.cached_llm_features to false until it is mended. {RESTORE}",
                    )
                compared += on.size
        rate = kept.get_stats()["hit_rate"]
    if not rate > 0:
        return failed("the cache never has what was put into it", RESTORE)
    return passed(f"{compared:,} values alike, {rate:.0%} hits", values=compared, hit_rate=rate)


def _assembled(
    market: Market, table: AdviceTable, kept: RowCache | None
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """What two arms see of the pure features, step by step; the second is advised by another table."""
    assembly = FeatureAssembly(market.tables.context, table, kept)
    other = freeze_table(np.roll(table.probabilities, N_SIDES, axis=0), table.covered, "of the code before", "rolled")
    tape, sessions = market.tape(table), market.split.validation[:SESSIONS]
    arms: list[tuple[RandomLegalArm, AdviceFeed | None]] = [
        (RandomLegalArm(0), None),
        (RandomLegalArm(1), TableFeed(other)),
    ]
    batches = [SessionBatch(tape, market.session_params, with_tables=False) for _ in arms]
    for batch in batches:
        batch.begin(market.first_bars(sessions))
    while not all(batch.over.all() for batch in batches):
        for (arm, feed), batch in zip(arms, batches, strict=True):
            assembly.write_context(batch)
            opinions = assembly.opinions(batch, feed)
            yield batch.obs.copy(), opinions
            batch.step(arm.act(batch, opinions))


def pool(setting: Setting) -> Outcome:
    """Environments that were played and given back, lent again, against new ones: accounts and whole sessions."""
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
                        f"{name} environment, lent for the {number}. time, plays unlike a new one",
                        f"Set performance.environment_state_pooling to false until it is mended. {RESTORE}",
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
    """Observations and rewards of random legal steps, ended in the middle of an episode as often as not."""
    rng = np.random.default_rng(seed)
    seen = [np.append(env.set_state(env.get_state()), 0.0)]
    for _ in range(POOL_STEPS):
        obs, reward, terminated, truncated, _ = env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))
        seen.append(np.append(obs, reward))
        if terminated or truncated:
            seen.append(np.append(env.reset()[0], 0.0))
    return np.array(seen, np.float32)


def _play_sessions(market: Market, batch: SessionBatch, seed: int) -> NDArray[np.float32]:
    """The same of random-legal accounts on a few sessions, left in the middle of them."""
    arm = RandomLegalArm(seed)
    seen = [batch.begin(market.first_bars(market.split.validation[:SESSIONS])).copy()]
    for _ in range(POOL_STEPS // 2):
        actions = arm.act(batch, None)
        seen.append(batch.step(actions).copy())
    return np.concatenate([*seen, batch.rewards[:, np.newaxis]], axis=None).astype(np.float32)
