"""The environment pool, as the specification calls it."""

from __future__ import annotations

import pytest

from src.testing_framework import EnvironmentStatePool
from tests.specification.python_calls import run
from tests.tiny_runs import CountingEnv


@pytest.mark.parametrize("env_kwargs", [{"reward": 2.0}, {}, None])
def test_the_block_lends_an_environment_that_is_ready(env_kwargs: dict[str, float] | None) -> None:
    names, _ = run("pool", EnvironmentStatePool=EnvironmentStatePool, env_class=CountingEnv, env_kwargs=env_kwargs)
    pool, env = names["pool"], names["env"]
    assert names["env_id"] == 0
    assert (pool.pool_size, pool.get_stats()["in_use"]) == (8, 0)
    assert env.step(1)[1] == (env_kwargs or {}).get("reward", 1.0)
    assert pool.acquire()[1] is env
    pool.close()


def test_all_of_it_can_be_built_beforehand() -> None:
    with EnvironmentStatePool(CountingEnv, {}, pool_size=8, prefill=True) as pool:
        assert pool.get_stats()["built"] == pool.get_stats()["available"] == 8
        lent = [pool.acquire() for _ in range(10)]
        assert [env_id for env_id, _ in lent] == [*range(8), -1, -1]
        for env_id, _ in lent:
            pool.release(env_id)
        assert pool.get_stats()["available"] == 8
