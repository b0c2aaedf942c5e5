"""Command line over YAML over defaults, every mistake in one paragraph, every key in the shipped files."""

from __future__ import annotations

import copy
import os
import pickle
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from src.configuration import (
    MODES,
    Configuration,
    build_config,
    effective_yaml,
    flat_name,
    flat_paths,
    load_config_file,
)
from src.configuration_errors import section_of
from src.errors import ConfigError, MarketError, UserError
from src.market.contracts import CONTRACTS
from src.testing_framework import TestConfig, create_test_config
from src.trading.rules import ALL, available_rule_profiles

CONFIG = Path(__file__).resolve().parents[1] / "config"
SHIPPED = {mode: CONFIG / f"test_{mode}.yaml" for mode in MODES}
HEADINGS = {
    "hardware_maximized": "Hardware-maximised validation",
    "pipeline": "The sequential pipeline, on fewer accounts and smaller minibatches",
}


def leaves(model: type[BaseModel] = Configuration, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], FieldInfo]:
    found: dict[tuple[str, ...], FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = section_of(field)
        found |= {(*prefix, name): field} if inner is None else leaves(inner, (*prefix, name))
    return found


LEAVES = leaves()


def value_at(values: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        values = values[step]
    return values


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for step in reversed(path):
        value = {step: value}
    return value


def message_of(action: Any, *arguments: Any, **options: Any) -> str:
    """The text of the error an action ends with: always one paragraph."""
    with pytest.raises(UserError) as caught:
        action(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def built(values: dict[str, Any] | None = None, **overrides: Any) -> Configuration:
    return build_config(None, values or {}, overrides, source="my.yaml")


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# The public surface


@pytest.mark.parametrize(("mode", "envs", "batch"), [("hardware_maximized", 32, 1024), ("pipeline", 8, 256)])
def test_a_mode_has_its_accounts_and_minibatch(mode: str, envs: int, batch: int) -> None:
    config = create_test_config(mode, "ES")
    assert (config.vectorized_envs, config.batch_size, config.mode, config.market) == (envs, batch, mode, "ES")


def test_keys_read_flat_and_by_section() -> None:
    config = create_test_config(vectorized_envs=64, mock_llm=True, timesteps_reduction=0.5, seed=7)
    assert config.vectorized_envs == config.hardware.vectorized_envs == 64
    assert config.risk is config.fusion.risk
    assert config.max_consecutive_losses == config.fusion.risk.max_consecutive_losses
    assert config.pi == (256, 128)
    assert config.mock_llm
    assert (config.base_timesteps, config.finetune_timesteps) == (250_000, 125_000)
    assert list(config.sections) == list(config.to_dict()) == list(Configuration.model_fields)


def test_a_flat_name_means_one_key_and_no_method() -> None:
    doubled = {name: paths for name, paths in flat_paths().items() if len(paths) > 1}
    assert not doubled
    assert not [name for name in flat_paths() if hasattr(BaseModel, name) or name in vars(Configuration)]


def test_a_flat_name_that_is_none_says_the_nearest() -> None:
    with pytest.raises(AttributeError, match="vectorized_envs"):
        create_test_config().vectorised_envs  # noqa: B018


def test_a_configuration_is_frozen_copied_and_pickled() -> None:
    config = create_test_config()
    with pytest.raises(ValidationError):
        config.hardware.batch_size = 3  # type: ignore[misc]
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


def test_pytest_does_not_collect_it() -> None:
    assert TestConfig.__test__ is False


def test_keys_of_a_phase_carry_its_name_when_they_read_flat() -> None:
    config = create_test_config("pipeline", phase2_timeout=60.0, phase3={"gpu_usage": {"torch_threads": 2}})
    assert (config.phase1_timeout, config.phase2_timeout, config.phase3_timeout) == (3600.0, 60.0, 86_400.0)
    assert config.phase2_total_timesteps is config.phase3_total_timesteps is None
    assert (config.phase2_gpu_usage_torch_threads, config.phase3_gpu_usage_torch_threads) == (None, 2)
    assert config.interval_steps == config.checkpoint.interval_steps == 10_000
    assert (config.auto_advance, config.max_retries_per_phase, config.keep_last) == (True, 1, 3)
    for name, nearest in (
        ("phase2_total_timestep", "phase2_total_timesteps"),
        ("phase4_timeout", "phase[123]_timeout"),
        ("auto_advanced", "auto_advance"),
    ):
        with pytest.raises(AttributeError, match=f"did you mean '{nearest}'"):
            getattr(config, name)


@pytest.mark.parametrize(
    ("mode", "overrides", "base", "finetune"),
    [
        ("pipeline", {}, 50_000, 25_000),
        ("pipeline", {"phase2_total_timesteps": 700}, 700, 25_000),
        ("pipeline", {"phase3_total_timesteps": 700, "timesteps": 300}, 300, 700),
        ("hardware_maximized", {"phase2_total_timesteps": 700, "phase3_total_timesteps": 800}, 50_000, 25_000),
    ],
)
def test_a_phases_own_budget_counts_in_the_pipeline_only(
    mode: str, overrides: dict[str, Any], base: int, finetune: int
) -> None:
    config = create_test_config(mode, **overrides)
    assert (config.base_timesteps, config.finetune_timesteps) == (base, finetune)


@pytest.mark.parametrize(
    ("overrides", "base", "finetune"),
    [
        ({}, 50_000, 25_000),
        ({"quick": True}, 5_000, 2_500),
        ({"quick": True, "timesteps": 777}, 777, 388),
        ({"timesteps": 1}, 1, 1),
    ],
)
def test_the_budget_is_a_share_of_production_or_outright(overrides: dict[str, Any], base: int, finetune: int) -> None:
    config = create_test_config(**overrides)
    assert (config.base_timesteps, config.finetune_timesteps) == (base, finetune)


# Precedence


def test_command_line_over_yaml_over_mode_over_default(written: Any) -> None:
    path = written("hardware: {batch_size: 512}\ntraining: {gamma: 0.9, n_epochs: 3}\n")
    config = TestConfig.from_file(path, "pipeline", n_epochs=4)
    assert (config.n_epochs, config.gamma, config.batch_size) == (4, 0.9, 512)
    assert (config.vectorized_envs, config.vf_coef, config.mode) == (8, 0.5, "pipeline")


def test_none_means_not_given(written: Any) -> None:
    config = TestConfig.from_file(written("test_mode: {seed: 5, market: ES}\n"), seed=None, market=None, mock_llm=False)
    assert (config.seed, config.market) == (5, "ES")


def test_data_mock_llm_and_whole_sections_are_overrides() -> None:
    config = create_test_config(data="bars.csv", mock_llm=True, fusion={"risk": {"enable_risk_veto": False}})
    assert config.data.path == Path("bars.csv")
    assert config.llm.model == "mock"
    assert config.risk.enable_risk_veto is False
    assert config.risk.max_consecutive_losses == 5
    assert create_test_config(data={"repair": True}).repair


def test_a_mapping_value_is_replaced_as_a_whole() -> None:
    assert built({"environment": {"env_kwargs": {"a": 1}}}, env_kwargs={"b": 2}).env_kwargs == {"b": 2}


def test_a_file_written_for_the_other_mode_is_refused(written: Any) -> None:
    path = written("test_mode: {mode: pipeline}\n")
    assert TestConfig.from_file(path).mode == "pipeline"
    message = message_of(TestConfig.from_file, path, "hardware_maximized")
    assert "mine.yaml" in message
    assert "'pipeline'" in message


def test_the_pipeline_trains_on_one_split_and_as_many_seeds_as_asked(written: Any) -> None:
    path = written("test_mode: {mode: pipeline}\nevidence: {walk_forward: 3}\n")
    message = message_of(TestConfig.from_file, path)
    assert "mine.yaml: evidence.walk_forward is 3, but the pipeline trains on one split: set it to 0" in message
    said = message_of(create_test_config, "pipeline", walk_forward=3)
    assert "option walk_forward (evidence.walk_forward) is 3" in said
    assert create_test_config("hardware_maximized", walk_forward=3).evidence.walk_forward == 3
    assert create_test_config("pipeline").evidence.seeds == 1
    assert create_test_config("pipeline", seeds=2).evidence.seeds == 2


def test_a_quick_run_trains_one_seed_unless_told_otherwise(written: Any) -> None:
    assert create_test_config().evidence.seeds == 3
    assert create_test_config(quick=True).evidence.seeds == 1
    assert create_test_config(quick=True, seeds=2).evidence.seeds == 2
    assert TestConfig.from_file(written("test_mode: {quick: true}\nevidence: {seeds: 4}\n")).evidence.seeds == 4
    assert TestConfig.from_file(written("evidence: {seeds: 4}\n"), quick=True).evidence.seeds == 1
    assert create_test_config("pipeline").evidence.seeds == 1


def test_a_slippage_listed_twice_is_refused_and_the_others_are_put_in_order(written: Any) -> None:
    path = written("evidence: {stress_slippage_ticks: [2, 0, 2]}\n")
    assert "listed twice" in message_of(TestConfig.from_file, path)
    sorted_ones = TestConfig.from_file(written("evidence: {stress_slippage_ticks: [3, 0, 2]}\n"))
    assert sorted_ones.stress_slippage_ticks == (0, 2, 3)


def test_a_market_is_found_in_any_case_or_refused() -> None:
    assert create_test_config(market="mnq").market == "MNQ"
    with pytest.raises(MarketError, match="NQ"):
        create_test_config(market="NQQ")


# Mistakes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hardware: [", ["line 1"]),
        ("- a\n- b\n", ["list", "sections"]),
        ("hardware:\n  seed: 1\n  seed: 2\n", ["line 3", "'seed'", "twice"]),
        ("hardware:\n\tbatch_size: 2\n", ["line 2"]),
        ("llm: !!python/name:os.system\n", ["line 1", "python/name"]),
        ("hardwear: {}\n", ["section hardwear", "'hardware'"]),
        ("hardware:\n  batchsize: 2\n", ["hardware.batchsize", "'batch_size'"]),
        ("training:\n  batch_size: 2\n", ["training.batch_size", "hardware.batch_size"]),
        ("fusion:\n  risk:\n    max_losses: 2\n", ["fusion.risk.max_losses", "'max_consecutive_losses'"]),
        ("hardware: 3\n", ["hardware is 3", "vectorized_envs"]),
        ("fusion:\n  risk:\n", ["fusion.risk is null", "enable_risk_veto"]),
        ("hardware:\n  batch_size: 1\n", ["hardware.batch_size is 1", "at least 2"]),
        ("hardware:\n  batch_size: yes\n", ["hardware.batch_size is true", "a whole number"]),
        ("hardware:\n  batch_size: 2.5\n", ["hardware.batch_size is 2.5", "a whole number"]),
        ("hardware:\n  device: gpu\n", ["hardware.device is 'gpu'", "auto, cpu, cuda"]),
        ("training:\n  gamma: .nan\n", ["training.gamma is nan", "a number above 0 and at most 1"]),
        ("environment:\n  reward_scale_usd: .inf\n", ["environment.reward_scale_usd is inf", "a number"]),
        ("training:\n  gamma: null\n", ["training.gamma is null", "a number"]),
        ("training:\n  n_steps: few\n", ["training.n_steps is 'few'", "a whole number", "or null"]),
        ("training: {policy_kwargs: {net_arch: {pi: [64, 0]}}}\n", ["net_arch.pi[1] is 0", "at least 1"]),
        ("net_arch: 64\n", ["net_arch is 64", "a list of layer widths, or a section with the keys pi, vf"]),
        ("training: {policy_kwargs: {net_arch: {vf: []}}}\n", ["net_arch.vf is []", "a list of at least 1"]),
        ("performance:\n  batched_logging: maybe\n", ["performance.batched_logging is 'maybe'", "true or false"]),
        ("environment:\n  env_kwargs: 3\n", ["environment.env_kwargs is 3", "a mapping"]),
        ("validation:\n  required: [exec_time]\n", ["validation.required", "'exec_time'", "'execution_time'"]),
        ("validation:\n  required: [steps_per_s]\n", ["validation", "min_steps_per_s"]),
        ("validation:\n  required: [phase2_durations]\n", ["'phase2_durations'", "'phase2_duration'"]),
        ("checkpoints: {}\n", ["section checkpoints", "'checkpoint'"]),
        ("phase4: {}\n", ["section phase4", "'phase[123]'"]),
        ("checkpoint:\n  interval: 5\n", ["checkpoint.interval", "'interval_steps'"]),
        ("checkpoint:\n  strategy: often\n", ["checkpoint.strategy is 'often'", "interval, phase_based"]),
        ("checkpoint:\n  keep_last: 0\n", ["checkpoint.keep_last is 0", "at least 1"]),
        ("pipeline:\n  max_retries_per_phase: -1\n", ["pipeline.max_retries_per_phase is -1", "at least 0"]),
        ("pipeline:\n  pause_between_phases: long\n", ["pipeline.pause_between_phases is 'long'", "a number"]),
        ("phase1:\n  total_timesteps: 5\n", ["phase1.total_timesteps", "Known here: estimated_duration, timeout"]),
        ("phase2:\n  timeout: 0\n", ["phase2.timeout is 0", "above 0"]),
        ("phase3:\n  gpu_usage:\n    memory_share: 1\n", ["phase3.gpu_usage.memory_share", "'memory_fraction'"]),
        ("phase3:\n  gpu_usage: -0.5\n", ["phase3.gpu_usage is -0.5", "a share", "memory_fraction, torch_threads"]),
        ("phase3:\n  gpu_usage: 101\n", ["phase3.gpu_usage is 101", "a share", "memory_fraction, torch_threads"]),
        ("phase3:\n  gpu_usage: [0.5]\n", ["phase3.gpu_usage is [0.5]", "memory_fraction, torch_threads"]),
        ("phase3:\n  gpu_usage: 1\n", ["phase3.gpu_usage is 1", "1% or 100%"]),
        ("phase3:\n  gpu_usage:\n    memory_fraction: 2\n", ["phase3.gpu_usage.memory_fraction is 2", "at most 1"]),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_what_is_wrong(written: Any, text: str, expected: list[str]) -> None:
    path = written(text)
    message = message_of(load_config_file, path)
    assert str(path) in message
    for part in expected:
        assert re.search(part, message) if "[123]" in part else part in message


@pytest.mark.parametrize(
    ("mode", "text", "overrides", "expected"),
    [
        (
            "hardware_maximized",
            "validation: {required: [execution_time, phase2_duration]}\n",
            {},
            "mine.yaml: validation.required lists 'phase2_duration', a target of the pipeline's phases, but this run "
            "is hardware_maximized. Leave it out: here execution_time, peak_memory, gpu_utilization, cache_hit_rate, "
            "steps_per_s may be required.",
        ),
        (
            "hardware_maximized",
            "",
            {"required": ["phase1_gpu_utilization"]},
            "option required (validation.required) lists 'phase1_gpu_utilization', a target of the pipeline's phases, "
            "but this run is hardware_maximized. Leave it out: here execution_time, peak_memory, gpu_utilization, "
            "cache_hit_rate, steps_per_s may be required.",
        ),
        (
            "pipeline",
            "validation: {required: [phase3_gpu_utilization]}\nphase3: {gpu_utilization_target: null}\n",
            {},
            "mine.yaml: validation.required lists 'phase3_gpu_utilization', but phase3.gpu_utilization_target, its "
            "limit, is not set. Set it, or leave the target out.",
        ),
        (
            "pipeline",
            "pipeline: {auto_advance: false}\n",
            {"checkpoint": {"enabled": False}},
            "mine.yaml: pipeline.auto_advance is false, and so is option enabled (checkpoint.enabled): after phase 2 "
            "nothing would be kept for phase 3 to begin with. Set one of them to true.",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_told_in_one_paragraph(
    written: Any, mode: str, text: str, overrides: dict[str, Any], expected: str
) -> None:
    path = written(text)
    message = message_of(TestConfig.from_file, path, mode, **overrides)
    assert message.replace(str(path), "mine.yaml") == expected


def test_what_a_phase_is_required_to_reach_may_stand_in_a_file_that_names_no_mode(written: Any) -> None:
    text = "validation: {required: [phase2_duration, phase2_gpu_utilization]}\nphase2: {gpu_utilization_target: 0.5}\n"
    assert TestConfig.from_file(written(text), "pipeline").required == ("phase2_duration", "phase2_gpu_utilization")
    assert create_test_config("pipeline", auto_advance=False).auto_advance is False
    apart = {"auto_advance": False, "enabled": False}
    assert not create_test_config("hardware_maximized", **apart).auto_advance, "of no matter outside of the pipeline"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no configuration file" in message_of(load_config_file, tmp_path / "absent.yaml")
    assert "cannot be read" in message_of(load_config_file, tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xff\xfe")
    assert "UTF-8" in message_of(load_config_file, latin)
    latin.write_bytes(b"a: \x00")
    assert "not YAML" in message_of(load_config_file, latin)
    latin.write_text("test_mode: {seed: 2026-13-45}")
    assert "not YAML" in message_of(load_config_file, latin)


def test_an_empty_file_and_an_empty_section_are_the_defaults(written: Any) -> None:
    assert load_config_file(written("")) == {}
    assert TestConfig.from_file(written("hardware:\n# batch_size: 2\n")) == create_test_config()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"vectorized_env": 3}, ["'vectorized_env'", "'vectorized_envs'"]),
        ({"phase2_total_timestep": 3}, ["'phase2_total_timestep'", "'phase2_total_timesteps'"]),
        ({"phase2_timeout": 0}, ["option phase2_timeout (phase2.timeout) is 0", "above 0"]),
        ({"phase3": {"gpu_usage": {"threads": 1}}}, ["phase3.gpu_usage.threads", "'torch_threads'"]),
        ({"vectorized_envs": 0}, ["option vectorized_envs (hardware.vectorized_envs) is 0", "at least 1"]),
        ({"hardware": 3}, ["no option 'hardware'"]),
        ({"hardware": {"cores": 3}}, ["hardware.cores"]),
        ({"mock_llm": "yes"}, ["mock_llm is 'yes'", "true or false"]),
        ({"n_steps": 7}, ["vectorized_envs 32", "n_steps 7", "batch_size 1024", "Set n_steps to"]),
        ({"train_frac": 0.9, "validation_frac": 0.3}, ["options over my.yaml: data", "train_frac"]),
    ],
)
def test_a_bad_option_is_named_as_the_user_gave_it(overrides: dict[str, Any], expected: list[str]) -> None:
    message = message_of(built, **overrides)
    for part in expected:
        assert part in message


def test_every_bad_value_is_told_at_once() -> None:
    message = message_of(built, {"training": {"gamma": 2}}, n_epochs=0)
    assert "my.yaml: training.gamma is 2" in message
    assert "option n_epochs" in message


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="hardware_maximized"):
        create_test_config("hardware_maximised")
    assert "no mode" in message_of(built, {"test_mode": {"mode": ["pipeline"]}})


@pytest.mark.parametrize("path", sorted(LEAVES.keys() - {("test_mode", "mode")}), ids=".".join)
def test_no_key_takes_a_value_of_another_kind(path: tuple[str, ...]) -> None:
    message = message_of(built, nested(path, object()))
    verb = "is" if LEAVES[path].repr else "must be"  # what may be a secret is not repeated
    assert f"my.yaml: {'.'.join(path)} {verb}" in message
    assert "another kind" not in message


# Every key, its default, and the way back


@pytest.mark.parametrize("mode", MODES)
def test_the_shipped_file_holds_every_key_with_its_default(mode: str) -> None:
    values = yaml.safe_load(SHIPPED[mode].read_text())
    own: dict[tuple[str, ...], Any] = {
        ("test_mode", "mode"): mode,
        ("hardware", "vectorized_envs"): 8,
        ("hardware", "batch_size"): 256,
        ("evidence", "seeds"): 1,
        ("phase1", "gpu_utilization_target"): 0.3,
        ("phase2", "gpu_utilization_target"): 0.8,
        ("phase3", "gpu_utilization_target"): 0.9,
        ("phase1", "gpu_usage", "memory_fraction"): 0.3,
        ("phase2", "gpu_usage", "memory_fraction"): 0.8,
        ("phase3", "gpu_usage", "memory_fraction"): 0.9,
        ("phase3", "estimated_duration"): 2400.0,
        ("validation", "max_execution_time_s"): 5400.0,
        ("validation", "required"): [
            "execution_time",
            "peak_memory",
            "phase1_duration",
            "phase2_duration",
            "phase3_duration",
            "phase2_gpu_utilization",
            "phase3_gpu_utilization",
        ],
    }
    defaults = Configuration().to_dict()
    for path in LEAVES:
        expected = own.get(path, value_at(defaults, path)) if mode == "pipeline" else value_at(defaults, path)
        assert value_at(values, path) == expected, ".".join(path)
    assert TestConfig.from_file(SHIPPED[mode]) == create_test_config(mode)


@pytest.mark.parametrize("mode", MODES)
def test_the_shipped_file_says_unit_and_meaning_of_every_key(mode: str) -> None:
    heading = (
        f"# {HEADINGS[mode]}: every key at its default. Leave out what you do not change;\n"
        "# an option of the command line wins over this file. null: not set.\n"
    )
    text = heading + effective_yaml(create_test_config(mode))
    if os.environ.get("REWRITE_GOLDEN") == "1":
        SHIPPED[mode].write_text(text)
    assert SHIPPED[mode].read_text() == text, (
        "a default or description changed: REWRITE_GOLDEN=1 .venv/bin/python -m pytest tests/test_configuration.py"
    )


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_key_is_described(path: tuple[str, ...]) -> None:
    assert len(LEAVES[path].description or "") > 10
    assert "\n" not in str(LEAVES[path].description)


def kind_and_limits(annotation: Any, metadata: Any) -> tuple[Any, bool, dict[str, Any]]:
    """Type without None, whether None is allowed, and the limits of a field or a list's element."""
    optional = False
    if isinstance(annotation, types.UnionType):
        optional = types.NoneType in get_args(annotation)
        (annotation,) = (kind for kind in get_args(annotation) if kind is not types.NoneType)
    limits = {
        name: getattr(item, name)
        for item in metadata
        for name in ("gt", "ge", "lt", "le")
        if getattr(item, name, None) is not None
    }
    return annotation, optional, limits


def valid_values(path: tuple[str, ...], field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values a key takes; the few keys that must agree with another are kept where they do."""
    special: dict[str, st.SearchStrategy[Any]] = {
        "mode": st.none(),
        "market": st.sampled_from(sorted(CONTRACTS)),
        "output_dir": st.text(min_size=1),
        "n_steps": st.none(),
        "path": st.none() | st.text(st.characters(exclude_categories=["C"]), min_size=1),
        "env_kwargs": st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=3),
        "train_frac": st.floats(0.1, 0.45),
        "validation_frac": st.floats(0.1, 0.35),
        "required": st.lists(st.sampled_from(["execution_time", "peak_memory", "cache_hit_rate"]), unique=True),
        "rules": st.lists(st.sampled_from([ALL, *available_rule_profiles()]), unique=True),
    }
    if path[-1] in special:
        return special[path[-1]]
    kind, optional, limits = kind_and_limits(field.annotation, field.metadata)
    least, most = limits.get("ge", limits.get("gt", 0)), limits.get("le", limits.get("lt", 1e12))
    if kind is bool:
        values: st.SearchStrategy[Any] = st.booleans()
    elif kind is int:
        values = st.integers(int(least), int(most))
    elif kind is float:
        values = st.floats(least, most, exclude_min="gt" in limits, exclude_max="lt" in limits)
    elif get_origin(kind) is Literal:
        values = st.sampled_from(get_args(kind))
    elif get_origin(kind) is tuple and get_origin(get_args(kind)[0]) in (None, Annotated):
        values = st.lists(st.integers(1, 1000), min_size=1, max_size=3, unique=True)
    else:
        values = st.just(field.default)
    return values | st.none() if optional else values


@st.composite
def overrides(draw: st.DrawFn) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(sorted(LEAVES)), unique=True, max_size=25))
    return {flat_name(path): draw(valid_values(path, LEAVES[path])) for path in chosen}


@hypothesis_settings(max_examples=60)
@given(st.sampled_from(sorted(MODES)), overrides())
def test_the_effective_configuration_comes_back_from_its_yaml(mode: str, chosen: dict[str, Any]) -> None:
    if mode == "pipeline":  # what it refuses together or at all
        chosen = {
            name: value for name, value in chosen.items() if name not in ("seeds", "walk_forward", "auto_advance")
        }
    config = build_config(mode, {}, chosen, model=TestConfig)
    text = effective_yaml(config)
    assert yaml.safe_load(text) == config.to_dict()
    assert build_config(None, yaml.safe_load(text), {}, model=TestConfig) == config


def test_the_effective_file_loads(tmp_path: Path) -> None:
    config = create_test_config("pipeline", seed=3, learning_rate=1e-5, output_dir="a: #b\n\x85'\"")
    path = tmp_path / "effective.yaml"
    path.write_text(effective_yaml(config), encoding="utf-8")
    assert TestConfig.from_file(path) == config
