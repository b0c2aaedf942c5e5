"""What the troubleshooting section has its reader set: wherever it is pasted, it acts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from src.configuration import MODES
from src.testing_framework import TestConfig, create_test_config
from tests.specification.interfaces import (
    HARDWARE_YAML,
    NET_ARCH_LISTS,
    PIPELINE_YAML,
    TUNING_INLINE,
    TUNING_YAML,
)

MEANT: dict[str, tuple[str, Any]] = {
    "vectorized_envs": ("vectorized_envs", 64),
    "batch_size": ("batch_size", 2048),
    "mixed_precision": ("mixed_precision", True),
    "timesteps_reduction": ("base_timesteps", 25_000),
    "net_arch": ("pi", (128, 64)),
    "monitoring": ("monitor_gpu", False),
    "optimize_memory": ("optimize_memory", True),
    "quantization": ("quantization", "int4"),
}
SECTION = {
    "vectorized_envs": "hardware", "batch_size": "hardware", "mixed_precision": "hardware",
    "timesteps_reduction": "training", "net_arch": "training", "optimize_memory": "hardware", "quantization": "llm",
}  # fmt: skip


def key_of(snippet: str) -> str:
    return snippet.partition(":")[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("snippet", [*TUNING_YAML, *TUNING_INLINE], ids=key_of)
def test_a_snippet_acts_alone_below_a_file_and_within_its_section(tmp_path: Path, mode: str, snippet: str) -> None:
    attribute, value = MEANT[key_of(snippet)]
    shipped = Path(__file__).resolve().parents[2] / "config" / f"test_{mode}.yaml"
    texts = [snippet, f"{HARDWARE_YAML}\n{snippet}\n"]
    if mode == "pipeline":
        without_budget = {k: v for k, v in yaml.safe_load(PIPELINE_YAML).items() if k not in ("phase2", "phase3")}
        texts.append(f"{yaml.safe_dump(without_budget)}\n{snippet}\n")
    if key_of(snippet) in SECTION:
        indented = "\n".join(f"  {line}" for line in snippet.splitlines())
        texts += [f"{SECTION[key_of(snippet)]}:\n{indented}\n", f"{shipped.read_text()}\n{snippet}\n"]
    for text in texts:
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        assert getattr(TestConfig.from_file(file, mode), attribute) == value, text


@pytest.mark.parametrize("layers", NET_ARCH_LISTS)
def test_a_list_of_layers_serves_both_networks(tmp_path: Path, layers: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"training:\n  policy_kwargs:\n    net_arch: {layers}\n")
    for config in (TestConfig.from_file(file), create_test_config(net_arch=yaml.safe_load(layers))):
        assert list(config.pi) == list(config.vf) == yaml.safe_load(layers)


def test_the_same_settings_are_taken_as_options() -> None:
    for snippet in (*TUNING_YAML, *TUNING_INLINE):
        attribute, value = MEANT[key_of(snippet)]
        assert getattr(create_test_config(**yaml.safe_load(snippet)), attribute) == value
