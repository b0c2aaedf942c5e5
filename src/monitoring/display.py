"""Progress of a run: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from src.console import PROGRESS, live_on, uncut
from src.plain_text import paragraph

logger = logging.getLogger(PROGRESS)

PLAIN_INTERVAL_S = 5.0
"""Without a terminal, the least time between two progress lines of one phase."""


class RunDisplay:
    """Phase, speed, time left, reward, machine and cache, from the records and readings it is given.

    `latest_reading` returns the newest hardware sample or None, `cache_hit_rate` the rate so far or None. Speed and
    time left are of the current phase.
    """

    def __init__(
        self,
        console: Console,
        latest_reading: Callable[[], Mapping[str, Any] | None],
        cache_hit_rate: Callable[[], float | None],
    ) -> None:
        self._console = console
        self._latest_reading = latest_reading
        self._cache_hit_rate = cache_hit_rate
        self._live: Live | None = None
        self._stack = ExitStack()
        self._phase = ""
        self._phase_began = self._run_began = self._printed = time.monotonic()
        self._record: Mapping[str, Any] = {}

    def __enter__(self) -> RunDisplay:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=4, transient=True)
            self._stack.enter_context(live_on(self._console))
            self._stack.enter_context(self._live)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self._live = None

    def say(self, message: str) -> None:
        """A line that stays, on the console and in the run's log."""
        message = paragraph(message)
        logger.info(message)
        self._console.print(Text(message), highlight=False, soft_wrap=False)

    def begin(self, phase: str, what: str) -> None:
        """A phase begins; `what` says in words what it does."""
        self._phase, self._record = phase, {}
        self._phase_began = self._printed = time.monotonic()
        self.say(f"[{self._clock()}] {phase}: {what}")

    def record(self, record: Mapping[str, Any]) -> None:
        """A training record arrived (a sink of the callback)."""
        self._record = record
        now = time.monotonic()
        if self._live is None and now - self._printed >= PLAIN_INTERVAL_S:
            self._printed = now
            self.say(f"[{self._clock()}]   {self.status()}")

    def status(self) -> str:
        """One line of figures; what was not measured yet is left out."""
        record, reading = self._record, self._latest_reading() or {}
        hit_rate = self._cache_hit_rate()
        parts = [
            _given(record.get("fraction_done"), lambda v: f"{v:.0%}"),
            _given(record.get("steps_per_s"), lambda v: f"{v:,.0f} steps/s"),
            _given(record.get("advices_per_s"), lambda v: f"{v:.1f} advices/s"),
            _given(self._seconds_left(), lambda v: f"ETA {_duration(v)}"),
            _given(record.get("mean_episode_reward"), lambda v: f"reward {v:+.2f}"),
            _given(reading.get("tree_cpu_percent"), lambda v: f"CPU {v:.0f}%"),
            _given(reading.get("gpu_percent"), lambda v: f"GPU {v:.0f}%"),
            _given(reading.get("tree_rss_gb"), lambda v: f"RAM {v:.2f} GB"),
            _given(hit_rate, lambda v: f"cache {v:.0%}"),
        ]
        return ", ".join(part for part in parts if part)

    def _seconds_left(self) -> float | None:
        if "seconds_left" in self._record:
            return self._record["seconds_left"]
        done = self._record.get("fraction_done")
        if not done:
            return None
        return (time.monotonic() - self._phase_began) * (1.0 - done) / done

    def _clock(self) -> str:
        return _duration(time.monotonic() - self._run_began)

    def _panel(self) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_row(Text(f"[{self._clock()}]", style="dim"), Text(self._phase, style="bold"), Text(self.status()))
        return uncut(table)


def _given(value: Any, show: Callable[[Any], str]) -> str:
    return "" if value is None else show(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
