"""One line says which settings an earlier run hands on, and what the options given change."""

from __future__ import annotations

from pathlib import Path

from src.configuration import effective_yaml
from src.runs.inheritance import MOST_NAMED, inherited_words
from src.testing_framework import TestConfig, create_test_config


def words(folder: Path, earlier: TestConfig, **options: object) -> str:
    file = folder / "config.yaml"
    file.write_text(effective_yaml(earlier), encoding="utf-8")
    config = TestConfig.from_file(file, "pipeline", **options)
    return inherited_words(file, TestConfig.from_file(file), config).replace(str(file), "config.yaml")


def test_a_quick_run_hands_on_that_it_was_quick_and_an_option_ends_it(tmp_path: Path) -> None:
    earlier = create_test_config("pipeline", "ES", quick=True, mock_llm=True, n_epochs=3)
    handed_on = "Settings are those of config.yaml: test_mode.quick true, llm.model 'mock', training.n_epochs 3"
    assert words(tmp_path, earlier) == f"{handed_on}."
    assert words(tmp_path, earlier, quick=False) == f"{handed_on}; options change test_mode.quick false (was true)."


def test_what_a_given_option_overrules_is_said_with_it(tmp_path: Path) -> None:
    earlier = create_test_config("pipeline", phase2_total_timesteps=700)
    assert words(tmp_path, earlier, timesteps=300) == (
        "Settings are those of config.yaml: phase2.total_timesteps 700; options change training.timesteps 300 (was "
        "null), phase2.total_timesteps null (was 700)."
    )


def test_defaults_and_long_lists_fit_in_a_line_too(tmp_path: Path) -> None:
    assert (
        words(tmp_path, create_test_config("pipeline")) == "Settings are those of config.yaml: all at their defaults."
    )
    many = {"gamma": 0.9, "n_epochs": 3, "ent_coef": 0.1, "vf_coef": 0.1, "seed": 4, "log_interval": 7, "stop_atr": 2.0}
    said = words(tmp_path, create_test_config("pipeline", **many))
    assert said.endswith(f" and {len(many) - MOST_NAMED} more.")
