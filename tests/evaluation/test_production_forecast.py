"""The forecast of production: arithmetic by hand, intervals that hold on synthetic machines, and another machine."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.agent.other_machine import OtherMachine
from src.evaluation.production import ProductionTrial
from src.evaluation.production_forecast import elsewhere, forecast, paces_of, production_facts

TRIAL = ProductionTrial(
    base_timesteps=1_000_000, finetune_timesteps=500_000, measured_timesteps=4096, net_arch=[512, 256, 128],
    production_s=[4e-4, 4e-4, 4e-4], tested_s=[2e-4, 2e-4, 2e-4], products_flop=20e6, gemm_gflops=100.0, cores=2,
)  # fmt: skip
HERE = {"workers": 1, "seeds": 1}


def row(phase: str, pace_s: list[float], *, rollouts: int = 1, fold: int = 0) -> dict[str, Any]:
    """A training of rollouts of 1,000 timesteps."""
    return {
        "phase": phase, "n_envs": 10, "n_steps": 100, "pace_s": pace_s, "pace_rollouts": rollouts, "fold": fold,
    }  # fmt: skip


STEADY = [row("base", [9.0] + 20 * [1.0]), row("hybrid", [9.0] + 10 * [0.5]), row("base", 20 * [77.0], fold=1)]


def test_hours_are_the_trainings_own_paces_times_what_the_networks_cost_more() -> None:
    """1 ms a base timestep, 0.5 ms a hybrid one, twice with production's networks; folds and warm-up aside."""
    found = forecast(TRIAL, paces_of(STEADY), **HERE)
    assert found.hours == pytest.approx(2 * (1_000_000 * 1e-3 + 500_000 * 0.5e-3) / 3600)
    assert (found.low, found.high) == (pytest.approx(found.hours), pytest.approx(found.hours))
    assert 1.0 / found.step_s == pytest.approx(1_500_000 / (3600 * found.hours))


@pytest.mark.parametrize(
    ("workers", "seeds", "beside", "waves"), [(1, 1, 1, 1), (2, 3, 2, 2), (4, 3, 3, 1), (2, 2, 2, 1), (1, 5, 1, 5)]
)
def test_seeds_train_beside_each_other_as_far_as_there_are_workers(workers, seeds, beside, waves) -> None:
    one = forecast(TRIAL, paces_of(STEADY), **HERE)
    found = forecast(TRIAL, paces_of(STEADY), workers=workers, seeds=seeds)
    assert (found.beside, found.hours) == (beside, pytest.approx(waves * one.hours))


def test_one_seed_after_a_run_of_several_workers_runs_alone_at_the_trials_pace() -> None:
    """Beside each other the members took 1 ms a timestep; alone the trial took 0.2."""
    found = forecast(TRIAL, paces_of(STEADY), workers=2, seeds=1)
    assert found.hours == pytest.approx(2 * (1_000_000 * 2e-4 + 500_000 * 1e-4) / 3600)


def test_blocks_of_different_lengths_are_joined() -> None:
    paces = paces_of([row("base", 9 * [2.0], rollouts=2), row("hybrid", 17 * [1.0])])
    assert paces is not None
    assert paces.block_timesteps == 2000
    assert len(paces.relative) == 8 + 8
    assert paces.mean_s == {"base": pytest.approx(1e-3), "hybrid": pytest.approx(1e-3)}


@pytest.mark.parametrize("rows", [[], [row("base", [])], [row("base", [1.0, 1.0, 1.0])]])
def test_what_was_not_timed_has_hours_and_a_reason_instead_of_an_interval(rows) -> None:
    found = forecast(TRIAL, paces_of(rows), **HERE)
    assert found.hours > 0
    assert (found.low, found.high) == (None, None)
    assert found.reason


def test_the_ratios_own_spread_widens_the_interval() -> None:
    paces = paces_of(STEADY)
    uneven = replace(TRIAL, production_s=[3.6e-4, 4e-4, 4.4e-4])
    found = forecast(uneven, paces, **HERE)
    logs = np.log([1.8, 2.0, 2.2])
    reach = 2.9199856 * logs.std(ddof=1) / math.sqrt(3)  # t(0.95) with 2 degrees of freedom, from a table
    assert found.high / found.hours == pytest.approx(math.exp(reach))
    assert found.hours / found.low == pytest.approx(math.exp(reach))


