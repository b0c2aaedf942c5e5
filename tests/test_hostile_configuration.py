"""A configuration file may hold anything: it is read or refused in a moment, and what a run writes reads back equal."""

from __future__ import annotations

import datetime
import math
import os
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.configuration import build_config, effective_yaml, load_config_file
from src.configuration_file import DEEPEST, MOST_BYTES, read_mapping
from src.errors import ConfigError, UserError
from tests.documented import ROOT
from tests.forked_command import CommandServer

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n" for before, after in pairwise("abcdefgh")
)
AT_ONCE_S = 5.0
"""Parsing 1 MiB of YAML takes a second or two on a busy machine."""


def said_of(path: Path) -> str:
    """What a command would print of a file it refuses; AssertionError where it takes long."""
    began = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        build_config("pipeline", load_config_file(path), {}, source=str(path))
    assert time.monotonic() - began < AT_ONCE_S
    text = str(refused.value)
    assert "\n" not in text
    assert len(text) < 2500
    return text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BOMB, "it holds more than 20,000 values"),
        ("environment: &e {env_kwargs: *e}", "the anchor 'e' holds itself"),
        ("&a [*a]", "the anchor 'a' holds itself"),
        ("environment: {env_kwargs: {a: " + "[" * 5000 + "]" * 5000 + "}}", f"nested deeper than {DEEPEST}"),
        ("".join(f"{'  ' * n}a:\n" for n in range(100)), f"nested deeper than {DEEPEST}"),
        ("environment: {env_kwargs: {a: [" + "1, " * 30_000 + "1]}}", "it holds more than 20,000 values"),
        ("x" * (MOST_BYTES + 1), "it is larger than 1 MiB"),
        ("environment: {env_kwargs: {since: 2024-01-01}}", "environment.env_kwargs.since is a date"),
        ("environment: {env_kwargs: {since: 2024-01-01 10:00:00}}", "env_kwargs.since is a point in time"),
        ("environment: {env_kwargs: {raw: !!binary aGVsbG8=}}", "env_kwargs.raw is a piece of binary data"),
        ("environment: {env_kwargs: {raw: !!set {a, b}}}", "env_kwargs.raw is a set"),
        ("environment: {env_kwargs: {a: [1, {b: 2024-01-01}]}}", "env_kwargs.a[1].b is a date"),
        ("environment: {env_kwargs: {n: " + "9" * 4000 + "}}", "a whole number of more than 18 digits"),
        ("environment: {env_kwargs: {n: 0x" + "f" * 9000 + "}}", "a whole number of more than 18 digits"),
        ("environment: {env_kwargs: {n: " + "9" * 5000 + "}}", "is not YAML"),
        ("environment: {env_kwargs: {n: .nan}}", "is nan"),
        ("environment: {env_kwargs: {n: .inf}}", "is inf"),
        ('environment: {env_kwargs: {a: "\\ud800"}}', "half a surrogate pair"),
        ("1: {a: 2}", "the key 1 is a number"),
        ("true: 1", "the key true is a switch"),
        ("null: 1", "the key null is a null"),
        ("2024-01-01: 1", "is a date"),
        ("[1, 2]: 1", "unhashable key"),
        ("hardware: {? {a: 1} : 2}", "unhashable key"),
        ("environment: {env_kwargs: {1: 2}}", "environment.env_kwargs: the key 1 is a number"),
        ("test_mode: {market: 2024-01-01}", "test_mode.market is a date"),
        ('test_mode: {output_dir: "a\\0b"}', "a null character"),
        ("hardware: {batch_size: 0x" + "f" * 9000 + "}", "a whole number of more than 18 digits"),
        ("\x1b[2J: 1", "is not YAML"),
        ('"\\e[2J\\u202e": 1', r"there is no section \x1b[2J\u202e"),
        ('hardware: {device: "\\e[2J\\u202e"}', r"hardware.device is '\x1b[2J\u202e'"),
        (f"{'k' * 10_000}: 1", "mapping values are not allowed here"),
        (f"? {'k' * 10_000}\n: 1", "[9,920 characters]..."),
        ("a: 1\n---\nb: 2\n", "found another document"),
        ("!!python/object/apply:os.system [echo]", "could not determine a constructor"),
    ],
)
def test_a_hostile_file_is_refused_in_one_paragraph(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(content, encoding="utf-8")
    assert said in said_of(path)


def test_anchors_that_save_typing_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "anchors.yaml"
    path.write_text("training: {policy_kwargs: {net_arch: {pi: &layers [64, 32], vf: *layers}}}\n")
    config = build_config("pipeline", load_config_file(path), {})
    assert config.training.policy_kwargs.net_arch.vf == (64, 32)


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero", "fifo", "folder", "none.yaml", "n" * 10_000])
@pytest.mark.parametrize("script", ["run_pipeline.py", "validate_testing_framework.py"])
def test_what_is_no_file_is_refused_at_once(server: CommandServer, tmp_path: Path, script: str, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    options = ["--only", "versions"] if script.startswith("validate") else []
    finished = server.run(str(ROOT / script), "--config", name, *options, cwd=tmp_path)
    assert finished.code == 2, finished
    assert "Traceback" not in finished.err
    assert len(finished.err) < 2000
    assert not [path for path in tmp_path.iterdir() if path.name not in ("fifo", "folder")]


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
NAME = st.text(CHARACTERS, min_size=1, max_size=30)
NUMBER = st.integers(-(10**18) + 1, 10**18 - 1) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBER | st.text(CHARACTERS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARACTERS, max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@example(kwargs={"a\x85b": ["x:\x85y", {"k": "\u2028"}]}, folder="0", profile="a\x85")
@given(kwargs=st.dictionaries(NAME, PLAIN, max_size=3), folder=NAME, profile=NAME)
def test_a_written_configuration_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, kwargs: dict[str, Any], folder: str, profile: str
) -> None:
    config = build_config("pipeline", {}, {"env_kwargs": kwargs, "output_dir": folder, "rule_profile": profile})
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(effective_yaml(config), encoding="utf-8")
    assert build_config("pipeline", load_config_file(path), {}) == config


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(2024, 1, 1),
        b"raw",
        {1: 2},
        {1, 2},
        math.nan,
        -math.inf,
        "\ud800",
        "a\0",
        10**5000,
        object(),
        [[object()]],
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_override_that_could_not_be_written_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="env_kwargs"):
        build_config("pipeline", {}, {"env_kwargs": {"a": value}})


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.path.*longer than 255 bytes"):
        build_config("pipeline", {}, {"data": "n" * 10_000})


def test_a_tuple_is_kept_as_the_list_that_it_reads_back_as() -> None:
    assert build_config(None, {}, {"env_kwargs": {"a": (1, (2,))}}).environment.env_kwargs == {"a": [1, [2]]}


MARKS = ("  ", "- ", "? ", "|\n", ">\n", "&a ", "*a", "<<: *a", "!!set", "---\n", "%YAML")
WORDS = ("a", "1", ".inf", "0x", "2024-01-01", "null", "hardware", "batch_size")
SCRAPS = st.sampled_from([*":[]{},#'\"\\@`\t\r\n ", *MARKS, *WORDS])


@settings(max_examples=300)
@given(st.lists(SCRAPS | st.text(max_size=3), max_size=30).map("".join) | PLAIN.map(yaml.safe_dump))
def test_any_text_is_read_or_refused_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(text.encode("utf-8", "replace"))
    values: dict[str, Any] = {}
    with suppress(UserError):
        values = read_mapping(path)
        build_config(None, values, {}, source=str(path))
    assert isinstance(values, dict)
