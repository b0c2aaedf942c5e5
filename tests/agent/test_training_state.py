"""N rollouts, a restart, M rollouts: to the bit what N + M rollouts are, wherever and however it is restarted."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.agent.checkpoints import Snapshot
from src.agent.training_state import capture, restore
from src.errors import UserError
from src.trading.plain_state import pack, unpack
from src.trading.routes import get_states
from tests import small_runs
from tests.agent.resumable import ROLLOUT, ROLLOUTS, Training, built, facts, gone_on, read, whole, write

ROOT = Path(__file__).resolve().parents[2]
uninterrupted = cache(whole)


def since(expected: dict[str, Any], from_record: int) -> dict[str, Any]:
    """The facts of a whole run, of the records those written after a boundary."""
    return {**expected, "records": expected["records"][from_record:]}


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name for name in one if one[name] != other[name]}


# ---------------------------------------------------------------- N + M


@pytest.mark.parametrize("boundary", range(ROLLOUTS))
@pytest.mark.parametrize("route", ["batched", "dummy"])
@pytest.mark.parametrize("phase", ["base", "hybrid"])
def test_a_training_restarted_at_any_boundary_ends_as_one_that_ran_through(
    phase: str, route: str, boundary: int
) -> None:
    through, expected = uninterrupted(phase, route)
    snapshot, written = through.snapshots[boundary], through.records_before[boundary]
    assert snapshot.step == (boundary + 1) * ROLLOUT
    resumed, found = gone_on(phase, route, snapshot, written)
    assert resumed.unlike == []
    assert found == since(expected, written)


def test_what_is_compared_is_not_trivial() -> None:
    for phase in ("base", "hybrid"):
        through, expected = uninterrupted(phase, "batched")
        assert len(through.snapshots) == ROLLOUTS
        assert len(expected["records"]) == 7
        assert all(record["episodes"] for record in expected["records"][:-1])
        assert expected["totals"]["total_reward"] != 0.0
        assert expected["log"]
        # At each boundary something is pending in the interval, and accounts stand in the middle of an episode.
        for snapshot in through.snapshots:
            assert snapshot.state["training"]["callbacks"][0][1]["_steps"] > 0
            starts = unpack(snapshot.state["environment"], arrays_of(snapshot))["last_episode_starts"]
            assert not starts.all()
    ramps = [dict(snapshot.state["training"]["callbacks"])["WeightRamp"] for snapshot in through.snapshots]
    assert [ramp["rollouts"] for ramp in ramps] == [1, 2, 3, 4]
    weights = [float(snapshot.tensors["policy"]["llm_weight"]) for snapshot in through.snapshots]
    assert weights == pytest.approx([share * small_runs.LIVE.llm_weight for share in (0.0, 0.5, 1.0, 1.0)])


def test_capturing_changes_nothing() -> None:
    with built("hybrid") as bare:
        assert facts(bare.learn()) == uninterrupted("hybrid", "batched")[1]


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "route"), [("base", "batched"), ("hybrid", "subproc")])
def test_another_process_goes_on_from_files(phase: str, route: str, tmp_path: Path) -> None:
    through, expected = uninterrupted(phase, route)
    write(through.snapshots[1], tmp_path)
    written = through.records_before[1]
    command = [sys.executable, "-m", "tests.agent.resumable", phase, route, str(tmp_path), str(written)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert answer.returncode == 0, answer.stderr
    unlike, found = json.loads((tmp_path / "facts.json").read_text(encoding="utf-8"))
    assert unlike == []
    assert found == json.loads(json.dumps(since(expected, written)))


@pytest.mark.slow
def test_by_worker_processes_as_in_one() -> None:
    through, expected = uninterrupted("hybrid", "subproc")
    assert expected == uninterrupted("hybrid", "dummy")[1]
    resumed, found = gone_on("hybrid", "subproc", through.snapshots[2], through.records_before[2])
    assert resumed.unlike == []
    assert found == since(expected, through.records_before[2])


@pytest.mark.parametrize(("taken", "put"), [("batched", "dummy"), ("dummy", "batched")])
def test_what_was_taken_by_one_route_goes_on_by_another(taken: str, put: str) -> None:
    through, expected = uninterrupted("base", taken)
    resumed, found = gone_on("base", put, through.snapshots[0], through.records_before[0])
    assert resumed.unlike == []
    # A worker's or a single account's info tells illegal actions each step; the accounts are the same.
    assert found == since(expected, through.records_before[0])


@pytest.mark.parametrize("route", ["batched", "dummy"])
def test_accounts_that_are_reset_afterwards_begin_the_episodes_they_would_have_begun(route: str) -> None:
    with built("base", route) as one:
        one.learn(1)
        snapshot = capture(one.model, one.callbacks)
        expected = one.env.reset().copy()
    with built("base", route) as other:
        restore(other.model, other.callbacks, snapshot)
        assert np.array_equal(other.env.reset(), expected)


def test_a_chain_of_restarts_is_one_training() -> None:
    through, expected = uninterrupted("base", "batched")
    snapshot, written = through.snapshots[0], through.records_before[0]
    for _ in range(ROLLOUTS - 1):
        with built("base") as one:
            restore(one.model, one.callbacks, snapshot)
            one.capture_at_every_boundary()
            one.sink.records[:0] = [{}] * written
            snapshot, written = stopped_after_one(one)
    _, found = gone_on("base", "batched", snapshot, written)
    assert found == since(expected, written)


def stopped_after_one(one: Training) -> tuple[Snapshot, int]:
    """What stands after the next rollout; whatever follows it is thrown away, as after a kill."""
    one.learn()
    return one.snapshots[0], one.records_before[0]


def test_the_end_of_training_can_be_captured_too() -> None:
    with built("hybrid") as one:
        one.learn()
        snapshot, expected, written = capture(one.model, one.callbacks), facts(one), len(one.sink.records)
    resumed, found = gone_on("hybrid", "batched", snapshot, written)
    assert resumed.unlike == []
    assert found == since(expected, written)


def test_a_training_that_has_not_begun_can_be_captured() -> None:
    with built("base") as one:
        snapshot = capture(one.model, one.callbacks)
    resumed, found = gone_on("base", "batched", snapshot, 0)
    assert resumed.unlike == []
    assert found == uninterrupted("base", "batched")[1]


def test_after_update_comes_once_a_rollout_and_what_it_raises_ends_learning() -> None:
    class Enough(Exception):
        pass

    seen: list[tuple[int, int, float]] = []

    with built("base") as one:
        model = one.model

        def stop_at_the_third() -> None:
            seen.append((model.num_timesteps, model._n_updates, model.update_s))
            if len(seen) == 3:
                raise Enough

        model.after_update = stop_at_the_third
        with pytest.raises(Enough):
            one.learn()
    assert [steps for steps, _, _ in seen] == [ROLLOUT, 2 * ROLLOUT, 3 * ROLLOUT]
    assert [updates for _, updates, _ in seen] == [2, 4, 6]  # epochs, each update's own included
    assert 0.0 < seen[0][2] < seen[1][2] < seen[2][2]


# ---------------------------------------------------------------- what a snapshot is


def plain_types(value: Any) -> bool:
    if type(value) is dict:
        return all(type(key) is str and plain_types(inner) for key, inner in value.items())
    if type(value) is list:
        return all(map(plain_types, value))
    return value is None or type(value) in (bool, int, float, str)


@pytest.mark.parametrize("phase", ["base", "hybrid", "KeptWalk"])
def test_a_snapshot_is_tensors_and_json_alone(phase: str, tmp_path: Path) -> None:
    snapshot = uninterrupted(phase, "dummy")[0].snapshots[1]
    assert plain_types(snapshot.state)
    tensors = [tensor for part in snapshot.tensors.values() for tensor in part.values()]
    assert all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors)
    write(snapshot, tmp_path)
    again = read(tmp_path)
    assert again.state == snapshot.state
    assert again.tensors.keys() == snapshot.tensors.keys() == {"policy", "optimizer", "environment", "generators"}
    for part, held in snapshot.tensors.items():
        assert again.tensors[part].keys() == held.keys()
        assert all(torch.equal(again.tensors[part][name], tensor) for name, tensor in held.items())


def test_a_snapshot_is_a_copy_and_restoring_leaves_it_as_it_was() -> None:
    through, _ = uninterrupted("base", "batched")
    snapshot = through.snapshots[0]
    before = copy.deepcopy(snapshot)
    gone_on("base", "batched", snapshot, 0)
    assert snapshot.state == before.state
    for part, held in before.tensors.items():
        assert all(torch.equal(snapshot.tensors[part][name], tensor) for name, tensor in held.items())


def test_a_value_that_json_lacks_survives() -> None:
    with built("base") as one:
        one.learn(1)
        one.model.logger.record("train/explained_variance", float("nan"))
        one.model.logger.record("train/approx_kl", np.float32("inf"))
        one.model.logger.record_mean("own/mean", 2.0, exclude="tensorboard")
        snapshot = capture(one.model, one.callbacks)
    assert json.dumps(snapshot.state, allow_nan=False)
    with built("base") as other:
        restore(other.model, other.callbacks, snapshot)
        logger = other.model.logger
        assert np.isnan(logger.name_to_value["train/explained_variance"])
        assert logger.name_to_value["train/approx_kl"] == np.inf
        assert list(logger.name_to_value) == list(one.model.logger.name_to_value)
        assert logger.name_to_excluded == one.model.logger.name_to_excluded
        logger.record_mean("own/mean", 4.0)
        assert logger.name_to_value["own/mean"] == 3.0


# ---------------------------------------------------------------- each piece matters


def arrays_of(snapshot: Snapshot, part: str = "environment") -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in snapshot.tensors[part].items()}


def without_adam(snapshot: Snapshot) -> None:
    snapshot.tensors["optimizer"].clear()  # type: ignore[attr-defined]


def adam_without(key: str) -> Callable[[Snapshot], None]:
    def drop(snapshot: Snapshot) -> None:
        for label, tensor in snapshot.tensors["optimizer"].items():
            if label.startswith(key + " "):
                tensor.zero_()

    return drop


def counter(name: str, value: Any) -> Callable[[Snapshot], None]:
    def drop(snapshot: Snapshot) -> None:
        assert snapshot.state["training"]["counters"][name] != value
        snapshot.state["training"]["counters"][name] = value

    return drop


def emptied(*path: Any) -> Callable[[Snapshot], None]:
    def drop(snapshot: Snapshot) -> None:
        *way, last = path
        place = snapshot.state["training"]
        for key in way:
            place = place[key]
        assert place[last], "there was nothing to drop"
        place[last] = type(place[last])()

    return drop


def replaced(part: str, name: str, other: Callable[[Any], Any]) -> Callable[[Snapshot], None]:
    """In the environments' or the generators' part."""

    def drop(snapshot: Snapshot) -> None:
        kept = unpack(snapshot.state[part], arrays_of(snapshot, part))
        kept[name] = other(kept[name])
        packed: dict[str, np.ndarray] = {}
        snapshot.state[part] = pack(kept, packed, part)  # type: ignore[index]
        tensors = {key: torch.from_numpy(array) for key, array in packed.items()}
        snapshot.tensors[part] = tensors  # type: ignore[index]

    return drop


def another(version: int, words: np.ndarray, gauss: float | None) -> tuple[int, np.ndarray, float | None]:
    return version, np.append(words[-2::-1], words[-1]), gauss  # the last is a position


def as_later(part: str, name: str) -> Callable[[Snapshot], None]:
    def later(_: Any) -> Any:
        snapshot = uninterrupted("base", "dummy")[0].snapshots[2]
        return unpack(snapshot.state[part], arrays_of(snapshot, part))[name]

    return replaced(part, name, later)


# What is dropped: of which training, how, and where it is seen at the latest after the first boundary. Episode starts
# reach nothing that PPO computes, so they are looked at where no step follows.
PIECES: dict[str, tuple[str, Callable[[Snapshot], None], set[str]]] = {
    "all of Adam": ("base", without_adam, {"weights", "adam"}),
    "Adam's step": ("base", adam_without("step"), {"weights", "adam"}),
    "Adam's mean": ("base", adam_without("exp_avg"), {"weights", "adam"}),
    "Adam's variance": ("base", adam_without("exp_avg_sq"), {"weights", "adam"}),
    "num_timesteps": ("base", counter("num_timesteps", 0), {"counters", "records"}),
    "_n_updates": ("base", counter("_n_updates", 0), {"counters", "records", "log"}),
    "split_updates": ("base", counter("split_updates", 7), {"counters"}),
    "micro_batch": ("base", counter("micro_batch", 16), {"counters"}),
    "pending log values": ("base", emptied("log"), {"records"}),
    "finished episodes": ("base", emptied("episodes", "ep_info_buffer"), {"episodes", "episode_buffers"}),
    "the interval's rewards": ("base", emptied("callbacks", 0, 1, "_reward"), {"records"}),
    "the interval's steps": ("base", emptied("callbacks", 0, 1, "_steps"), {"records"}),
    "the interval's timesteps": ("base", emptied("callbacks", 0, 1, "_timesteps"), {"records"}),
    "the interval's episodes": ("hybrid", emptied("callbacks", 0, 1, "_episodes"), {"records"}),
    "total_reward": ("base", emptied("callbacks", 0, 1, "total_reward"), {"totals"}),
    "total_steps": ("base", emptied("callbacks", 0, 1, "total_steps"), {"totals"}),
    "total_episodes": ("base", emptied("callbacks", 0, 1, "total_episodes"), {"totals"}),
    "writes": ("base", emptied("callbacks", 0, 1, "writes"), {"totals"}),
    "the ramp's rollouts": ("hybrid", emptied("callbacks", 1, 1, "rollouts"), {"weights"}),
    "episode starts": ("base", replaced("environment", "last_episode_starts", np.logical_not), {"starts"}),
    "the last observation": ("KeptWalk", replaced("environment", "last_obs", np.zeros_like), {"weights"}),
    "the environments' states": ("base", as_later("environment", "states"), {"weights", "environments", "records"}),
    "Python's generator": ("base", replaced("generators", "python", lambda state: another(*state)), {"generators"}),
    "numpy's generator": ("base", as_later("generators", "numpy"), {"weights", "generators"}),
    "torch's generator": ("base", as_later("generators", "torch"), {"weights", "generators"}),
}


@pytest.mark.parametrize("piece", PIECES)
def test_without_a_piece_of_it_training_goes_on_otherwise(piece: str) -> None:
    phase, drop, seen_in = PIECES[piece]
    through, expected = uninterrupted(phase, "dummy")
    boundary = -1 if seen_in == {"starts"} else 0
    snapshot = copy.deepcopy(through.snapshots[boundary])
    drop(snapshot)
    _, found = gone_on(phase, "dummy", snapshot, through.records_before[boundary])
    assert seen_in <= differing(found, since(expected, through.records_before[boundary]))


def test_a_learning_rate_that_falls_goes_on_falling() -> None:
    def falling(one: Training) -> None:
        one.model.lr_schedule = one.model.learning_rate = lambda remaining: 1e-3 * remaining

    with built("base") as through:
        falling(through)
        expected = facts(through.capture_at_every_boundary().learn())
    assert len({snapshot.state["training"]["learning_rate"] for snapshot in through.snapshots}) == ROLLOUTS
    for boundary in range(ROLLOUTS):
        snapshot, written = through.snapshots[boundary], through.records_before[boundary]
        _, found = gone_on("base", "batched", snapshot, written, after=falling)
        assert found == since(expected, written)


def test_times_go_on_adding_up_and_no_speed_counts_steps_from_before_the_restart() -> None:
    through, _ = uninterrupted("base", "batched")
    snapshot = through.snapshots[2]
    counters = snapshot.state["training"]["counters"]
    with built("base") as one:
        restore(one.model, one.callbacks, snapshot)
        assert (one.model.rollout_s, one.model.update_s) == (counters["rollout_s"], counters["update_s"])
        callback = one.callbacks[0]
        speeds: list[Any] = []
        callback.sinks = (type("Speeds", (), {"write": lambda _, record: speeds.append(record["steps_per_s"])})(),)
        callback.init_callback(one.model)
        callback.on_training_start({}, {})
        callback.flush()  # the interval holds only what came before
        assert speeds == [None]


# ---------------------------------------------------------------- environments of a user's own


@pytest.mark.parametrize("boundary", [0, 2])
def test_an_environment_of_a_users_own_with_state_goes_on_in_the_middle_of_its_episode(boundary: int) -> None:
    through, expected = uninterrupted("KeptWalk", "dummy")
    assert all(record["episodes"] for record in expected["records"][1:-1:2])
    resumed, found = gone_on("KeptWalk", "dummy", through.snapshots[boundary], through.records_before[boundary])
    assert resumed.unlike == []
    assert found == since(expected, through.records_before[boundary])


@pytest.mark.slow
def test_in_worker_processes_too() -> None:
    through, expected = uninterrupted("KeptWalk", "subproc")
    assert expected == uninterrupted("KeptWalk", "dummy")[1]
    for put in ("subproc", "dummy"):
        resumed, found = gone_on("KeptWalk", put, through.snapshots[1], through.records_before[1])
        assert resumed.unlike == []
        assert found == since(expected, through.records_before[1])
    with built("OpaqueWalk", "subproc") as opaque:
        opaque.env.reset()
        assert get_states(opaque.env) is None


@pytest.mark.parametrize("name", ["Walk", "OpaqueWalk"])
def test_one_without_state_begins_its_episodes_anew_and_says_so(name: str) -> None:
    route = "dummy"
    through, expected = uninterrupted(name, route)
    assert expected["environments"] is None
    snapshot = through.snapshots[1]
    assert snapshot.state["environment"]["states"] is None

    def begun_anew(one: Training) -> None:
        assert one.model._last_episode_starts.all()
        level_mean_left = one.model._last_obs
        assert not level_mean_left[:, :2].any()
        lengths.append(level_mean_left[:, 2].tolist())

    lengths: list[list[float]] = []
    resumed, found = gone_on(name, route, snapshot, through.records_before[1], after=begun_anew)
    assert len(resumed.unlike) == 1
    assert "restarted" in resumed.unlike[0]
    assert found["counters"] == expected["counters"]
    assert differing(found, expected) >= {"weights"}
    # Not the episodes the run began with, nor the same after every restart; but the same after the same one.
    gone_on(name, route, through.snapshots[2], 0, after=begun_anew)
    gone_on(name, route, snapshot, 0, after=begun_anew)
    with built(name, route) as first:
        lengths.append(first.env.reset()[:, 2].tolist())
    assert lengths[0] == lengths[2]
    assert len({tuple(one) for one in lengths}) == 3


def test_accounts_of_another_version_begin_their_episodes_anew_and_say_so() -> None:
    through, _ = uninterrupted("base", "batched")
    snapshot = copy.deepcopy(through.snapshots[1])
    replaced("environment", "states", lambda states: states[:, :-8])(snapshot)
    resumed, _ = gone_on("base", "batched", snapshot, through.records_before[1])
    assert resumed.unlike == [
        "The checkpoint's accounts are of another version of this toolkit: their episodes restarted."
    ]


def test_a_users_own_generator_state_is_put_back() -> None:
    through, _ = uninterrupted("KeptWalk", "dummy")
    snapshot = through.snapshots[1]
    saved = unpack(snapshot.state["environment"], arrays_of(snapshot))["states"]
    with built("KeptWalk", "dummy") as one:
        restore(one.model, one.callbacks, snapshot)
        now = get_states(one.env)
    assert repr(now) == repr(saved)
    assert len({repr(state["np_random"]) for state in saved}) == 4


# ---------------------------------------------------------------- what does not fit


def test_other_accounts_networks_or_callbacks_are_refused() -> None:
    snapshot = uninterrupted("base", "batched")[0].snapshots[0]
    wider = small_runs.SMALL_NETS.model_copy(
        update={"net_arch": small_runs.SMALL_NETS.net_arch.model_copy(update={"pi": (24,)})}
    )
    with built("base", policy_kwargs=wider) as one, pytest.raises(UserError, match=r"differs.*\(6, 16\).*\(6, 24\)"):
        restore(one.model, one.callbacks, snapshot)
    with built("hybrid") as one, pytest.raises(UserError, match="1 tensors, the first llm_weight: absent there"):
        restore(one.model, one.callbacks, snapshot)
    with built("base") as one, pytest.raises(ValueError, match="callbacks"):
        restore(one.model, [], snapshot)
    fewer = Snapshot(snapshot.step, snapshot.tensors, copy.deepcopy(snapshot.state))
    fewer.state["training"]["n_envs"] = 8
    with built("base") as one, pytest.raises(UserError, match="holds 8 environments, this run has 4"):
        restore(one.model, one.callbacks, fewer)


def test_accounts_that_see_another_market_or_advice_are_told() -> None:
    snapshot = uninterrupted("hybrid", "batched")[0].snapshots[1]
    for route in ("batched", "dummy"):
        with built("hybrid", route, advised=False) as one:
            unlike = restore(one.model, one.callbacks, snapshot)
            assert len(unlike) == 1
            assert "see something else" in unlike[0]


def test_another_device_is_told() -> None:
    snapshot = copy.deepcopy(uninterrupted("base", "batched")[0].snapshots[0])
    snapshot.state["training"]["device"] = "cuda"
    with built("base") as one:
        (sentence,) = restore(one.model, one.callbacks, snapshot)
    assert "was on cuda and continues on cpu" in sentence