def wandering(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Seconds of n rollouts on a machine that is steady, correlated, drifts at every scale, or has spikes."""
    noise = 0.03 * rng.normal(size=n)
    if kind == "steady":
        return np.exp(noise)
    if kind == "spikes":
        return np.exp(noise) + (rng.random(n) < 0.03)
    if kind == "correlated":
        moved = np.zeros(n)
        for i in range(1, n):
            moved[i] = 0.9 * moved[i - 1] + 0.03 * rng.normal()
        return np.exp(moved + noise)
    frequencies = np.fft.rfftfreq(8 * n)[1:]
    waves = (rng.normal(size=len(frequencies)) + 1j * rng.normal(size=len(frequencies))) / np.sqrt(frequencies)
    return np.exp(0.5 * np.fft.irfft(np.concatenate(([0.0], waves)), 8 * n)[:n] + noise)


@pytest.mark.parametrize("kind", ["steady", "correlated", "drifting", "spikes"])
@pytest.mark.parametrize("n", [12, 60])
def test_the_truth_of_runs_five_times_longer_lies_in_nine_of_ten_intervals(kind: str, n: int) -> None:
    rng, inside, repeats = np.random.default_rng(3), 0, 150
    trial = replace(TRIAL, base_timesteps=5 * n * 1000, finetune_timesteps=0, tested_s=[])
    for _ in range(repeats):
        seconds = wandering(kind, 6 * n, rng)
        found = forecast(trial, paces_of([row("base", [1.0, *seconds[:n]])]), **HERE)
        assert found.low is not None
        inside += found.low <= seconds[n:].sum() / 3600 <= found.high
    assert inside >= 0.87 * repeats  # 90% less what 150 repeats may miss by chance


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(1, 64), st.integers(1, 9))
def test_another_machine_lies_between_all_and_nothing_but_products_scaling(
    here: float, there: float, cores: int, seeds
):
    trial = replace(TRIAL, gemm_gflops=here)
    own = forecast(trial, paces_of(STEADY), workers=1, seeds=seeds)
    found = elsewhere(trial, own, OtherMachine("big", cores, there), seeds)
    assert found is not None
    one_wave = own.hours / seeds * math.ceil(seeds / min(seeds, cores))
    products = min(1.0, 20e6 / (here * 1e9) / own.step_s)
    all_scale, products_alone = here / there, products * here / there + 1.0 - products
    assert found.low == pytest.approx(one_wave * min(all_scale, products_alone))
    assert found.high == pytest.approx(one_wave * max(all_scale, products_alone))
    assert found.low * (1 - 1e-9) <= found.hours <= found.high * (1 + 1e-9)


def test_the_same_machine_takes_the_same_time() -> None:
    own = forecast(TRIAL, paces_of(STEADY), **HERE)
    found = elsewhere(TRIAL, own, OtherMachine("twin", 2, 100.0), 1)
    assert found is not None
    assert (found.low, found.hours, found.high) == pytest.approx((own.low, own.hours, own.high))


def test_energy_and_cost_grow_with_the_hours() -> None:
    facts = production_facts(
        TRIAL, STEADY, **HERE, power_w=200.0, power_words="processor", price_usd=2.5,
        other=OtherMachine("twin", 2, 100.0),
    )  # fmt: skip
    hours = facts["hours"]
    assert facts["energy_kwh"]["value"] == pytest.approx(0.2 * hours)
    assert facts["cost_usd"]["value"] == pytest.approx(2.5 * hours)
    assert facts["other_machine"]["cost_usd"]["high"] == pytest.approx(2.5 * facts["high_hours"])
    free = production_facts(
        replace(TRIAL, gemm_gflops=None), STEADY, **HERE, power_w=None, power_words="no counter", price_usd=None,
        other=OtherMachine("twin", 2, 100.0),
    )  # fmt: skip
    assert free["energy_kwh"] == {"value": None, "low": None, "high": None}
    assert "cost_usd" not in free
    assert (free["other_machine"]["hours"], "GPU" in free["other_machine"]["reason"]) == (None, True)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("big", "a machine is written NAME:cores=16,gflops=90"),
        (":cores=1,gflops=2", "a machine is written"),
        ("big:cores=16", "a machine has cores and gflops"),
        ("big:cores=16,gflops=90,ram=3", "a machine has cores and gflops"),
        ("big:cores=1.5,gflops=90", "cores is a whole number"),
        ("big:cores=0,gflops=90", "cores must be 1 to 100,000"),
        ("big:cores=4,gflops=nan", "gflops above 0"),
        ("big:cores=4,gflops=-1", "gflops above 0"),
    ],
)
def test_a_machine_that_is_written_wrong_is_refused_with_the_way_to_write_it(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        OtherMachine.parse(text)


def test_a_machine_is_its_name_cores_and_speed() -> None:
    assert OtherMachine.parse(" c7i.8xlarge: cores=32, gflops=104.5 ") == OtherMachine("c7i.8xlarge", 32, 104.5)
