"""An option beats what a file says more specifically, short forms mean the full ones, no value is a traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from src.configuration import MODES, Configuration, build_config, flat_paths
from src.configuration_layers import OVERRULES, paths_of, value_at
from src.errors import ConfigError, MarketError
from src.shares import as_fraction
from src.testing_framework import create_test_config

FULL: Mapping[str, Mapping[str, Any]] = {mode: build_config(mode, {}, {}).to_dict() for mode in MODES}
"""Files that spell out every key, as the shipped ones and the config.yaml of a run do."""
NAMES = sorted({*flat_paths(), *Configuration.model_fields, "mock_llm", "data", "llm_model", "llm_budget"})

# Values an option may be given in place of a right one.
wrong = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.builds(object) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    | st.dictionaries(st.sampled_from([path[-1] for path in paths_of(Configuration)]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def built(mode: str, file: Mapping[str, Any], **options: Any) -> Configuration:
    return build_config(mode, file, options, source="my.yaml")


# What an option beats

LONG_PIPELINE = {
    "training": {"timesteps": 7000, "timesteps_reduction": 0.5},
    "phase2": {"total_timesteps": 9000},
    "phase3": {"total_timesteps": 4000},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("options", "base", "finetune"),
    [
        ({"quick": True}, 5_000, 2_500),
        ({"quick": True, "quick_frac": 0.02}, 10_000, 5_000),
        ({"timesteps": 600}, 600, 300),
        ({"quick": True, "timesteps": 600}, 600, 300),
        ({"timesteps_reduction": 0.05}, 25_000, 12_500),
        ({"timesteps_reduction": 0.05, "phase3_total_timesteps": 800}, 25_000, (12_500, 800)),
    ],
)
def test_an_option_for_the_budget_beats_every_budget_of_a_file(
    mode: str, options: dict[str, Any], base: int, finetune: Any
) -> None:
    config = built(mode, LONG_PIPELINE, **options)
    expected = finetune if isinstance(finetune, int) else finetune[mode == "pipeline"]
    assert (config.base_timesteps, config.finetune_timesteps) == (base, expected)


def test_an_option_for_the_share_ends_a_files_quick_run() -> None:
    config = built("hardware_maximized", {"test_mode": {"quick": True}}, timesteps_reduction=0.2)
    assert (config.quick, config.base_timesteps) == (False, 100_000)
    assert built("pipeline", {"test_mode": {"quick": True}}, quick_frac=0.02).base_timesteps == 10_000
    assert built("pipeline", LONG_PIPELINE, quick_frac=0.02).base_timesteps == 9000, "no quick run, so it says nothing"


def test_no_quick_ends_a_quick_run_and_nothing_else_of_the_file() -> None:
    file = {"test_mode": {"quick": True}, "training": {"timesteps": 7000}}
    config = built("hardware_maximized", file, quick=False)
    assert (config.quick, config.base_timesteps) == (False, 7000)


def test_two_options_that_set_the_share_are_refused() -> None:
    with pytest.raises(ConfigError, match="quick and timesteps_reduction exclude each other"):
        create_test_config(quick=True, timesteps_reduction=0.2)


def test_an_option_for_the_machine_beats_those_of_the_phases() -> None:
    file = {
        "phase1": {"gpu_usage": 0.2}, "phase2": {"gpu_usage": {"torch_threads": 3, "memory_fraction": 0.4}},
        "llm": {"llm_threads": 4},
    }  # fmt: skip
    config = built("pipeline", file, memory_fraction=0.5, torch_threads=1, phase3_gpu_usage={"torch_threads": 2})
    assert [config.sections[f"phase{n}"].gpu_usage.memory_fraction for n in (1, 2, 3)] == [None] * 3  # type: ignore[attr-defined]
    assert [config.sections[f"phase{n}"].gpu_usage.torch_threads for n in (1, 2, 3)] == [None, None, 2]  # type: ignore[attr-defined]
    assert (config.llm_threads, config.phase1_gpu_utilization_target) == (None, 0.2)


def test_a_files_memory_beats_the_shares_a_mode_has_by_default() -> None:
    config = built("pipeline", {"hardware": {"memory_fraction": 0.5}})
    assert config.phase2_gpu_usage_memory_fraction is None
    assert built("pipeline", {}).phase2_gpu_usage_memory_fraction == 0.8


def test_the_time_to_ask_that_is_given_holds_in_a_quick_run() -> None:
    for file in ({}, FULL["hardware_maximized"]):
        assert built("hardware_maximized", file, quick=True, llm_budget=60.0).quick_budget_s == 60.0
        assert built("hardware_maximized", file, quick=True).quick_budget_s == 15.0
    file = {"llm": {"tabulation_budget_s": 60.0}}
    assert built("hardware_maximized", file, quick=True).quick_budget_s == 15.0
    again = built("hardware_maximized", built("hardware_maximized", file, quick=True).to_dict(), quick=False)
    assert again.tabulation_budget_s == 60.0


@pytest.mark.parametrize("path", OVERRULES, ids=".".join)
def test_no_file_hides_an_option_from_what_is_trained_or_used(path: tuple[str, ...]) -> None:
    """Whatever else a file spells out, an option gives what it gives over an empty file."""
    value: dict[str, Any] = {
        "quick": True, "quick_frac": 0.03, "timesteps_reduction": 0.07, "timesteps": 4321, "finetune_frac": 0.9,
        "memory_fraction": 0.6, "torch_threads": 5,
    }  # fmt: skip
    options = {path[-1]: value[path[-1]], **({"quick": True} if path[-1] == "quick_frac" else {})}
    for mode in MODES:
        file: dict[str, Any] = {}
        for hidden in OVERRULES[path]:
            section = file.setdefault(hidden[0], {})
            for step in hidden[1:-1]:
                section = section.setdefault(step, {})
            section[hidden[-1]] = True if hidden[-1] == "quick" else 1 if hidden[-1] == "seeds" else 3
            if hidden[-1] == "memory_fraction":
                section[hidden[-1]] = 0.123
        over_file, over_nothing = built(mode, file, **options), built(mode, {}, **options)
        for hidden in OVERRULES[path]:
            assert value_at(over_file.to_dict(), hidden) == value_at(over_nothing.to_dict(), hidden), hidden
        assert over_file.base_timesteps == over_nothing.base_timesteps
        assert over_file.finetune_timesteps == over_nothing.finetune_timesteps


# Short forms


@pytest.mark.parametrize(
    ("written", "meant"),
    [(0.9, 0.9), (90, 0.9), (90.0, 0.9), ("90%", 0.9), ("0.5 %", 0.005), (0, 0.0), (1.0, 1.0), (100, 1.0), (2, 0.02)],
)
def test_a_share_is_taken_as_a_fraction_or_in_percent(written: Any, meant: float) -> None:
    assert as_fraction(written) == pytest.approx(meant)
    for key in ("gpu_utilization_target", "cache_hit_rate_target", "phase2_gpu_utilization_target"):
        config = create_test_config("pipeline", **{key: written})
        assert getattr(config, key) == pytest.approx(meant)
    if meant > 0:
        config = create_test_config("pipeline", phase1_gpu_usage=written)
        assert config.phase1_gpu_usage_memory_fraction == config.phase1_gpu_utilization_target == pytest.approx(meant)


@pytest.mark.parametrize("written", [1, 1.5, -0.1, 101, float("nan"), float("inf"), True, "all", "x%", "140%"])
@pytest.mark.parametrize("key", ["gpu_utilization_target", "cache_hit_rate_target", "phase2_gpu_usage"])
def test_a_share_that_is_none_or_could_be_two_is_refused(key: str, written: Any) -> None:
    with pytest.raises(ConfigError, match=f"option {key} "):
        create_test_config("pipeline", **{key: written})


@given(st.floats(0.0, 1.0, exclude_max=True))
def test_a_fraction_stays_what_it_is_and_a_percentage_is_its_hundredth(share: float) -> None:
    assert as_fraction(share) == share
    if share >= 0.02:
        assert as_fraction(share * 100.0) == pytest.approx(share)


def test_one_list_of_layers_serves_both_networks() -> None:
    for config in (
        create_test_config(net_arch=[64, 32]),
        built("pipeline", {"training": {"policy_kwargs": {"net_arch": [64, 32]}}}),
        built("pipeline", {"training": {"net_arch": [64, 32]}}),
        built("pipeline", {"net_arch": [64, 32]}),
    ):
        assert config.pi == config.vf == (64, 32)
    assert create_test_config(net_arch={"pi": [8]}).vf == (256, 128)


def test_a_key_pasted_at_the_top_of_a_file_acts_and_says_so_where_it_differs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert built("hardware_maximized", {"vectorized_envs": 64}).vectorized_envs == 64
    assert not caplog.records
    config = built("hardware_maximized", {**FULL["hardware_maximized"], "vectorized_envs": 64, "batch_size": 1024})
    assert (config.vectorized_envs, config.batch_size) == (64, 1024)
    assert [record.getMessage() for record in caplog.records] == [
        "my.yaml: vectorized_envs is 64, and hardware.vectorized_envs is 32: the former is taken"
    ]


# No value is a traceback


def refusal(mode: str, file: Mapping[Any, Any], options: Mapping[str, Any]) -> str:
    """Why a configuration is refused; empty where it is taken. Any other exception is a fault."""
    try:
        build_config(mode, file, options, source="my.yaml")
    except (ConfigError, MarketError) as error:
        return str(error)
    return ""


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(MODES)), st.dictionaries(st.sampled_from(NAMES), wrong, min_size=1, max_size=3))
def test_options_of_any_shape_are_taken_or_refused_in_one_paragraph(mode: str, options: dict[str, Any]) -> None:
    assert "\n" not in refusal(mode, {}, options)


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(MODES)),
    st.dictionaries(st.sampled_from([*NAMES, "no_such_section"]) | st.integers(), wrong, min_size=1, max_size=3),
)
def test_a_file_of_any_shape_is_taken_or_refused_in_one_paragraph(mode: str, values: dict[Any, Any]) -> None:
    assert "\n" not in refusal(mode, values, {})


@pytest.mark.parametrize("name", ["phase1_gpu_usage", "net_arch", "policy_kwargs", "risk"])
@pytest.mark.parametrize("value", [350.5, "wide", [[1]], {"no_such": 1}, object()])
def test_an_override_of_a_section_with_the_wrong_shape_names_the_option(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        create_test_config(**{name: value})


def test_the_shipped_files_hold_what_their_modes_do_by_default(tmp_path: Path) -> None:
    for mode, file in FULL.items():
        assert built(mode, file) == build_config(mode, {}, {})
