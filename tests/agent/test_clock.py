"""A training's time by part: the parts add up to the whole in any order, and measuring changes nothing."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.agent import clock as parts
from src.agent.clock import PARTS, Clock, NoClock, ShareOfClock
from src.agent.learner.bound import products_cpu_s
from src.agent.ppo import TimedMaskablePPO
from src.agent.settings import HardwareSettings, Learner
from src.agent.trainer import Trainer
from src.agent.training import train
from src.agent.training_state import capture, restore
from tests import small_runs

HAPPENINGS = st.lists(
    st.tuples(st.sampled_from([*PARTS, True, False]), st.integers(0, 10**6), st.floats(0.0, 2.0)), max_size=40
)
"""A part that is switched to, or whether processor time is read from then on; then microseconds until the next, and
cores at work meanwhile."""


class Clocks:
    """Stands in for the system's clocks."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clocks]:
    made = Clocks()
    with monkeypatch.context() as patch:
        patch.setattr(parts, "time", made)
        yield made


@given(HAPPENINGS, st.integers(1, 5))
def test_the_shares_of_a_group_add_up_to_its_time(
    happenings: list[tuple[str | bool, int, float]], members: int
) -> None:
    """Whoever begins a part, and with clocks of their own afterwards."""
    clocks = Clocks()

    def passes(microseconds: int, cores: float) -> None:
        clocks.wall += microseconds / 1e6
        clocks.cpu += cores * microseconds / 1e6

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "time", clocks)
        group = Clock()
        shares = [ShareOfClock(group, members) for _ in range(members)]
        shares[0].carry({"seconds": {parts.FORWARD: 3.0}, "watched_s": {}, "cpu_s": {}})
        for number, (what, microseconds, cores) in enumerate(happenings):
            share = shares[number % members]
            share.watch_cpu(what) if isinstance(what, bool) else share.switch(what)
            passes(microseconds, cores)
        assert shares[0].seconds(parts.FORWARD) - 3.0 == pytest.approx(group.seconds(parts.FORWARD) / members)
        together = sum(sum(share.facts_of_process()["seconds"].values()) for share in shares)
        assert together == pytest.approx(clocks.wall)
        until, facts = clocks.wall, []
        own = [share.on_its_own(parts.EXPORTS) for share in shares]
        for clock in own:
            clock.skip()
            passes(1000, 1.0)
            facts.append(clock.facts_of_process()["seconds"])
        assert sum(sum(of.values()) for of in facts) == pytest.approx(until + 0.001 * members)
        assert own[0].facts()["seconds"].get(parts.FORWARD, 0.0) >= 3.0


@given(HAPPENINGS)
def test_the_parts_add_up_and_processor_time_is_scaled_from_where_it_was_read(
    happenings: list[tuple[str | bool, int, float]],
) -> None:
    clocks = Clocks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "time", clocks)
        clock = Clock()
        part, watched = parts.SET_UP, True
        seconds: dict[str, float] = defaultdict(float)
        read: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for what, microseconds, cores in happenings:
            if isinstance(what, bool):
                clock.watch_cpu(what)
                watched = what
            else:
                assert clock.switch(what) == part
                part = what
            taken = microseconds / 1e6
            clocks.wall, clocks.cpu = clocks.wall + taken, clocks.cpu + cores * taken
            seconds[part] += taken
            if watched:
                read[part][0] += taken
                read[part][1] += cores * taken
        facts = clock.facts()
    assert sum(facts["seconds"].values()) == pytest.approx(clocks.wall, abs=1e-9)
    assert facts["seconds"] == pytest.approx({name: taken for name, taken in seconds.items() if taken}, abs=1e-9)
    wanted = {name: cpu / wall * seconds[name] for name, (wall, cpu) in read.items() if wall}
    assert facts["cpu_s"] == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_a_part_within_another_ends_with_an_error(clocks: Clocks) -> None:
    clock = Clock(parts.FORWARD)

    def fails() -> None:
        with clock.within(parts.ENVIRONMENT):
            clocks.wall = 2.0
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        fails()
    clocks.wall = 5.0
    assert clock.facts()["seconds"] == {parts.ENVIRONMENT: 2.0, parts.FORWARD: 3.0}


