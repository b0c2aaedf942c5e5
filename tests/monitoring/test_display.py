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


def training(title: str, seed: int, **figures: Any) -> dict[str, Any]:
    """A record of a member's training."""
    return {**RECORD, **figures, "market": "NQ", "phase": title, "seed": seed, "fold": 0}


def several(display: RunDisplay) -> None:
    """Three trainings planned, two of them under way: 25% and 75% of 4,000 timesteps at 100 and 400 steps/s."""
    seeds = range(3)
    display.plan((training("hybrid_placebo", seed), f"hybrid_placebo, seed {seed}", 4000) for seed in seeds)
    for seed in (0, 1):
        display.begin(f"hybrid_placebo, seed {seed}", "fine-tuning from base weights, 4,000 timesteps")
    display.record(training("hybrid_placebo", 0, num_timesteps=1000, steps_per_s=100.0))
    display.record(training("hybrid_placebo", 1, num_timesteps=3000, steps_per_s=400.0, fraction_done=0.75))


def test_several_trainings_have_a_line_each_below_how_long_all_of_them_take(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    display, out = make_display(reading=READING)
    with display:
        several(display)
        for _ in range(61):  # half a minute of records
            display.record(training("hybrid_placebo", 1, num_timesteps=3000, steps_per_s=400.0, fraction_done=0.75))
            clock.now += 0.5
    # 3,000 timesteps of the first, 1,000 of the second and 4,000 of the one to come, at 500 steps/s.
    assert out.getvalue().splitlines()[2:5] == [
        "[0:10]   0 of 3 trainings done, total ETA 0:16, CPU 150%, RAM 1.50 GB",
        "         hybrid_placebo, seed 0: 25%, 100 steps/s, ETA 0:30, reward -0.50",
        "         hybrid_placebo, seed 1: 75%, 400 steps/s, ETA 0:02, reward -0.50",
    ]
    assert [line[:6] for line in out.getvalue().splitlines() if "total ETA" in line] == ["[0:10]", "[0:20]", "[0:30]"]
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_a_training_that_ended_is_counted_and_loses_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    display, _ = make_display()
    several(display)
    display.ended(training("hybrid_placebo", 1))
    assert display.status() == ""
    display.begin("hybrid_placebo, seed 2", "fine-tuning from base weights, 4,000 timesteps")
    display.record(training("hybrid_placebo", 2, fraction_done=0.5, steps_per_s=100.0))
    # 3,000 of the first and half of the third, at 200 steps/s.
    assert display.status() == "1 of 3 trainings done, total ETA 0:25"
    display.ended(training("hybrid_placebo", 0))
    display.record(training("hybrid_placebo", 2, fraction_done=0.5, steps_per_s=100.0))
    assert display.status().startswith("50%, 100 steps/s"), "one alone has the line of a run's only training"


def test_progress_of_a_training_is_not_taken_for_what_was_begun_next_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    display, _ = make_display()
    display.plan([(training("base", 0), "base", 4000)])
    display.begin("base", "PPO over 4 accounts")
    clock.now += 100.0
    display.begin("look-ahead", "leak checks")
    clock.now += 1.0
    display.record(training("base", 0, num_timesteps=1000, steps_per_s=10.0))
    assert display.status() == "base: 25%, 10 steps/s, ETA 5:00, reward -0.50"


def test_on_a_terminal_each_of_several_trainings_has_a_line_of_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    display, _ = make_display(terminal=True, reading=READING)
    several(display)
    console = Console(file=StringIO(), width=80)
    console.print(display._panel())
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(r"\[0:00\] training +0 of 3 trainings done, total ETA 0:16, .*", lines[0].rstrip())
    for seed, figures in enumerate(("25%, 100 steps/s, ETA 0:30", "75%, 400 steps/s, ETA 0:02")):
        (line,) = (line for line in lines if f"hybrid_placebo, seed {seed}" in line)
        assert f" {figures}, reward -0.50" in line


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
