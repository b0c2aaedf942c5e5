"""Predicted memory: it grows with what it depends on, what is said to fit does, and a real run takes about that."""

from __future__ import annotations

import gc
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.agent.market import market_of_bars
from src.agent.rollout_plan import plan_rollouts
from src.agent.settings import HardwareSettings, PolicySettings, TrainingSettings
from src.agent.trainer import Trainer
from src.agent.training import release, train
from src.errors import ConfigError
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.monitoring import hardware
from src.runs import memory, preflight, run
from src.runs.memory import GB, MB, Networks, RunShape
from src.trading.settings import EnvironmentSettings
from tests.runs.pipeline_runs import Pipelines, pipelines_in

ROOT = Path(__file__).resolve().parents[2]
SMALLEST = RunShape(
    now_bytes=0, peak_bytes=0, to_load_bytes=0, table_bytes=0, bars=0, base_timesteps=1, finetune_timesteps=1,
    n_steps=None, n_envs=1, batch_size=2, networks=Networks(261, 6, (1,), (1,)), observation_bytes=4 * 261, fused=True,
    on_gpu=False, vec_env="batched", own_env=False, workers=1, parallel=1, seeds=1, sessions=0, model_bytes=0,
)  # fmt: skip
WIDTHS = st.lists(st.integers(1, 4096), min_size=1, max_size=4).map(tuple)