def test_what_a_checkpoint_kept_counts_on_top_but_not_as_this_process(clocks: Clocks) -> None:
    before = Clock(parts.ENVIRONMENT)
    clocks.wall, clocks.cpu = 4.0, 1.0
    kept = before.state()
    after = Clock(parts.ENVIRONMENT)
    after.carry(kept)
    clocks.wall, clocks.cpu = 6.0, 3.0
    assert after.facts() == {"seconds": {parts.ENVIRONMENT: 6.0}, "cpu_s": {parts.ENVIRONMENT: 3.0}}
    assert after.facts_of_process() == {"seconds": {parts.ENVIRONMENT: 2.0}, "cpu_s": {parts.ENVIRONMENT: 2.0}}
    assert after.seconds(parts.ENVIRONMENT) == 6.0


def _trainer(learner: Learner) -> Trainer:
    hardware: HardwareSettings = small_runs.HARDWARE.model_copy(update={"learner": learner})
    return replace(small_runs.trainer(), hardware=hardware)


def _model(learner: Learner, clock: Clock) -> TimedMaskablePPO:
    made = _trainer(learner)
    model = made.new_base(made.make_env(small_runs.market()), small_runs.plan(2))
    model.clock = clock
    return model


UPDATE = {
    "fused": {parts.PRODUCTS, parts.ELEMENTWISE, parts.OPTIMIZER, parts.BOOKKEEPING},
    "stock": {parts.GRADIENTS, parts.OPTIMIZER, parts.BOOKKEEPING},
}
ROLLOUT = {
    "fused": {parts.ENVIRONMENT, parts.FORWARD, parts.SAMPLING, parts.BUFFER, parts.LOGGING},
    "stock": {parts.ENVIRONMENT, parts.POLICY, parts.BUFFER, parts.LOGGING},
}


@pytest.mark.parametrize("learner", ["fused", "stock"])
def test_a_trainings_parts_are_those_of_its_learner_and_add_up_to_its_wall_time(learner: Learner) -> None:
    model = _model(learner, Clock(parts.BOOKKEEPING))
    began = time.perf_counter()
    model.clock = Clock()
    record = train(model, small_runs.plan(2), "base", [])
    facts = model.clock.facts()
    wall = time.perf_counter() - began
    seconds = facts["seconds"]
    assert sum(seconds.values()) == pytest.approx(wall, rel=0.03)
    assert seconds.keys() - {parts.SET_UP} == UPDATE[learner] | ROLLOUT[learner]
    update_s = {part: seconds[part] for part in UPDATE[learner]}  # bookkeeping is around updates as well
    assert sum(update_s.values()) - update_s[parts.BOOKKEEPING] <= record.update_s <= sum(update_s.values())
    assert facts["cpu_s"].keys() <= seconds.keys()
    assert record.environment_s == pytest.approx(seconds[parts.ENVIRONMENT])


@pytest.mark.parametrize("learner", ["fused", "stock"])
def test_measuring_changes_no_bit_of_a_training(learner: Learner) -> None:
    states = []
    for clock in (Clock(), NoClock()):
        model = _model(learner, clock)
        train(model, small_runs.plan(2), "base", [])
        states.append(small_runs.state_of(model))
    assert small_runs.same_bits(*states)
    assert clock.facts() == {"seconds": {}, "cpu_s": {}}


def test_a_resumed_training_counts_what_its_checkpoint_had() -> None:
    model = _model("fused", Clock())
    train(model, small_runs.plan(2), "base", [])
    before = model.clock.facts()["seconds"]
    resumed = _model("fused", Clock())
    assert restore(resumed, [], capture(model, [])) == []
    after = resumed.clock.facts()["seconds"]
    assert after[parts.PRODUCTS] == pytest.approx(before[parts.PRODUCTS])
    assert after[parts.ENVIRONMENT] >= before[parts.ENVIRONMENT]
    assert parts.PRODUCTS not in resumed.clock.facts_of_process()["seconds"]


def test_the_products_bound_grows_with_what_was_learned_from() -> None:
    """Against a count of the products' operations: twice the rollouts are twice the minibatches and steps."""
    model = _model("fused", Clock())
    train(model, small_runs.plan(1), "base", [])
    once = products_cpu_s(model)
    train(model, small_runs.plan(3), "base", [], resumed=True)
    thrice = products_cpu_s(model)
    assert once is not None
    assert thrice is not None
    assert np.log2(thrice / once) == pytest.approx(np.log2(3.0), abs=1.0)
    assert 0.0 < thrice < sum(model.clock.facts()["cpu_s"].values())
