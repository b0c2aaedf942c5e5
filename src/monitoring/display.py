"""Progress of a run: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from src.console import PROGRESS, live_on, uncut
from src.plain_text import paragraph
from src.wording import clock_time

logger = logging.getLogger(PROGRESS)

PLAIN_INTERVAL_S = 5.0
"""Without a terminal, the least time between two progress lines, for each line there is."""
INDENT = " " * 9


Member = tuple[Any, ...]
"""What tells one training from another: `phase`, `seed`, `fold`, `market` and `setting` of its records."""


class RunDisplay:
    """Progress of a run: what is done now, a line for each training under way, the machine and the cache.

    `latest_reading` returns the newest hardware sample or None, `cache_hit_rate` the rate so far or None.
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
        self._trainings: dict[Member, Mapping[str, Any]] = {}
        self._titles: dict[Member, str] = {}
        self._left: dict[Member, int] = {}
        self._planned = 0

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

    def plan(self, trainings: Iterable[tuple[Mapping[str, Any], str, int]]) -> None:
        """The trainings that are to come: the fields of each, its title and its timesteps."""
        for fields, title, timesteps in trainings:
            self._titles[_member(fields)] = title
            self._left[_member(fields)] = timesteps
        self._planned = len(self._left)

    def begin(self, phase: str, what: str) -> None:
        """Something begins; `what` says in words what it does."""
        self._phase, self._record = phase, {}
        self._phase_began = self._printed = time.monotonic()
        self.say(f"[{self._clock()}] {phase}: {what}")

    def record(self, record: Mapping[str, Any]) -> None:
        """A record of progress arrived: of a training (it says which), or of what was begun last."""
        self._record = record
        lines = 1
        if "seed" in record:
            self._trainings[_member(record)] = record
            lines = len(self._trainings)
        now = time.monotonic()
        if self._live is None and now - self._printed >= PLAIN_INTERVAL_S * lines:
            self._printed = now
            self.say(f"[{self._clock()}]   {self.status()}")
            if len(self._trainings) > 1:
                for member, of_member in self._trainings.items():
                    self.say(f"{INDENT}{self._title(member)}: {_progress(of_member)}")

    def ended(self, fields: Mapping[str, Any]) -> None:
        """A training is over."""
        self._trainings.pop(_member(fields), None)
        self._left.pop(_member(fields), None)
        self._record = {}

    def status(self) -> str:
        """One line of figures; what was not measured yet is left out."""
        reading = self._latest_reading() or {}
        hit_rate = self._cache_hit_rate()
        done = self._planned - len(self._left)
        first = _progress(self._record, self._seconds_left())
        if first and self._is_of_another:
            first = f"{self._title(_member(self._record))}: {first}"
        if len(self._trainings) > 1:
            first = f"{done} of {self._planned} trainings done"
            if (left := self._total_left()) is not None:
                first += f", total ETA {clock_time(left)}"
        parts = [
            first,
            _given(reading.get("tree_cpu_percent"), lambda v: f"CPU {v:.0f}%"),
            _given(reading.get("gpu_percent"), lambda v: f"GPU {v:.0f}%"),
            _given(reading.get("tree_rss_gb"), lambda v: f"RAM {v:.2f} GB"),
            _given(hit_rate, lambda v: f"cache {v:.0%}"),
        ]
        return ", ".join(part for part in parts if part)

    def _seconds_left(self) -> float | None:
        """Of what was begun last."""
        if self._is_of_another:
            return None
        if "seconds_left" in self._record:
            return self._record["seconds_left"]
        done = self._record.get("fraction_done")
        if not done:
            return None
        return (time.monotonic() - self._phase_began) * (1.0 - done) / done

    @property
    def _is_of_another(self) -> bool:
        """Whether the newest record is of a training that something else was begun after, next to it."""
        return "seed" in self._record and self._title(_member(self._record)) != self._phase

    def _total_left(self) -> float | None:
        """Seconds until the last planned training is over, at the speed of those under way."""
        speed = sum(record.get("steps_per_s") or 0.0 for record in self._trainings.values())
        left = sum(
            timesteps * (1.0 - (self._trainings.get(member, {}).get("fraction_done") or 0.0))
            for member, timesteps in self._left.items()
        )
        return left / speed if speed else None

    def _title(self, member: Member) -> str:
        return self._titles.get(member, str(member[0]))

    def _clock(self) -> str:
        return clock_time(time.monotonic() - self._run_began)

    def _panel(self) -> Table:
        table = Table.grid(padding=(0, 1))
        several = len(self._trainings) > 1
        table.add_row(
            Text(f"[{self._clock()}]", style="dim"),
            Text("training" if several else self._phase, style="bold"),
            Text(self.status()),
        )
        for member, record in list(self._trainings.items()) if several else ():
            table.add_row("", Text(self._title(member)), Text(_progress(record)))
        return uncut(table)


def _member(fields: Mapping[str, Any]) -> Member:
    return fields["phase"], fields["seed"], fields["fold"], fields.get("market"), fields.get("setting")


def _progress(record: Mapping[str, Any], seconds_left: float | None = None) -> str:
    """The figures of one training, or of what else gives records."""
    if seconds_left is None and record.get("steps_per_s") and record.get("fraction_done"):
        done = record["fraction_done"]
        seconds_left = record["num_timesteps"] * (1.0 - done) / done / record["steps_per_s"]
    parts = [
        _given(record.get("fraction_done"), lambda v: f"{v:.0%}"),
        _given(record.get("steps_per_s"), lambda v: f"{v:,.0f} steps/s"),
        _given(record.get("advices_per_s"), lambda v: f"{v:.1f} advices/s"),
        _given(seconds_left, lambda v: f"ETA {clock_time(v)}"),
        _given(record.get("mean_episode_reward"), lambda v: f"reward {v:+.2f}"),
    ]
    return ", ".join(part for part in parts if part)


def _given(value: Any, show: Callable[[Any], str]) -> str:
    return "" if value is None else show(value)
