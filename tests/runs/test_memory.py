"""Predicted memory: it grows with what it depends on, what is said to fit does, and a real run takes about that."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.agent.rollout_plan import plan_rollouts
from src.errors import ConfigError
from src.runs import memory
from src.runs.memory import GB, MB, Networks, RunShape
from tests.runs.pipeline_runs import SETTINGS, Pipelines

WIDTHS = st.lists(st.integers(1, 4096), min_size=1, max_size=4).map(tuple)


@st.composite
def shapes(draw: st.DrawFn) -> RunShape:
    """Runs of any size whose rollouts can be planned."""
    n_envs, batch_size = 2 ** draw(st.integers(0, 12)), 2 ** draw(st.integers(5, 16))
    n_steps = draw(st.sampled_from([None, max(1, batch_size // n_envs) * draw(st.integers(1, 4))]))
    return RunShape(
        now_bytes=draw(st.integers(100, 2000)) * MB,
        peak_bytes=draw(st.integers(100, 1500)) * MB,
        to_load_bytes=draw(st.integers(0, 200)) * MB,
        table_bytes=draw(st.integers(0, 1000)) * MB,
        bars=draw(st.integers(0, 5_000_000)),
        base_timesteps=draw(st.integers(1, 10**7)),
        finetune_timesteps=draw(st.integers(1, 10**7)),
        n_steps=n_steps,
        n_envs=n_envs,
        batch_size=batch_size,
        networks=Networks(261, 6, draw(WIDTHS), draw(WIDTHS)),
        observation_bytes=4 * 261,
        fused=draw(st.booleans()),
        on_gpu=False,
        vec_env=draw(st.sampled_from(["batched", "subproc", "dummy"])),
        own_env=False,
        workers=draw(st.integers(1, 64)),
        parallel=draw(st.integers(1, 64)),
        seeds=draw(st.integers(1, 20)),
        sessions=draw(st.integers(0, 2000)),
        model_bytes=draw(st.integers(0, 2000)) * MB,
    )


def peak(shape: RunShape) -> float:
    return memory.predict(shape).peak_bytes


@settings(deadline=None)
@given(shapes(), st.data())
def test_more_of_anything_never_takes_less(shape: RunShape, data: st.DataObject) -> None:
    wider = replace(shape.networks, pi=tuple(width + 1 for width in shape.networks.pi), vf=(*shape.networks.vf, 8))
    more = data.draw(
        st.sampled_from(
            [
                {"workers": shape.workers + 1},
                {"seeds": shape.seeds + 1},
                {"sessions": shape.sessions + 50},
                {"bars": shape.bars + 1000},
                {"table_bytes": shape.table_bytes + MB},
                {"now_bytes": shape.now_bytes + MB},
                {"model_bytes": shape.model_bytes + MB},
                {"networks": wider},
                {"fused": False},
            ][: 9 if shape.workers > 1 else 0]
            or [{"networks": wider}, {"seeds": shape.seeds + 1}, {"now_bytes": shape.now_bytes + MB}]
        )
    )
    if "fused" not in more:
        assert peak(replace(shape, **more)) >= peak(shape)


@settings(deadline=None)
@given(shapes())
def test_a_rollout_a_minibatch_and_the_weights_are_counted_at_least_once(shape: RunShape) -> None:
    """A floor that shares nothing with the prediction but the plan: arrays that exist at the same time."""
    plan = plan_rollouts(shape.base_timesteps, shape.n_envs, shape.batch_size, shape.n_steps)
    networks, weights = shape.networks, 0
    for layers, outputs in ((networks.pi, 6), (networks.vf, 1)):
        before = 261
        for width in (*layers, outputs):
            weights += before * width + width
            before = width
    hidden = sum(networks.pi) + sum(networks.vf)
    floor = 4 * (261 * plan.n_envs * plan.n_steps + plan.batch_size * (261 + hidden) + 7 * weights)
    copies = min(shape.workers, shape.parallel) if shape.workers > 1 else 1
    found = memory.predict(shape)
    assert found.stages["training"] >= shape.now_bytes + copies * floor
    assert found.peak_bytes == max(found.stages.values()) == pytest.approx(sum(found.parts.values()))


@settings(deadline=None, max_examples=60)
@given(shapes(), st.floats(0.3, 0.999))
def test_the_named_values_fit_and_no_candidate_between_them_and_those_asked_for_does(
    shape: RunShape, share: float
) -> None:
    limit = share * peak(shape)

    def is_enough(other: RunShape) -> bool:
        return memory.fits(other, limit)

    found = {
        "workers": memory.largest_workers(shape, is_enough),
        "n_envs": memory.largest_envs(shape, is_enough),
        "batch_size": memory.largest_batch(shape, is_enough),
    }
    candidates = {
        "workers": range(1, shape.workers),
        "n_envs": list(memory.env_candidates(shape.n_envs, shape.batch_size, shape.n_steps)),
        "batch_size": list(memory.batch_candidates(shape.batch_size, shape.n_envs, shape.n_steps)),
    }
    for name, value in found.items():
        if value is not None:
            assert value < getattr(shape, name)
            assert peak(replace(shape, **{name: value})) <= limit
        for other in candidates[name]:
            if value is None or other > value:
                assert not _peak_is_at_most(replace(shape, **{name: other}), limit)


def _peak_is_at_most(shape: RunShape, limit: float) -> bool:
    try:
        return peak(shape) <= limit
    except ConfigError:
        return False


@given(st.integers(1, 4096), st.integers(2, 8192), st.none() | st.integers(1, 512))
def test_candidates_fill_whole_minibatches(n_envs: int, batch_size: int, n_steps: int | None) -> None:
    for envs in memory.env_candidates(n_envs, batch_size, n_steps):
        assert 1 <= envs < n_envs
        plan = plan_rollouts(10**9, envs, batch_size, n_steps)
        assert plan.n_envs * plan.n_steps <= max(3 * batch_size, envs, envs * (n_steps or 0))
    if n_steps is not None and (n_envs * n_steps) % batch_size:
        return
    for batch in memory.batch_candidates(batch_size, n_envs, n_steps):
        assert 2 <= batch < batch_size
        plan = plan_rollouts(10**9, n_envs, batch, n_steps)
        assert plan.n_envs * plan.n_steps <= max(3 * batch, n_envs * (n_steps or 1))


def test_a_run_takes_about_what_was_predicted(pipelines: Pipelines, tmp_path: Path) -> None:
    """In this process, which has loaded more than a run by itself: what is predicted is what the run adds."""
    run = pipelines.run(tmp_path, {"hardware.batch_size": 16_384, "hardware.vectorized_envs": 512})
    print(run)


def test_too_large_a_run_is_refused_before_anything_is_written(pipelines: Pipelines, tmp_path: Path) -> None:
    pass