@st.composite
def shapes(draw: st.DrawFn) -> RunShape:
    """Runs of any size whose rollouts can be planned."""
    n_envs, batch_size = 2 ** draw(st.integers(0, 12)), 2 ** draw(st.integers(5, 16))
    n_steps = draw(st.sampled_from([None, max(1, batch_size // n_envs) * draw(st.integers(1, 4))]))
    return replace(
        SMALLEST,
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
        fused=draw(st.booleans()),
        vec_env=draw(st.sampled_from(["batched", "subproc", "dummy"])),
        workers=draw(st.integers(1, 64)),
        parallel=draw(st.integers(1, 64)),
        seeds=draw(st.integers(1, 20)),
        sessions=draw(st.integers(0, 2000)),
        model_bytes=draw(st.integers(0, 2000)) * MB,
    )


def in_groups(draw: st.DrawFn) -> RunShape:
    """The same whose members train together, on the CPU or on a GPU."""
    bytes_ = draw(st.integers(1, 500)) * MB
    return replace(
        draw(shapes()), group=draw(st.integers(1, 64)), group_member_bytes=bytes_, on_gpu=draw(st.booleans())
    )


grouped = st.composite(in_groups)()


def peak(shape: RunShape) -> float:
    return memory.predict(shape).peak_bytes


@settings(deadline=None)
@given(shapes() | grouped)
def test_more_of_anything_never_takes_less(shape: RunShape) -> None:
    networks = shape.networks
    more = (
        {"workers": shape.workers + 1},
        {"seeds": shape.seeds + 1},
        {"sessions": shape.sessions + 50},
        {"bars": shape.bars + 1000},
        {"table_bytes": shape.table_bytes + MB},
        {"now_bytes": shape.now_bytes + MB},
        {"model_bytes": shape.model_bytes + MB},
        {"on_ray": True},
        {"networks": replace(networks, pi=tuple(width + 1 for width in networks.pi))},
        {"networks": replace(networks, vf=(*networks.vf, 8))},
    )
    for change in more:
        assert peak(replace(shape, **change)) >= peak(shape), change


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


@settings(deadline=None)
@given(grouped, st.floats(0.3, 0.999))
def test_members_that_train_together_are_as_many_as_fit_and_each_is_counted(shape: RunShape, share: float) -> None:
    one, two, all_ = (memory.predict(replace(shape, group=n)) for n in (1, 2, shape.group))
    here = two.stages["training"] - one.stages["training"]
    there = two.gpu_bytes - one.gpu_bytes if shape.on_gpu else here
    assert here >= 4 * 4 * shape.networks.weights, "weights, two moments and what it began from stay with each model"
    assert there >= shape.group_member_bytes
    limits = share * all_.peak_bytes, share * all_.gpu_bytes if shape.on_gpu else math.inf

    def is_enough(other: RunShape) -> bool:
        return memory.fits(other, *limits)

    found = memory.largest_group(shape, is_enough)
    for n in range(1, shape.group):
        assert is_enough(replace(shape, group=n)) == (found is not None and n <= found)


def _peak_is_at_most(shape: RunShape, limit: float) -> bool:
    try:
        return peak(shape) <= limit
    except ConfigError:
        return False


@given(st.integers(1, 4096), st.integers(2, 16_384), st.none() | st.integers(1, 512))
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


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("memory")) as made:
        yield made


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system keeps no peak to reset")
@pytest.mark.parametrize("learner", ["fused", "stock"])
def test_a_training_takes_what_was_predicted(learner: str) -> None:
    """In a process of its own: what an allocator keeps of earlier work would serve for some of it."""
    command = [sys.executable, "-c", f"from tests.runs.test_memory import measured; measured({learner!r})"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    added, predicted, kept = map(float, done.stdout.split())
    assert added == pytest.approx(predicted, rel=0.2)
    assert kept < 0.3 * added


def measured(learner: str) -> None:
    """Print bytes that a training added at its peak, what was predicted, and what it kept once it was released.

    Arrays are so large that the allocator asks the system for each, and gives each back.
    """
    wide = {"net_arch": {"pi": [512], "vf": [512]}}
    training = TrainingSettings(n_steps=64, n_epochs=1, policy_kwargs=PolicySettings.model_validate(wide))
    hardware = HardwareSettings(vectorized_envs=256, batch_size=16_384, learner=learner)
    market = market_of_bars(synthetic_bars("NQ", 10, 5, 0), DataSettings(), EnvironmentSettings())
    trainer = Trainer(training, hardware, EnvironmentSettings(), torch.device("cpu"), 0)
    plan, small = plan_rollouts(16_384, 256, 16_384, 64), plan_rollouts(8, 4, 4, 2)
    train(trainer.new_base(trainer.make_env(market), small), small, "", [])
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    model = trainer.new_base(trainer.make_env(market), plan)
    train(model, plan, "base", [])
    peak_kb = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    added = int(peak_kb[1]) * 1024 - before if peak_kb else 0
    networks = Networks(261, 6, (512,), (512,))
    shape = replace(SMALLEST, n_envs=256, n_steps=64, batch_size=16_384, networks=networks, fused=learner == "fused")
    predicted = sum(memory.training_parts(shape, networks, plan).values())
    release(model)
    sys.stdout.write(f"{added} {predicted} {psutil.Process().memory_info().rss - before}\n")


HELD_GB = 1.0


@pytest.fixture
def _a_process_of_one_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured of this process and of the machine is the same wherever and after whatever a test runs: this
    process, alone or with its children, holds `HELD_GB` and has loaded everything; the machine has more than enough."""

    def sample(sampler: hardware.Sampler, phase: str = "") -> dict[str, float]:
        return {**whole_sample(sampler, phase), "tree_rss_gb": HELD_GB}

    whole_sample = hardware.Sampler.sample
    monkeypatch.setattr(hardware.Sampler, "sample", sample)
    monkeypatch.setattr(hardware, "own_memory_bytes", lambda: int(HELD_GB * GB))
    monkeypatch.setattr(preflight, "available_memory_gb", lambda: 64.0)
    monkeypatch.setattr(preflight, "_to_load_bytes", lambda: 0.0)


@pytest.mark.usefixtures("_a_process_of_one_gb")
def test_too_large_a_run_is_refused_before_anything_is_written(pipelines: Pipelines) -> None:
    home = pipelines.new_home()
    asked = {"hardware.batch_size": 2**19, "training.n_steps": None, "training.timesteps": 10**6}
    ended = pipelines.run(home, {**asked, "hardware.memory_limit_gb": HELD_GB + 0.5})
    assert isinstance(ended.error, ConfigError)
    assert list(home.glob("**/*")) == [home / "logs"], "an empty folder shows that it can be written to"
    found = re.search(r"Each of these alone is small enough: --batch-size (\d+)\. Or take", ended.why)
    assert found is not None, ended.why
    assert "hardware.memory_limit_gb" in ended.why
    assert 8192 < int(found[1]) < 2**19


@pytest.mark.usefixtures("_a_process_of_one_gb")
def test_fewer_members_train_together_where_nobody_asked_for_more(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit leaves room for three of six: what one adds is the population's own figure."""
    wide = {
        "hardware.learner": "population", "evidence.seeds": 2, "training.timesteps": 32, "training.n_epochs": 1,
        "hardware.batch_size": 32, "training.policy_kwargs.net_arch": {"pi": [1024], "vf": [1024]},
        "test_mode.mode": "hardware_maximized", "training.production_net_arch": [8],
    }  # fmt: skip
    shapes: list[RunShape] = []
    shape_of = preflight.shape_of
    monkeypatch.setattr(preflight, "shape_of", lambda *given: shapes.append(shape_of(*given)) or shapes[-1])
    refused = pipelines.run(pipelines.new_home(), {**wide, "hardware.memory_limit_gb": HELD_GB})
    assert "No smaller --group" in refused.why
    three, four = (peak(replace(shapes[0], group=group)) / GB for group in (3, 4))
    assert shapes[0].group == 6
    assert three < four
    limit = {"hardware.memory_limit_gb": (three + four) / 2}
    ended = pipelines.run(pipelines.new_home(), {**wide, **limit})
    assert ended.error is None, ended.why
    assert ended.report["memory"]["group"] == 3
    assert sorted(row["group"] for row in ended.report["training"]) == [2, 2, *6 * [3]]
    assert ", up to 3 members together" in ended.said
    refused = pipelines.run(pipelines.new_home(), {**wide, **limit, "hardware.group": 6})
    assert "--group 3" in refused.why


@pytest.mark.usefixtures("_a_process_of_one_gb")
def test_fewer_workers_are_taken_where_nobody_asked_for_more(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "WORTH_WORKERS", 1)
    monkeypatch.setattr(run, "free_cores", lambda: 8)
    monkeypatch.setattr(run, "start_server", lambda preload: None)
    limit = {"hardware.memory_limit_gb": HELD_GB + memory.SERVER_MB / 1e3}
    ended = pipelines.run(pipelines.new_home(), limit)
    assert ended.report["run"]["workers"] == 1
    assert (ended.report["memory"]["workers"], ended.report["memory"]["workers_wanted"]) == (1, 3)
    assert "1 worker instead of 3: more would not fit into the" in ended.said
    refused = pipelines.run(pipelines.new_home(), {**limit, "hardware.workers": 3})
    assert "--workers 1" in refused.why
