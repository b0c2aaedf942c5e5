"""EnvironmentStatePool: what is lent out cannot be told from a fresh environment."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.testing_framework import EnvironmentStatePool


class Walk(gymnasium.Env):
    """A random walk from `origin`; counts how many were built and closed."""

    built = 0
    closed: Counter[int]
    fail_at: int | None = None

    def __init__(self, origin: float = 0.0) -> None:
        type(self).built += 1
        if type(self).built == type(self).fail_at:
            raise OSError("no memory left")
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.origin = origin
        self.at = np.nan

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.at = self.origin + float(self.np_random.normal())
        return np.array([self.at]), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.at += action + float(self.np_random.normal())
        return np.array([self.at]), self.at, False, False, {}

    def close(self) -> None:
        type(self).closed[id(self)] += 1


class Carrying(Walk):
    """Carries a balance from episode to episode, which only its state can put back."""

    def __init__(self, origin: float = 0.0) -> None:
        super().__init__(origin)
        self.balance = 50_000.0

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.balance -= 1.0
        return super().step(action)

    def get_state(self) -> dict[str, Any]:
        return {"balance": self.balance}

    def set_state(self, state: dict[str, Any]) -> None:
        self.balance = state["balance"]


@pytest.fixture(autouse=True)
def fresh_counts() -> None:
    for kind in (Walk, Carrying):
        kind.built, kind.closed, kind.fail_at = 0, Counter(), None


def play(env: gymnasium.Env, steps: int = 5) -> list[float]:
    """Where an environment stands, and where it goes from there."""
    return [env.at, *(env.step(1)[1] for _ in range(steps))]  # type: ignore[attr-defined]


@settings(max_examples=60)
@given(
    pool_size=st.integers(0, 3),
    script=st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 4)), max_size=20),
)
def test_whatever_happened_before_an_acquired_environment_plays_like_a_fresh_one(pool_size: int, script: list) -> None:
    pool = EnvironmentStatePool(Carrying, {"origin": 3.0}, pool_size)
    held: list[tuple[int, gymnasium.Env]] = []
    for take, seed, which in script:
        if take or not held:
            env_id, env = pool.acquire(seed)
            fresh = Carrying(origin=3.0)
            fresh.reset(seed=seed)
            assert env.balance == fresh.balance
            assert play(env) == play(fresh)
            assert (env_id == -1) == (sum(i >= 0 for i, _ in held) == pool_size)
            assert all(env is not other for _, other in held)
            held.append((env_id, env))
        else:
            env_id, env = held.pop(which % len(held))
            pool.release(env_id, env=env)
        stats = pool.get_stats()
        assert stats["in_use"] == sum(i >= 0 for i, _ in held)
        assert stats["available"] + stats["in_use"] == pool_size


def test_environments_are_built_when_first_needed_and_lent_again() -> None:
    pool = EnvironmentStatePool(Walk, {"origin": 1.0}, pool_size=4)
    assert Walk.built == 0
    first_id, first = pool.acquire()
    pool.release(first_id)
    again_id, again = pool.acquire()
    assert (again_id, again) == (first_id, first)
    assert Walk.built == 1
    assert 0 <= first_id < 4


@pytest.mark.parametrize("prefill", [False, True])
def test_without_a_seed_every_slot_has_its_own(prefill: bool) -> None:
    def from_seed(seed: int) -> list[float]:
        fresh = Walk()
        fresh.reset(seed=seed)
        return play(fresh)

    pool = EnvironmentStatePool(Walk, pool_size=2, seed=11, prefill=prefill)
    # Ids 0 and 1, then two temporary ones: of one seed all would walk alike, and teach a learner one walk only.
    lent = [pool.acquire()[1] for _ in range(4)]
    assert [play(env) for env in lent] == [from_seed(seed) for seed in (11, 12, 13, 14)]
    pool.release(1)
    assert play(pool.acquire()[1]) == from_seed(12)
    pool.reset_all()
    assert [play(env) for env in lent[:2]] == [from_seed(11), from_seed(12)]


def test_prefilling_builds_every_environment_at_once() -> None:
    with EnvironmentStatePool(Walk, {"origin": 1.0}, pool_size=3, prefill=True) as pool:
        assert Walk.built == pool.get_stats()["built"] == pool.get_stats()["available"] == 3
        pool.acquire()
        assert Walk.built == 3
    assert sum(Walk.closed.values()) == 3


def test_a_prefill_that_fails_closes_what_it_has_built() -> None:
    Walk.fail_at = 3
    with pytest.raises(OSError, match="no memory left"):
        EnvironmentStatePool(Walk, pool_size=4, prefill=True)
    assert sum(Walk.closed.values()) == 2


def test_an_exhausted_pool_makes_temporary_environments_closed_on_release() -> None:
    pool = EnvironmentStatePool(Walk, pool_size=1)
    pool.acquire()
    temporary = [pool.acquire() for _ in range(2)]
    assert [env_id for env_id, _ in temporary] == [-1, -1]
    pool.release(-1, env=temporary[1][1])
    assert Walk.closed == {id(temporary[1][1]): 1}
    with pytest.raises(ValueError, match="none of the 1 temporary"):
        pool.release(-1, env=temporary[1][1])
    pool.release(-1)
    assert Walk.closed[id(temporary[0][1])] == 1
    with pytest.raises(ValueError, match="environment -1"):
        pool.release(-1)


def test_an_unnamed_temporary_environment_is_not_closed_while_it_may_be_in_use() -> None:
    pool = EnvironmentStatePool(Walk, pool_size=0)
    envs = [pool.acquire()[1] for _ in range(3)]
    pool.release(-1)
    assert not Walk.closed, "any of three could still be in use"
    pool.release(-1, env=envs[0])
    pool.release(-1)
    assert Walk.closed == {id(env): 1 for env in envs}
    with pytest.raises(ValueError, match="no temporary environment is out"):
        pool.release(-1)


def test_a_thread_that_names_none_gives_back_its_own() -> None:
    pool = EnvironmentStatePool(Walk, pool_size=0)
    ours = pool.acquire()[1]
    theirs: list[gymnasium.Env] = []

    def borrow() -> None:
        theirs.append(pool.acquire()[1])
        pool.release(-1)

    thread = threading.Thread(target=borrow)
    thread.start()
    thread.join()
    assert Walk.closed == {id(theirs[0]): 1}
    pool.release(-1)
    assert Walk.closed[id(ours)] == 1


def test_an_environment_that_is_built_while_the_pool_closes_is_closed() -> None:
    building, go_on = threading.Event(), threading.Event()

    class Slow(Walk):
        closed = Counter()  # noqa: RUF012  (its own)

        def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
            building.set()
            go_on.wait(10)
            return super().reset(**kwargs)

    for size in (0, 1):
        Slow.closed.clear()
        building.clear()
        go_on.clear()
        pool, errors = EnvironmentStatePool(Slow, pool_size=size), []

        def borrow(pool: EnvironmentStatePool = pool, errors: list[str] = errors) -> None:
            try:
                pool.acquire()
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=borrow)
        thread.start()
        building.wait(10)
        pool.close()
        go_on.set()
        thread.join()
        assert errors == ["the environment pool is closed"]
        assert len(Slow.closed) == 1


@pytest.mark.parametrize("env_id", [0, 1, 2, 7, -2])
def test_an_id_that_is_not_in_use_is_refused_by_name(env_id: int) -> None:
    pool = EnvironmentStatePool(Walk, pool_size=2)
    used, _ = pool.acquire()
    pool.release(used)
    with pytest.raises(ValueError, match=f"environment {env_id} is not in use"):
        pool.release(env_id)


def test_statistics_count_uses_of_pooled_and_temporary_environments() -> None:
    pool = EnvironmentStatePool(Walk, pool_size=2)
    for _ in range(3):
        env_id, _env = pool.acquire()
        pool.release(env_id)
    for _ in range(3):
        pool.acquire()
    assert pool.get_stats() == {
        "pool_size": 2,
        "built": 2,
        "available": 0,
        "in_use": 2,
        "total_uses": 6,
        "avg_uses_per_env": 2.5,
        "temporary": 1,
    }


def test_resetting_all_puts_used_environments_at_their_start() -> None:
    pool = EnvironmentStatePool(Carrying, pool_size=3, seed=5)
    _, env = pool.acquire(seed=8)
    play(env)
    pool.reset_all()
    fresh = Carrying()
    fresh.reset(seed=5)
    assert env.balance == 50_000.0
    assert play(env) == play(fresh)
    assert pool.get_stats()["in_use"] == 1


def test_a_failed_construction_leaves_its_place_free() -> None:
    Walk.fail_at = 1
    pool = EnvironmentStatePool(Walk, pool_size=1)
    with pytest.raises(OSError, match="no memory left"):
        pool.acquire()
    assert pool.get_stats()["available"] == 1
    assert pool.acquire()[0] == 0


def test_closing_closes_each_environment_once_and_ends_the_lending() -> None:
    with EnvironmentStatePool(Walk, pool_size=2) as pool:
        envs = [pool.acquire()[1] for _ in range(3)]
    pool.close()
    assert Walk.closed == {id(env): 1 for env in envs}
    with pytest.raises(RuntimeError, match="closed"):
        pool.acquire()


def test_threads_never_share_an_environment() -> None:
    pool = EnvironmentStatePool(Walk, pool_size=3)
    in_hand: set[int] = set()
    guard, clashes = threading.Lock(), []
    start = threading.Barrier(6)

    def work(seed: int) -> None:
        start.wait()
        for turn in range(40):
            env_id, env = pool.acquire(seed=seed)
            with guard:
                if id(env) in in_hand:
                    clashes.append((seed, turn))
                in_hand.add(id(env))
            play(env)
            with guard:
                in_hand.discard(id(env))
            pool.release(env_id, env=env)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []
    stats = pool.get_stats()
    assert stats["total_uses"] == 240
    assert (stats["available"], stats["in_use"]) == (3, 0)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="pool_size is -1"):
        EnvironmentStatePool(Walk, pool_size=-1)
