"""Every Python block of the specification is held by these tests, and no other one."""

from __future__ import annotations

import re

import pytest

from tests.specification.python_calls import BLOCKS, SPECIFICATION, code_of


def test_the_blocks_held_here_are_those_of_the_specification() -> None:
    if not SPECIFICATION.is_file():
        pytest.skip("the specification is not at hand; its Python is held in python_calls.py")
    text = SPECIFICATION.read_text(encoding="utf-8")
    blocks = [code_of(block) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    assert blocks == [code_of(block) for block in BLOCKS.values()]
