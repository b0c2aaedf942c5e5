"""The entries that the specification adds to a menu: as lines of its dictionary, and what choosing one runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from src import menu
from tests.specification.python_calls import BLOCKS

ENTRIES = ast.literal_eval("{" + BLOCKS["menu"] + "}")
SCRIPTS = {"9": "run_hardware_maximized.py", "10": "run_pipeline.py", "11": "validate_testing_framework.py"}


def test_the_entries_can_be_added_as_they_are() -> None:
    assert dict(menu.MENU_ENTRIES) == ENTRIES
    options = {"1": "Train"}
    options.update(menu.MENU_ENTRIES)
    assert list(options) == ["1", "9", "10", "11"]


@pytest.mark.parametrize("by", ["choice", "label"])
@pytest.mark.parametrize("choice", ENTRIES)
def test_choosing_one_runs_its_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, by: str) -> None:
    for script in SCRIPTS.values():
        code = f"import pathlib, sys\npathlib.Path('called').write_text(' '.join([{script!r}, *sys.argv[1:]]))\n"
        (tmp_path / script).write_text(code + "sys.exit(1)\n")
    monkeypatch.setattr(menu, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert menu.run_menu_entry(choice if by == "choice" else ENTRIES[choice], "ES", ["--quick"]) == 1
    assert Path("called").read_text() == f"{SCRIPTS[choice]} --market ES --quick"


def test_what_is_no_entry_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'12' is not an entry; the entries are 9 \(Hardware-Maximized Test"):
        menu.run_menu_entry("12")
