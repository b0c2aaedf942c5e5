"""Every command, YAML block, JSON block and menu entry of the specification is among the interfaces tested here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documented import blocks
from tests.specification import interfaces

FILE = Path(__file__).resolve().parents[3] / "shared" / "specification.md"


@pytest.fixture(scope="module")
def specification() -> str:
    if not FILE.is_file():
        pytest.skip(f"the specification is not on this machine ({FILE} is absent)")
    return FILE.read_text(encoding="utf-8")


def yaml_blocks(text: str) -> list[Any]:
    """Also those indented below a list's item."""
    found = re.findall(r"^( *)```yaml\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [
        yaml.safe_load("\n".join(line.removeprefix(indent) for line in body.splitlines())) for indent, body in found
    ]


def test_every_command_is_held(specification: str) -> None:
    lines = [line.strip() for block in blocks(specification, "bash") for line in block.splitlines()]
    commands = [line for line in lines if line and not line.startswith("#")]
    assert len(commands) > 15
    assert set(commands) == {*interfaces.COMMANDS, *interfaces.INSTALL} - set(interfaces.CI_COMMANDS)


def test_every_yaml_block_is_held(specification: str) -> None:
    found = yaml_blocks(specification)
    held = [interfaces.HARDWARE_YAML, interfaces.PIPELINE_YAML, *interfaces.TUNING_YAML, interfaces.CI_YAML]
    assert len(found) == len(held)
    assert sorted(map(repr, found)) == sorted(repr(yaml.safe_load(text)) for text in held)


def test_every_setting_named_in_passing_is_held(specification: str) -> None:
    named = re.findall(r"Set (\w+: \S+) in config", specification)
    assert sorted(named) == sorted(interfaces.TUNING_INLINE)
    assert tuple(re.findall(r"^net_arch = (\[.*?\])", specification, re.MULTILINE)) == interfaces.NET_ARCH_LISTS


def test_the_report_and_the_menu_are_held(specification: str) -> None:
    assert [json.loads(block) for block in blocks(specification, "json")] == [interfaces.REPORT_EXAMPLE]
    assert dict(re.findall(r'^"(\d+)": "(.*?)"', specification, re.MULTILINE)) == interfaces.MENU


def test_every_section_with_an_interface_has_its_module(specification: str) -> None:
    """A heading that comes in is a module that is missing."""
    own = {
        "Quick Start": "test_quick_start", "Configuration": "test_configuration",
        "Performance Targets": "test_performance_targets", "Troubleshooting": "test_troubleshooting",
        "Results and Validation": "test_results_and_validation",
        "Integration with Main System": "test_integration", "Contributing": "test_contributing",
    }  # fmt: skip
    elsewhere = {
        "Overview", "Architecture", "Monitoring and Validation", "Performance Optimizations Explained",
        "License and Support", "Version History",
    }  # fmt: skip
    headings = set(re.findall(r"^## (.+)$", specification, re.MULTILINE))
    assert headings == own.keys() | elsewhere
    assert all((Path(__file__).parent / f"{module}.py").is_file() for module in own.values())
