"""The display: live on a terminal, a line in five seconds at most elsewhere, nothing shown that was not measured."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from src.monitoring import display as display_module
from src.monitoring.display import RunDisplay
from src.monitoring.run_log import RunLog

RECORD = {"fraction_done": 0.25, "steps_per_s": 1234.5, "mean_episode_reward": -0.5, "num_timesteps": 100}
READING = {"tree_cpu_percent": 150.2, "gpu_percent": None, "tree_rss_gb": 1.5}


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(display_module.time, "monotonic", lambda: self.now)


def make_display(
    *, terminal: bool = False, reading: Mapping[str, Any] | None = None, hit_rate: float | None = None
) -> tuple[RunDisplay, StringIO]:
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, width=80)
    return RunDisplay(console, lambda: reading, lambda: hit_rate), out


def test_without_a_terminal_there_are_plain_lines_at_most_one_in_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    display, out = make_display()
    with display:
        display.begin("base", "PPO over 4 accounts")
        for _ in range(121):  # half a minute of records
            display.record(RECORD)
            clock.now += 0.25
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert lines[0] == "[0:00] base: PPO over 4 accounts"
    assert [re.match(r"\[(.*?)\]   ", line).group(1) for line in lines[1:]] == [
        "0:05",
        "0:10",
        "0:15",
        "0:20",
        "0:25",
        "0:30",
    ]


def test_a_phase_that_begins_resets_the_five_seconds_and_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    display, out = make_display()
    with display:
        display.begin("base", "one")
        clock.now += 4.0
        display.record(RECORD)
        display.begin("hybrid", "two")
        assert display.status() == ""
        clock.now += 4.0
        display.record(RECORD)
    assert out.getvalue().splitlines() == ["[0:00] base: one", "[0:04] hybrid: two"]


def test_what_was_not_measured_is_left_out() -> None:
    display, _ = make_display()
    assert display.status() == ""
    display.record({"fraction_done": None, "steps_per_s": None, "mean_episode_reward": None})
    assert display.status() == ""
    display, _ = make_display(reading=READING, hit_rate=0.0)
    assert display.status() == "CPU 150%, RAM 1.50 GB, cache 0%"
    assert "GPU" not in display.status()


def test_the_figures_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    display, _ = make_display(reading={**READING, "gpu_percent": 7.0}, hit_rate=0.8)
    display.begin("base", "x")
    clock.now += 30.0
    display.record(RECORD)
    assert display.status() == ("25%, 1,234 steps/s, ETA 1:30, reward -0.50, CPU 150%, GPU 7%, RAM 1.50 GB, cache 80%")
    clock.now += 3600.0
    assert "ETA 3:01:30" in display.status()


def test_on_a_terminal_the_panel_is_live_and_leaves_only_the_lines_that_stay() -> None:
    display, out = make_display(terminal=True, reading=READING)
    with display:
        display.begin("base", "PPO over 4 accounts")
        for _ in range(60):
            display.record(RECORD)
            time.sleep(0.01)
    shown = out.getvalue()
    assert "1,234 steps/s" in shown, "the panel was never drawn"
    assert "\x1b[?25l" in shown
    assert "\x1b[?25h" in shown, "the cursor was not given back"
    # No line of progress beside the panel, and the panel is taken away at the end.
    assert len(re.findall(r"\[0:00\] base: PPO", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown))) == 1
    assert shown.rstrip().endswith("\x1b[2K")


def test_an_error_inside_leaves_the_terminal_as_it_was() -> None:
    display, out = make_display(terminal=True)
    with pytest.raises(ZeroDivisionError), display:
        raise ZeroDivisionError
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h")


def test_every_line_that_stays_is_in_the_runs_log_as_well_and_in_no_other(tmp_path: Path) -> None:
    of_the_user: list[str] = []
    handler = logging.Handler(logging.NOTSET)
    handler.emit = lambda record: of_the_user.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)  # as logging.basicConfig() does
    display, out = make_display()
    with RunLog() as log:
        display.begin("base", "PPO over 4 accounts\x1b[2J")
        log.write_to(tmp_path / "run.log")
    line = r"[0:00] base: PPO over 4 accounts\x1b[2J"
    assert out.getvalue() == f"{line}\n"
    assert (tmp_path / "run.log").read_text(encoding="utf-8").endswith(f"{line}\n")
    logging.getLogger("src").warning("a warning")
    logging.getLogger().removeHandler(handler)
    assert of_the_user == ["a warning"]  # the line would be on the terminal twice


def test_a_line_of_the_log_cannot_look_like_two(tmp_path: Path) -> None:
    with RunLog() as log:
        logging.getLogger("src").warning("a name\n2026-01-01 00:00:00,000 INFO src: all targets met\u202e")
        log.write_to(tmp_path / "run.log")
    _, second = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert second == r"    2026-01-01 00:00:00,000 INFO src: all targets met\u202e"
